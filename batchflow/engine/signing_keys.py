"""The keys that sign the requests of a tenant's posts, and their rotation."""

from asyncio import Lock
from collections.abc import Callable
from typing import NamedTuple

from pydantic_core import from_json, to_json

from batchflow.core.ports import Entropy
from batchflow.core.wire_store import Documents

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_LENGTH = 28
_KEPT_MS = 5_000


class KeyPair(NamedTuple):
    """The key that signs now, and the one that follows it with the next rotation: receivers accept both."""

    current: str
    next: str

    def __repr__(self) -> str:
        return "KeyPair()"


class SigningKeys:
    """The keys of all tenants, which the store keeps. A rotation reaches other processes within some seconds."""

    def __init__(self, store: Documents, entropy: Entropy, now: Callable[[], int]) -> None:
        self._store = store
        self._entropy = entropy
        self._now = now
        self._kept: dict[str, tuple[KeyPair, int]] = {}
        self._lock = Lock()

    async def of(self, tenant: str) -> KeyPair:
        """The keys of a tenant, made with the first use."""
        pair = self._look_up(tenant)
        if pair is None:
            # One reads for all who wait.
            async with self._lock:
                pair = self._look_up(tenant) or self._keep(tenant, (await self._read(tenant))[0])
        return pair

    async def rotate(self, tenant: str) -> KeyPair:
        """Make the next key the current one, and a new one the next; returns both."""
        while True:
            pair, version = await self._read(tenant)
            rotated = KeyPair(pair.next, self._new_key())
            if await self._store.put_document("keys", tenant, _text(rotated), expected=version) is not None:
                return self._keep(tenant, rotated)

    def _look_up(self, tenant: str) -> KeyPair | None:
        found = self._kept.get(tenant)
        return found[0] if found is not None and abs(self._now() - found[1]) < _KEPT_MS else None

    def _keep(self, tenant: str, pair: KeyPair) -> KeyPair:
        self._kept[tenant] = pair, self._now()
        return pair

    async def _read(self, tenant: str) -> tuple[KeyPair, int]:
        """The keys in the store, and their version."""
        while (found := await self._store.document("keys", tenant)) is None:
            new = KeyPair(self._new_key(), self._new_key())
            # Nothing happens if another process has made them meanwhile.
            await self._store.put_document("keys", tenant, _text(new), expected=0)
        return KeyPair(**from_json(found.text)), found.version

    def _new_key(self) -> str:
        return "sig_" + "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in self._entropy.bytes(_LENGTH))


def _text(pair: KeyPair) -> str:
    return to_json(pair._asdict()).decode()
