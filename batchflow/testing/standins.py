"""What a test puts in the place of steps and calls."""

import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from batchflow.core.spelling import did_you_mean
from batchflow.errors import ConfigurationError
from batchflow.testing.history import History

Kind: TypeAlias = Literal["answer", "fail", "answer_call", "fail_call"]


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
class Rule:
    """For `target`, in `run` or in all runs, `act` is called; `times` is how often still, None for always."""

    kind: Kind
    target: str
    run: str | None
    act: Callable[..., Awaitable[Any]]
    times: int | None = None
    used: bool = False

    def __str__(self) -> str:
        return f"env.{self.kind}({self.target!r}, …)"


class Rules:
    """The rules of steps, or those of calls. What holds a number of times goes before what always holds."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> None:
        """Take a rule in; one that always holds takes the place of the former one for the same.

        Raises:
            ConfigurationError: it is to hold less than once.
        """
        if rule.times is not None and rule.times < 1:
            raise ConfigurationError(f"'times' cannot be {rule.times}; write a number from 1, or None for always")
        place = (rule.target, rule.run)
        if rule.times is None:
            self._rules = [it for it in self._rules if it.times is not None or (it.target, it.run) != place]
        self._rules.append(rule)

    def pick(self, run: str, matches: Callable[[str], bool]) -> Rule | None:
        """The rule that holds now, which is used by this."""
        fitting = [it for it in self._rules if it.run in (None, run) and matches(it.target)]
        counted = [it for it in fitting if it.times]
        lasting = [it for it in fitting if it.times is None]
        if not counted and not lasting:
            return None
        rule = counted[0] if counted else lasting[-1]
        rule.used = True
        if rule.times is not None:
            rule.times -= 1
        return rule

    def unused(self) -> list[Rule]:
        """Those that were never picked."""
        return [rule for rule in self._rules if not rule.used]


class StandIns:
    """Stands between the engine and the functions of steps: calls what the test wants, and remembers what happened."""

    def __init__(self, history: History) -> None:
        self.rules = Rules()
        self._history = history

    def stand_in(self, run: str, name: str, fn: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """What the engine executes in place of a step's function."""

        async def executed(*args: Any, **kwargs: Any) -> Any:
            rule = self.rules.pick(run, lambda target: target == name)
            execution = self._history.execution(run, name, args, kwargs)
            try:
                value = await (fn if rule is None else rule.act)(*args, **kwargs)
            except Exception as error:
                execution.failed(error)
                raise
            execution.done(value)
            return value

        return executed


def giving(value: object) -> Callable[..., Awaitable[Any]]:
    """What answers with `value`, or with what it returns where it is a function, sync or async."""

    async def give(*args: Any, **kwargs: Any) -> Any:
        if not callable(value):
            return value
        answer = value(*args, **kwargs)
        return await answer if inspect.isawaitable(answer) else answer

    return give


def raising(error: Exception | type[Exception]) -> Callable[..., Awaitable[Any]]:
    """What raises `error`."""

    async def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def unused_step(rule: Rule, kinds: dict[str, str]) -> str:
    """One sentence about a stand-in for a step that was never asked for; `kinds` are those of the known steps."""
    kind = kinds.get(rule.target)
    if kind == "call":
        return f"{rule} was never used: '{rule.target}' is a call; write env.{rule.kind}_call({rule.target!r}, …)"
    if kind is not None and kind != "run":
        return f"{rule} was never used: '{rule.target}' is a step of kind {kind}, which executes nothing"
    if kind == "run":
        return f"{rule} was never used: '{rule.target}' was executed before, or in another run"
    return f"{rule} was never used: no step '{rule.target}' was asked for{did_you_mean(rule.target, kinds)}"


def unused_call(rule: Rule, calls: Iterable[str], kinds: dict[str, str]) -> str:
    """One sentence about a stand-in for a call that was never made; `calls` are the names and URLs of those made."""
    if kinds.get(rule.target) == "run":
        kind = rule.kind.removesuffix("_call")
        return f"{rule} was never used: '{rule.target}' is no call; write env.{kind}({rule.target!r}, …)"
    return f"{rule} was never used: no call '{rule.target}' was made{did_you_mean(rule.target, calls)}"
