"""Tokens: shown once, kept as hashes, refused once they are revoked."""

from base64 import b64decode

import pytest
from pydantic_core import from_json

from batchflow.engine.engine import Engine
from batchflow.errors import InputError
from batchflow.server.app import QStashServer
from batchflow.server.context import wire_store
from batchflow.server.tokens import TokenStore, token_id
from batchflow.testing.clock import ManualClock


async def test_a_token_is_readable_by_the_sdks(server: QStashServer) -> None:
    """The SDKs of workflows read the UserID from it."""
    fields = from_json(b64decode(await server.tokens.create("ours")))
    assert fields["UserID"] == "ours"
    assert len(fields["Password"]) == 40


async def test_no_token_is_kept_or_listed(server: QStashServer, engine: Engine, token: str) -> None:
    """Neither the store nor the list has it."""
    kept = await wire_store(engine).documents("token")
    assert [token in repr([*it]) for it in kept] == [False]
    (listed,) = await server.tokens.list()
    assert (listed.id, listed.tenant) == (token_id(token), "ours")
    assert token not in repr(listed)


async def test_a_revoked_token_is_refused_at_once(server: QStashServer, token: str) -> None:
    """In the process that revokes it."""
    assert await server.tokens.of_token(token) == "ours"
    assert await server.tokens.revoke(token_id(token))
    assert await server.tokens.of_token(token) is None
    assert not await server.tokens.revoke(token_id(token))


async def test_a_token_revoked_elsewhere_is_refused_within_seconds(
    server: QStashServer, engine: Engine, clock: ManualClock, token: str
) -> None:
    """Another process knows it for 5 s at most."""
    assert await server.tokens.of_token(token) == "ours"
    await TokenStore(engine).revoke(token_id(token))
    clock.advance(5)
    assert await server.tokens.of_token(token) is None


async def test_a_part_of_an_id_revokes_nothing(server: QStashServer, token: str) -> None:
    """Nor does an empty one."""
    assert not await server.tokens.revoke("")
    assert not await server.tokens.revoke(token_id(token)[:8])
    assert await server.tokens.of_token(token) == "ours"


async def test_tokens_of_a_tenant_are_several(server: QStashServer, token: str, other_token: str) -> None:
    """The oldest first, each with its tenant."""
    again = await server.tokens.create("ours")
    assert again != token
    assert sorted(it.tenant for it in await server.tokens.list()) == ["ours", "ours", "theirs"]


@pytest.mark.parametrize("tenant", ["", "a.b", "a/b", "a b", "ä", "x" * 65, "a\n"])
async def test_tenants_have_plain_names(server: QStashServer, tenant: str) -> None:
    """The names of flow keys and groups begin with them."""
    with pytest.raises(InputError, match="^'tenant' cannot be .*; write 1 to 64 letters"):
        await server.tokens.create(tenant)
