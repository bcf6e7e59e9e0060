"""What a test puts in the place of steps and calls."""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from pydantic_core import to_json

from batchflow.core.call import Body, CallAnswer, CallRequest
from batchflow.core.spelling import did_you_mean
from batchflow.engine.delivery import HttpCaller
from batchflow.errors import ConfigurationError, NonRetryable
from batchflow.testing.history import History

StubKind: TypeAlias = Literal["answer", "fail", "answer_call", "fail_call"]


class HasId(Protocol):
    """A run, in whatever form one holds it."""

    @property
    def id(self) -> str:
        """The id of the run."""
        ...


def id_of(run: HasId | str | None) -> str | None:
    """The id of a run that is named by it, or by what one holds of it."""
    return run if run is None or isinstance(run, str) else run.id


@dataclass(slots=True, kw_only=True)
class Stub:
    """For `target`, in `run` or in all runs, `act` is called; `times` is how often still, None for always."""

    kind: StubKind
    target: str
    run: str | None
    act: Callable[..., Awaitable[Any]]
    times: int | None = None
    used: bool = False

    def __str__(self) -> str:
        return f"env.{self.kind}({self.target!r}, …)"


class StubList:
    """The rules of steps, or those of calls. What holds a number of times goes before what always holds."""

    def __init__(self) -> None:
        self._stubs: list[Stub] = []

    def add(self, rule: Stub) -> None:
        """Take a rule in; one that always holds takes the place of the former one for the same.

        Raises:
            ConfigurationError: it is to hold less than once.
        """
        if rule.times is not None and rule.times < 1:
            raise ConfigurationError(f"'times' cannot be {rule.times}; write a number from 1, or None for always")
        place = (rule.target, rule.run)
        if rule.times is None:
            self._stubs = [it for it in self._stubs if it.times is not None or (it.target, it.run) != place]
        self._stubs.append(rule)

    def pick(self, run: str, matches: Callable[[str], bool]) -> Stub | None:
        """The rule that holds now, which is used by this."""
        fitting = [it for it in self._stubs if it.run in (None, run) and matches(it.target)]
        counted = [it for it in fitting if it.times]
        permanent = [it for it in fitting if it.times is None]
        if not counted and not permanent:
            return None
        rule = counted[0] if counted else permanent[-1]
        rule.used = True
        if rule.times is not None:
            rule.times -= 1
        return rule

    def unused(self) -> list[Stub]:
        """Those that were never picked."""
        return [rule for rule in self._stubs if not rule.used]


class StepStubs:
    """Stands between the engine and the functions of steps: calls what the test wants, and remembers what happened."""

    def __init__(self, history: History) -> None:
        self.stubs = StubList()
        self._history = history

    def replace(self, run: str, name: str, fn: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """What the engine executes in place of a step's function."""

        async def execute(*args: Any, **kwargs: Any) -> Any:
            rule = self.stubs.pick(run, lambda target: target == name)
            execution = self._history.start_step(run, name, args, kwargs)
            try:
                value = await (fn if rule is None else rule.act)(*args, **kwargs)
            except Exception as error:
                execution.failed(error)
                raise
            execution.done(value)
            return value

        return execute


def return_value(value: object) -> Callable[..., Awaitable[Any]]:
    """What answers with `value`, or with what it returns where it is a function, sync or async."""

    async def give(*args: Any, **kwargs: Any) -> Any:
        if not callable(value):
            return value
        answer = value(*args, **kwargs)
        return await answer if inspect.isawaitable(answer) else answer

    return give


def raise_error(error: Exception | type[Exception]) -> Callable[..., Awaitable[Any]]:
    """What raises `error`."""

    async def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def describe_unused_step(rule: Stub, kinds: dict[str, str]) -> str:
    """One sentence about a stand-in for a step that was never asked for; `kinds` are those of the known steps."""
    kind = kinds.get(rule.target)
    if kind == "call":
        return f"{rule} was never used: '{rule.target}' is a call; write env.{rule.kind}_call({rule.target!r}, …)"
    if kind is not None and kind != "run":
        return f"{rule} was never used: '{rule.target}' is a step of kind {kind}, which executes nothing"
    if kind == "run":
        return f"{rule} was never used: '{rule.target}' was executed before, or in another run"
    return f"{rule} was never used: no step '{rule.target}' was asked for{did_you_mean(rule.target, kinds)}"


def describe_unused_call(rule: Stub, calls: Iterable[str], kinds: dict[str, str]) -> str:
    """One sentence about a stand-in for a call that was never made; `calls` are the names and URLs of those made."""
    if kinds.get(rule.target) == "run":
        kind = rule.kind.removesuffix("_call")
        return f"{rule} was never used: '{rule.target}' is no call; write env.{kind}({rule.target!r}, …)"
    return f"{rule} was never used: no call '{rule.target}' was made{did_you_mean(rule.target, calls)}"


class Unanswered(AssertionError):
    """A call was made that the test does not answer; the message names it."""


class StubCaller(HttpCaller):
    """Answers as the test wants; what it says nothing about is refused, or made where the network is allowed."""

    def __init__(self, history: History, *, allow_network: bool) -> None:
        super().__init__()
        self.stubs = StubList()
        self.unanswered: list[str] = []
        self._history = history
        self._allow_network = allow_network

    async def _call(self, request: CallRequest, id: str) -> CallAnswer:
        run, _, number = id.rpartition(".")
        self._history.calls[run, int(number)] = request
        rule = self.stubs.pick(run, lambda target: target == request.step or request.url.startswith(target))
        if rule is not None:
            answer: CallAnswer = await rule.act(request)
            return answer
        if self._allow_network:
            return await super()._call(request, id)
        sentence = (
            f"call '{request.step}' ({request.method} {request.url}) has no answer; write "
            f"env.answer_call({request.step!r}, …), or flow_env(flow, allow_network=True)"
        )
        self.unanswered.append(sentence)
        raise NonRetryable(sentence)


def call_response(status: int, body: object, headers: Mapping[str, str] | None) -> Callable[..., Awaitable[CallAnswer]]:
    """What answers a call: text and bytes go as they are, anything else as JSON; a function is given the request."""

    async def answer(request: CallRequest) -> CallAnswer:
        content, kind = _content(body(request) if callable(body) else body)
        named = {name.lower(): value for name, value in (headers or {}).items()}
        if kind:
            named.setdefault("content-type", kind)
        return CallAnswer(status=status, headers=named, body=Body.of(content))

    return answer


def _content(body: Any) -> tuple[bytes, str]:
    match body:
        case None:
            return b"", ""
        case bytes():
            return body, "application/octet-stream"
        case str():
            return body.encode(), "text/plain; charset=utf-8"
        case _:
            return to_json(body, by_alias=True), "application/json"
