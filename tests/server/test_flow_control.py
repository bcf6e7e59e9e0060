"""The routes of flow control."""

from typing import Any

import pytest
from httpx import AsyncClient

from batchflow.core.posts import PUSH_DESTINATION
from batchflow.engine.engine import Engine
from batchflow.server.context import wire_store
from batchflow.testing.clock import ManualClock
from batchflow.wire.publish import parse_publish, posts_of


async def post(engine: Engine, *ids: str, value: str | None = None, key: str = "mail") -> None:
    headers = [] if value is None else [("Upstash-Flow-Control-Key", key), ("Upstash-Flow-Control-Value", value)]
    request = parse_publish("https://app.example", headers, b"", tenant="ours", now=engine.now())
    for id in ids:
        await wire_store(engine).post(posts_of(request, lambda id=id: id))


async def claim(engine: Engine, limit: int = 100) -> int:
    """Begin what may begin, and return its number."""
    await engine.store.register("worker", 30_000)
    return len((await engine.store.claim("worker", [PUSH_DESTINATION], limit)).claims)


async def info(http: AsyncClient, key: str = "mail") -> Any:
    return (await http.get(f"/v2/flowControl/{key}")).json()


async def test_a_key_is_readable_right_after_its_publish(http: AsyncClient, engine: Engine) -> None:
    """With its limits, and what waits for them."""
    await post(engine, "msg_1", "msg_2", value="parallelism=1, rate=10, period=1m")
    await claim(engine)
    assert await info(http) == {
        "flowControlKey": "mail",
        "waitListSize": 1,
        "parallelismMax": 1,
        "parallelismCount": 1,
        "rateMax": 10,
        "rateCount": 1,
        "ratePeriod": 60,
        "ratePeriodStart": 1_700_000_000 - 54,
        "isPaused": False,
        "isPinnedParallelism": False,
        "isPinnedRate": False,
    }


async def test_a_key_is_readable_after_its_last_message(http: AsyncClient, engine: Engine) -> None:
    """While the log has it, though the store forgets keys that nothing uses."""
    await post(engine, "msg_1", value="parallelism=2, rate=10, period=1m")
    await post(engine, "msg_2", value="rate=1", key="mail.other")
    await wire_store(engine).cancel_posts("ours", ["msg_1", "msg_2"])
    await engine.store.expire()
    assert (await http.get("/v2/flowControl")).json() == []
    found = await info(http)
    assert (found["parallelismMax"], found["rateMax"], found["ratePeriod"], found["waitListSize"]) == (2, 10, 60, 0)
    assert (await http.get("/v2/flowControl/mai")).status_code == 404


async def test_the_starts_of_a_rate_are_counted(http: AsyncClient, engine: Engine, clock: ManualClock) -> None:
    """A whole period's at once; as they get older they count no more."""
    await post(engine, *(f"msg_{number}" for number in range(12)), value="rate=10, period=1m")
    assert await claim(engine) == 10
    assert (await info(http))["rateCount"] == 10
    assert (await info(http))["ratePeriodStart"] == 1_700_000_000
    clock.advance("30s")
    assert (await info(http))["rateCount"] == 5
    clock.advance("30s")
    assert ((await info(http))["rateCount"], (await info(http))["ratePeriodStart"]) == (0, 0)


async def test_a_key_without_a_rate_counts_no_starts(http: AsyncClient, engine: Engine) -> None:
    """0 says that there is no limit."""
    await post(engine, "msg_1", value="parallelism=3")
    await claim(engine)
    found = await info(http)
    assert (found["rateMax"], found["rateCount"], found["ratePeriod"], found["ratePeriodStart"]) == (0, 0, 1, 0)


@pytest.mark.parametrize("path", ["resetRate", "reset"])
async def test_a_reset_begins_the_rate_anew(http: AsyncClient, engine: Engine, path: str) -> None:
    """Pins and the pause stay."""
    await post(engine, "msg_1", "msg_2", value="rate=1, period=1h")
    assert (await claim(engine), await claim(engine)) == (1, 0)
    await http.post("/v2/flowControl/mail/pin", params={"parallelism": 5})
    await http.post("/v2/flowControl/mail/pause")
    assert (await http.post(f"/v2/flowControl/mail/{path}")).status_code == 200
    found = await info(http)
    assert (found["rateCount"], found["isPinnedParallelism"], found["isPaused"]) == (0, True, True)
    await http.post("/v2/flowControl/mail/resume")
    assert await claim(engine) == 1


async def test_a_key_is_paused_and_resumed(http: AsyncClient, engine: Engine) -> None:
    """Nothing starts meanwhile."""
    await post(engine, "msg_1", value="rate=10")
    assert (await http.post("/v2/flowControl/mail/pause")).status_code == 200
    assert ((await info(http))["isPaused"], await claim(engine)) == (True, 0)
    assert (await http.post("/v2/flowControl/mail/resume")).status_code == 200
    assert ((await info(http))["isPaused"], await claim(engine)) == (False, 1)


async def test_pins_of_parallelism_and_rate_are_apart(http: AsyncClient, engine: Engine) -> None:
    """Messages do not change them; each is unpinned by itself."""
    await post(engine, "msg_1", value="parallelism=3, rate=4, period=2s")
    await http.post("/v2/flowControl/mail/pin", params={"parallelism": 7})
    await http.post("/v2/flowControl/mail/pin", params={"rate": 8, "period": 60})
    await post(engine, "msg_2", value="parallelism=1, rate=2, period=2s")

    async def limits() -> tuple[Any, ...]:
        found = await info(http)
        names = "parallelismMax", "rateMax", "ratePeriod", "isPinnedParallelism", "isPinnedRate"
        return tuple(found[name] for name in names)

    assert await limits() == (7, 8, 60, True, True)
    assert (await http.post("/v2/flowControl/mail/unpin", params={"parallelism": "true"})).status_code == 200
    assert await limits() == (1, 8, 60, False, True)
    await http.post("/v2/flowControl/mail/unpin", params={"parallelism": "false", "rate": "True"})
    assert await limits() == (1, 2, 2, False, False)


async def test_a_pinned_rate_lets_a_whole_period_start_at_once(http: AsyncClient, engine: Engine) -> None:
    """As the rates of messages do."""
    await post(engine, *(f"msg_{number}" for number in range(6)), value="rate=1")
    await http.post("/v2/flowControl/mail/pin", params={"rate": 4, "period": 60})
    assert (await claim(engine), (await info(http))["rateCount"]) == (4, 4)


async def test_a_pin_makes_its_key(http: AsyncClient) -> None:
    """Before any message has it."""
    assert (await http.get("/v2/flowControl/new")).status_code == 404
    await http.post("/v2/flowControl/new/pin", params={"rate": 5})
    assert ((await info(http, "new"))["rateMax"], (await info(http, "new"))["ratePeriod"]) == (5, 1)


async def test_keys_are_listed_by_name_and_apart_by_tenant(
    http: AsyncClient, other_http: AsyncClient, engine: Engine
) -> None:
    """Those of other messages, and of destinations without flow control, are not among them."""
    await post(engine, "msg_1", value="rate=1", key="b.mail")
    await post(engine, "msg_2", value="rate=1", key="a.mail")
    await post(engine, "msg_3")
    await other_http.post("/v2/flowControl/c/pin", params={"rate": 5})

    async def names(**query: str) -> list[str]:
        return [it["flowControlKey"] for it in (await http.get("/v2/flowControl", params=query)).json()]

    assert await names() == ["a.mail", "b.mail"]
    assert await names(search="b.") == ["b.mail"]
    assert (await other_http.get("/v2/flowControl/a.mail")).status_code == 404


async def test_the_parallelism_of_all_messages_is_theirs(
    http: AsyncClient, other_http: AsyncClient, engine: Engine
) -> None:
    """With flow control and without."""
    await post(engine, "msg_1", "msg_2", value="parallelism=1")
    await post(engine, "msg_3", "msg_4")
    assert await claim(engine) == 3
    assert (await http.get("/v2/globalParallelism")).json() == {"parallelismMax": 0, "parallelismCount": 3}
    assert (await other_http.get("/v2/globalParallelism")).json()["parallelismCount"] == 0


@pytest.mark.parametrize(
    "path",
    [
        "mail/pin",
        "mail/pin?period=5",
        "mail/pin?parallelism=1&period=5",
        "mail/pin?parallelism=0",
        "mail/pin?rate=x",
        "mail/pin?rate=1&period=604801",
        "mail/unpin",
        "mail/unpin?rate=maybe",
        "a%20b/pin?rate=1",
        "a%20b/pause",
    ],
)
async def test_a_wrong_change_is_refused(http: AsyncClient, path: str) -> None:
    """With a sentence, and nothing is changed."""
    response = await http.post(f"/v2/flowControl/{path}")
    assert (response.status_code, list(response.json())) == (400, ["error"])
    assert (await http.get("/v2/flowControl")).json() == []
