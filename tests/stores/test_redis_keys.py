"""Keys of a namespace: each is documented, belongs to something, and goes with it."""

from collections.abc import Iterator

import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from batchflow import Batchflow, NoParams, WorkflowContext
from batchflow.core.ports import Clock
from batchflow.errors import NonRetryable
from batchflow.stores.redis import RedisStore
from batchflow.stores.redis.keys import KEYS, prefix
from batchflow.testing import Environment
from tests.docs.pages import ROOT
from tests.stores.kinds import Kind, made
from tests.stores.redis_keys import Snapshot, permanent, rules_missing, snapshot
from tests.stores.redis_server import Server, served

START = prefix("batchflow")
WEEK_MS = 7 * 86_400_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


def test_keys_are_documented() -> None:
    """Each pattern with its type, how long it stays and what it holds, in the order of the list."""
    page = (ROOT / "docs/reference/redis-keys.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    wanted = [f"| `{key.pattern}` | {key.type} | {key.stays} | {key.holds} |".replace("|<", "\\|<") for key in KEYS]
    assert rows == wanted, "write:\n" + "\n".join(wanted)


def test_every_key_that_goes_has_an_owner() -> None:
    """So that the look at the keys after each test passes none of them over."""
    assert rules_missing() == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("SET x:nobody 1", "x:nobody is a string, not a hash"),
        ("SET unheard-of 1", "nobody knows the key {}unheard-of"),
        ("HSET i:bat_gone:0 1 ou1", "i:bat_gone:0 and there is no batch 'bat_gone'"),
        ("SADD bi:bat_gone u1", "bi:bat_gone and there is no open batch 'bat_gone'"),
        ("SADD kids:p c", "kids:p holds 'c' and there is no open run 'c'"),
        ("HSET w:w9 a !", "w:w9 and there is no worker 'w9'"),
        ("HSET m:a d work k free o w9", "m:a and its worker 'w9' does not hold it"),
        ("HSET m:a d work k free", "m:a and it waits in no lane"),
        ("HSET m:a d work k free z completed", "m:a and it has ended and is not among the runs that are kept"),
        ("ZADD q:free|work 1 a", "q:free|work holds 'a' and it does not wait"),
        ("ZADD rd:work 1 free", "rd:work holds 'free' and nothing waits there"),
        ("ZADD e:paid 1 a\x01000000001", "e:paid holds 'a\x01000000001' and it does not listen"),
        ("RPUSH a:run 1", "a:run and there is no open run 'run'"),
        ("HSET wh token run", "wh holds 'token' and the run 'run' knows nothing of it"),
        ("HSET h:welcome u1 3", "h:welcome holds 'u1' and there is no open batch 3"),
        ("ZADD dead 1 a", "dead holds 'a' and there is no run 'a' that has ended"),
        ("HSET pl:a t acme", "pl:a and it is not in just one of the indexes of posts"),
        ("ZADD lg:acme 1 1:a", "lg:acme holds '1:a' and the log of the post does not have it"),
        ("ZADD qw:acme 1 a", "qw:acme holds 'a' and it does not wait for a place"),
        ("ZADD qp:acme 1 a", "qp:acme holds 'a' and it has no place"),
        ("ZADD px 1 key", "px holds 'key' and only one of its halves is there"),
    ],
)
async def test_a_key_without_an_owner_is_found(words: str, said: str) -> None:
    """Of each kind; what the check after each test would say."""
    client = FakeAsyncRedis(server=FakeServer())
    command, name, *rest = words.split(" ")
    await client.execute_command(command, START + name, *rest)  # pyright: ignore[reportUnknownMemberType]: untyped
    found = (await snapshot(client, "batchflow")).leaks()
    await client.aclose()
    assert any(said.format(START) in sentence for sentence in found), found


@pytest.mark.parametrize("kind", ["fakeredis", "redis"])
async def test_nothing_but_permanent_keys_is_left_after_retention(kind: Kind, request: pytest.FixtureRequest) -> None:
    """After runs, waits, failures and cancellations; the ledger alone stays, for as long as its marks hold."""
    url = request.getfixturevalue("server").url if kind == "redis" else None
    flow = Batchflow("sqlite://")
    stores: list[RedisStore] = []

    def place(clock: Clock) -> RedisStore:
        store = made(kind, clock, url)
        assert isinstance(store, RedisStore)
        stores.append(store)
        return store

    async def keys() -> Snapshot:
        about = vars(stores[0])
        found = await snapshot(about["_client"], about["_namespace"])
        assert found.leaks() == []
        return found

    async with Environment(flow, store=place) as env:
        await _everything(flow, env)
        before = (await keys()).patterns()
        assert {"m:<id>", "b:<batch>", "i:<batch>:<bucket>", "x:<batch>:<bucket>", "dead", "bd:<batch>"} <= before
        env.clock.advance("8d")
        while await stores[0].prune(WEEK_MS):
            pass
        assert (await keys()).patterns() - permanent() == {"l:<ledger>"}
        assert await stores[0].forget("greet") == 129
        assert (await keys()).patterns() <= permanent()


async def _everything(flow: Batchflow, env: Environment) -> None:
    """Batches that end in each way, and runs that wait for each thing and end in each way."""

    ids = [f"user-{number}" for number in range(129)]

    @flow.batch(ids=[*ids, "bad"], flow=None)
    async def greet(user_id: str) -> str:
        if user_id == "bad":
            raise NonRetryable("no greeting")
        return f"hello {user_id}"

    @flow.batch(flow=None)
    async def dawdle(user_id: str) -> None:
        raise AssertionError("it is cancelled before")

    @flow.serve("/child")
    async def child(ctx: WorkflowContext[str]) -> str:
        waited = await ctx.wait_for_event("wait", f"go {ctx.payload}", data=str, timeout="2d")
        return "too late" if waited.timed_out else waited.data

    @flow.serve("/parent", base_url="https://app.test")
    async def parent(ctx: WorkflowContext[str]) -> str:
        await ctx.create_webhook("webhook")
        await ctx.call("call", "https://x.test")
        await ctx.sleep("sleep", "1h")
        await ctx.notify("for later", "unheard", 1, run_id=ctx.run_id)
        summary = await ctx.invoke("batch", greet, NoParams(), label="again") if ctx.payload == "batch" else None
        return f"{summary} {await ctx.invoke('child', child, ctx.payload)}"

    @flow.serve("/bad")
    async def bad(ctx: WorkflowContext[None]) -> None:
        raise NonRetryable("no")

    env.answer_call("https://x.test")
    batch = await env.run(greet, label="all")
    assert (batch.summary.counts.succeeded, batch.summary.counts.failed) == (129, 1)
    cancelled = await env.trigger(dawdle, ids=ids)
    assert await dawdle.batch(cancelled.id).cancel()
    await env.run(bad, None)
    told = await env.trigger(parent, "told", label="some")
    invoking = await env.trigger(parent, "batch")
    waits = await env.trigger(parent, "never")
    ended = await env.trigger(parent, "ended", label="some")
    await env.advance("3h")
    await env.notify("go told", "gone")
    assert await flow.cancel(ended.id) == 1
    await env.drive()
    runs = (told, invoking, waits, ended)
    assert [it.error or it.state for it in runs] == ["completed", "completed", "completed", "cancelled"]
