"""What a command or the end of something makes due in a batch on QStash is given to QStash at once."""

import pytest

from batchflow import ItemFailure, RetryPolicy
from tests.qstash.batch_programs import Greet, Params, start
from tests.qstash.stage import APP_URL, WireStage
from tests.stores.kinds import Kind


@pytest.fixture(autouse=True)
def app_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")


class Failing(Greet):
    """Two of its users fail at the first attempt, which is their only one."""

    name = "failing"
    retry = RetryPolicy(retries=0)

    def __init__(self, count: int) -> None:
        self.attempts: list[str] = []
        self.reported: list[str] = []
        super().__init__(count, self.fail_once)

    async def fail_once(self, id: str) -> None:
        self.attempts.append(id)
        if id in ("u3", "u4") and self.attempts.count(id) == 1:
            raise ConnectionError("the mail server is away")

    async def on_item_failure(self, failure: ItemFailure[Params], /) -> None:
        self.reported.append(failure.item_id)


@pytest.mark.parametrize("kind", ["sqlite", "fakeredis"])
async def test_dead_letters_of_items_go_on_at_once(kind: Kind) -> None:
    # No schedule: only what is given to QStash by the command itself can run.
    stage = WireStage(kind, batches=True, relay_cron=None)
    async with stage:
        batch = await start(stage, workflow := Failing(6))
        await stage.drive()
        assert (await batch.status()).counts.failed == 2
        await stage.flow.dead_letters.callback(all=True)
        await stage.drive()
        assert sorted(workflow.reported) == ["u3", "u3", "u4", "u4"]
        assert (await stage.flow.dead_letters.resume(f"{batch.id}.r000000003")).count == 1
        await stage.drive()
        assert (await batch.status()).counts.failed == 1
        assert (await batch.retry()).resumed == 1
        await stage.drive()
        status = await batch.status()
        assert (status.state, status.counts.succeeded) == ("completed", 6)
