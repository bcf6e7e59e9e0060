"""The routes of the signing keys."""

from httpx import AsyncClient


async def test_keys_are_made_once(http: AsyncClient) -> None:
    """Each answer has the same."""
    keys = (await http.get("/v2/keys")).json()
    assert list(keys) == ["current", "next"]
    assert all(it.startswith("sig_") for it in keys.values())
    assert (await http.get("/v2/keys")).json() == keys


async def test_a_rotation_makes_the_next_key_the_current_one(http: AsyncClient) -> None:
    """And a new one the next."""
    keys = (await http.get("/v2/keys")).json()
    rotated = (await http.post("/v2/keys/rotate")).json()
    assert rotated["current"] == keys["next"]
    assert rotated["next"] not in keys.values()
    assert (await http.get("/v2/keys")).json() == rotated


async def test_keys_are_apart_by_tenant(http: AsyncClient, other_http: AsyncClient) -> None:
    """Nobody can sign for another tenant."""
    ours, theirs = (await http.get("/v2/keys")).json(), (await other_http.get("/v2/keys")).json()
    assert not set(ours.values()) & set(theirs.values())
    await other_http.post("/v2/keys/rotate")
    assert (await http.get("/v2/keys")).json() == ours
