"""Every error batchflow raises. The tree:

BatchflowError
├── ConfigurationError          an option, hook, name or setting is wrong: raised when it is written down, never later
│   └── DuplicateNameError      two workflows, served functions or routes of one name
├── InputError                  a caller sent something wrong (a payload, an id, a limit); nothing was started
│   ├── NotFoundError           the requested batch, run or workflow does not exist
│   └── TooLarge                a payload, a result or a request has more bytes than the settings allow
├── RunError                    a run went wrong, as user code and callers see it
│   ├── TimedOut                the time of `ctx.timeout` is over: a TimeoutError, the same on every replay
│   ├── StepFailed              a step's attempts are used up; raised at the step, the same on every replay
│   │   ├── ChildFailed         the child that `ctx.invoke` waited for failed for good
│   │   └── ChildCancelled      … or was cancelled
│   ├── ReplayError             code and journal do not fit, a name was used twice, a step is inside a step
│   ├── UnserializableError     a value does not survive its JSON form
│   ├── RunFailed               raised by `RunHandle.wait` for a run that failed or was cancelled
│   └── BatchFailed             raised by `BatchHandle.wait(check=True)`
├── ResourceError               a resource of the process cannot be opened, so the app does not start
├── NonRetryable                raised BY user code: do not try again
├── RetryAfter                  raised BY user code: try again after this long
│   └── RateLimited             … and let everything under the same flow key wait as well; costs no attempt
└── StoreError                  durable state could not be read or written
    ├── StoreUnavailable        for now: busy, disk full, connection lost
    └── StoreIncompatible       until somebody acts: made by a newer batchflow, read-only, not ours
"""

import math
from collections.abc import Callable, Mapping
from datetime import timedelta

__all__ = [
    "BatchFailed",
    "BatchflowError",
    "ChildCancelled",
    "ChildFailed",
    "ConfigurationError",
    "DuplicateNameError",
    "InputError",
    "NonRetryable",
    "NotFoundError",
    "RateLimited",
    "ReplayError",
    "ResourceError",
    "RetryAfter",
    "RunError",
    "RunFailed",
    "StepFailed",
    "StoreError",
    "StoreIncompatible",
    "StoreUnavailable",
    "TimedOut",
    "TooLarge",
    "UnserializableError",
]


HOOK_STEPS: Mapping[str, str] = {
    "count": "get-all-items",
    "fetch": "get-batch",
    "filter": "filter-existing",
    "item_flow": "item-flow",
    "load": "get-item",
    "execute": "process-item",
    "execute_many": "process-items",
    "save": "save-result",
    "on_success": "on-success",
    "on_failure": "on-failure",
    "on_complete": "on-complete",
    "on_item_failure": "on-item-failure",
}
"""The steps of a workflow's hooks, which are named after the pattern: `{workflow}:process-item` is `execute`."""

_HOOKS = {step: hook for hook, step in HOOK_STEPS.items()}


def step_text(step: str) -> str:
    """Return a step as messages name it, with its hook: "step 'letters:process-item' (execute)"."""
    return f"step '{step}'{hook_suffix(step)}"


def hook_suffix(step: str) -> str:
    """Return the hook of a workflow's step, as " (execute)"; "" for other steps."""
    named = hook_name(step)
    return "" if named == step else f" ({named.rpartition(':')[2]})"


def hook_step(name: str) -> str:
    """Return the step of a hook, "letters:process-item" for "letters:execute"; any other name as it is."""
    workflow, _, hook = name.rpartition(":")
    return f"{workflow}:{HOOK_STEPS[hook]}" if workflow and hook in HOOK_STEPS else name


def hook_name(step: str) -> str:
    """Return a step by its hook, "letters:execute" for "letters:process-item"; any other name as it is."""
    workflow, _, name = step.rpartition(":")
    return f"{workflow}:{_HOOKS[name]}" if workflow and name in _HOOKS else step


class BatchflowError(Exception):
    """Base of all errors. `code` names the error for programs; `status` is its status in an HTTP response."""

    code = "error"
    status = 500
    retryable = False


class OptionError(BatchflowError, ValueError):
    """Base of `ConfigurationError` and `InputError`: the option at fault, the value it was given, the value it wants.

        ConfigurationError(option="rate", got="0", want="write a whole number of 1 or more")
        InputError("exclude each other", option="run_id", other="dedup_id", want="give one of them")
        InputError("the payload is not JSON")

    With an option, `problem` goes on after its name, or after "cannot be" and the value `got`, as text that may be
    shown. Without one it is the whole sentence. `want` says what to write. Options have their names of Python here; a
    face with other names renders the sentence with `sentence`.
    """

    def __init__(
        self,
        problem: str = "",
        *,
        option: str | None = None,
        other: str | None = None,
        got: str | None = None,
        want: str | None = None,
    ) -> None:
        self.problem, self.option, self.other, self.got, self.want = problem, option, other, got, want
        super().__init__(self.sentence())

    def sentence(self, name: Callable[[str], str] = str) -> str:
        """The message, with each option under the name that `name` gives it."""
        said = self.problem
        if self.got is not None:
            said = f"cannot be {self.got}, {said}" if said else f"cannot be {self.got}"
        if self.option is not None:
            options = " and ".join(f"'{name(it)}'" for it in (self.option, self.other) if it is not None)
            said = f"{options} {said}"
        return said if self.want is None else f"{said}; {self.want}"


class ConfigurationError(OptionError):
    """An option, hook, name or setting is wrong."""

    code = "configuration"


class DuplicateNameError(ConfigurationError):
    """Two workflows, served functions or routes have the same name."""

    code = "duplicate_name"


class InputError(OptionError):
    """A caller sent something wrong; nothing was started.

    `field` is the part of the payload at fault, where there is one: by default the option as payloads spell it.
    """

    code = "invalid_input"
    status = 422

    def __init__(
        self,
        problem: str = "",
        *,
        option: str | None = None,
        other: str | None = None,
        got: str | None = None,
        want: str | None = None,
        field: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(problem, option=option, other=other, got=got, want=want)
        self.field = field if field is not None or option is None else _in_payload(option)
        if status is not None:
            self.status = status


def _in_payload(option: str) -> str:
    first, *rest = option.split("_")
    return first + "".join(map(str.title, rest))


class NotFoundError(InputError):
    """The requested batch, run or workflow does not exist."""

    code = "not_found"
    status = 404


class TooLarge(InputError):
    """A payload, a result or a request has more bytes than the settings allow. Repeating it does not help."""

    code = "too_large"
    status = 413


class RunError(BatchflowError):
    """A run went wrong."""

    code = "run"


class StepFailed(RunError):
    """The attempts of a step are used up. Raised at the step, on the first attempt and on every replay."""

    code = "step_failed"

    def __init__(self, step: str, error: str, *, attempts: int) -> None:
        super().__init__(f"{step_text(step)} failed after {attempts} attempt{'' if attempts == 1 else 's'}: {error}")
        self.step = step
        self.error = error
        self.attempts = attempts


class ChildFailed(StepFailed):
    """The run that `ctx.invoke` waited for failed for good. `error` is its error, `child` the invoked function."""

    code = "child_failed"

    def __init__(self, step: str, child: str, error: str) -> None:
        RunError.__init__(self, f"{step_text(step)}: '{child}' failed: {error}")
        self.step, self.child, self.error, self.attempts = step, child, error, 1


class ChildCancelled(StepFailed):
    """The run that `ctx.invoke` waited for was cancelled. `child` is the invoked function."""

    code = "child_cancelled"

    def __init__(self, step: str, child: str) -> None:
        RunError.__init__(self, f"{step_text(step)}: '{child}' was cancelled")
        self.step, self.child, self.error, self.attempts = step, child, "it was cancelled", 1


class TimedOut(RunError, TimeoutError):
    """The time of `ctx.timeout` is over. No retry helps: it is over on every replay."""

    code = "timed_out"


class ReplayError(RunError):
    """The code does not fit its journal, uses a step name twice, or starts a step inside a step."""

    code = "replay"


class UnserializableError(RunError, TypeError):
    """A value does not survive its JSON form; the message names the step, the type and the cure."""

    code = "unserializable"


class RunFailed(RunError):
    """A run failed for good, or was cancelled."""

    code = "run_failed"


class BatchFailed(RunError):
    """A batch ended with failed items, was cancelled, or failed while it fetched its pages."""

    code = "batch_failed"


class ResourceError(BatchflowError):
    """A resource of the process cannot be opened; the app has not started. `resource` is its name."""

    code = "resource"
    status = 503

    def __init__(self, resource: str, error: str) -> None:
        super().__init__(f"the resource '{resource}' cannot be opened: {error}")
        self.resource = resource


class NonRetryable(BatchflowError):
    """Raise it in a step or function when another attempt cannot help: the step fails at once."""

    code = "non_retryable"


_LONGEST_S = 36_500 * 86_400.0
# The longest duration.


def _seconds(delay: float) -> float:
    try:
        return float(delay)
    except OverflowError:
        # A whole number larger than any float.
        return math.copysign(_LONGEST_S, -1 if delay < 0 else 1)
    except (TypeError, ValueError):
        raise ValueError(f"the delay is {delay!r}; write seconds, such as 5, or a timedelta") from None


class RetryAfter(BatchflowError):
    """Raise it to choose the time of the next attempt. It counts as an attempt.

    `delay` is a `timedelta` or a number of seconds, as in HTTP's `Retry-After`. A negative delay means now, one of more
    than 36500 days means 36500 days, and NaN or infinity means the wait of the retry policy.

    Raises:
        ValueError: the delay is neither.
    """

    code = "retry_after"
    retryable = True

    def __init__(self, delay: timedelta | float, message: str = "") -> None:
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else _seconds(delay)
        bounded = min(max(0.0, seconds), _LONGEST_S) if math.isfinite(seconds) else None
        super().__init__(message or ("try again later" if bounded is None else f"try again after {bounded:g} s"))
        self.delay_ms: int | None = None if bounded is None else int(bounded * 1000)
        """The wait; None: the one of the policy."""


class RateLimited(RetryAfter):
    """Raise it when a service answers "too many requests": the whole flow key waits, and no attempt is counted."""

    code = "rate_limited"


class StoreError(BatchflowError):
    """Durable state could not be read or written."""

    code = "store"
    status = 503


class StoreUnavailable(StoreError):
    """The store cannot be used for now: it is busy, its disk is full, its connection is lost."""

    code = "store_unavailable"
    retryable = True


class StoreIncompatible(StoreError):
    """The store cannot be used by this program: made by a newer batchflow, read-only, or not a batchflow store."""

    code = "store_incompatible"
    retryable = True  # no write may be lost while somebody makes the file writable again
