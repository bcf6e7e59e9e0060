"""`notify_url`: a POST to a real HTTP server when a batch has ended."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import jwt
import pytest
from structlog.testing import capture_logs

from batchflow import Batchflow, BatchWorkflow, NonRetryable, NoParams, Page, WorkflowContext
from batchflow.batch.bound import Workflow
from batchflow.batch.status import BatchSummary
from batchflow.core.batch import Notification
from batchflow.errors import ConfigurationError, InputError
from batchflow.testing import FlowEnv
from tests.engine.http_server import serving
from tests.stores.redis_server import Server, served

KEY = "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(params=[None, "fakeredis", "redis"])
def place(request: Any) -> str | None:
    return request.getfixturevalue("server").url if request.param == "redis" else request.param


class Reviews(BatchWorkflow[NoParams, str, str]):
    """One item fails, and one succeeds."""

    name = "reviews"
    entry_flow = paginate_flow = execute_flow = None

    def __init__(self) -> None:
        self.broken = True
        self.told: list[int] = []

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["bad", "ok"])

    async def execute(self, item: str) -> str:
        if item == "bad" and self.broken:
            raise NonRetryable("unreadable")
        return item


def reviews(url: str | None = None, **members: Any) -> tuple[Batchflow, Workflow[NoParams, str], Reviews]:
    """An app with a class of this URL."""
    flow = Batchflow("sqlite://")
    made = type("Reviews", (Reviews,), {"notify_url": url, "name": "reviews", **members})()
    return flow, flow.add(made), made


async def test_a_notification_has_exactly_the_fields_of_an_ended_batch(flow_env: FlowEnv, place: str | None) -> None:
    """With counts, times, label and errors; nothing of parameters, results and headers."""
    async with serving() as hooks:
        flow, workflow, _ = reviews(f"{hooks.url}/ended?token=t0ken")
        async with flow_env(flow, store=place, allow_network=True) as env:
            batch = await env.run(workflow, label="nightly", headers={"Authorization": "Bearer s3cr3t"})
            found = await flow.engine.store.batch(batch.id)
        (asked,) = hooks.asked
    assert found is not None
    assert (asked.method, asked.path) == ("POST", "/ended?token=t0ken")
    assert asked.headers["content-type"] == "application/json"
    assert (asked.headers["upstash-message-id"], asked.headers["upstash-retried"]) == (f"{batch.id}.n1", "0")
    assert not {"upstash-signature", "authorization"} & asked.headers.keys()
    fields = json.loads(asked.body)
    (error,) = fields.pop("lastErrors")
    assert (error["type"], error["message"], error["items"]) == ("NonRetryable", "NonRetryable: unreadable", 1)
    times = [fields.pop(name) for name in ("createdAt", "startedAt", "endedAt")]
    assert times == sorted(times)
    assert all(time.endswith("Z") for time in times)
    counts = fields.pop("counts")
    assert {name: count for name, count in counts.items() if count} == {"eligible": 2, "succeeded": 1, "failed": 1}
    message = fields.pop("message")
    assert message.startswith(f"reviews {batch.id} (nightly) completed in ")
    assert fields == {
        "batchId": batch.id,
        "workflow": "reviews",
        "state": "completed",
        "success": False,
        "pages": 1,
        "chunks": found.chunks,
        "durationMs": (found.ended_at or 0) - found.created_at,
        "label": "nightly",
        "error": None,
        "completionError": None,
        "counted": None,
        "retryOf": None,
    }
    assert found.notification is not None
    assert (found.notification.state, found.notification.error) == ("succeeded", None)


async def test_a_notification_is_signed_where_a_key_is_set(flow_env: FlowEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """As QStash signs: HS256 over the URL and the body's hash, with the current key."""
    monkeypatch.setenv("QSTASH_CURRENT_SIGNING_KEY", KEY)
    async with serving() as hooks:
        url = f"{hooks.url}/ended?a=b"
        flow, workflow, _ = reviews(url)
        async with flow_env(flow, allow_network=True) as env:
            await env.run(workflow)
        (asked,) = hooks.asked
    token = asked.headers["upstash-signature"]
    claims = jwt.decode(token, KEY, algorithms=["HS256"], issuer="Upstash", options={"verify_exp": False})
    assert (claims["sub"], claims["exp"] - claims["iat"]) == (url, 300)
    assert claims["body"].rstrip("=") == urlsafe_b64encode(sha256(asked.body).digest()).decode().rstrip("=")


async def test_a_trigger_has_a_notify_url_of_its_own(flow_env: FlowEnv) -> None:
    """In place of that of the class, whose other batches keep theirs; the short form has it too."""
    async with serving() as hooks:
        flow, workflow, _ = reviews(f"{hooks.url}/class")

        @flow.batch(ids=["a"], notify_url=f"{hooks.url}/function")
        async def greet(user_id: str) -> None: ...

        async with flow_env(flow, allow_network=True) as env:
            await env.run(workflow, notify_url=f"{hooks.url}/trigger")
            await env.run(workflow)
            await env.run(greet)
        assert [it.path for it in hooks.asked] == ["/trigger", "/class", "/function"]


async def test_a_notification_comes_after_on_complete(flow_env: FlowEnv) -> None:
    """A receiver finds what on_complete has written; the batch does not wait for the receiver."""
    order: list[str] = []
    async with serving() as hooks:

        def on_complete(self: Any, summary: BatchSummary) -> None:
            order.append(f"on_complete {len(hooks.asked)}")

        flow, workflow, _ = reviews(hooks.url, on_complete=on_complete)
        async with flow_env(flow, allow_network=True) as env:
            await env.run(workflow)
        assert order == ["on_complete 0"]
        assert json.loads(hooks.asked[0].body)["completionError"] is None


async def test_a_notification_is_sent_though_on_complete_fails(flow_env: FlowEnv, place: str | None) -> None:
    """It says so; once on_complete is resumed and succeeds, another one says that."""
    healthy: list[bool] = []

    def on_complete(self: Any, summary: BatchSummary) -> None:
        if not healthy:
            raise NonRetryable("no disk")

    async with serving() as hooks:
        flow, workflow, _ = reviews(hooks.url, on_complete=on_complete)
        async with flow_env(flow, store=place, allow_network=True) as env:
            batch = await env.run(workflow)
            (first,) = hooks.asked
            assert "no disk" in json.loads(first.body)["completionError"]
            healthy.append(True)
            await flow.dead_letters.resume(f"{batch.id}.z")
            await env.drive()
        _, second = hooks.asked
    assert json.loads(second.body)["completionError"] is None
    assert first.headers["upstash-message-id"] != second.headers["upstash-message-id"]


async def test_a_notification_is_sent_for_each_end(flow_env: FlowEnv, place: str | None) -> None:
    """A batch that ends again after its dead letters were resumed says how it stands then."""
    async with serving() as hooks:
        flow, workflow, job = reviews(hooks.url)
        async with flow_env(flow, store=place, allow_network=True) as env:
            await env.run(workflow)
            job.broken = False
            await flow.dead_letters.resume(workflow="reviews")
            await env.drive()
        bodies = [json.loads(it.body) for it in hooks.asked]
    assert [it["success"] for it in bodies] == [False, True]
    assert [it["counts"]["succeeded"] for it in bodies] == [1, 2]
    assert len({it.headers["upstash-message-id"] for it in hooks.asked}) == 2


async def test_a_notification_is_sent_for_a_cancelled_batch_and_for_a_walk_that_failed(flow_env: FlowEnv) -> None:
    """And for an empty one."""
    walks: list[Any] = [NonRetryable("no rows"), Page(ids=[])]

    async def fetch(self: Any, params: NoParams, cursor: str | None, limit: int) -> Page:
        if isinstance(walk := walks.pop(0), Exception):
            raise walk
        return walk

    async with serving() as hooks:
        flow, workflow, _ = reviews(hooks.url, fetch=fetch)
        async with flow_env(flow, allow_network=True) as env:
            await env.run(workflow)
            await env.run(workflow)
            batch = await workflow.trigger(delay="1h")
            await batch.cancel()
            await env.drive()
        bodies = [json.loads(it.body) for it in hooks.asked]
    assert [it["state"] for it in bodies] == ["failed", "completed", "cancelled"]
    assert "no rows" in bodies[0]["error"]


async def test_a_batch_that_a_run_waits_for_is_notified_too(flow_env: FlowEnv) -> None:
    """The run goes on without waiting for the receiver."""
    async with serving() as hooks:
        flow, workflow, _ = reviews(hooks.url)

        @flow.serve("/parents")
        async def parent(ctx: WorkflowContext[None]) -> None:
            await ctx.invoke("reviews", workflow, NoParams())

        async with flow_env(flow, allow_network=True) as env:
            run = await env.run(parent, None)
        assert run.state == "completed"
        assert len(hooks.asked) == 1


@pytest.mark.parametrize("answer", ["503 Service Unavailable", "404 Not Found", "302 Found\r\nlocation: /elsewhere"])
async def test_a_notification_is_repeated_until_it_is_accepted(flow_env: FlowEnv, answer: str) -> None:
    """With the same message id; a redirect is not followed."""
    async with serving((answer, b"no"), (answer, b"no"), ("204 No Content", b"")) as hooks:
        flow, workflow, _ = reviews(hooks.url)
        async with flow_env(flow, allow_network=True) as env:
            await env.run(workflow)
        assert len({it.headers["upstash-message-id"] for it in hooks.asked}) == 1
        assert [it.headers["upstash-retried"] for it in hooks.asked] == ["0", "1", "2"]


async def test_a_notification_that_never_arrives_is_logged_and_kept_with_its_batch(
    flow_env: FlowEnv, place: str | None
) -> None:
    """As failed after 4 attempts, without the token of the URL; the batch is as it has ended, with no dead letter."""
    async with serving(("500 Internal Server Error", b"broken")) as hooks:
        flow, workflow, job = reviews(f"{hooks.url}/ended?token=t0ken")
        job.broken = False
        async with flow_env(flow, store=place, allow_network=True) as env:
            with capture_logs() as lines:
                batch = await env.run(workflow)
            status = await workflow.batch(batch.id).status()
            assert (status.state, status.is_over, status.completion_error) == ("completed", True, None)
            assert not await flow.engine.store.dead_letters()
        assert len(hooks.asked) == 4
    assert status.notification is not None
    assert status.notification.state == "failed"
    assert (status.notification.error or "").endswith("/ended?… answered 500")
    (line,) = [it for it in lines if it["log_level"] == "error"]
    assert "notify_url" in line["event"]
    assert line["run"] == f"{batch.id}.n1"
    assert "t0ken" not in str(lines) + str(status)


async def test_a_test_answers_a_notify_url(flow_env: FlowEnv) -> None:
    """As it answers calls."""
    flow, workflow, _ = reviews("https://hooks.example.com/ended")
    async with flow_env(flow) as env:
        env.answer_call("https://hooks.example.com", 200)
        batch = await env.run(workflow)
        found = await flow.engine.store.batch(batch.id)
    assert isinstance(found and found.notification, Notification)


@pytest.mark.parametrize(
    "url", ["hooks.example.com", "ftp://hooks.example.com", "", "https://", 7, "https://user:s3cr3t@ho st/?t=s3cr3t"]
)
async def test_a_notify_url_that_is_not_one_is_refused(flow_env: FlowEnv, url: Any) -> None:
    """When the class is made, when a function is decorated, at a trigger and in a request; without its secrets."""
    flow, workflow, _ = reviews()
    with pytest.raises(ConfigurationError, match="notify_url") as in_class:
        reviews(url)
    with pytest.raises(ConfigurationError, match="notify_url") as in_decorator:

        @flow.batch(ids=["a"], notify_url=url)
        async def greet(user_id: str) -> None: ...

    async with flow_env(flow):
        with pytest.raises(ConfigurationError, match="notify_url") as in_trigger:
            await workflow.trigger(notify_url=url)
        with pytest.raises(InputError, match="notifyUrl") as in_request:
            workflow.read_request({"notifyUrl": url})
        assert not await workflow.batches()
    for error in (in_class, in_decorator, in_trigger):
        assert "write an absolute URL" in str(error.value)
        assert "s3cr3t" not in str(error.value)
    assert in_request.value.field == "notifyUrl"
    assert "s3cr3t" not in str(in_request.value)


async def test_a_notify_url_has_a_bounded_length(flow_env: FlowEnv) -> None:
    """Lists of batches show it."""
    flow, workflow, _ = reviews()
    async with flow_env(flow):
        with pytest.raises(ConfigurationError, match="'notify_url' is longer than 2,048 characters") as error:
            await workflow.trigger(notify_url="http://127.0.0.1/" + "p" * 2_048)
    assert len(str(error.value)) < 200


async def test_failed_notifications_are_summed_by_their_reason(flow_env: FlowEnv) -> None:
    """Of many batches whose receiver is away, the log says why."""
    async with serving(("500 Internal Server Error", b"")) as hooks:
        flow, workflow, _ = reviews(hooks.url)
        async with flow_env(flow, allow_network=True) as env:
            with capture_logs() as lines:
                for _ in range(3):
                    await workflow.trigger()
                await env.drive()
    sums = [it["event"] for it in lines if "attempts failed in" in it["event"]]
    assert sums
    assert all("× answered 500" in it for it in sums)
