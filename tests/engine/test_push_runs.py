"""Workflow runs in deliveries: the entries that a post delivers, the responses that count, failures, calls and ends."""

import asyncio
import json
from base64 import b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from typing import Any

import jwt
import pytest

from batchflow.core.posts import Post
from batchflow.core.settlement import EndRun
from batchflow.core.wire_runs import WireRunState
from batchflow.engine.push_response import PushResponse
from batchflow.engine.signing_keys import SigningKeys
from batchflow.testing import FixedEntropy
from batchflow.wire.publish import PublishRequest, parse_publish
from batchflow.wire.run_posts import begin_post, contact_post, failure_id, run_post
from tests.engine.push_stage import MINUTE, Endpoint, Stage
from tests.engine.test_push_endings import lose_workers
from tests.waiting import wait_until

FLOW, API, FAILED = "https://example.com/flow", "https://api.example/x", "https://example.com/failed"
FEATURES = "LazyFetch,InitialBody,WF_DetectTrigger,WF_TriggerOnConfig"
SDK = PushResponse(200, (("Upstash-Workflow-Sdk-Version", "1"), ("upstash-workflow-sdk", "v1.3.3")))


class RunStage(Stage):
    """A stage with requests of workflow SDKs."""

    async def begin(self, run: str = "wfr_1", body: bytes = b'"hello"', **headers: str) -> str:
        """Begin a run; returns its first post."""
        return await self._post(begin_post(self._request(run, FLOW, body, Workflow_Init="true", **headers), self._id))

    async def contact(self, run: str = "wfr_1") -> str:
        """Begin a run by a request that no SDK has made; returns its first post."""
        return await self._post(contact_post(parse_publish(FLOW, (), b"", tenant="acme", now=self.now), self._id, run))

    async def add(self, run: str = "wfr_1", url: str = FLOW, step: int = 1, **headers: str) -> str:
        """Add a step to a run, or call an API for it; returns its post."""
        about = await self.store.wire_run("acme", run)
        assert about is not None
        request = self._request(run, url, json.dumps({"stepId": step}).encode(), **headers)
        return await self._post(run_post(request, about, self._id))

    async def call(self, run: str = "wfr_1", retries: str = "0") -> str:
        """Call an API for a run, whose endpoint gets the response; returns the post."""
        told: dict[str, Any] = {
            "Callback": FLOW,
            "Callback_Workflow_RunId": run,
            "Callback_Workflow_CallType": "fromCallback",
            "Callback_Feature_Set": FEATURES,
            "Callback_Forward_Upstash_Workflow_Callback": "true",
        }
        return await self.add(run, API, Workflow_CallType="toCallback", Retries=retries, **told)

    async def end(self, state: WireRunState = "RUN_CANCELED", run: str = "wfr_1") -> bool:
        return await self.store.end_run(EndRun("acme", run, state))

    async def state(self, run: str = "wfr_1") -> str:
        about = await self.store.wire_run("acme", run)
        assert about is not None
        return about.state

    def bodies(self, url: str = FLOW) -> list[Any]:
        """The bodies of the requests to a URL; of the entries of a run, their bodies."""
        found: list[Any] = [json.loads(it.body) for it in self.endpoint.asked if it.url == url]
        return [_texts(one) if isinstance(one, list) else one for one in found]

    @property
    def now(self) -> int:
        return self.clock.now()

    @property
    def _id(self) -> Callable[[], str]:
        return self._new_id

    async def _post(self, post: Post) -> str:
        (posted,) = await self.store.post([post])
        assert posted.refused is None
        return posted.id

    def _request(self, run: str, url: str, body: bytes, **headers: str) -> PublishRequest:
        named = {"Workflow_RunId": run, "Workflow_Url": FLOW, "Feature_Set": FEATURES, **headers}
        pairs = [(f"Upstash-{name.replace('_', '-')}", value) for name, value in named.items()]
        return parse_publish(url, pairs, body, tenant="acme", now=self.now)


def _texts(entries: Any) -> list[str]:
    return [b64decode(it["body"]).decode() for it in entries]


@pytest.fixture(params=["sqlite", "fakeredis"])
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[RunStage]:
    made = RunStage(Endpoint(), kind=request.param)
    made.endpoint.answers = [SDK]
    await made.app.start(worker=False)
    yield made
    await made.app.stop()


async def under_way(stage: RunStage, count: int = 1) -> "asyncio.Task[None]":
    """The requests are under way until the gate of the endpoint is set."""
    stage.endpoint.gate.clear()
    driving = asyncio.create_task(stage.drive())
    await wait_until(lambda: len(stage.endpoint.asked) == count, description="the requests are under way")
    return driving


# Each post delivers the entries up to its own, and no later ones, signed as they are sent.
async def test_a_post_delivers_the_entries_up_to_its_own(stage: RunStage) -> None:
    await stage.begin()
    await stage.add(step=1)
    await stage.add(step=2)
    await stage.drive()
    steps = ['{"stepId": 1}', '{"stepId": 2}']
    assert sorted(stage.bodies(), key=len) == [['"hello"', *steps[:count]] for count in range(3)]
    key = (await SigningKeys(stage.store, FixedEntropy(), stage.clock.now).of("acme")).current
    for number, asked in enumerate(stage.endpoint.asked):
        token = stage.sent(number)["upstash-signature"]
        claims = jwt.decode(token, key, ["HS256"], options={"verify_exp": False, "verify_iat": False})
        assert claims["body"] == urlsafe_b64encode(sha256(asked.body).digest()).decode()


# A retry and a delivery after a lost worker have the entries of the first delivery, though the run has more meanwhile.
async def test_each_delivery_of_a_post_has_the_same_entries(stage: RunStage) -> None:
    stage.endpoint.answers = [PushResponse(500), SDK]
    id = await stage.begin()
    await stage.drive(ms=1)
    stage.clock.advance(MINUTE)
    await lose_workers(stage, id, 1)
    await stage.add()
    await stage.drive()
    assert sorted(map(len, stage.bodies())) == [1, 1, 2]
    assert stage.bodies().count(['"hello"']) == 2


# A 200 without the header of the SDKs is that of another program: the run fails at once, with the words of QStash.
async def test_a_response_of_another_program_fails_the_run_at_once(stage: RunStage) -> None:
    stage.endpoint.answers = [PushResponse(200, (), b"hello")]
    id = await stage.begin()
    await stage.drive()
    assert await stage.states(id) == "ACTIVE ERROR FAILED"
    detail = (await stage.log(id))[-1][1]
    assert detail["error"] == (
        "detected a non-workflow destination for trigger/invoke. "
        "make sure you are sending the request to the correct endpoint"
    )
    assert (detail["responseBody"], await stage.dead(), await stage.state()) == ("hello", [id], "RUN_FAILED")


# Only a response with 2xx is judged by it: a 500 of a proxy is tried again.
async def test_an_error_of_another_program_is_tried_again(stage: RunStage) -> None:
    stage.endpoint.answers = [PushResponse(500), SDK]
    id = await stage.begin()
    await stage.drive()
    assert await stage.states(id) == "ACTIVE ERROR RETRY ACTIVE DELIVERED"


# An endpoint that answers first contact without its version has an SDK that does not know it.
async def test_first_contact_with_an_old_sdk_fails_the_run_at_once(stage: RunStage) -> None:
    stage.endpoint.answers = [PushResponse(200, (("Upstash-Workflow-Sdk-Version", "1"),))]
    id = await stage.contact()
    await stage.drive()
    error = (await stage.log(id))[-1][1]["error"]
    assert error == "trigger rest api is only usable with sdk versions after v1.0.0 major version"
    assert await stage.state() == "RUN_FAILED"


# With the last failure of a post the run fails: it is a dead letter, and the failure callback gets the initial body.
async def test_a_run_fails_with_a_post_that_has_failed(stage: RunStage) -> None:
    stage.endpoint.by_url = {FLOW: PushResponse(500, (), b"broken"), FAILED: PushResponse(200)}
    first = await stage.begin(Retries="1", Failure_Callback=FAILED)
    await stage.drive()
    assert await stage.states(first) == "ACTIVE ERROR RETRY ACTIVE ERROR FAILED"
    assert (await stage.dead(), await stage.state()) == ([first], "RUN_FAILED")
    (told,) = stage.bodies(FAILED)
    assert (told["status"], told["dlqId"], told["workflowRunId"]) == (500, first, "wfr_1")
    assert (b64decode(told["sourceBody"]), b64decode(told["body"])) == (b'"hello"', b"broken")
    assert await stage.states(failure_id(first)) == "ACTIVE DELIVERED"


# 489 with the header of the SDKs fails it at once.
async def test_a_run_fails_at_once_if_its_endpoint_says_so(stage: RunStage) -> None:
    stage.endpoint.answers = [PushResponse(489, (("Upstash-NonRetryable-Error", "true"),))]
    await stage.begin()
    await stage.drive()
    assert (await stage.state(), len(stage.endpoint.asked)) == ("RUN_FAILED", 1)


# The run that has invoked it gets the failure as a step.
async def test_the_failure_of_a_run_reaches_the_one_that_has_invoked_it(stage: RunStage) -> None:
    await stage.begin("wfr_parent")
    await stage.drive()
    invoke = {
        "body": "x",
        "headers": {"Upstash-Workflow-RunId": ["wfr_parent"], "Upstash-Feature-Set": [FEATURES]},
        "workflowRunId": "wfr_parent",
        "workflowUrl": FLOW,
        "step": {"stepId": 1, "stepName": "child", "stepType": "Invoke", "concurrent": 1},
    }
    stage.endpoint.answers = [PushResponse(489, (("Upstash-NonRetryable-Error", "true"),)), SDK]
    await stage.begin("wfr_child", json.dumps(invoke).encode(), Workflow_Invoke="true")
    await stage.drive()
    assert (await stage.state("wfr_child"), await stage.state("wfr_parent")) == ("RUN_FAILED", "RUN_STARTED")
    step = json.loads(stage.bodies()[-1][-1])
    assert (step["stepName"], json.loads(step["out"])) == ("child", {"isCanceled": False, "isFailed": True})


# Of two posts that fail at the same moment one fails the run, and the other one is cancelled.
async def test_a_run_fails_once(stage: RunStage) -> None:
    await stage.begin(Retries="0", Failure_Callback=FAILED)
    await stage.drive()
    stage.endpoint.by_url = {FLOW: PushResponse(500), FAILED: PushResponse(200)}
    ids = [await stage.add(step=step) for step in (1, 2)]
    driving = await under_way(stage, 3)
    stage.endpoint.gate.set()
    await driving
    assert sorted([(await stage.states(id)).rpartition(" ")[2] for id in ids]) == ["CANCELED", "FAILED"]
    assert (len(await stage.dead()), len(stage.bodies(FAILED))) == (1, 1)


# A run fails with a post that died with its workers too.
async def test_a_run_fails_with_a_post_that_died_with_its_workers(stage: RunStage) -> None:
    id = await stage.begin(Failure_Callback=FAILED)
    await lose_workers(stage, id)
    stage.endpoint.by_url = {FAILED: PushResponse(200)}
    await stage.drive()
    assert (await stage.states(id), await stage.state()) == ("FAILED", "RUN_FAILED")
    (told,) = stage.bodies(FAILED)
    assert (told["status"], told["dlqId"], b64decode(told["sourceBody"])) == (503, id, b'"hello"')


# A call that has failed is told to its run, which goes on; it is no dead letter.
async def test_a_failed_call_fails_nothing(stage: RunStage) -> None:
    stage.endpoint.by_url = {API: PushResponse(401, (), b"who are you?")}
    await stage.begin(Forward_X_User="7", Failure_Callback=FAILED)
    await stage.drive()
    id = await stage.call(retries="1")
    await stage.drive()
    assert await stage.states(id) == "ACTIVE ERROR RETRY ACTIVE ERROR FAILED"
    told = stage.bodies()[-1]
    assert (told["status"], b64decode(told["body"]), told["workflowRunId"]) == (401, b"who are you?", "wfr_1")
    sent = stage.sent()
    assert (sent["upstash-workflow-callback"], sent["x-user"]) == ("true", "7")
    assert (await stage.dead(), await stage.state(), stage.bodies(FAILED)) == ([], "RUN_STARTED", [])


# Nobody is told of a call whose run has ended meanwhile.
async def test_a_call_of_a_run_that_has_ended_tells_nobody(stage: RunStage) -> None:
    await stage.begin()
    await stage.drive()
    stage.endpoint.by_url = {API: PushResponse(200)}
    id = await stage.call()
    driving = await under_way(stage, 2)
    assert await stage.end()
    stage.endpoint.gate.set()
    await driving
    assert (await stage.states(id), len(stage.endpoint.asked)) == ("ACTIVE DELIVERED", 2)


# The callback of a call is a post to the endpoint: if that has failed, the run has.
async def test_a_run_fails_with_the_callback_of_a_call(stage: RunStage) -> None:
    await stage.begin(Retries="0")
    await stage.drive()
    stage.endpoint.by_url = {API: PushResponse(200), FLOW: PushResponse(500)}
    await stage.call()
    await stage.drive()
    assert (len(await stage.dead()), await stage.state()) == (1, "RUN_FAILED")


# A failure callback that has failed is a dead letter, whatever the header that its response has not.
@pytest.mark.parametrize(("answer", "states"), [(500, "ACTIVE ERROR FAILED"), (200, "ACTIVE DELIVERED")])
async def test_a_failure_callback_ends_no_run(stage: RunStage, answer: int, states: str) -> None:
    stage.endpoint.by_url = {FLOW: PushResponse(500), FAILED: PushResponse(answer)}
    told: dict[str, Any] = {"Failure_Callback_Retries": "0", "Failure_Callback_Feature_Set": FEATURES}
    id = await stage.begin(Retries="0", Failure_Callback=FAILED, **told)
    await stage.drive()
    assert await stage.states(failure_id(id)) == states
    assert sorted(await stage.dead()) == ([id, failure_id(id)] if answer == 500 else [id])


# A run that its endpoint finishes before it has answered is delivered.
async def test_a_run_that_ends_during_its_delivery_is_delivered(stage: RunStage) -> None:
    id = await stage.begin()
    driving = await under_way(stage)
    assert await stage.end("RUN_SUCCESS")
    stage.endpoint.gate.set()
    await driving
    assert (await stage.states(id), await stage.state()) == ("ACTIVE DELIVERED", "RUN_SUCCESS")


# A delivery that fails after its run was cancelled is neither tried again nor dead, and nobody is told.
@pytest.mark.parametrize("retries", ["0", "3"])
async def test_a_delivery_that_fails_after_the_end_of_its_run_is_cancelled(stage: RunStage, retries: str) -> None:
    stage.endpoint.answers = [PushResponse(500)]
    id = await stage.begin(Retries=retries, Failure_Callback=FAILED)
    driving = await under_way(stage)
    assert await stage.end()
    stage.endpoint.gate.set()
    await driving
    assert (await stage.states(id)).rpartition(" ")[2] == "CANCELED"
    assert (await stage.dead(), len(stage.endpoint.asked), await stage.state()) == ([], 1, "RUN_CANCELED")


# Nothing is sent for a run that has ended after its post was claimed.
async def test_nothing_is_sent_for_a_run_that_has_ended(stage: RunStage, monkeypatch: pytest.MonkeyPatch) -> None:
    claim_entry = stage.store.claim_entry

    async def after_the_end(*asked: str) -> Any:
        await stage.end()
        return await claim_entry(*asked)

    monkeypatch.setattr(stage.store, "claim_entry", after_the_end)
    id = await stage.begin()
    await stage.drive(ms=MINUTE)
    assert (await stage.states(id), stage.endpoint.asked) == ("CANCELED", [])
