"""Ids: those of batches and runs are random, all others are derived from their batch, so that a repetition gives the
same id. All are URL-safe, and ids of one kind sort in the order in which they are made.

    bat_01hv3k8m0q7y2c9d4e                     a batch: 10 characters of time, then random ones; or its trigger's
    bat_….e                                    its entry
    bat_….p000000007                           its page 7
    bat_….p000000007.c000002                   chunk 2 of that page
    bat_….p000000007.k000000123                the rest of that page from item 123 on, while a canary is started
    bat_….r000000123                           the run of item 123
    bat_….z                                    its on_complete
    bat_….z2                                   the same, once dead letters were redriven after it had ended
    bat_….n1                                   the notification of its end; n2: of its next end
    ….x3                                       the failure message of a dead letter, dead in its third claim
    ….x3.2                                     the second one, once an operator has called for it

The letters put the kinds in that order too: entry, pages with their chunks, items, end.
"""

import re

BATCH_ENTROPY = 5
"""The number of random bytes in a batch id."""

RUN_ENTROPY = 10
"""The number of random bytes in a run id: thousands of runs may start within one millisecond."""

BATCH_ID_PATTERN = "^bat_[A-Za-z0-9_-]{1,60}$"
"""The form of a batch id that a trigger gives."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's: no i, l, o, u
_ITEM_RUN = re.compile(r"(bat_[0-9A-Za-z_-]+)\.r([0-9]{9})")


def is_of_batch(id: str) -> bool:
    """True for the id of a batch, and for those that are derived from one."""
    return id.startswith("bat_")


def batch_id(now_ms: int, entropy: bytes) -> str:
    """A new batch's id; a later millisecond sorts later.

    Raises:
        ValueError: `entropy` is not 5, 10, 15, … bytes, or `now_ms` is out of range.
    """
    return f"bat_{_stamp(now_ms, entropy)}"


def run_id(now_ms: int, entropy: bytes) -> str:
    """The id of a new run that belongs to no batch; a later millisecond sorts later.

    Raises:
        ValueError: as for `batch_id`.
    """
    return f"run_{_stamp(now_ms, entropy)}"


def entry_id(batch: str) -> str:
    """The run and message of the batch's first layer."""
    return f"{batch}.e"


def page_id(batch: str, page: int) -> str:
    """One page of the walk."""
    return f"{batch}.p{_padded(page, 9)}"


def chunk_id(batch: str, page: int, chunk: int) -> str:
    """One chunk of a page."""
    return f"{batch}.p{_padded(page, 9)}.c{_padded(chunk, 6)}"


def rest_id(batch: str, page: int, first: int) -> str:
    """The rest of one page, from the item with the number `first` on."""
    return f"{batch}.p{_padded(page, 9)}.k{_padded(first, 9)}"


def item_run_id(batch: str, number: int) -> str:
    """The run of one item."""
    return f"{batch}.r{_padded(number, 9)}"


def complete_id(batch: str, generation: int = 1) -> str:
    """The batch's `on_complete`; a batch that resumes after its end has another one."""
    return f"{batch}.z" if generation == 1 else f"{batch}.z{generation}"


def completes(id: str, batch: str) -> bool:
    """True for the id of an `on_complete` of the batch, or of the failure message of one."""
    return id.startswith(f"{batch}.z")


def notification_id(batch: str, number: int) -> str:
    """The notification of a batch's end; each further one has another number."""
    return f"{batch}.n{number}"


def failure_id(message: str, fence: int, call: int = 1) -> str:
    """The failure message of a dead letter; a message that dies again has another one, as has each further call."""
    return f"{message}.x{fence}" if call == 1 else f"{message}.x{fence}.{call}"


def child_id(run: str, step: int) -> str:
    """The child or call that step number `step` of a run waits for: the same each time the run repeats the step."""
    return f"{run}.{step}"


def parse_item_run_id(id: str) -> tuple[str, int] | None:
    """The batch and number of an item's run, or None for an id of another kind."""
    match = _ITEM_RUN.fullmatch(id)
    return (match[1], int(match[2])) if match else None


def _stamp(now_ms: int, entropy: bytes) -> str:
    if not 0 <= now_ms < 2**50:
        raise ValueError(f"an id needs a time from 0 to {2**50 - 1} ms after the epoch, not {now_ms}")
    if not entropy or len(entropy) % 5:
        raise ValueError(f"an id needs 5, 10, 15, … random bytes, not {len(entropy)}")
    return _base32(now_ms, 10) + _base32(int.from_bytes(entropy), len(entropy) * 8 // 5)


def _base32(number: int, length: int) -> str:
    return "".join(_ALPHABET[number >> shift & 31] for shift in range((length - 1) * 5, -1, -5))


def _padded(number: int, digits: int) -> str:
    # A wider or negative number would sort among the others in the wrong place.
    if not 0 <= number < 10**digits:
        raise ValueError(f"an id holds a number from 0 to {10**digits - 1}, not {number}")
    return f"{number:0{digits}d}"
