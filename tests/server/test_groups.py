"""The routes of URL groups."""

import asyncio
from typing import Any

import pytest
from httpx import AsyncClient, Response

from batchflow.testing.clock import ManualClock

A, B = {"url": "https://a.example/"}, {"url": "https://b.example/", "name": "b"}


async def add(http: AsyncClient, *endpoints: dict[str, str], group: str = "group") -> Response:
    return await http.post(f"/v2/topics/{group}/endpoints", json={"endpoints": endpoints})


async def remove(http: AsyncClient, *endpoints: dict[str, str], group: str = "group") -> Response:
    return await http.request("DELETE", f"/v2/topics/{group}/endpoints", json={"endpoints": endpoints})


async def endpoints(http: AsyncClient, group: str = "group") -> Any:
    return (await http.get(f"/v2/topics/{group}")).json()["endpoints"]


async def test_endpoints_make_a_group(http: AsyncClient, clock: ManualClock) -> None:
    """And others are added to it."""
    made_at = clock.now()
    assert (await add(http, A)).status_code == 200
    clock.advance("1s")
    await add(http, B)
    about = {"name": "group", "createdAt": made_at, "updatedAt": clock.now(), "endpoints": [A, B]}
    assert (await http.get("/v2/topics/group")).json() == about
    assert (await http.get("/v2/topics")).json() == [about]


async def test_an_endpoint_replaces_the_one_with_its_url_or_name(http: AsyncClient) -> None:
    """In its place."""
    await add(http, A, B)
    await add(http, {"url": "https://a.example/", "name": "a"}, {"url": "https://c.example/", "name": "b"})
    assert await endpoints(http) == [
        {"url": "https://a.example/", "name": "a"},
        {"url": "https://c.example/", "name": "b"},
    ]


async def test_endpoints_are_removed_by_url_or_name(http: AsyncClient) -> None:
    """A group without endpoints does not exist."""
    await add(http, A, B, {"url": "https://c.example/"})
    assert (await remove(http, {"name": "b"}, {"url": "https://c.example/"})).status_code == 200
    assert await endpoints(http) == [A]
    await remove(http, A)
    assert (await http.get("/v2/topics/group")).status_code == 404
    assert (await http.get("/v2/topics")).json() == []
    assert (await remove(http, A)).status_code == 404


async def test_a_group_that_vanished_can_be_made_again(http: AsyncClient) -> None:
    """With the new endpoints only."""
    await add(http, A)
    await remove(http, A)
    await add(http, B)
    assert await endpoints(http) == [B]


async def test_deleting_a_group_that_does_not_exist_does_not_fail(http: AsyncClient) -> None:
    """The SDKs rely on it."""
    await add(http, A)
    for _ in range(2):
        assert (await http.delete("/v2/topics/group")).status_code == 200
    assert (await http.get("/v2/topics/group")).status_code == 404


async def test_no_endpoint_is_lost_that_is_added_at_the_same_time(http: AsyncClient) -> None:
    """Each change sees the one before it."""
    added = [{"url": f"https://{number}.example/"} for number in range(20)]
    await asyncio.gather(*(add(http, it) for it in added))
    assert sorted(it["url"] for it in await endpoints(http)) == sorted(it["url"] for it in added)


async def test_groups_are_apart_by_tenant(http: AsyncClient, other_http: AsyncClient) -> None:
    """One name is two groups."""
    await add(http, A)
    await add(other_http, B)
    assert (await endpoints(http), await endpoints(other_http)) == ([A], [B])
    await other_http.delete("/v2/topics/group")
    assert [it["name"] for it in (await http.get("/v2/topics")).json()] == ["group"]
    assert (await other_http.get("/v2/topics")).json() == []


async def test_default_headers_are_refused(http: AsyncClient) -> None:
    """They are not passed over."""
    response = await http.patch("/v2/topics/group", json={"headers": {"Upstash-Retries": "1"}})
    assert response.status_code == 400
    assert response.json()["error"].startswith("default headers of the URL group 'group' are not supported")


@pytest.mark.parametrize(
    ("group", "body"),
    [
        ("group", {}),
        ("group", {"endpoints": []}),
        ("group", {"endpoints": [{"name": "a"}]}),
        ("group", {"endpoints": [{"url": "a.example"}]}),
        ("group", {"endpoints": [{"url": "https://a.example", "name": "a b"}]}),
        ("a b", {"endpoints": [A]}),
    ],
    ids=str,
)
async def test_wrong_endpoints_are_refused(http: AsyncClient, group: str, body: Any) -> None:
    """With a sentence; no group is made."""
    response = await http.post(f"/v2/topics/{group}/endpoints", json=body)
    assert (response.status_code, list(response.json())) == (400, ["error"])
    assert (await http.get("/v2/topics")).json() == []
