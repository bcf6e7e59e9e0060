"""Stubs: results and errors that a test puts in the place of steps and of calls of `ctx.call`."""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from pydantic_core import to_json

from batchflow.core.call import Body, CallRequest, CallResult, printable_url
from batchflow.core.suggestions import did_you_mean
from batchflow.engine.caller import HttpCaller
from batchflow.errors import ConfigurationError, NonRetryable, hook_name, hook_step, step_text
from batchflow.serve.failure_functions import FAILURE_FUNCTION_STEP
from batchflow.testing.history import History

StubKind: TypeAlias = Literal["answer", "fail", "answer_call", "fail_call"]


class HasId(Protocol):
    """A run: its record, its handle, or anything else with its id."""

    @property
    def id(self) -> str:
        """The id of the run."""
        ...


def id_of(run: HasId | str | None) -> str | None:
    """Return the id of a run that is given by its id, its record or its handle."""
    return run if run is None or isinstance(run, str) else run.id


@dataclass(slots=True, kw_only=True)
class Stub:
    """Calls `act` in place of `target`, in `run` or in all runs; `times` counts down, None means always."""

    kind: StubKind
    target: str
    run: str | None
    act: Callable[..., Awaitable[Any]]
    times: int | None = None
    used: bool = False

    def __str__(self) -> str:
        return f"env.{self.kind}({self.target!r}, …)"


class StubList:
    """The stubs of steps, or those of calls. Counted stubs apply before permanent ones."""

    def __init__(self) -> None:
        self._stubs: list[Stub] = []

    def add(self, stub: Stub) -> None:
        """Add a stub; a permanent one replaces the former permanent one for the same target.

        Raises:
            ConfigurationError: `times` is below 1.
        """
        if stub.times is not None and stub.times < 1:
            raise ConfigurationError(f"'times' cannot be {stub.times}; write a number from 1, or None for always")
        place = (stub.target, stub.run)
        if stub.times is None:
            self._stubs = [it for it in self._stubs if it.times is not None or (it.target, it.run) != place]
        self._stubs.append(stub)

    def pick(self, run: str, matches: Callable[[str], bool]) -> Stub | None:
        """Return the stub that applies now, and count its use."""
        fitting = [it for it in self._stubs if it.run in (None, run) and matches(it.target)]
        counted = [it for it in fitting if it.times]
        permanent = [it for it in fitting if it.times is None]
        if not counted and not permanent:
            return None
        stub = counted[0] if counted else permanent[-1]
        stub.used = True
        if stub.times is not None:
            stub.times -= 1
        return stub

    def unused(self) -> list[Stub]:
        """Return the stubs that were never picked."""
        return [stub for stub in self._stubs if not stub.used]


def names_step(written: str, step: str) -> bool:
    """Return True if `written` is the name of the step, or that of its hook: "reviews:execute"."""
    return written == step or hook_step(written) == step


def meant_step(written: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown step: the likely one, by the word for it that was written."""
    steps = list(known)
    return did_you_mean(written, [*steps, *(name for step in steps if (name := hook_name(step)) != step)])


class StepStubs:
    """Replaces the functions of steps: it calls their stubs, and records every execution."""

    def __init__(self, history: History, *, strict: bool = False) -> None:
        self.stubs = StubList()
        self.unanswered: list[str] = []
        self._history = history
        self._strict = strict

    def replace(self, run: str, name: str, fn: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Return the function that the engine executes in place of a step's function."""

        async def execute(*args: Any, **kwargs: Any) -> Any:
            stub = self.stubs.pick(run, lambda target: names_step(target, name))
            execution = self._history.start_step(run, name, args, kwargs)
            try:
                if stub is None and self._strict and self._needs_answer(run, name):
                    raise NonRetryable(self._note_unanswered(name))
                value = await (fn if stub is None else stub.act)(*args, **kwargs)
            except Exception as error:
                execution.failed(error)
                raise
            execution.done(value)
            return value

        return execute

    def _needs_answer(self, run: str, name: str) -> bool:
        # The pages of a batch only read.
        found = self._history.runs.get(run)
        return found is None or not found.is_layer or hook_name(name).endswith(_TELLING)

    def _note_unanswered(self, name: str) -> str:
        sentence = f"{step_text(name)} has no answer; write env.answer({hook_name(name)!r}, …), or leave strict out"
        self.unanswered.append(sentence)
        return sentence


_TELLING = (":on_success", ":on_failure", ":on_complete", ":on_item_failure", FAILURE_FUNCTION_STEP)
# They may tell others of an end.


def return_value(value: object) -> Callable[..., Awaitable[Any]]:
    """Make a stub that returns `value`, or calls it if it is a function, sync or async."""

    async def give(*args: Any, **kwargs: Any) -> Any:
        if not callable(value):
            return value
        answer = value(*args, **kwargs)
        return await answer if inspect.isawaitable(answer) else answer

    return give


def raise_error(error: Exception | type[Exception]) -> Callable[..., Awaitable[Any]]:
    """Make a stub that raises `error`."""

    async def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def describe_unused_step(stub: Stub, kinds: dict[str, str]) -> str:
    """Describe a stub of a step that was never executed; `kinds` has the kinds of the known steps by name."""
    kind = kinds.get(stub.target) or kinds.get(hook_step(stub.target))
    if kind == "call":
        return f"{stub} was never used: '{stub.target}' is a call; write env.{stub.kind}_call({stub.target!r}, …)"
    if kind is not None and kind != "run":
        return f"{stub} was never used: '{stub.target}' is a step of kind {kind}, which executes nothing"
    if kind == "run":
        return f"{stub} was never used: '{stub.target}' was executed before, or in another run"
    return f"{stub} was never used: no step '{stub.target}' was requested{meant_step(stub.target, kinds)}"


def describe_unused_call(stub: Stub, calls: Iterable[str], kinds: dict[str, str]) -> str:
    """Describe a stub of a call that was never made; `calls` has the names and URLs of the calls made."""
    if kinds.get(stub.target) == "run":
        kind = stub.kind.removesuffix("_call")
        return f"{stub} was never used: '{stub.target}' is not a call; write env.{kind}({stub.target!r}, …)"
    return f"{stub} was never used: no call '{stub.target}' was made{did_you_mean(stub.target, calls)}"


class Unanswered(AssertionError):
    """The app made a call, or executed a step under `strict`, that the test does not answer; the message names it."""


class StubCaller(HttpCaller):
    """Answers calls by stubs; it refuses any other call, or makes it if the test allows the network."""

    def __init__(self, history: History, *, allow_network: bool) -> None:
        super().__init__()
        self.stubs = StubList()
        self.unanswered: list[str] = []
        self._history = history
        self._allow_network = allow_network

    async def call(self, request: CallRequest, id: str, *, follow_redirects: bool = True) -> CallResult:
        """Answer a call."""
        run, _, number = id.rpartition(".")
        # A failure URL is called after a death, whose number begins with an x, and by no step.
        self._history.calls[run, int(number) if number.isdecimal() else 0] = request
        stub = self.stubs.pick(run, lambda target: target == request.step or request.url.startswith(target))
        if stub is not None:
            answer: CallResult = await stub.act(request)
            return answer
        if self._allow_network:
            return await super().call(request, id, follow_redirects=follow_redirects)
        sentence = (
            f"call '{request.step}' ({request.method} {printable_url(request.url)}) has no answer; write "
            f"env.answer_call({request.step!r}, …), or flow_env(flow, allow_network=True)"
        )
        self.unanswered.append(sentence)
        raise NonRetryable(sentence)


def call_response(status: int, body: object, headers: Mapping[str, str] | None) -> Callable[..., Awaitable[CallResult]]:
    """Make a stub that answers a call: text and bytes as they are, anything else as JSON, or by a function of it."""

    async def answer(request: CallRequest) -> CallResult:
        content, kind = _content(body(request) if callable(body) else body)
        named = {name.lower(): value for name, value in (headers or {}).items()}
        if kind:
            named.setdefault("content-type", kind)
        return CallResult(status=status, headers=named, body=Body.of(content))

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
