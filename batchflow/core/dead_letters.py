"""Dead letters: messages whose attempts are used up, the searches for them, and the groups of their errors. Pure."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from batchflow.core.frames import own_frame, place, user_frames
from batchflow.core.message import Message
from batchflow.core.report import headline, one_line
from batchflow.core.run import Journal

KEPT_ATTEMPTS = 10
"""The number of failed attempts that a message keeps, the latest ones."""

FailureState: TypeAlias = Literal["in_progress", "succeeded", "failed"]

_STATUS = {"InputError": 400, "NonRetryable": 489, "TimedOut": 504, "TimeoutError": 504, "WorkerLost": 503}
_OF_STEP = re.compile(r"^StepFailed: .*? failed after [\d,]+ attempts?: ", re.DOTALL)
_TYPE = re.compile(r"[^\W\d][\w.]*")
# Everything that is quoted, and every word with a digit or of hexadecimal digits alone.
_VALUE = re.compile(r"""'[^']*'|"[^"]*"|\b[0-9a-fA-F]{8,}\b|\S*\d\S*""")


def status_of(error: str) -> int:
    """The status of a failure in the terms of HTTP, by the type of its error.

    500: an exception. 504: a time limit. 503: lost workers. 489, as QStash has it: `NonRetryable`. 400: a payload that
    does not fit its type.
    """
    return _STATUS.get(_error_type(error), 500)


def fingerprint_of(error: str) -> str:
    """The name of the group of an error: the same for each occurrence of one bug, over redeploys as far as possible.

    It is made of the type of the error, the user's own frames (file and function, since lines move) and the code of the
    last of them. An error without such frames is told by its message, without what is quoted and without words that
    have a digit: ids, numbers, times.
    """
    part, frames = user_frames(error)
    # A recursion of any depth counts once.
    names = dict.fromkeys(place(frame["path"], 0, frame["name"]) for frame in frames)
    if frames:
        about = [*names, part[frames[-1].end() :].lstrip("\n").partition("\n")[0].strip()]
    else:
        about = [_VALUE.sub("#", one_line(own_line(error)))]
    text = "\n".join([_error_type(error), *about])
    return hashlib.blake2s(text.encode("utf-8", "replace"), digest_size=6).hexdigest()


def own_line(error: str) -> str:
    """The headline of an error; that of a step which has failed for good is the step's own."""
    return _OF_STEP.sub("", headline(error), count=1)


def _error_type(error: str) -> str:
    found = _TYPE.match(own_line(error))
    return found[0] if found else ""


class LoggedAttempt(NamedTuple):
    """A failed or lost attempt of a message: when it ended (ms), how long it took, and its error in one line.

    `took_ms` is None where nobody has measured it: its worker was lost.
    """

    at: int
    took_ms: float | None
    error: str


class FailureCall(NamedTuple):
    """The call of the failure function or URL of a dead letter: its latest state, since when (ms), and its outcome.

    `result` is what the function returned, as JSON text; `error` is why it has failed.
    """

    state: FailureState
    at: int
    result: str | None = None
    error: str | None = None

    def __repr__(self) -> str:
        # Its result may be secret.
        return f"FailureCall('{self.state}', at={self.at}, error={self.error!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message whose attempts are used up: the whole message, its error and its history. Times are ms.

    `number` is -1, or the place of `item` in its batch. `attempts` are its failed and lost attempts in all, with those
    of its steps; `failures` only those outside steps, since its last recorded step. `attempt_log` are the latest of
    them, up to `KEPT_ATTEMPTS`, the latest first. `status` is that of `status_of`, `fingerprint` that of
    `fingerprint_of`. `workflow` and `label` are those of its batch; of another message `workflow` is None. `failure` is
    None unless it has a failure function or URL.
    """

    message: Message
    error: str
    failures: int
    losses: int
    created_at: int
    started_at: int | None
    died_at: int
    item: str | None = None
    number: int = -1
    journal: Journal = ()
    attempts: int = 0
    attempt_log: tuple[LoggedAttempt, ...] = ()
    status: int = 500
    fingerprint: str = ""
    workflow: str | None = None
    label: str | None = None
    failure: FailureCall | None = None

    @property
    def id(self) -> str:
        """The id of its message."""
        return self.message.id

    @property
    def response(self) -> str:
        """Its error without the traceback, as the body of a response would have it."""
        return headline(self.error)


class DeadLetterQuery(NamedTuple):
    """A filter of dead letters: all parts have to match.

    `workflow` is that of a batch, or the route of a function. `destination` is a route, or a URL that ends with it.
    `run` is the id of the message, or of the run that waited for it. `since` and `until` are times of death in ms, the
    latter not included.
    """

    workflow: str | None = None
    destination: str | None = None
    run: str | None = None
    batch: str | None = None
    item: str | None = None
    label: str | None = None
    status: int | None = None
    fingerprint: str | None = None
    since: int | None = None
    until: int | None = None

    @property
    def endpoint(self) -> tuple[str | None, bool]:
        """The destination that is searched, and True if it is the path of a URL, which may begin with a prefix."""
        scheme, is_url, rest = (self.destination or "").partition("://")
        if not is_url or not scheme.isalpha():
            return self.destination, False
        return "/" + re.split(r"[?#]", rest)[0].partition("/")[2], True

    def matches(self, destination: str) -> bool:
        """True if the destination of a dead letter is the one that is searched."""
        wanted, is_url = self.endpoint
        return wanted is None or wanted == destination or (is_url and wanted.endswith(destination))


ALL_DEAD_LETTERS = DeadLetterQuery()


class DeadLetterGroup(NamedTuple):
    """Dead letters with the same fingerprint. Times are ms.

    `example` is the id of the latest, and `error` is its error.
    """

    fingerprint: str
    size: int
    first_at: int
    last_at: int
    example: str
    error: str

    @property
    def type(self) -> str:
        """The type of the error."""
        return _error_type(self.error) or "Error"

    @property
    def where(self) -> str:
        """The user's own last frame: "reviews.py:41 in execute"; "" if there is none."""
        return own_frame(self.error)

    @property
    def message(self) -> str:
        """The error of the example in one line."""
        return one_line(headline(self.error))


def merge_groups(parts: Sequence[DeadLetterGroup]) -> list[DeadLetterGroup]:
    """Groups of several slices as one list, the largest first."""
    found: dict[str, DeadLetterGroup] = {}
    for part in parts:
        known = found.get(part.fingerprint)
        if known is not None:
            latest = max(known, part, key=lambda group: (group.last_at, group.example))
            size, first = known.size + part.size, min(known.first_at, part.first_at)
            part = latest._replace(size=size, first_at=first)
        found[part.fingerprint] = part
    return sorted(found.values(), key=lambda group: (-group.size, -group.last_at, group.fingerprint))
