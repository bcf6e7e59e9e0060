"""Documents: named texts with a version."""

import asyncio

from batchflow.core.posts import Document
from tests.conformance.wire import WireCases, WireScene


class DocumentCases(WireCases):
    """`put_document`, `document`, `documents`, `drop_document`."""

    async def test_put_document_adds_one(self, wire: WireScene) -> None:
        """Its version is 1."""
        made = Document("acme/a", '{"ü":1}', 1, wire.now, wire.now)
        assert await wire.wire.put_document("group", "acme/a", '{"ü":1}') == made
        assert await wire.wire.document("group", "acme/a") == made

    async def test_put_document_replaces_the_text(self, wire: WireScene) -> None:
        """Its version grows, even with the same text."""
        made = wire.now
        await wire.wire.put_document("group", "a", "1")
        wire.clock.advance("1s")
        assert await wire.wire.put_document("group", "a", "2") == Document("a", "2", 2, made, wire.now)
        assert await wire.wire.put_document("group", "a", "2") == Document("a", "2", 3, made, wire.now)

    async def test_put_document_changes_the_expected_version_only(self, wire: WireScene) -> None:
        """Another one stays as it is; 0 means that there is none."""
        assert await wire.wire.put_document("keys", "a", "x", expected=1) is None
        assert await wire.wire.document("keys", "a") is None
        first = await wire.wire.put_document("keys", "a", "1", expected=0)
        assert first is not None
        assert await wire.wire.put_document("keys", "a", "x", expected=0) is None
        second = await wire.wire.put_document("keys", "a", "2", expected=first.version)
        assert second is not None
        assert await wire.wire.put_document("keys", "a", "x", expected=first.version) is None
        assert await wire.wire.document("keys", "a") == second

    async def test_put_document_at_the_same_moment_is_done_by_one(self, wire: WireScene) -> None:
        """Of all that expect the same version."""
        answers = await asyncio.gather(
            *(wire.wire.put_document("keys", "a", str(number), expected=0) for number in range(10))
        )
        (made,) = [answer for answer in answers if answer is not None]
        assert await wire.wire.document("keys", "a") == made

    async def test_document_is_found_by_kind_and_name(self, wire: WireScene) -> None:
        """One that does not exist is None."""
        await wire.wire.put_document("group", "a", "1")
        assert await wire.wire.document("group", "b") is None
        assert await wire.wire.document("keys", "a") is None

    async def test_documents_are_those_of_a_prefix_by_name(self, wire: WireScene) -> None:
        """A page at a time, each after the last name before it."""
        for name in ("b/2", "a/x", "b/1", "b/ü", "b", "c/1", "b/10"):
            await wire.wire.put_document("group", name, f'"{name}"')
        await wire.wire.put_document("keys", "b/3", "{}")
        first = await wire.wire.documents("group", prefix="b/", limit=3)
        second = await wire.wire.documents("group", prefix="b/", after=first[-1].name, limit=3)
        assert [it.name for it in first] == ["b/1", "b/10", "b/2"]
        assert [(it.name, it.text, it.version) for it in second] == [("b/ü", '"b/ü"', 1)]

    async def test_documents_without_a_prefix_are_all_of_the_kind(self, wire: WireScene) -> None:
        """By name; none of a kind without any."""
        for name in ("b", "a"):
            await wire.wire.put_document("token", name, "{}")
        assert [it.name for it in await wire.wire.documents("token")] == ["a", "b"]
        assert list(await wire.wire.documents("group")) == []

    async def test_drop_document_removes_it(self, wire: WireScene) -> None:
        """False if there is none; a later one begins anew."""
        await wire.wire.put_document("token", "a", "1")
        await wire.wire.put_document("token", "a", "2")
        assert await wire.wire.drop_document("token", "a")
        assert await wire.wire.document("token", "a") is None
        assert list(await wire.wire.documents("token")) == []
        assert not await wire.wire.drop_document("token", "a")
        again = await wire.wire.put_document("token", "a", "3", expected=0)
        assert again is not None
        assert again.version == 1
