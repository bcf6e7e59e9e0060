"""Flow keys over HTTP."""

from typing import Any

from httpx import AsyncClient

from batchflow import Batchflow
from tests.http.samples import assert_error

KEY = "welcome.execute"


async def test_flow_keys_are_listed_in_pages(idle_http: AsyncClient) -> None:
    """By name, until `nextCursor` is null."""
    names: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await idle_http.get("/flow", params={"limit": 4, **({"cursor": cursor} if cursor else {})})).json()
        names += [it["key"] for it in page["keys"]]
        cursor = page["nextCursor"]
    assert KEY in names
    assert names == sorted(set(names))


async def test_a_flow_key_is_changed_by_hand(idle_http: AsyncClient, idle: Batchflow) -> None:
    """Each answer is the key as it is then."""

    async def post(verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        response = await idle_http.post(f"/flow/{KEY}/{verb}", json=body)
        assert response.status_code == 200
        return response.json()

    before = (await idle_http.get(f"/flow/{KEY}")).json()
    assert before.pop("holders") == []
    pinned = await post("pin", {"parallelism": 5, "rate": "2/s", "duration": "2h"})
    assert (pinned["parallelism"], pinned["rate"], pinned["period"]) == (5, 2, "1s")
    assert pinned["pinnedParallelism"]
    assert pinned["pinnedRate"]
    assert pinned["parallelismUntil"] == pinned["rateUntil"] is not None
    assert (await post("pin", {"rate": 100, "period": "1m"}))["rateUntil"] is None
    paused = await post("pause", {"duration": "10m"})
    assert paused["paused"]
    assert paused["pausedUntil"]
    assert not (await post("resume"))["paused"]
    assert (await post("unpin", {"rate": False}))["pinnedRate"]
    assert await post("unpin") == before
    await post("pause")
    assert await post("reset") == before
    assert (await idle.limits.get(KEY)).limits.parallelism == before["parallelism"]


async def test_wrong_requests_for_flow_keys_are_refused(idle_http: AsyncClient) -> None:
    """In the shape of all errors, and nothing has changed."""
    unknown = await idle_http.post("/flow/welcome.excute/pause")
    assert_error(unknown, (404, "did you mean 'welcome.execute'?", "key"))
    assert_error(await idle_http.get("/flow/nothing-like-it"), (404, "there is no flow key", "key"))
    for body, field in (
        ({}, "parallelism"),
        ({"parallelism": "5"}, "parallelism"),
        ({"rate": "2 a day"}, "rate"),
        ({"rate": 1, "duration": "x"}, "duration"),
        ({"paralelism": 5}, "paralelism"),
    ):
        assert_error(await idle_http.post(f"/flow/{KEY}/pin", json=body), (422, "", field))
    assert not (await idle_http.get(f"/flow/{KEY}")).json()["pinnedRate"]
