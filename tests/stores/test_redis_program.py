"""The script: its constants of Python, its two forms, and the absence of state between calls."""

import re
from collections.abc import Generator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from batchflow.core import flow, message, posts, settlement, store, wire_runs
from batchflow.errors import StoreError
from batchflow.stores import base
from batchflow.stores.redis import keys, protocol, script
from tests.conformance.scene import Scene, names
from tests.stores.redis_server import Server, served
from tests.stores.test_redis import opened
from tests.stores.test_redis_access import documented_rights, may

FOLDER = Path(str(files("batchflow.stores.redis").joinpath("lua")))
NO_FUNCTIONS = ("-fcall", "-function|load")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    with served(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def client(shared: Server) -> Generator[Any]:
    """The module's server: no keys, no functions, no scripts, nothing counted."""
    with shared.client() as client:
        client.flushall()
        client.execute_command("FUNCTION", "FLUSH")
        client.script_flush()
        client.config_resetstat()
        yield client


def calls(client: Any) -> dict[str, int]:
    """The number of calls of the program, by form. The scripts of tests are not counted."""
    counted = client.info("commandstats")
    found = {name: counted.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("fcall", "evalsha")}
    return {name: count for name, count in found.items() if count}


# What it is told


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (message, "LOSS_LIMIT", 12),
        (message, "SUSPECT_LOSSES", 4),
        (message, "LOSS_WAITS_MS", (1, 2)),
        (message, "ALONE_MS", 12),
        (message, "WORKER_LOST", "gone: %d"),
        (flow, "CATCH_UP_MS", 12),
        (flow, "SKEW_MS", 12),
        (flow, "STARTED_OF_FRESH", 12),
        (store, "KEPT_EVENTS", 12),
        (store, "ITEMS_SIZE", 12),
        (posts, "DEDUP_WINDOW_MS", 12),
        (posts, "LAST_STATES", frozenset({"FAILED"})),
        (wire_runs, "MAX_ENTRIES_SIZE", 12),
        (wire_runs, "WAIT_TIMEOUT", "}"),
        (script, "NEVER", 12),
        (base, "SWEEP_LIMIT", 12),
        (base, "SWEEP_LIMIT_AT_CANCEL", 12),
        (base, "IDLE_KEYS_LIMIT", 12),
        (base, "LANES_LIMIT", 12),
        (settlement, "STAYS", frozenset({"retry"})),
        (settlement, "RUN_STATE", {"done": "waiting"}),
        (settlement, "ITEM_STATE", {"done": "failed"}),
        (settlement, "ARRIVES", {"done": "failed"}),
        (keys, "CHANNEL", "other"),
        (keys, "BUCKET", 12),
        (keys, "SCHEMA", 99),
    ],
)
def test_what_is_changed_in_python_is_changed_for_the_server(
    where: Any, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each number, table and sentence stands once; and what is changed has another name on the server."""
    before = script.load_script()
    monkeypatch.setattr(where, name, value)
    made = script.load_script.__wrapped__()
    assert made.text != before.text
    assert (made.sha, made.function) != (before.sha, before.function)
    assert made.function in made.library


def test_no_file_says_itself_what_it_is_told() -> None:
    """Neither the numbers, nor the places of what Python puts into arrays, nor the sentences."""
    text = "\n".join(it.read_text() for it in sorted(FOLDER.rglob("*.lua")))
    told = re.findall(r"^local (\w+) = ", "\n".join(script._constants()), re.M)  # pyright: ignore[reportPrivateUsage]
    assert [name for name in told if re.search(rf"\blocal {name}\b", text)] == []
    assert [name for name in told if not re.search(rf"\b{name}\b", text)] == []
    assert re.findall(r"\b(?:wire|limits|flow)\[\d+\]", text) == []
    assert re.findall(r"\[\d+\] *(?:==|~=) *'(?:pending|failed|sleep|wait)'", text) == []
    assert "WorkerLost" not in text
    assert "batchflow.failure" not in text


def test_places_are_those_of_the_fields() -> None:
    """As they are packed."""
    row = protocol._encode_message(message.Message(id="a", destination="work", flow=flow.FlowControl(), held=True))  # pyright: ignore[reportPrivateUsage]
    assert row[0] == "a"
    assert row[15] is True
    assert "held = 16 }" in script.load_script().text


# The two ways


async def play(scene: Scene) -> None:
    """Something of all there is: messages, steps, items, reads."""
    await scene.start(["u0", "u1", "u2"])
    await scene.publish("a")
    for claim in (*await scene.claim(), *await scene.items()):
        await scene.done(claim)
    assert (await scene.batch()).state == "completed"


async def test_a_server_that_keeps_functions_is_asked_for_one(shared: Server, client: Any) -> None:
    """It is given it once, and nothing runs as a script."""
    async with opened(shared.url) as scene:
        await play(scene)
    assert set(calls(client)) == {"fcall"}
    assert client.info("commandstats")["cmdstat_function|load"]["calls"] == 1


async def test_a_user_who_may_have_no_function_kept_runs_scripts(shared: Server, client: Any) -> None:
    """Asked for once only."""
    async with opened(may(shared, *documented_rights(), *NO_FUNCTIONS)) as scene:
        await play(scene)
    assert set(calls(client)) == {"evalsha"}
    # Whoever may not load one, and finds one there, is not in need of the right.
    async with opened(shared.url, namespace="other"):
        pass
    client.config_resetstat()
    async with opened(may(shared, *documented_rights(), "-function|load")) as scene:
        await scene.publish("b")
    assert set(calls(client)) == {"fcall"}


async def test_a_server_that_keeps_no_functions_runs_scripts(tmp_path: Path) -> None:
    """As Redis 6.2, which knows no such command."""
    with served(tmp_path, "--rename-command", "FCALL", "", "--rename-command", "FUNCTION", "") as server:
        async with opened(server.url) as scene:
            await play(scene)
        with server.client() as client:
            assert set(calls(client)) == {"evalsha"}


async def test_a_function_that_is_gone_is_given_again(shared: Server, client: Any) -> None:
    """Nothing is lost, nothing is done twice; FLUSHALL leaves it where it is."""
    async with opened(shared.url) as scene:
        await scene.publish("a")
        client.execute_command("FUNCTION", "FLUSH")
        assert await scene.publish("b") == [True]
        client.execute_command("FUNCTION", "FLUSH")
        assert names(await scene.claim()) == ["a", "b"]
        client.flushall()
        assert await scene.publish("c") == [True]
    assert set(calls(client)) == {"fcall"}


async def test_two_versions_use_one_server(shared: Server, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by a function of its own name, in turn, without either being loaded again."""
    async with opened(shared.url) as old:
        monkeypatch.setattr(message, "WORKER_LOST", "another version: %d")
        monkeypatch.setattr(script, "load_script", script.load_script.__wrapped__)
        async with opened(shared.url) as new:
            assert await old.publish("a") == [True]
            assert await new.publish("a", "b") == [False, True]
            assert await old.publish("b") == [False]
    assert client.info("commandstats")["cmdstat_function|load"]["calls"] == 2
    assert set(calls(client)) == {"fcall"}


# What is left of a call


@pytest.mark.parametrize("withheld", [(), NO_FUNCTIONS], ids=["function", "script"])
async def test_nothing_of_a_call_is_left_for_the_next(shared: Server, client: Any, withheld: tuple[str, ...]) -> None:
    """Also where the server stops one in its midst: another namespace becomes what it becomes without that."""
    rights = [it.replace("{batchflow}", "*") for it in documented_rights()]
    url = may(shared, *rights, *withheld)

    async def become(namespace: str) -> dict[str, object]:
        async with opened(url, namespace=namespace) as scene:
            await play(scene)
        with shared.client() as looking:
            found = {key: _value(looking, key) for key in looking.keys(f"bf:{{{namespace}}}:*")}
        return {key.partition("}:")[2]: value for key, value in found.items()}

    undisturbed = await become("one")
    async with opened(url, namespace="broken") as scene:
        await scene.start(["u0", "u1", "u2"])
        claims = await scene.items()
        # What the end of an item writes to, only when all of the group has been carried out.
        client.set("bf:{broken}:l:welcome", "no ledger")
        for claim in claims[:2]:
            with pytest.raises(StoreError, match="WRONGTYPE"):
                await scene.done(claim)
        assert await become("two") == undisturbed


def _value(client: Any, key: str) -> object:
    match client.type(key):
        case "hash":
            return client.hgetall(key)
        case "zset":
            return client.zrange(key, 0, -1, withscores=True)
        case "set":
            return client.smembers(key)
        case "list":
            return client.lrange(key, 0, -1)
        case _:
            return client.get(key)
