"""What a durable function is given: its payload, and the steps it can ask for."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar, TypeVarTuple, overload

from batchflow.core.codec import Codec
from batchflow.core.duration import Duration, to_ms
from batchflow.core.message import Claim
from batchflow.core.retry import RetryPolicy
from batchflow.core.settlement import Effect
from batchflow.errors import ConfigurationError
from batchflow.serve.callables import as_async
from batchflow.serve.driver import LAST, PLAIN, Driver, Options

Payload = TypeVar("Payload")
P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class WorkflowContext(Generic[Payload]):
    """One execution of a durable function.

    `payload` is what it was started with. Everything that must not happen twice goes through a step; code between
    steps runs again on every replay, and awaits nothing but the context's own methods.
    """

    # `claim`, `effects` and `step_as` are for the layers of a batch and no part of the public face.
    __slots__ = ("_driver", "claim", "effects", "payload")

    def __init__(self, payload: Payload, claim: Claim, driver: Driver) -> None:
        self.payload = payload
        self.claim = claim
        self.effects: list[Effect] = []
        self._driver = driver

    @property
    def run_id(self) -> str:
        """The id of this run, the same on every attempt."""
        return self.claim.id

    @property
    def headers(self) -> Mapping[str, str]:
        """What the message carried beside its payload."""
        return self.claim.headers

    @property
    def attempt(self) -> int:
        """Which attempt of the function this is, from 1 on. Steps count their own; each recorded one starts it anew."""
        return self.claim.failures + 1

    @overload
    def run(
        self, name: str, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def run(
        self, name: str, fn: Callable[P, Awaitable[T] | T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    def run(self, name: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Call `fn` once and remember its result: `await ctx.run("charge", charge, order_id)`.

        The result is durable before this returns; a replay returns it without calling `fn` again. It passes through
        the JSON form of the type `fn` declares, both times. `name` is unique within the run. A plain function runs in
        a worker thread. A failure is retried by the run's `RetryPolicy` before the code sees anything of it.

        Raises:
            StepFailed: the step's attempts are used up, or what it raised forbids another one.
        """
        return self._driver.step(name, Codec.of_result(fn), as_async(fn), args, kwargs, PLAIN)

    def step(self, *, retry: RetryPolicy | None = None, timeout: Duration | None = None) -> "StepRunner":
        """Options for one step: `await ctx.step(retry=RetryPolicy(retries=9), timeout="5s").run("charge", charge, id)`.

        `retry` replaces the run's policy; `timeout` is how long one attempt may take: it is cancelled then, and counts
        as failed with a `TimeoutError`. A plain function cannot be cancelled: its thread runs on, unheard.
        """
        limit = None if timeout is None else to_ms(timeout, option="timeout")
        return StepRunner(self._driver, Options(retry=retry, timeout_ms=limit))

    def sleep(self, name: str, duration: Duration, /) -> Coroutine[Any, Any, None]:
        """Go on after `duration`, counted from the first time the code comes here. Meanwhile the run takes no place."""
        return self._driver.sleep(name, self._driver.now() + to_ms(duration, option="duration"))

    def sleep_until(self, name: str, when: datetime | int, /) -> Coroutine[Any, Any, None]:
        """Go on at `when`, a datetime with its time zone or ms since the epoch; at once when it has passed."""
        return self._driver.sleep(name, _instant(when))

    def cancel(self) -> NoReturn:
        """End the run here, as cancelled: neither a result nor a failure. Does not return."""
        self._driver.cancel()

    def step_as(
        self,
        name: str,
        codec: Codec[T],
        fn: Callable[[*Ts], Awaitable[T]],
        /,
        *args: *Ts,
        last: bool = False,
    ) -> Coroutine[Any, Any, T]:
        """As `run`, of an async function whose codec is known.

        With `last` the step is not recorded on its own: it is the last one of the run, and its outcome goes with the
        settlement. It is dropped with the journal when the run ends as done, so a crash before that calls `fn` again.
        """
        return self._driver.step(name, codec, fn, args, {}, LAST if last else PLAIN)


class StepRunner:
    """A step with options of its own, made by `WorkflowContext.step`."""

    __slots__ = ("_driver", "_options")

    def __init__(self, driver: Driver, options: Options) -> None:
        self._driver = driver
        self._options = options

    @overload
    def run(
        self, name: str, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def run(
        self, name: str, fn: Callable[P, Awaitable[T] | T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    def run(self, name: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """As `WorkflowContext.run`, with these options."""
        return self._driver.step(name, Codec.of_result(fn), as_async(fn), args, kwargs, self._options)


def _instant(when: object) -> int:
    match when:
        case bool():
            pass
        case int():
            return when
        case datetime(tzinfo=zone) if zone is not None:
            return int(when.timestamp() * 1000)
        case _:
            pass
    raise ConfigurationError(
        f"'when' cannot be {when!r}; write a datetime with its time zone, such as "
        f"datetime(2030, 1, 1, tzinfo=timezone.utc), or milliseconds since the epoch"
    )
