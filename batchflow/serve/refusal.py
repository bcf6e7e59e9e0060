"""What is said to code that breaks the rules of a durable function, and what it is to write instead."""

import reprlib
from typing import Any

from batchflow.core.codec import Codec, describe
from batchflow.core.run import Step
from batchflow.errors import ReplayError


def nested(step: str, inside: str) -> ReplayError:
    """A step was asked for by the function of another one."""
    return ReplayError(
        f"step '{step}' is asked for inside step '{inside}', and steps do not nest; "
        f"let '{inside}' return, and ask for '{step}' in the durable function itself"
    )


def after_last(step: str, last: str) -> ReplayError:
    """A step was asked for after the one that was declared to be the last."""
    return ReplayError(f"step '{step}' is asked for after step '{last}', which was asked for as the last one")


def swallowed(sign: str) -> ReplayError:
    """The cancellation that suspends a run did not come out of the function."""
    return ReplayError(
        f"the run was suspended, but its function caught the cancellation and {sign}; "
        f"catch Exception where it says 'except:', 'except BaseException' or 'except CancelledError', or raise it again"
    )


def unreadable(step: Step, codec: Codec[Any], error: Exception) -> ReplayError:
    """A recorded result is not of the type that the code declares now."""
    wrong = ReplayError(
        f"step '{step.name}' is recorded as {reprlib.repr(step.value)}, which is no {describe(codec.annotation)} "
        f"as the code declares it now; keep reading what is recorded, or give the new step another name"
    )
    wrong.__cause__ = error
    return wrong
