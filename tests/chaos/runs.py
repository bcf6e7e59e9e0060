"""One run from the server's start to the verdict, for the test and for a longer soak."""

from dataclasses import dataclass
from pathlib import Path

from tests.chaos.plan import SAID
from tests.chaos.stage import WORKERS, Run, Stage
from tests.chaos.verdict import Executed, Verdict
from tests.stores.redis_server import served

SERVER = ("--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0")
"""What was acknowledged is there after a kill, and the history of the whole run with it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    run: Run
    executed: Executed
    problems: list[str]

    def lines(self) -> list[str]:
        """For people."""
        run, repeated = self.run, self.executed.repeated
        of = ", ".join(f"{count} at '{kind}'" for kind, count in repeated.most_common())
        return [
            f"seed {run.seed}: {run.items:,} items, {WORKERS} workers, {run.seconds:.0f} s",
            f"  {sum(run.counts.values())} faults: "
            + ", ".join(f"{run.counts[kind]} {said}" for kind, said in SAID.items()),
            f"  {self.executed.executions:,} executions of steps, {sum(repeated.values())} of them in vain: {of}",
            *(f"  worker left by itself: {who}" for who in run.left),
            *(f"  PROBLEM: {problem[:2_000]}" for problem in self.problems),
        ]


async def played(seed: int, items: int, place: Path) -> Outcome:
    """Play a run in an empty folder, where it leaves its traces and logs."""
    with served(place, *SERVER) as server:
        stage = Stage(place, server, seed=seed, items=items)
        async with stage.set():
            try:
                batch = await stage.play()
            except AssertionError as error:
                error.add_note(f"seed {seed}, traces and logs in {place}: {await stage.situation()}")
                raise
            verdict = Verdict(stage, batch)
            await verdict.reach()
    return Outcome(stage.run, verdict.executed, verdict.problems)
