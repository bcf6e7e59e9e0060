"""A server that answers with an error while a batch runs: nothing is lost, nothing dies, nothing is executed again."""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.exceptions
from structlog.testing import capture_logs

from batchflow import Batchflow, BatchWorkflow, FlowControl, NoParams, Page
from batchflow.errors import StoreError, StoreUnavailable
from batchflow.stores.redis import errors
from batchflow.stores.redis.script import ScriptExecutor
from tests.stores.redis_server import Server, served
from tests.waiting import wait_until, wait_until_sync

FAILS, WORKS = "[batchflow:error] The store fails; waiting for it", "[batchflow] The store works again"
ITEMS = 40


class Charge(BatchWorkflow[NoParams, str, str]):
    """Items that are executed while the gate is open; each execution is counted."""

    entry_flow = paginate_flow = None
    execute_flow = FlowControl(parallelism=8)

    def __init__(self) -> None:
        self.executed: Counter[str] = Counter()
        self.begun: Counter[str] = Counter()
        self.gate = asyncio.Event()

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page([f"user-{number}" for number in range(ITEMS)])

    async def execute(self, item_id: str) -> str:
        self.begun[item_id] += 1
        await self.gate.wait()
        self.executed[item_id] += 1
        return item_id


@pytest.fixture
def server(tmp_path: Path) -> Generator[Server]:
    with served(tmp_path, "--enable-debug-command", "yes", "--enable-protected-configs", "yes") as started:
        yield started


def config(option: str, during: object, after: object) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    return (lambda it: it.config_set(option, during)), (lambda it: it.config_set(option, after))


def misconf(client: Any) -> None:
    """The server has a snapshot to write and cannot."""
    (Path(client.config_get("dir")["dir"]) / "taken.rdb").mkdir()
    (Path(client.config_get("dir")["dir"]) / "taken.rdb" / "full").touch()
    client.config_set("dbfilename", "taken.rdb")
    client.config_set("save", "3600 1000000")
    client.bgsave()
    wait_until_sync(
        lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", description="the snapshot has failed"
    )


def busy(client: Any) -> None:
    """A script of somebody else goes on and on."""
    client.config_set("busy-reply-threshold", 50)
    client.acl_setuser("slow", enabled=True, nopass=True, categories=["+@all"], keys=["*"])
    runs = threading.Thread(target=_run_for_ever, args=(client.connection_pool.connection_kwargs["port"],), daemon=True)
    runs.start()
    wait_until_sync(lambda: _is_busy(client), description="the script runs")


def _is_busy(client: Any) -> bool:
    try:
        client.ping()
    except redis.exceptions.ResponseError:
        return True
    return False


def _run_for_ever(port: int) -> None:
    with contextlib.suppress(redis.RedisError):
        redis.Redis(port=port, socket_timeout=30).eval("while true do end", 0)


def many_clients(client: Any) -> None:
    client.config_set("maxclients", 1)
    client.client_kill_filter(_type="normal", skipme=True)


FAULTS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], str]] = {
    "noreplicas": (*config("min-replicas-to-write", 1, 0), "fewer good replicas"),
    "readonly": (
        lambda it: it.execute_command("REPLICAOF", "127.0.0.1", "1"),
        lambda it: it.execute_command("REPLICAOF", "NO", "ONE"),
        "is a replica that cannot be written",
    ),
    "misconf": (misconf, lambda it: it.config_set("stop-writes-on-bgsave-error", "no"), "cannot write to its disk"),
    "oom": (*config("maxmemory", 1, 0), "has no memory left"),
    "busy": (busy, lambda it: it.script_kill(), "is not ready: "),
    "maxclients": (many_clients, lambda it: it.config_set("maxclients", 1_000), "max number of clients"),
    "a right less": (
        lambda it: it.execute_command("ACL", "SETUSER", "default", "-hset"),
        lambda it: it.execute_command("ACL", "SETUSER", "default", "+@all"),
        "its user may not run HSET; give the user more rights; it is tried again meanwhile",
    ),
    "a password": (
        lambda it: (
            it.config_set("requirepass", "x"),
            it.client_kill_filter(_type="normal", skipme=True),
        ),
        lambda it: it.config_set("requirepass", ""),
        "it wants a password",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_answer_that_passes_costs_nothing(server: Server, fault: str) -> None:
    """No item is lost or dies, no attempt is counted, and what was executed is not executed again."""
    begin, end, said = FAULTS[fault]
    charge = Charge()
    flow = Batchflow(server.url)
    batches = flow.add(charge)
    with server.client() as client, capture_logs() as logs:
        async with flow:
            batch = await batches.trigger()
            await wait_until(lambda: len(charge.begun) == 8, description="as much is under way as may be")
            await asyncio.to_thread(begin, client)
            waiting = asyncio.create_task(batch.wait(timeout=60))
            charge.gate.set()
            await wait_until(lambda: FAILS in [it["event"] for it in logs], description="the fault is met")
            await wait_until(lambda: len(charge.executed) >= 8, description="they have run")
            await _tries(flow)
            begun = len(charge.begun)
            assert begun <= 16
            await asyncio.to_thread(end, client)
            summary = await waiting
            found = [flow_ for flow_ in await flow.engine.store.flows() if flow_.in_use or flow_.waiting]
    assert (summary.counts.succeeded, summary.counts.failed) == (ITEMS, 0)
    assert set(charge.executed.values()) == {1}
    assert found == []
    told = [it for it in logs if it["event"] in (FAILS, WORKS)]
    assert [it["event"] for it in told[:2]] == [FAILS, WORKS]
    assert len(told) <= 4
    assert said in told[0]["error"]
    assert not [it for it in logs if "Dead letter" in it["event"] or "refused" in it["event"]]


async def _tries(flow: Batchflow) -> None:
    """The store is tried some times more."""
    worker: Any = flow.engine
    outage = worker._worker.dispatcher.outage
    tries = outage._tries
    await wait_until(lambda: outage._tries >= tries + 2 or not outage.is_active, description="it was tried again")


ANSWERS = {
    "BUSY Redis is busy running a script.": True,
    "LOADING Redis is loading the dataset in memory": True,
    "CLUSTERDOWN The cluster is down": True,
    "TRYAGAIN Multiple keys request during rehashing of slot": True,
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": True,
    "UNKNOWNCODE an answer that nobody knows": True,
    "ERR the proxy has no upstream": True,
    "OOM command not allowed when used memory > 'maxmemory'. script: 5a, on @user_script:12.": True,
    "ERR Error running script (call to f_1): @user_script:1: user_script:1: Script killed by user": True,
    "ERR user_script:7: not enough memory": True,
    "WRONGTYPE Operation against a key holding the wrong kind of value": False,
    "ERR user_script:12: attempt to index a nil value script: 5a, on @user_script:12.": False,
    "ERR Error running script (call to f_1): @user_script:1: user_script:1: attempt to index a nil value": False,
    "ERR string exceeds maximum allowed size (proto-max-bulk-len)": False,
    "Protocol error: invalid bulk length": False,
}


@pytest.mark.parametrize(("answer", "passes"), ANSWERS.items())
def test_only_what_is_the_operations_own_fault_is_final(answer: str, passes: bool) -> None:
    """Everything else may pass, also what nobody knows."""
    meant = errors.error_of_answer(answer, "redis://there/0")
    assert isinstance(meant, StoreUnavailable) is passes
    assert isinstance(meant, StoreError)
    assert meant.retryable is passes


async def test_an_unknown_answer_is_survived_by_a_batch(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of a proxy, of a service, or of a server to come."""
    told = iter(["PROXYDOWN try later"] * 6)
    answering: Any = ScriptExecutor
    run = answering.execute
    charge = Charge()
    charge.gate.set()

    async def answered(self: ScriptExecutor, key: str, *arguments: str | bytes) -> Any:
        if charge.executed and (text := next(told, None)):
            raise redis.exceptions.ResponseError(text)
        return await run(self, key, *arguments)

    monkeypatch.setattr(ScriptExecutor, "execute", answered)
    flow = Batchflow(server.url)
    batches = flow.add(charge)
    async with flow:
        summary = await (await batches.trigger()).wait(timeout=60)
    assert (summary.counts.succeeded, summary.counts.failed) == (ITEMS, 0)
    assert set(charge.executed.values()) == {1}


async def test_one_that_can_never_be_carried_out_fails_alone(server: Server) -> None:
    """Those that went in the same group are carried out."""
    with server.client() as client:
        async with Batchflow(server.url, worker=False) as flow:
            ledger = flow.engine.store
            client.set("bf:{batchflow}:l:odd", "no ledger")
            fine = asyncio.ensure_future(ledger.mark("fine", ["a"], None))
            with pytest.raises(StoreError) as caught:
                await ledger.mark("odd", ["a"], None)
            assert not caught.value.retryable
            await fine
            assert await ledger.processed("fine", ["a"]) == {"a"}
            client.delete("bf:{batchflow}:l:odd")


async def test_a_worker_waits_for_a_server_that_is_not_there_yet(tmp_path: Path) -> None:
    """It says so once, with the reason, works when the server is there, and stops quietly when it is gone."""
    with served(tmp_path) as server, capture_logs() as logs:
        server.stop()
        charge = Charge()
        charge.gate.set()
        flow = Batchflow(server.url)
        batches = flow.add(charge)
        starting = asyncio.create_task(flow.start())
        await wait_until(lambda: bool(logs), description="it is said")
        assert not starting.done()
        server.start()
        await starting
        assert (await (await batches.trigger()).wait(timeout=30)).counts.succeeded == ITEMS
        server.stop()
        await wait_until(lambda: FAILS in [it["event"] for it in logs], description="it is missed")
        async with asyncio.timeout(10):
            await flow.stop()
    told = [it["event"] for it in logs if it["log_level"] != "info" and "[batchflow" in it["event"]]
    assert told == [
        "[batchflow] The store is away; waiting for it, and starting when it is there",
        FAILS,
        "[batchflow] Stopped while the store is away; active claims are reclaimed when the lease ends",
    ]
    assert "cannot be reached: " in logs[0]["error"]
