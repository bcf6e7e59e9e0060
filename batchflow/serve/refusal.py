"""What is said to code that breaks the rules of a durable function, and what it is to write instead."""

import reprlib
from typing import Any

from batchflow.core.codec import Codec, describe
from batchflow.core.run import Step
from batchflow.errors import ConfigurationError, ReplayError, UnserializableError
from batchflow.serve.showing import is_writable, shown

LONGEST_NAME = 500


def check_name(name: object) -> None:
    """Raise `ConfigurationError` for what cannot be the name of a step."""
    if isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and is_writable(name):
        return
    raise ConfigurationError(
        f"a step cannot have the name {shown(name)}; its first argument is a text of 1 to {LONGEST_NAME} characters, "
        f"as in ctx.run('charge', charge, order_id)"
    )


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


def unstorable(step: Step, error: Exception) -> UnserializableError:
    """The store will never take what a step is or has come to."""
    wrong = UnserializableError(f"step '{step.name}' cannot be stored: {error}")
    wrong.__cause__ = error
    return wrong


def unreadable(step: Step, codec: Codec[Any], error: Exception) -> ReplayError:
    """A recorded result is not of the type that the code declares now."""
    wrong = ReplayError(
        f"step '{step.name}' is recorded as {reprlib.repr(step.value)}, which is no {describe(codec.annotation)} "
        f"as the code declares it now; keep reading what is recorded, or give the new step another name"
    )
    wrong.__cause__ = error
    return wrong
