"""What has to hold at the end of a run, and what of it does not: one sentence for each."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from batchflow import BatchHandle
from batchflow.core.ids import complete_id, entry_id, item_run_id, parse_item_run_id
from batchflow.errors import BatchflowError
from tests.chaos.history import History
from tests.chaos.job import CONCURRENCY, PAGE_SIZE, PARALLELISM, STEPS, Made, work_s
from tests.chaos.plan import COUNTS, Kind
from tests.chaos.stage import PREFIX, Fault, Stage
from tests.chaos.traces import Trace

S = 1_000_000_000
RECORDED_NS = 5 * S
"""Within this, the machine being busy, a step is recorded after its work, and a worker is back after its suspension."""

HARMLESS: set[Kind] = {"delay", "end"}
"""What costs no execution."""

FLOWS = ("chaos.process", "chaos.paginate", "chaos.execute", "chaos.complete")


class Executed(NamedTuple):
    """What was executed, and how often in vain, by the kind of fault that it met."""

    executions: int
    repeated: Counter[str]


class Verdict:
    """Looks at a run that is over."""

    def __init__(self, stage: Stage, batch: BatchHandle[Made]) -> None:
        self._stage = stage
        self._run = stage.run
        self._batch = batch
        self._history = History(stage.folder, PREFIX)
        self._began = [trace for trace in self._run.traces if trace.what == "began" and trace.step in STEPS]
        self._by_id = {trace.execution: trace for trace in self._began}
        self._by_step: dict[tuple[str, str], list[Trace]] = defaultdict(list)
        for trace in self._began:
            self._by_step[trace.item, trace.step].append(trace)
        self._results: dict[str, Made] = {}
        self.problems: list[str] = []
        self.executed = Executed(len(self._began), Counter())

    async def reach(self) -> None:
        """Look at everything."""
        self._results = {id: made async for id, made in self._batch.results()}
        self.problems += [
            *self._faults(),
            *await self._items(),
            *await self._counts(),
            *self._steps(),
            *self._recorded(),
            *self._unknown(),
            *self._in_vain(),
            *self._completion(),
            *await self._flows(),
            *self._keys(),
            *await self._pruned(),
        ]

    def _faults(self) -> Iterator[str]:
        for kind in COUNTS:
            if not self._run.counts[kind]:
                yield f"there was no fault '{kind}'"
        if any(self._run.exits):
            yield f"workers ended with {self._run.exits}"

    # What a user sees

    async def _items(self) -> list[str]:
        found = [item async for item in self._batch.items()]
        wanted = [(number, f"item-{number}", "succeeded") for number in range(self._run.items)]
        problems: list[str] = []
        if [(item.number, item.id, item.state) for item in found] != wanted:
            problems.append(f"of {self._run.items} items {Counter(item.state for item in found)}")
        if set(self._results) != {id for _, id, _ in wanted}:
            problems.append(f"there are {len(self._results)} results")
        return problems

    async def _counts(self) -> list[str]:
        batch = await self._stage.flow.engine.store.batch(self._batch.id)
        assert batch is not None
        counts = {name: count for name, count in batch.counts._asdict().items() if count}
        pages = -(-self._run.items // PAGE_SIZE)
        return [
            f"the batch has {name} {found}, not {wanted}"
            for name, found, wanted in (
                ("state", batch.state, "completed"),
                ("counts", counts, {"eligible": self._run.items, "succeeded": self._run.items}),
                ("pages", batch.pages, pages),
                ("chunks", batch.chunks, -(-self._run.items // 50)),
                ("working", batch.working, 0),
            )
            if found != wanted
        ]

    # What was executed

    def _steps(self) -> Iterator[str]:
        """Whatever came back of a step is the one result that it has, and no later claim has executed it again."""
        for item, made in self._results.items():
            for step, execution in zip(STEPS, (made.first, made.second), strict=False):
                recorded = self._by_id.get(execution)
                if recorded is None or (recorded.item, recorded.step) != (item, step):
                    yield f"the result of '{step}' of {item} is '{execution}', which is no execution of it"
                    continue
                again = [it for it in self._by_step[item, step] if it.fence > recorded.fence]
                if again:
                    yield f"'{step}' of {item} was recorded ({recorded}) and executed again ({again})"
        for trace in self._run.traces:
            if trace.what == "came":
                made = self._results.get(trace.item)
                if made is not None and getattr(made, trace.step) != trace.execution:
                    yield f"'{trace.step}' of {trace.item} came back as {trace.execution}, but its result is {made}"
        for (item, step), traces in self._by_step.items():
            fences = Counter(trace.fence for trace in traces)
            if any(count > 1 for count in fences.values()):
                yield f"'{step}' of {item} was executed twice within one claim: {traces}"

    def _recorded(self) -> Iterator[str]:
        """What the server has written: of each step one text, by the one execution of the result; each end once.

        A worker that does not know whether its step was recorded records it again, by the same text.
        """
        history = self._history
        for number in range(self._run.items):
            id, made = item_run_id(self._batch.id, number), self._results.get(f"item-{number}")
            for step, execution in enumerate((made.first, made.second) if made else (), 1):
                values = {json.loads(text)[5] for text in history.steps[id, step]}
                if len(set(history.steps[id, step])) != 1 or values != {f'"{execution}"'}:
                    yield f"step {step} of {id} was recorded as {history.steps[id, step]}, its result is {execution}"
            if history.ended[str(number), "s"] != 1:
                yield f"item {number} succeeded {history.ended[str(number), 's']} times"
            fences = [claim.fence for claim in history.claims[id]]
            if fences != list(range(1, len(fences) + 1)):
                yield f"the fences of {id} are {fences}"
        for (id, step), texts in history.steps.items():
            if len(set(texts)) > 1:
                yield f"step {step} of {id} was recorded as {set(texts)}"
        if len(history.items()) != self._run.items:
            yield f"there were {len(history.items())} runs of items"
        if len(history.ended) != self._run.items:
            yield f"items ended as {Counter(how for _, how in history.ended)}"
        for id, count in history.made.items():
            if count != 1:
                yield f"{id} was published {count} times"
        yield from (f"written after its end: {what}" for what in history.after_the_end)

    def _unknown(self) -> Iterator[str]:
        """What was leased by a claim whose answer was lost is given back with the next one, and never stays."""
        known = {(trace.item, trace.fence) for trace in self._run.traces}
        for id, fence, further in self._history.given_back:
            found = parse_item_run_id(id)
            if found is not None and (f"item-{found[1]}", fence) not in known and further > 1:
                yield f"claim {fence} of {id} stayed with a worker that never knew of it, over {further} claims"

    def _in_vain(self) -> Iterator[str]:
        """Executed again was only what was in flight at a fault, and at most what a worker has under way."""
        met: Counter[tuple[str, int]] = Counter()
        for (item, _), traces in self._by_step.items():
            made = self._results.get(item)
            kept = {made.first, made.second} if made else set[str]()
            # The third step's value is not kept: the last claim's execution is the one that was settled.
            last = max(traces, key=lambda it: it.fence)
            for trace in traces:
                if trace.execution in kept or (trace.step == STEPS[2] and trace is last):
                    continue
                place = self._fault_of(trace)
                if place is None:
                    yield f"{trace} was in vain without a fault of its worker"
                else:
                    met[trace.worker, place] += 1
                    self.executed.repeated[self._run.faults[place].kind] += 1
        for (worker, place), count in met.items():
            if count > 2 * CONCURRENCY:
                yield f"{count} executions of {worker} were in vain at {self._run.faults[place]}"

    def _fault_of(self, trace: Trace) -> int | None:
        """The fault of its worker that met an execution; of several the nearest."""
        met = [
            (abs(fault.begun - trace.at), place)
            for place, fault in enumerate(self._run.faults)
            if trace.worker in fault.workers and _meets(fault, trace)
        ]
        return min(met)[1] if met else None

    def _completion(self) -> Iterator[str]:
        """Published once, whatever became of those who took it."""
        id = complete_id(self._batch.id)
        if self._history.made[id] != 1:
            yield f"on_complete was published {self._history.made[id]} times"
        called = [trace for trace in self._run.traces if trace.step == "on-complete"]
        claims = self._history.claims[id]
        if not 2 <= len(called) <= len(claims):
            yield f"on_complete was called by {called}, and claimed as {claims}"

    # What is left

    async def _flows(self) -> list[str]:
        problems: list[str] = []
        found = {status.limits.key: status for status in await self._stage.flow.engine.store.flows()}
        if set(found) != set(FLOWS):
            problems.append(f"the flow keys are {sorted(found, key=str)}")
        problems += [
            f"{key} holds {status.in_use}, and {status.waiting} wait"
            for key, status in found.items()
            if status.in_use or status.waiting
        ]
        in_use = self._history.in_use["chaos.execute"]
        if not 0 <= min(in_use) <= max(in_use) <= PARALLELISM:
            problems.append(f"between {min(in_use)} and {max(in_use)} places of chaos.execute were in use")
        return problems

    def _kept(self) -> set[str]:
        """All keys that may be there: permanent ones, the ledger, and what retention keeps of the batch."""
        id, buckets = self._batch.id, range(-(-self._run.items // 64))
        permanent = ["meta", "flows", *(f"f:{key}" for key in FLOWS), "ws", "l:chaos"]
        batch = [f"b:{id}", f"p:{id}", "bs", "be", "bw:chaos", "runs", "ended", f"m:{entry_id(id)}"]
        items = [f"{kind}:{id}:{bucket}" for kind in ("i", "x") for bucket in buckets]
        return {f"{PREFIX}{key}" for key in (*permanent, *batch, *items)}

    def _keys(self) -> Iterator[str]:
        found = set(self._stage.server.all_keys())
        if found != (kept := self._kept()):
            yield f"keys that should not be: {sorted(found - kept)[:20]}; that are missing: {sorted(kept - found)[:20]}"

    async def _pruned(self) -> list[str]:
        """When retention is over, permanent ones are left, and the marks of the ledger."""
        store = self._stage.flow.engine.store
        try:
            while await store.prune(0):
                pass
        except BatchflowError as error:
            return [f"pruning failed: {error}"]
        permanent = {f"{PREFIX}{key}" for key in ("meta", "flows", *(f"f:{key}" for key in FLOWS), "ws", "l:chaos")}
        found = set(self._stage.server.all_keys())
        return [] if found == permanent else [f"left by retention: {sorted(found ^ permanent)[:20]}"]


def _meets(fault: Fault, trace: Trace) -> bool:
    """Whether a fault came while a step was executed or recorded; who was suspended goes on with what it had."""
    work = work_s(trace.item) if trace.step != STEPS[2] else 0
    last = fault.ended + (RECORDED_NS if fault.kind == "stop" else S)
    return fault.kind not in HARMLESS and trace.at <= last and fault.begun <= trace.at + work * S + RECORDED_NS
