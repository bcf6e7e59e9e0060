"""URL groups: their form as documents of a store, and the endpoints to which a post to a group is sent."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pydantic_core import from_json, to_json

from batchflow.core.wire_store import Documents
from batchflow.errors import NotFoundError


class GroupEndpoint(NamedTuple):
    """An endpoint of a group: its URL, and its name if it has one. Both are unique in a group."""

    url: str
    name: str | None = None


def group_document(tenant: str, group: str) -> str:
    """The name of the document of a group."""
    return f"{tenant}/{group}"


def read_endpoints(text: str) -> list[GroupEndpoint]:
    """The endpoints of the group with this text, in their order."""
    return [GroupEndpoint(*it) for it in from_json(text)]


def endpoints_text(endpoints: Sequence[GroupEndpoint]) -> str:
    """The text of a group with these endpoints."""
    return to_json(list(endpoints)).decode()


def with_endpoints(known: Iterable[GroupEndpoint], added: Iterable[GroupEndpoint]) -> list[GroupEndpoint]:
    """The endpoints of a group to which others are added, of which each replaces those with its URL or its name."""
    endpoints = list(known)
    for new in added:
        same = [it for it in endpoints if it.url == new.url or (new.name is not None and it.name == new.name)]
        place = endpoints.index(same[0]) if same else len(endpoints)
        name = same[0].name if same and new.name is None else new.name
        endpoints = [it for it in endpoints if it not in same]
        endpoints.insert(place, GroupEndpoint(new.url, name))
    return endpoints


async def endpoints_of_group(store: Documents, tenant: str, group: str) -> list[GroupEndpoint]:
    """The endpoints of a group of a tenant.

    Raises:
        NotFoundError: the group does not exist.
    """
    document = await store.document("group", group_document(tenant, group))
    endpoints = [] if document is None else read_endpoints(document.text)
    if not endpoints:
        raise no_group(group)
    return endpoints


def no_group(group: str) -> NotFoundError:
    """The error for a group that does not exist."""
    return NotFoundError(f"there is no URL group '{group}'; add endpoints with POST /v2/topics/{group}/endpoints")
