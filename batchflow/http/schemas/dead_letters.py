"""The documents of dead letters."""

from datetime import datetime

from batchflow.core.dead_letters import DeadLetter
from batchflow.http.schemas.base import ApiModel, to_datetime


class DeadLetterInfo(ApiModel):
    """A message whose attempts are used up: `attempts` executions in all."""

    id: str
    destination: str
    item_id: str | None
    attempts: int
    error: str
    died_at: datetime | None

    @classmethod
    def of(cls, letter: DeadLetter) -> "DeadLetterInfo":
        """A dead letter."""
        return cls(
            id=letter.id,
            destination=letter.message.destination,
            item_id=letter.item,
            attempts=letter.attempts,
            error=letter.error,
            died_at=to_datetime(letter.died_at),
        )
