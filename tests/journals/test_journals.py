"""Recordings of older releases replay to the same end, and no recorded step is executed again."""

import pytest

from batchflow.core.message import Claim
from batchflow.core.ports import RecordResult, Runtime
from batchflow.core.run import Step
from batchflow.core.settlement import Effect
from batchflow.engine.threads import ThreadPool
from batchflow.testing import FixedEntropy
from tests.journals.functions import Functions
from tests.journals.record import RECORDED, Record, place
from tests.scenarios.scenario_app import Scene

NAMES = sorted(path.stem for path in RECORDED.glob("*.json"))
ENDINGS = {"completed": "done", "failed": "dead"}


class Sealed:
    """A journal in which nothing more is recorded."""

    async def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> RecordResult:
        """Nobody comes here."""
        raise AssertionError(f"'{step.name}' is recorded already")


@pytest.mark.parametrize("always_replay", [False, True])
@pytest.mark.parametrize("name", NAMES)
async def test_a_journal_of_old_replays_to_its_recorded_end(name: str, always_replay: bool) -> None:
    """In one attempt, without executing or recording a step."""
    record = Record.model_validate_json(place(name).read_text())
    scene = Scene(always_replay=always_replay)
    served = Functions(scene).served[name]
    claim = Claim(
        record.run,
        9,
        served.endpoint.route,
        record.payload,
        journal=record.steps,
        started_at=record.started_at,
    )
    threads = ThreadPool(1, lambda given_up: None)
    runtime = Runtime(
        journaling=Sealed(),
        clock=scene.clock,
        entropy=FixedEntropy(),
        threads=threads,
        always_replay=always_replay,
    )
    ending = await served.endpoint.deliver(claim, runtime)
    threads.close()
    assert ending is not None
    assert (ending.ending, ending.result) == (ENDINGS[record.state], record.result)
    assert (ending.error or "").splitlines()[:1] == ([] if record.error is None else [record.error])
    assert scene.executed == {}


def test_every_function_has_a_record() -> None:
    """`python -m tests.journals.write` makes those that are missing."""
    assert sorted(Functions(Scene(always_replay=False)).served) == NAMES


def test_every_kind_and_state_of_a_step_is_recorded() -> None:
    """So that no change to one of them goes unseen."""
    steps = [step for name in NAMES for step in Record.model_validate_json(place(name).read_text()).steps]
    assert {step.kind for step in steps} == {"run", "sleep", "call", "invoke", "wait"}
    assert {step.state for step in steps} == {"done", "failed", "cancelled", "timeout", "pending"}
