"""The line of progress: which batches have one, when, and what it says."""

import logging
from dataclasses import replace

import structlog

from batchflow.batch.logs import MIN_BATCH_AGE_MS, BatchEndLog, ProgressLog
from batchflow.core.batch import Counts
from tests.batch.model import Model
from tests.batch.samples import Plain, Welcome, bound


def counted(model: Model, id: str, **values: object) -> None:
    """The batch stands so."""
    job = model.jobs[id]
    job.batch = replace(job.batch, **values)  # pyright: ignore[reportArgumentType]: the test knows its fields


def said(logs: list[dict[str, object]]) -> list[dict[str, object]]:
    lines = [{name: value for name, value in line.items() if name != "log_level"} for line in logs]
    logs.clear()
    return [line for line in lines if str(line["event"]).endswith("Progress")]


async def test_a_batch_that_goes_on_has_a_line_for_each_layer(model: Model, logs: list[dict[str, object]]) -> None:
    """With what has come since; none where nothing has, and none of its walk once that is through."""
    batch = await bound(model, Welcome(users=3)).trigger()
    progress = ProgressLog(model, {"welcome"})
    counted(model, batch.id, state="open", pages=2, counts=Counts(eligible=100, open=60, succeeded=38, failed=2))
    await progress.write()
    assert said(logs) == []
    model.clock.ms += MIN_BATCH_AGE_MS
    await progress.write()
    assert said(logs) == [
        {"event": "[welcome:paginate] Progress", "pages": 2, "eligible": 100, "batch": batch.id},
        {"event": "[welcome:execute] Progress", "done": 40, "total_so_far": 100, "failed": 2, "batch": batch.id},
    ]
    await progress.write()
    assert said(logs) == []
    counted(model, batch.id, state="sealed", pages=3, counts=Counts(eligible=100, open=25, succeeded=75))
    await progress.write()
    assert said(logs) == [
        {"event": "[welcome:execute] Progress", "done": 75, "total": 100, "to_go": "10s", "batch": batch.id}
    ]
    counted(model, batch.id, state="completed", counts=Counts(eligible=100, succeeded=100))
    await progress.write()
    assert said(logs) == []


async def test_batches_of_others_have_no_line(model: Model, logs: list[dict[str, object]]) -> None:
    """Nor has any where nobody would read it: then nothing is read either."""
    batch = await bound(model, Plain({})).trigger()
    counted(model, batch.id, state="sealed", counts=Counts(eligible=2, open=1, succeeded=1))
    model.clock.ms += MIN_BATCH_AGE_MS
    await ProgressLog(model, {"welcome"}).write()
    assert said(logs) == []
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        await ProgressLog(model, {"plain"}).write()
        assert said(logs) == []
    finally:
        structlog.configure(**before)
    await ProgressLog(model, {"plain"}).write()
    assert len(said(logs)) == 1


async def test_the_end_of_a_batch_is_a_line(model: Model, logs: list[dict[str, object]]) -> None:
    """With what came of its items, and how long it took; counts of nothing are left out."""
    batch = await bound(model, Welcome(users=3)).trigger(label="nightly")
    counts = Counts(eligible=10, succeeded=6, failed=1, already_processed=3)
    started = model.clock.ms
    counted(
        model, batch.id, state="completed", counts=counts, label="nightly", created_at=started, ended_at=started + 90
    )
    logs.clear()
    ends = BatchEndLog(model)
    ends.batch_ended(batch.id)
    ends.batch_ended("bat_gone")
    await ends.finish()
    assert logs == [
        {
            "event": "[welcome:process] Batch ended",
            "state": "completed",
            "succeeded": 6,
            "failed": 1,
            "already_processed": 3,
            "label": "nightly",
            "took": "90ms",
            "batch": batch.id,
            "log_level": "info",
        }
    ]
