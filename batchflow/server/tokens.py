"""The tokens of tenants. A token is shown once, when it is made; the store keeps its hash."""

import re
from base64 import b64encode
from hashlib import sha256
from typing import NamedTuple

from pydantic_core import from_json, to_json

from batchflow.engine.engine import Engine
from batchflow.errors import InputError
from batchflow.server.context import wire_store

_TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PASSWORD_BYTES = 20
_ID_LENGTH = 16
_KNOWN_MS = 5_000
_MOST_KNOWN = 10_000
_PAGE = 1000


class TokenInfo(NamedTuple):
    """A token as it may be shown: `id` is the beginning of its hash; `created_at` is in ms."""

    id: str
    tenant: str
    created_at: int


class TokenStore:
    """Makes, revokes and knows the tokens of tenants, which are kept in the store of an engine.

    What another process revokes is refused here some seconds later; what this object revokes, at once.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, tuple[str, int]] = {}
        self._revoked = 0

    async def create(self, tenant: str) -> str:
        """Make a token of a tenant, and return it; nobody can read it again.

        Raises:
            InputError: the tenant has other characters than letters, digits, "-" and "_".
        """
        if not _TENANT.fullmatch(tenant):
            raise InputError(
                option="tenant", got=repr(tenant), want="write 1 to 64 letters, digits, '-' and '_', such as 'default'"
            )
        password = self._engine.entropy.bytes(_PASSWORD_BYTES).hex()
        # Official SDKs read the UserID from it for the URLs of webhooks.
        token = b64encode(to_json({"UserID": tenant, "Password": password})).decode()
        text = to_json({"tenant": tenant, "created_at": self._engine.now()}).decode()
        await wire_store(self._engine).put_document("token", _hash(token), text, expected=0)
        return token

    async def revoke(self, id: str) -> bool:
        """Revoke the token with this id, which `list` shows; False if it is unknown."""
        if len(id) < _ID_LENGTH:
            return False
        store = wire_store(self._engine)
        found = await store.documents("token", prefix=id, limit=1)
        dropped = [await store.drop_document("token", it.name) for it in found]
        self._revoked += 1
        self._known.clear()
        return any(dropped)

    async def list(self) -> list[TokenInfo]:
        """The tokens that are valid, as they may be shown."""
        store, tokens, after = wire_store(self._engine), list[TokenInfo](), ""
        while page := await store.documents("token", after=after, limit=_PAGE):
            after = page[-1].name
            tokens += [TokenInfo(it.name[:_ID_LENGTH], **from_json(it.text)) for it in page]
        return sorted(tokens, key=lambda it: it.created_at)

    async def of_token(self, token: str) -> str | None:
        """The tenant of a token; None for one that is unknown or was revoked."""
        name, now, revoked = _hash(token), self._engine.now(), self._revoked
        tenant, read_at = self._known.get(name, (None, 0))
        if tenant is not None and 0 <= now - read_at < _KNOWN_MS:
            return tenant
        document = await wire_store(self._engine).document("token", name)
        if document is None:
            return None
        tenant = str(from_json(document.text)["tenant"])
        # A token that is revoked meanwhile must not be kept as known.
        if revoked == self._revoked:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[name] = tenant, now
        return tenant


def token_id(token: str) -> str:
    """The id of a token, by which it is listed and revoked."""
    return _hash(token)[:_ID_LENGTH]


def _hash(token: str) -> str:
    return sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
