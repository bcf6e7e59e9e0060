"""The signing keys of tenants: made when missing, kept for some seconds, rotated."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from batchflow.core.posts import Document, DocumentKind
from batchflow.engine.signing_keys import SigningKeys
from batchflow.testing import FixedEntropy, ManualClock


class MemoryDocuments:
    """The documents of a store, and the number of times that they were read."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], Document] = {}
        self.reads = 0

    async def put_document(
        self, kind: DocumentKind, name: str, text: str, *, expected: int | None = None
    ) -> Document | None:
        await asyncio.sleep(0)
        found = self.kept.get((kind, name))
        version = 0 if found is None else found.version
        if expected is not None and version != expected:
            return None
        self.kept[kind, name] = document = Document(name, text, version + 1, 0, 0)
        return document

    async def document(self, kind: DocumentKind, name: str) -> Document | None:
        self.reads += 1
        await asyncio.sleep(0)
        return self.kept.get((kind, name))

    async def documents(self, kind: DocumentKind, **options: Any) -> Sequence[Document]:
        return ()

    async def drop_document(self, kind: DocumentKind, name: str) -> bool:
        return False


def keys_of(store: MemoryDocuments, clock: ManualClock, seed: int = 0) -> SigningKeys:
    return SigningKeys(store, FixedEntropy(seed), clock.now)


# The keys of a tenant are made with the first use, look as those of QStash, and are the same for all who ask.
async def test_keys_are_made_once_for_each_tenant() -> None:
    store, clock = MemoryDocuments(), ManualClock()
    one, other = keys_of(store, clock, 1), keys_of(store, clock, 2)
    pairs = await asyncio.gather(one.of("a"), other.of("a"), one.of("a"), other.of("a"))
    assert len(set(pairs)) == 1
    assert re.fullmatch(r"sig_[A-Za-z0-9]{28}", pairs[0].current)
    assert len({*pairs[0], *await one.of("b")}) == 4


# A rotation makes the next key the current one; of rotations at the same time each counts.
async def test_a_rotation_makes_the_next_key_the_current_one() -> None:
    store, clock = MemoryDocuments(), ManualClock()
    keys = keys_of(store, clock)
    before = await keys.of("a")
    after = await keys.rotate("a")
    assert (after.current, await keys.of("a")) == (before.next, after)
    assert after.next not in before
    both = await asyncio.gather(keys.rotate("a"), keys_of(store, clock, 7).rotate("a"))
    assert len({it.current for it in both}) == 2


# A rotation that another process has made is known five seconds later; until then the store is not asked.
async def test_keys_are_kept_for_five_seconds() -> None:
    store, clock = MemoryDocuments(), ManualClock()
    keys = keys_of(store, clock)
    before = await keys.of("a")
    rotated = await keys_of(store, clock, 7).rotate("a")
    reads = store.reads
    clock.advance(4)
    assert (await keys.of("a"), store.reads) == (before, reads)
    clock.advance(1)
    assert await keys.of("a") == rotated


# No key is in a repr.
async def test_keys_are_in_no_repr() -> None:
    pair = await keys_of(MemoryDocuments(), ManualClock()).of("a")
    assert pair.current not in repr(pair)
