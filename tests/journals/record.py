"""A run as it was recorded, in its file."""

from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from batchflow.core.run import Journal, Run

RECORDED = Path(__file__).parent / "recorded"
STEPS: TypeAdapter[Journal] = TypeAdapter(Journal)


class Record(BaseModel):
    """The record: everything that a claim brings, and how it ended."""

    run: str
    payload: str
    started_at: int
    state: str
    result: str | None
    error: str | None
    steps: Journal

    @classmethod
    def of(cls, run: Run) -> "Record":
        """The record of a run that has ended."""
        assert run.started_at is not None
        error = None if run.error is None else run.error.splitlines()[0]
        return cls(
            run=run.id,
            payload=run.payload,
            started_at=run.started_at,
            state=run.state,
            result=run.result,
            error=error,
            steps=run.journal,
        )


def place(name: str) -> Path:
    """Return the file of a function's record."""
    return RECORDED / f"{name}.json"
