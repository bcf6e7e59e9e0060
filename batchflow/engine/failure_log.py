"""The log of failures: failed attempts, the first of a kind at once and the others summed, and what failed for good."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from batchflow.core.batch import Failure
from batchflow.core.breaker import BreakerChange
from batchflow.core.call import CALL_DESTINATION
from batchflow.core.duration import format_duration
from batchflow.core.message import Claim
from batchflow.core.ports import NO_LOG_NAMES, ClaimKey, FailedAttempt, LogNames
from batchflow.core.report import one_line
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Settlement
from batchflow.logs import log_of

SUM_MS = 10_000
"""Failed attempts of known kinds are summed for this long."""

QUIET_MS = 60_000
"""A kind that has not occurred for this long is logged at once again."""

MAX_KINDS = 200
"""Attempts of further kinds are only summed."""

_MAX_TYPES = 20
_SHOWN_TYPES = 5
_OTHERS = "others"
_ERROR_TYPE = re.compile(r"\b[A-Z]\w*(?:Error|Timeout|Exception)\b")


class _Kind(NamedTuple):
    prefix: str
    type: str
    where: str
    parked: bool


class _Sum:
    """Failed attempts of one layer or function that have no line of their own."""

    def __init__(self, claim: Claim, attempt: FailedAttempt) -> None:
        self.claim, self.attempt = claim, attempt
        self.types: Counter[str] = Counter()
        self.shortest_ms = self.longest_ms = attempt.wait_ms

    def add(self, attempt: FailedAttempt) -> None:
        """Count one more."""
        name = attempt.failure.type
        self.types[name if name in self.types or len(self.types) < _MAX_TYPES else _OTHERS] += 1
        if attempt.wait_ms is not None:
            self.shortest_ms = min(attempt.wait_ms, attempt.wait_ms if self.shortest_ms is None else self.shortest_ms)
            self.longest_ms = max(attempt.wait_ms, self.longest_ms or 0)

    def line(self, after_ms: int) -> str:
        """The text about all of them."""
        count, took = self.types.total(), f"in {max(1, round(after_ms / 1000))} s"
        shown = self.types.most_common(_SHOWN_TYPES)
        left = count - sum(number for _, number in shown)
        kinds = ", ".join(f"{number:,} × {name}" for name, number in (*shown, *([(_OTHERS, left)] if left else [])))
        if self.attempt.parked:
            return f"{count:,} attempts met a rate limit {took}, parked for up to {wait_text(self.longest_ms)}: {kinds}"
        return f"{count:,} attempts failed {took}, {_again_text(self.shortest_ms, self.longest_ms)}: {kinds}"


class FailureLog:
    """Logs failed attempts as warnings, and each item and run that failed for good as one error.

    The first attempt of a kind (workflow, layer, exception type and the user's own frame) has a line of its own at
    once; further ones are summed in a line every ten seconds. `now` is the engine's time: virtual in a test.
    """

    def __init__(self, names: Mapping[str, LogNames], now: Callable[[], int]) -> None:
        self._names = names
        self._now = now
        self._kinds: dict[_Kind, int] = {}
        self._sums: dict[tuple[str, bool], _Sum] = {}
        self._since = 0
        self.unsettled: dict[ClaimKey, FailedAttempt] = {}
        """The last attempts of claims that are not settled yet: most of them fail for good, and have an error."""

    def add(self, claim: Claim, attempt: FailedAttempt) -> None:
        """Log or count a failed attempt."""
        if attempt.wait_ms is not None:
            self._warn(claim, attempt)
            return
        key = claim.id, claim.fence
        earlier = self.unsettled.get(key)
        if earlier is not None and earlier.failure != attempt.failure:
            self._warn(claim, earlier)
        # The function's failure by a step that failed for good is that of the step.
        if earlier is None or earlier.failure != attempt.failure:
            self.unsettled[key] = attempt

    def settle(self, claim: Claim, settlement: Settlement) -> None:
        """Log that a run or item has failed for good."""
        attempt = self.unsettled.pop((claim.id, claim.fence), None)
        if claim.destination == CALL_DESTINATION:
            if settlement.ending in ("retry", "dead"):
                self._warn(claim, _attempt_of_call(claim, settlement, self._now()))
        elif settlement.ending in ("dead", "failed"):
            self._error(claim, settlement, attempt)
        elif attempt is not None:
            # The function has handled the failure of a step, or waits for something else first.
            self._warn(claim, attempt)

    def tell_breaker(self, claim: Claim, change: BreakerChange) -> None:
        """Log that a circuit breaker has opened, after the failures that have opened it, or that it has closed."""
        prefix = self._names.get(claim.destination, NO_LOG_NAMES).prefix
        about = {"flow_key": change.key, **_about(claim)}
        if change.open_for:
            self.write()
            count = change.in_a_row
            why = f"{count:,} attempts in a row have failed" if count > 1 else "an attempt has failed"
            then = f"nothing starts for {format_duration(change.open_for)}, then one at a time"
            log_of(prefix).warning(f"[{prefix}] Circuit breaker open: {why}; {then}", **about)
        else:
            log_of(prefix).info(f"[{prefix}] Circuit breaker closed: an attempt has succeeded", **about)

    def forget(self, claim: Claim) -> None:
        """Forget a claim that was lost."""
        self.unsettled.pop((claim.id, claim.fence), None)

    def write_due(self) -> None:
        """Log the attempts that were summed for ten seconds."""
        if self._sums and not 0 <= self._now() - self._since < SUM_MS:
            self.write()

    def write(self) -> None:
        """Log the attempts that were summed so far."""
        if not self._sums:
            return
        now, sums, self._sums = self._now(), self._sums, {}
        for (prefix, _), it in sums.items():
            if it.types.total() == 1:
                _write_attempt(prefix, it.claim, it.attempt)
            else:
                log_of(prefix).warning(f"[{prefix}] {it.line(now - self._since)}")
        self._kinds = {kind: at for kind, at in self._kinds.items() if 0 <= now - at < QUIET_MS}

    def _warn(self, claim: Claim, attempt: FailedAttempt) -> None:
        self.write_due()
        prefix, now = self._names.get(claim.destination, NO_LOG_NAMES).prefix, self._now()
        kind = _Kind(prefix, attempt.failure.type, attempt.failure.where, attempt.parked)
        known = self._kinds.get(kind)
        if known is None and len(self._kinds) >= MAX_KINDS:
            known = now
        else:
            self._kinds[kind] = now
        if known is None or not 0 <= now - known < QUIET_MS:
            _write_attempt(prefix, claim, attempt)
            return
        if not self._sums:
            self._since = now
        key = prefix, attempt.parked
        if key not in self._sums:
            self._sums[key] = _Sum(claim, attempt)
        self._sums[key].add(attempt)

    def _error(self, claim: Claim, settlement: Settlement, attempt: FailedAttempt | None) -> None:
        names = self._names.get(claim.destination)
        error, _, _ = (settlement.error or "").partition("\nTraceback (most recent call last):\n")
        text = one_line(error)
        if names is None:
            about = {"run": claim.id, "destination": claim.destination, "error": text}
            log_of("batchflow").error("[batchflow:error] Dead letter", **about)
            return
        values: dict[str, object] = _about(claim)
        if attempt is not None:
            text = one_line(attempt.failure.message)
            values = {**values, "attempts": attempt.number, "where": attempt.failure.where}
        text = text if settlement.ending == "failed" else f"{names.failed}: {text}"
        log_of(names.prefix).error(
            f"[{names.prefix}:error] {text}", **{name: value for name, value in values.items() if value}
        )


def _attempt_of_call(claim: Claim, settlement: Settlement, now: int) -> FailedAttempt:
    """The failed attempt of an HTTP call, which is a step of a run: that has an error if it cannot go on without it."""
    text = one_line(settlement.error or "")
    found = _ERROR_TYPE.search(text)
    failure = Failure(found[0] if found else text if text.startswith("answered ") else "no answer", "", text)
    wait_ms = max(0, settlement.due - now) if settlement.ending == "retry" else None
    policy = claim.retry or RetryPolicy.none()
    return FailedAttempt(None, "delivery", failure, claim.failures + 1, policy.attempts, wait_ms)


def _write_attempt(prefix: str, claim: Claim, attempt: FailedAttempt) -> None:
    failure = attempt.failure
    if attempt.parked:
        text = f"Rate limit, parked for {wait_text(attempt.wait_ms)}"
    else:
        text = f"Attempt {attempt.number} of {attempt.attempts} failed, {_again_text(attempt.wait_ms, attempt.wait_ms)}"
    values = {**_about(claim), **({"where": failure.where} if failure.where else {})}
    log_of(prefix).warning(f"[{prefix}] {text}: {one_line(failure.message)}", **values)


def _about(claim: Claim) -> dict[str, object]:
    if not claim.item:
        return {"run": claim.id, **({"batch": claim.batch} if claim.batch else {})}
    return {"item_id": claim.item, "batch": claim.batch}


def _again_text(shortest_ms: int | None, longest_ms: int | None) -> str:
    if shortest_ms is None:
        return "not tried again"
    shortest, longest = wait_text(shortest_ms), wait_text(longest_ms)
    return f"again in {shortest}" if shortest == longest else f"again in {shortest} to {longest}"


def wait_text(ms: int | None) -> str:
    """A wait for people: "250 ms", "1 s", "16 s", "2 min"."""
    if ms is None or ms < 950:
        # A wait is measured some ms after its failure.
        return f"{max(0, round(ms or 0, -1))} ms"
    if ms < 3_000:
        return f"{ms / 1000:.1f}".removesuffix(".0") + " s"
    return f"{round(ms / 1000)} s" if ms < 100_000 else f"{round(ms / 60_000)} min"
