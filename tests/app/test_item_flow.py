"""`item_flow`: limits of items by a key that is made of the item, beside those of their layer."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from batchflow import Batchflow, BatchWorkflow, FlowControl, NoParams, Page, RetryPolicy
from batchflow.core.message import Message
from batchflow.errors import ConfigurationError, NonRetryable
from batchflow.testing import FlowEnv
from tests.stores.redis_server import Server, served


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(params=[None, "fakeredis", "redis"])
def place(request: Any) -> str | None:
    return request.getfixturevalue("server").url if request.param == "redis" else request.param


class User(BaseModel):
    """An item with a tenant."""

    id: str
    tenant: str


class Mail(BatchWorkflow[NoParams, User, str]):
    """60 users of four tenants, of which 'd' has no limits of its own."""

    name = "mail"
    entity = "user"
    page_size, chunk_size = 25, 10
    entry_flow = paginate_flow = None
    execute_flow = FlowControl(parallelism=20)
    retry = RetryPolicy(retries=2, first="1s")
    users: ClassVar[list[User]] = [User(id=f"u{number:02d}", tenant="abcd"[number % 4]) for number in range(60)]

    def __init__(self) -> None:
        self.asked: list[tuple[str, User | None]] = []
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page[User]:
        start = int(cursor or 0)
        page = self.users[start : start + limit]
        following = start + len(page)
        return Page(
            items={user.id: user for user in page}, next_cursor=str(following) if following < len(self.users) else None
        )

    def item_flow(self, params: NoParams, user_id: str, item: User | None = None) -> FlowControl | None:
        self.asked.append((user_id, item))
        assert item is not None
        assert self.params == params
        return None if item.tenant == "d" else FlowControl(key=f"tenant-{item.tenant}", parallelism=1)

    async def execute(self, user: User) -> str:
        for name in (user.tenant, "all"):
            self.running[name] += 1
            self.most[name] = max(self.most[name], self.running[name])
        await asyncio.sleep(0)
        for name in (user.tenant, "all"):
            self.running[name] -= 1
        return user.id


class OfIds(BatchWorkflow[NoParams, str, str]):
    """Items that are ids; `returns` is what `item_flow` returns or raises, one after the other."""

    name = "of-ids"
    entry_flow = paginate_flow = None
    retry = RetryPolicy(retries=2, first="1s")

    def __init__(self, *returns: Any) -> None:
        self.returns = list(returns)
        self.asked: list[str] = []

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=["a1", "b1"])

    def item_flow(self, params: NoParams, item_id: str) -> FlowControl | None:
        self.asked.append(item_id)
        given = self.returns.pop(0) if self.returns else None
        if isinstance(given, Exception):
            raise given
        return given

    async def execute(self, item_id: str) -> str:
        return item_id


async def test_item_flow_runs_one_item_of_a_key_at_a_time(flow_env: FlowEnv, place: str | None) -> None:
    """Items of other keys and those without run beside it, up to the limit of the layer."""
    flow, workflow = Batchflow("sqlite://"), Mail()
    mail = flow.add(workflow)
    async with flow_env(flow, store=place) as env:
        batch = await env.run(mail)
        assert batch.summary.counts.succeeded == 60
        assert [workflow.most[tenant] for tenant in "abc"] == [1, 1, 1]
        assert 1 < workflow.most["d"] <= workflow.most["all"] <= 20


@pytest.mark.parametrize("walk_first", [False, True])
async def test_item_flow_is_called_once_for_each_item_of_the_page(flow_env: FlowEnv, walk_first: bool) -> None:
    """With the item that `fetch` returned, whether a page or a chunk starts it."""
    workflow = type("MailOfPages", (Mail,), {"walk_first": walk_first, "name": "mail"})()
    flow = Batchflow("sqlite://")
    mail = flow.add(workflow)
    async with flow_env(flow) as env:
        await env.run(mail)
        assert sorted(workflow.asked, key=lambda asked: asked[0]) == [(user.id, user) for user in Mail.users]


async def test_item_flow_that_raises_is_retried_with_its_page(flow_env: FlowEnv) -> None:
    """As any other fault of the page is."""
    flow, workflow = Batchflow("sqlite://"), OfIds(ValueError("no tenants"), ValueError("no tenants"))
    bound = flow.add(workflow)
    async with flow_env(flow) as env:
        batch = await env.run(bound)
        assert batch.summary.counts.succeeded == 2
        assert workflow.asked == ["a1", "a1", "a1", "b1"]


@pytest.mark.parametrize(
    ("given", "phrase"),
    [
        ("acme", "OfIds.item_flow returned 'acme' for the item 'a1'; write FlowControl(key="),
        (FlowControl(parallelism=1), "OfIds.item_flow returned limits without a key for the item 'a1'"),
        (FlowControl(key="of-ids.execute"), "is that of execute_flow"),
    ],
)
async def test_item_flow_with_a_wrong_result_fails_the_walk_with_one_sentence(
    flow_env: FlowEnv, given: Any, phrase: str
) -> None:
    """Nothing of the page starts, and a dry run says the same."""
    flow = Batchflow("sqlite://")
    bound = flow.add(OfIds(given, given))
    async with flow_env(flow) as env:
        with pytest.raises(NonRetryable) as caught:
            await bound.dry_run()
        assert phrase in str(caught.value)
        batch = await env.run(bound)
        status = await batch.handle.status()
        assert status.state == "failed"
        assert phrase in (status.error or "")
        assert status.counts.open == status.counts.ended == 0


async def test_item_flow_is_called_by_a_dry_run(flow_env: FlowEnv) -> None:
    """So that its faults are seen before anything starts; nothing is stored of the keys."""
    flow, workflow = Batchflow("sqlite://"), Mail()
    mail = flow.add(workflow)
    async with flow_env(flow):
        statistics = await mail.dry_run()
        assert statistics.to_process == len(workflow.asked) == 60
        assert not [it for it in (await flow.limits.list()).keys if (it.limits.key or "").startswith("tenant")]


async def test_item_flow_of_a_function_takes_an_id(flow_env: FlowEnv) -> None:
    """The short form has the option of the class."""
    flow, most, running = Batchflow("sqlite://"), Counter[str](), Counter[str]()

    @flow.batch(
        ids=[f"{tenant}{number}" for number in range(5) for tenant in "ab"],
        flow=None,
        item_flow=lambda item_id: FlowControl(key=f"tenant-{item_id[0]}", parallelism=1),
    )
    async def send(item_id: str) -> None:
        running[item_id[0]] += 1
        most[item_id[0]] = max(most[item_id[0]], running[item_id[0]])
        await asyncio.sleep(0)
        running[item_id[0]] -= 1

    async with flow_env(flow) as env:
        batch = await env.run(send)
        assert batch.summary.counts.succeeded == 10
        assert most == {"a": 1, "b": 1}


@pytest.mark.parametrize("place", [None, "fakeredis"])
async def test_wait_reason_names_the_key_that_binds(flow_env: FlowEnv, place: str | None) -> None:
    """That of the items if it holds all of them back, that of the layer if it is full."""
    flow = Batchflow("sqlite://")
    one, two = FlowControl(key="acme", parallelism=1), FlowControl(key="birch", parallelism=1)
    bound = flow.add(OfIds(one, two))
    async with flow_env(flow, store=place) as env:
        store = flow.engine.store
        await store.pause("acme")
        await store.pause("birch")
        batch = (await env.run(bound)).handle
        code, sentence = (await batch.status()).wait_reason or ("", "")
        assert code == "key_paused"
        assert "'acme'" in sentence
        for key in ("acme", "birch"):
            await store.resume(key)
        await store.register("other", 60_000, 8, bound.definition.routes)
        assert len((await store.claim("other", [bound.definition.routes.execute], 1)).claims) == 1
        await store.pin(FlowControl(key="of-ids.execute", parallelism=1))
        assert (await batch.status()).wait_reason == ("limit", "limit: parallelism 1")
        await store.unpin("of-ids.execute")
        await store.publish([Message(id="m", destination="/elsewhere", flow=two)])
        await store.register("third", 60_000, 8, ["/elsewhere"])
        claims = (await store.claim("third", ["/elsewhere"], 1)).claims
        assert [claim.id for claim in claims] == ["m"]
        assert (await batch.status()).wait_reason == ("limit", "limit: birch parallelism 1")


def test_item_flow_that_is_async_is_refused() -> None:
    """It is called for one item after the other."""

    async def item_flow(self: OfIds, params: NoParams, item_id: str) -> FlowControl | None:
        return None

    with pytest.raises(ConfigurationError) as caught:
        type("Wrong", (OfIds,), {"item_flow": item_flow})
    assert "Wrong.item_flow has to be a plain function" in str(caught.value)
    assert "def item_flow(self, params: NoParams, item_id: str) -> FlowControl | None" in str(caught.value)


def test_item_flow_that_declares_another_result_is_refused() -> None:
    """When the class is made."""

    def item_flow(self: OfIds, params: NoParams, item_id: str) -> str:
        return item_id

    with pytest.raises(ConfigurationError) as caught:
        type("Wrong", (OfIds,), {"item_flow": item_flow})
    assert "Wrong.item_flow declares that it returns str" in str(caught.value)


@pytest.mark.parametrize("given", ["acme", FlowControl(key="acme"), Mail])
def test_item_flow_of_a_function_that_is_no_function_is_refused(given: Any) -> None:
    """With what to write."""
    flow = Batchflow("sqlite://")
    with pytest.raises(ConfigurationError) as caught:

        @flow.batch(item_flow=given)
        async def send(item_id: str) -> None: ...

    assert "the item_flow of 'send' cannot be" in str(caught.value)
