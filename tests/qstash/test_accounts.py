"""A function on QStash may have another account than its app, and keys of its own or none."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import pytest
import qstash

from batchflow import Batchflow, QStash, Receiver, WorkflowContext
from batchflow.errors import ConfigurationError
from tests.qstash.stage import APP_URL, WireStage

URL = "http://qstash.test"
DELIVERY = {"upstash-workflow-sdk-version": "1", "upstash-workflow-runid": "wfr_1", "content-type": "application/json"}
BODY = b'[{"messageId":"msg_1","body":"MQ==","callType":"step"}]'


class OtherAccount:
    """A second account of the QStash of a stage."""

    def __init__(self, token: str, keys: Mapping[str, str]) -> None:
        self.token = token
        self.keys = keys

    @property
    def signing_keys(self) -> dict[str, Any]:
        return {"current_signing_key": self.keys["current"], "next_signing_key": self.keys["next"]}


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WireStage]:
    monkeypatch.setenv("APP_URL", f"{APP_URL}/")
    async with WireStage() as stage:
        yield stage


@pytest.fixture
async def other(stage: WireStage) -> OtherAccount:
    token = await stage.server.tokens.create("other")
    async with httpx.AsyncClient(transport=stage.transport, headers={"authorization": f"Bearer {token}"}) as http:
        return OtherAccount(token, (await http.get(f"{URL}/v2/keys")).json())


# Each is a way to name the account.
WAYS: Mapping[str, Callable[[OtherAccount], dict[str, Any]]] = {
    "our options": lambda it: {"qstash_client": QStash(token=it.token, **it.signing_keys)},
    "our options and receiver": lambda it: {
        "qstash_client": QStash(token=it.token),
        "receiver": Receiver(**it.signing_keys),
    },
    "the client and receiver of Upstash": lambda it: {
        "qstash_client": qstash.QStash(it.token, base_url=URL),
        "receiver": qstash.Receiver(**it.signing_keys),
    },
    "the async client of Upstash": lambda it: {
        "qstash_client": qstash.AsyncQStash(it.token, base_url=URL),
        "receiver": qstash.Receiver(**it.signing_keys),
    },
    "an environment": lambda it: {
        "env": {
            "APP_URL": f"{APP_URL}/",
            "QSTASH_TOKEN": it.token,
            "QSTASH_CURRENT_SIGNING_KEY": it.keys["current"],
            "QSTASH_NEXT_SIGNING_KEY": it.keys["next"],
        }
    },
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_function_runs_in_the_account_that_its_options_name(
    stage: WireStage, other: OtherAccount, way: str
) -> None:
    @stage.flow.serve("/elsewhere", **WAYS[way](other))
    async def elsewhere(ctx: WorkflowContext[int]) -> str:
        await ctx.sleep("a while", "1h")
        hook = await ctx.create_webhook("hook")
        return hook.url.removeprefix(URL)

    @stage.flow.serve("/here")
    async def here(ctx: WorkflowContext[int]) -> int:
        return ctx.payload

    await stage.open()
    run, own = await elsewhere.trigger(1, run_id="order-1"), await here.trigger(2)
    await stage.drive()
    assert (await own.status()).state == "completed"
    status = await run.status()
    assert status.state == "completed"
    assert status.result is not None
    assert status.result.startswith('"/v2/workflows/hooks/other/wfr_order-1/')
    for token, count in ((stage.token, 1), (other.token, 1)):
        async with httpx.AsyncClient(transport=stage.transport, headers={"authorization": f"Bearer {token}"}) as http:
            events = (await http.get(f"{URL}/v2/workflows/events", params={"groupBy": "workflowRunId"})).json()
        assert len(events["runs"]) == count
    assert {it.destination for it in (await stage.flow.runs()).runs} == {"/elsewhere", "/here"}


async def test_a_run_that_cancels_itself_leaves_the_run_of_another_account_with_its_id(
    stage: WireStage, other: OtherAccount
) -> None:
    @stage.flow.serve("/here")
    async def here(ctx: WorkflowContext[None]) -> None:
        ctx.cancel()

    @stage.flow.serve("/there", qstash_client=QStash(token=other.token, **other.signing_keys))
    async def there(ctx: WorkflowContext[None]) -> str:
        await ctx.sleep("a while", "1h")
        return "done"

    await stage.open()
    await there.trigger(None, run_id="order-1")
    await stage.drive(ms=1_000)
    async with stage.console() as console:
        await console.post(f"/v2/trigger/{APP_URL}/here", headers={"Upstash-Workflow-RunId": "order-1"})
        await stage.drive()
        (own,) = (await console.get("/v2/workflows/events", params={"groupBy": "workflowRunId"})).json()["runs"]
    assert own["workflowState"] == "RUN_CANCELED"
    async with httpx.AsyncClient(transport=stage.transport, headers={"authorization": f"Bearer {other.token}"}) as http:
        (its,) = (await http.get(f"{URL}/v2/workflows/events", params={"groupBy": "workflowRunId"})).json()["runs"]
    assert its["workflowState"] == "RUN_SUCCESS"


async def test_events_and_cancellations_reach_the_runs_of_all_accounts(stage: WireStage, other: OtherAccount) -> None:
    async def wait(ctx: WorkflowContext[None]) -> None:
        await ctx.wait_for_event("paid", "paid")

    functions = [
        stage.flow.serve("/here")(wait),
        stage.flow.serve("/there", qstash_client=QStash(token=other.token, **other.signing_keys))(wait),
    ]
    await stage.open()
    runs = [await it.trigger(None) for it in functions for _ in range(2)]
    await stage.drive(ms=1000)
    assert {it.run for it in await stage.flow.waiters("paid")} == {it.id for it in runs}
    assert await stage.flow.cancel([runs[0].id, runs[2].id]) == 2
    assert set(await stage.flow.notify("paid", 7)) == {runs[1].id, runs[3].id}
    await stage.drive(ms=1000)
    assert [(await it.status()).state for it in runs] == ["cancelled", "completed"] * 2


async def test_a_child_of_another_account_fails_the_run_with_the_reason(stage: WireStage, other: OtherAccount) -> None:
    @stage.flow.serve("/there", qstash_client=QStash(token=other.token, **other.signing_keys))
    async def there(ctx: WorkflowContext[None]) -> None: ...

    @stage.flow.serve("/here", retries=0)
    async def here(ctx: WorkflowContext[None]) -> None:
        await ctx.invoke("child", there, None)

    await stage.open()
    run = await here.trigger(None)
    await stage.drive()
    assert "QStash starts children in the account of their parent, and '/there' has another" in str(
        (await run.status()).error
    )


async def post(stage: WireStage, path: str) -> int:
    assert stage.client.app is not None
    async with httpx.AsyncClient(transport=httpx.ASGITransport(stage.client.app), base_url=APP_URL) as http:
        return (await http.post(path, headers=DELIVERY, content=BODY)).status_code


async def test_a_function_without_a_receiver_answers_unsigned_requests_and_the_start_names_it(
    stage: WireStage, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    @stage.flow.serve("/open", receiver=None)
    async def unverified(ctx: WorkflowContext[int]) -> None:
        calls.append("open")

    @stage.flow.serve("/guarded")
    async def guarded(ctx: WorkflowContext[int]) -> None:
        calls.append("guarded")

    await stage.open()
    assert "Requests to some functions are not verified (receiver=None)" in caplog.text
    assert "/open" in caplog.text
    assert "/guarded" not in caplog.text
    assert [await post(stage, "/open"), await post(stage, "/guarded")] == [200, 401]
    assert calls == ["open"]


async def test_a_receiver_has_the_only_keys_that_its_function_accepts(stage: WireStage) -> None:
    calls: list[int] = []

    keys = Receiver(current_signing_key=f"sig_{'a' * 32}", next_signing_key=f"sig_{'b' * 32}")

    @stage.flow.serve("/foreign", retries=0, receiver=keys)
    async def foreign(ctx: WorkflowContext[int]) -> None:
        calls.append(ctx.payload)

    await stage.open()
    run = await foreign.trigger(1)
    await stage.drive()
    assert set(stage.client.answers) == {401}
    assert (await run.status()).state == "failed"
    assert not calls


async def test_no_request_of_a_function_that_disables_telemetry_describes_the_program(stage: WireStage) -> None:
    sent: dict[str, set[str]] = {"/quiet": set(), "/open": set()}

    class Watching(httpx.ASGITransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            text = (await request.aread()).decode() + str(request.headers)
            for route, found in sent.items():
                if f"{APP_URL}{route}" in text:
                    found.add("told" if "telemetry" in text.lower() else "silent")
            return await super().handle_async_request(request)

    async def program(ctx: WorkflowContext[int]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.sleep("one", "1s"))
            group.create_task(ctx.wait_for_event("two", "never", timeout="1s"))

    transport = Watching(stage.server)
    client = QStash(url=URL, token=stage.token, transport=transport)
    functions = [
        stage.flow.serve(route, qstash_client=client, disable_telemetry=route == "/quiet")(program) for route in sent
    ]
    await stage.open()
    for function in functions:
        await function.trigger(1)
    await stage.drive()
    assert sent == {"/quiet": {"silent"}, "/open": {"told"}}


WRONG: Mapping[str, dict[str, Any]] = {
    "'qstash_client' cannot be an object; write QStash": {"qstash_client": object()},
    "'receiver' cannot be a str; write Receiver": {"receiver": "sig_secret"},
    "'receiver' cannot be an object; write Receiver": {"receiver": object()},
    "'disable_telemetry' cannot be 1; write True or False": {"disable_telemetry": 1},
    "'QSTASH_URL' cannot be 'nowhere'": {"env": {"QSTASH_URL": "nowhere"}},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_an_option_that_names_no_account_is_refused(sentence: str) -> None:
    flow = Batchflow(QStash(token="e30=", verify=False))
    with pytest.raises(ConfigurationError, match=sentence) as raised:
        flow.serve("/wrong", **WRONG[sentence])
    assert "secret" not in str(raised.value)


ANOTHER: Mapping[str, dict[str, Any]] = {
    "our options": {"qstash_client": QStash(token="secret-b")},
    "one key": {"qstash_client": QStash(token="secret-b", current_signing_key="sig_b")},
    "another address": {"qstash_client": QStash(url="http://other.test")},
    "the client of Upstash": {"qstash_client": qstash.QStash("secret-b", base_url=URL)},
    "an environment": {"env": {"QSTASH_TOKEN": "secret-b"}},
}


@pytest.mark.parametrize("way", ANOTHER)
def test_another_account_without_its_signing_keys_is_refused_when_the_function_is_decorated(way: str) -> None:
    """The keys of the app would refuse each of its requests, for ever."""
    flow = Batchflow(QStash(url=URL, token="secret-a", current_signing_key="sig_a", next_signing_key="sig_a"))
    with pytest.raises(ConfigurationError, match="no signing keys for it; write receiver=Receiver") as raised:
        flow.serve("/there", **ANOTHER[way])
    assert "secret" not in str(raised.value)
    flow.serve("/open", receiver=None, **ANOTHER[way])
    flow.serve("/here", qstash_client=QStash(url=f"{URL}/", token="secret-a"))


def test_a_receiver_has_both_keys() -> None:
    with pytest.raises(ConfigurationError, match="'next_signing_key' is missing") as raised:
        Receiver(current_signing_key="sig_secret", next_signing_key="")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("option", [{"qstash_client": QStash()}, {"receiver": None}], ids=str)
def test_other_engines_refuse_the_account_of_a_function(option: dict[str, Any]) -> None:
    flow = Batchflow("sqlite://")
    with pytest.raises(ConfigurationError, match="is of functions on QStash; leave it out, or make the app Batchflow"):
        flow.serve("/greet", **option)
    flow.serve("/greet", disable_telemetry=True)
