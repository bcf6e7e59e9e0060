"""`batchflow flow`: lists and shows flow keys, and changes their limits while work runs."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from batchflow.batch.wait_reason import format_rate
from batchflow.cli.groups import CommandGroup
from batchflow.cli.options import JsonOption, UrlOption, option_names, parse_delay
from batchflow.cli.output import Output, format_local_time, print_pairs, print_table
from batchflow.cli.target import open_engine
from batchflow.core.breaker import Breaker
from batchflow.core.duration import format_duration, humanize_duration
from batchflow.core.flow import FlowHolder, FlowStatus
from batchflow.errors import InputError
from batchflow.http.schemas.flow_keys import FlowHolderInfo, FlowKeyDetail, FlowKeyInfo, FlowKeyList
from batchflow.serve.limits import MAX_PAGE, LimitAdmin

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The flow key, such as reviews.execute.")]
ForOption = Annotated[
    str | None,
    typer.Option("--for", metavar="DURATION", help="Undo it by itself after this time: 30m, 2h. By hand otherwise."),
]

group = typer.Typer(
    cls=CommandGroup, help="List, show, pin, pause and reset flow keys: limits of work, by hand.", rich_markup_mode=None
)


@group.command("list")
@dataclass(frozen=True, kw_only=True)
class ListFlowKeys:
    """List the flow keys of a store, with the limits in force, by name.

    `batchflow flow` without a command does the same.
    """

    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE, metavar="N", help="Show at most N keys.")] = 100
    cursor: Annotated[str | None, typer.Option(metavar="CURSOR", help="Continue after a page: its nextCursor.")] = None
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the list."""
        async with open_engine(self.url) as engine:
            page = await LimitAdmin(engine).list(after=self.cursor or "", limit=self.limit)
            now = engine.now()
        output = Output()
        if self.as_json:
            output.print_json(FlowKeyList.of(page, now).document())
            return 0
        if not page.keys:
            output.print("No flow keys")
            return 0
        print_keys(output, page.keys, now)
        if page.next_cursor is not None:
            output.print(f"More: batchflow flow list --cursor {page.next_cursor}")
        return 0


@group.command("show")
@dataclass(frozen=True, kw_only=True)
class ShowFlowKey:
    """Show a flow key: its limits, its state, and what holds it, those that started first before the others.

    Exit codes: 0 shown, 2 there is no such key.
    """

    key: KeyArgument
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the key."""
        async with open_engine(self.url) as engine:
            limits = LimitAdmin(engine)
            status, holders = await limits.get(self.key), await limits.holders(self.key)
            now = engine.now()
        if self.as_json:
            info = FlowKeyInfo.of(status, now).model_dump(by_alias=False)
            detail = FlowKeyDetail(**info, holders=[FlowHolderInfo.of(it) for it in holders])
            Output().print_json(detail.document())
        else:
            _print_key(Output(), status, now)
            if holders:
                Output().print()
                print_holders(Output(), holders, now)
        return 0


@group.command("pin")
@dataclass(frozen=True, kw_only=True)
class PinFlowKey:
    """Override the parallelism or rate of a flow key.

    It is in force at the next claim of every worker, and a deploy keeps it.

    Exit codes: 0 pinned, 2 usage or no such key.
    """

    key: KeyArgument
    parallelism: Annotated[int | None, typer.Option(min=1, metavar="N", help="At most N run at once.")] = None
    rate: Annotated[str | None, typer.Option(metavar="N/TIME", help="At most N start per time: 2/s, 100/1m.")] = None
    duration: ForOption = None
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Pin the limits."""
        if self.parallelism is None and self.rate is None:
            raise InputError("nothing is pinned; give --parallelism N, --rate N/TIME or both")
        return await _change(
            self,
            lambda limits: limits.pin(
                self.key, parallelism=self.parallelism, rate=self.rate, duration=parse_delay(self.duration)
            ),
        )


@group.command("unpin")
@dataclass(frozen=True, kw_only=True)
class UnpinFlowKey:
    """Remove the pins of a flow key, both or one: the limits of the code are in force again.

    Exit codes: 0 unpinned, 1 nothing was pinned, 2 no such key.
    """

    key: KeyArgument
    parallelism: Annotated[bool, typer.Option("--parallelism", help="Only that of the parallelism.")] = False
    rate: Annotated[bool, typer.Option("--rate", help="Only that of the rate.")] = False
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Remove the pins; 1 if nothing was pinned."""
        both = self.parallelism == self.rate
        parallelism, rate = self.parallelism or both, self.rate or both
        return await _change(
            self,
            lambda limits: limits.unpin(self.key, parallelism=parallelism, rate=rate),
            lambda it: (parallelism and it.pinned_parallelism) or (rate and it.pinned_rate),
        )


@group.command("pause")
@dataclass(frozen=True, kw_only=True)
class PauseFlowKey:
    """Pause a flow key: nothing starts under it until 'resume'; what is under way goes on.

    Exit codes: 0 paused, 2 usage or no such key.
    """

    key: KeyArgument
    duration: ForOption = None
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Pause the key."""
        return await _change(self, lambda limits: limits.pause(self.key, duration=parse_delay(self.duration)))


@group.command("resume")
@dataclass(frozen=True, kw_only=True)
class ResumeFlowKey:
    """Resume a paused flow key; its pins stay.

    Exit codes: 0 resumed, 1 it was not paused, 2 no such key.
    """

    key: KeyArgument
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Resume the key; 1 if it was not paused."""
        return await _change(self, lambda limits: limits.resume(self.key), lambda it: it.paused)


@group.command("reset")
@dataclass(frozen=True, kw_only=True)
class ResetFlowKey:
    """Remove pins, pause and parking of a flow key, close its circuit breaker, and forget its latest starts.

    The code's limits apply, from now on.

    Exit codes: 0 reset, 2 no such key.
    """

    key: KeyArgument
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Reset the key."""
        return await _change(self, lambda limits: limits.reset(self.key))


_Change = PinFlowKey | UnpinFlowKey | PauseFlowKey | ResumeFlowKey | ResetFlowKey


async def _change(
    command: _Change,
    act: Callable[[LimitAdmin], Coroutine[Any, Any, FlowStatus]],
    has_effect: Callable[[FlowStatus], bool] = lambda _: True,
) -> int:
    """Change a key and print it; 1 if that had no effect."""
    async with open_engine(command.url) as engine:
        limits = LimitAdmin(engine)
        changed = has_effect(await limits.get(command.key))
        with option_names():
            status = await act(limits)
        now = engine.now()
    if command.as_json:
        Output().print_json(FlowKeyInfo.of(status, now).document())
    else:
        _print_key(Output(), status, now)
    return 0 if changed else 1


def _print_key(output: Output, status: FlowStatus, now: int) -> None:
    output.print(f"Flow key {status.limits.key}", style="bold")
    print_pairs(
        output,
        {
            "parallelism": _parallelism(status, status.parallelism_until),
            "rate": _rate(status, status.rate_until),
            "state": _state(status, now),
            **({"breaker": _breaker(status.breaker)} if status.breaker.in_a_row else {}),
            "in use": f"{status.in_use:,}",
            "waiting": f"{status.waiting:,}",
        },
        "  ",
    )


def key_cells(status: FlowStatus, now: int) -> tuple[str, str, str, str]:
    """The name of a flow key, its parallelism, its rate and its state, as tables have them."""
    return status.limits.key or "", _parallelism(status), _rate(status), _state(status, now)


def print_keys(output: Output, keys: Sequence[FlowStatus], now: int, *, waiting: bool = True) -> None:
    """Print flow keys as a table; without `waiting` what waits was not counted."""
    rows = [
        (
            it.limits.key or "",
            _parallelism(it),
            _rate(it),
            f"{it.in_use:,}",
            *[f"{it.waiting:,}"] * waiting,
            _state(it, now),
        )
        for it in keys
    ]
    columns = ["key", "parallelism", "rate", "in use", *["waiting"] * waiting, "state"]
    styles = ["" if _state(it, now) == "open" else "yellow" for it in keys]
    print_table(output, columns, rows, styles, numbers=("in use", "waiting"))


def print_holders(output: Output, holders: Sequence[FlowHolder], now: int) -> None:
    """Print what takes the places of a flow key as a table."""
    rows = [_holder_row(it, now) for it in holders]
    print_table(output, ["age", "run", "item", "worker"], rows, [""] * len(rows))


def _parallelism(status: FlowStatus, until: int | None = None) -> str:
    text = "no limit" if status.limits.parallelism is None else f"{status.limits.parallelism:,}"
    return text + _pinned(status.pinned_parallelism, until)


def _rate(status: FlowStatus, until: int | None = None) -> str:
    text = "no limit" if status.limits.rate is None else format_rate(status.limits)
    return text + _pinned(status.pinned_rate, until)


def _pinned(pinned: bool, until: int | None) -> str:
    return f" pinned{_until(until)}" if pinned else ""


def _state(status: FlowStatus, now: int) -> str:
    if status.paused:
        return "paused" + _until(status.paused_until)
    breaker, is_parked = status.breaker, status.parked_until > now
    if breaker.open_for:
        return "breaker open" + (_until(status.parked_until) if is_parked else ", one is tried")
    return "parked" + _until(status.parked_until) if is_parked else "open"


def _breaker(breaker: Breaker) -> str:
    text = f"{'open' if breaker.open_for else 'closed'}, {breaker.in_a_row:,} failed in a row"
    text += f", {format_duration(breaker.open_for)} after each failure" if breaker.open_for else ""
    return text if breaker.trial is None else f"{text}; it tries {breaker.trial}"


def _until(at: int | None) -> str:
    return "" if at is None else f" until {format_local_time(at)}"


def _holder_row(holder: FlowHolder, now: int) -> tuple[str, ...]:
    age = humanize_duration(max(0, now - holder.started_at) // 1000 * 1000)
    return age, holder.id, holder.item, holder.worker
