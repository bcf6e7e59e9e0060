"""The status and the summary of a batch, in numbers and as text."""

from batchflow.batch.status import BatchStatus, BatchSummary
from batchflow.core.batch import Batch, BatchState, Counts, ErrorGroup

NONE = Counts()


def status(
    state: BatchState = "open", counts: Counts = NONE, *, total: int | None = None, walk_first: bool = False
) -> BatchStatus:
    batch = Batch(id="bat_1", workflow="w", state=state, counts=counts, total=total, created_at=0)
    return BatchStatus.of(batch, 2_000, walk_first=walk_first)


def test_a_total_is_so_far_until_it_is_known() -> None:
    """Without it there is neither percent nor time to go."""
    walking = status(counts=Counts(open=60, succeeded=40))
    assert (walking.total, walking.is_total_known, walking.percent, walking.eta_ms) == (100, False, None, None)
    assert str(walking) == "w bat_1 open: 40 of 100 so far, 20.0/s; 60 open, 40 succeeded"


def test_a_sealed_batch_knows_its_end() -> None:
    """All pages are walked, so what was started is all there is."""
    sealed = status("sealed", Counts(open=60, succeeded=30, failed=10))
    assert (sealed.percent, sealed.items_per_second, sealed.eta_ms) == (40.0, 20.0, 3_000)
    assert str(sealed) == ("w bat_1 sealed: 40 of 100 (40%), 20.0/s, 3s to go; 60 open, 30 succeeded, 10 failed")


def test_a_counted_total_follows_what_is_skipped() -> None:
    """A source's own count includes what was processed before; that of a whole walk does not, but what comes after."""
    assert status(total=100, counts=Counts(open=10, already_processed=30)).total == 70
    walked = Counts(eligible=100, open=10, already_processed=30, duplicates=1, left_out=9)
    assert status(total=60, counts=walked, walk_first=True).total == 60
    assert status(total=60, counts=walked._replace(in_flight=2), walk_first=True).total == 58
    assert not status(counts=walked, walk_first=True).is_total_known


def test_a_count_that_the_walk_does_not_reach_is_told() -> None:
    """Once the walk is through, and not of one that broke off."""
    counts = Counts(eligible=150, succeeded=150)
    assert status("completed", counts, total=300).counted == 300
    assert str(status("sealed", counts, total=300)).endswith(
        "; count said 300 and the pages have named 150: rows may have moved while they were walked, as with LIMIT and "
        "OFFSET over what is not done yet; page by a key, or set walk_first"
    )
    for state in ("open", "failed", "cancelled"):
        assert status(state, counts, total=300).counted is None
    assert status("completed", counts, total=150).counted is None


def test_a_batch_without_items_is_complete() -> None:
    """Nothing to do is all done."""
    done = status("completed")
    assert (done.percent, done.eta_ms, done.is_over) == (100.0, 0, True)


def test_a_summary_names_what_broke_the_walk() -> None:
    """The reason stands at the end."""
    summary = BatchSummary(
        id="bat_1", workflow="w", state="failed", counts=Counts(succeeded=1200), duration_ms=90_000, error="no line"
    )
    assert str(summary) == "w bat_1 failed in 1m 30s: 1,200 succeeded; no line"
    assert summary.failure() == "batch 'bat_1' of 'w' failed: no line"


def test_a_group_of_errors_is_told_by_its_number_and_type() -> None:
    """As a bar shows it."""
    assert str(ErrorGroup("ConnectError", "reviews.py:41 in execute", 1_500, 2, "ConnectError: refused")) == (
        "1,500 × ConnectError"
    )


def test_only_a_completed_batch_has_a_hundred_percent() -> None:
    """What was cancelled has not run, and a walk that failed has not named all items."""
    cancelled = status("cancelled", Counts(succeeded=14, failed=2, cancelled=24))
    assert (cancelled.percent, cancelled.items_per_second) == (40.0, 8.0)
    assert str(cancelled).startswith("w bat_1 cancelled: 40 of 40 (40%), 8.0/s")
    failed = Counts(eligible=150, succeeded=150)
    assert (status("failed", failed).percent, status("failed", failed, total=300).percent) == (None, 50.0)
    nearly = status("sealed", Counts(open=1, succeeded=999_999))
    assert nearly.percent == 99.9
    assert "(99%)" in str(nearly)
    assert status("failed").percent is None
    assert status("cancelled").percent == 0.0


def test_items_that_wait_after_a_failure_are_told() -> None:
    """Of the open ones."""
    waiting = status(counts=Counts(open=20, retrying=12, parked=3))
    assert str(waiting).endswith("; 20 open (12 retrying, 3 parked)")


def test_an_on_complete_that_failed_is_told() -> None:
    """A batch whose end nobody was told of has not succeeded, in summary, sentence and status."""
    batch = Batch(
        id="bat_1", workflow="w", state="completed", counts=Counts(succeeded=1), completion_error="OSError: no line"
    )
    summary = BatchSummary.of(batch)
    assert not summary.succeeded
    assert summary.failure() == "batch 'bat_1' of 'w' has ended, but its on_complete failed: OSError: no line"
    assert str(summary).endswith("1 succeeded; its on_complete failed: OSError: no line")
    assert str(BatchStatus.of(batch, 0)).endswith("its on_complete failed: OSError: no line")


def test_a_summary_has_no_traceback() -> None:
    """The whole text is in the dead letter."""
    text = "ValidationError: 1 error\n  field missing\nTraceback (most recent call last):\n  File ..."
    batch = Batch(id="bat_1", workflow="w", state="failed", error=text)
    assert BatchSummary.of(batch).error == BatchStatus.of(batch, 0).error == "ValidationError: 1 error field missing"
    assert "\n" not in str(BatchSummary.of(batch))
