"""Steps and waits that are asked for in a way in which nobody can await them."""

from collections.abc import Awaitable, Collection, Coroutine, Iterable
from typing import Any, TypeVar, cast

from batchflow.errors import ConfigurationError
from batchflow.serve.showing import shown

T = TypeVar("T")


def uncallable(step: str, value: object) -> ConfigurationError:
    """Says that a step is given what is no function; a coroutine that nobody will await is closed."""
    _close([value])
    name = getattr(value, "__name__", "fn")
    return ConfigurationError(
        f"step '{step}' cannot call {shown(value)}; write the function without (), and its arguments after it: "
        f"ctx.run('{step}', {name}, …)"
    )


def checked_waits(waits: tuple[Awaitable[T], ...]) -> tuple[Awaitable[T], ...]:
    """What can be awaited.

    Raises:
        ConfigurationError: something cannot. The coroutines among the others, which nobody will await, are closed.
    """
    for wait in cast("tuple[object, ...]", waits):
        if isinstance(wait, Awaitable):
            continue
        _close(waits)
        if isinstance(wait, Collection) and not isinstance(wait, (str, bytes)):
            _close(cast("Collection[object]", wait))
            raise ConfigurationError(
                f"ctx.first takes its waits one by one, not in a {type(cast('object', wait)).__name__}; "
                f"write ctx.first(*waits)"
            )
        raise ConfigurationError(
            f"ctx.first cannot wait for {shown(wait)}; write waits, without 'await' before them, such as "
            f"ctx.first(ctx.sleep(…), ctx.wait_for_event(…))"
        )
    return waits


def _close(values: Iterable[object]) -> None:
    for value in values:
        if isinstance(value, Coroutine):
            cast("Coroutine[Any, Any, Any]", value).close()
