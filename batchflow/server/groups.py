"""The routes of URL groups, which are topics in paths: add and remove endpoints, list, show, delete."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeAlias

from fastapi import APIRouter, Response

from batchflow.core.posts import Document
from batchflow.errors import InputError
from batchflow.server.context import Context, ServerContext, Tenant
from batchflow.server.wire_model import WireModel
from batchflow.wire.publish_headers import check_name, check_url
from batchflow.wire.url_groups import (
    GroupEndpoint,
    endpoints_text,
    group_document,
    no_group,
    read_endpoints,
    with_endpoints,
)

router = APIRouter(prefix="/v2/topics", tags=["URL groups"])

_PAGE = 1000

_Change: TypeAlias = Callable[[list[GroupEndpoint]], Sequence[GroupEndpoint]]


class EndpointInfo(WireModel):
    """An endpoint of a group."""

    url: str
    name: str | None = None


class AddEndpointsRequest(WireModel):
    """The endpoints to add. One with the URL or the name of another one takes its place."""

    endpoints: list[EndpointInfo]


class EndpointSelector(WireModel):
    """The endpoint with this URL, or the one with this name."""

    url: str | None = None
    name: str | None = None


class RemoveEndpointsRequest(WireModel):
    """The endpoints to remove."""

    endpoints: list[EndpointSelector]


class GroupInfo(WireModel):
    """A URL group. Times are in ms."""

    name: str
    created_at: int
    updated_at: int
    endpoints: list[EndpointInfo]


@router.post("/{name}/endpoints", summary="Add endpoints to a group", response_class=Response)
async def add_endpoints(context: Context, tenant: Tenant, name: str, request: AddEndpointsRequest) -> Response:
    """The group is made if it does not exist. Safe to repeat."""
    check_name(name, "name")
    added = [GroupEndpoint(check_url(it.url, "url"), _endpoint_name(it.name)) for it in request.endpoints]
    if not added:
        raise InputError("there are no endpoints in the request; name at least one", field="endpoints")
    await _change(context, tenant, name, lambda known: with_endpoints(known, added))
    return Response()


@router.delete("/{name}/endpoints", summary="Remove endpoints from a group", response_class=Response)
async def remove_endpoints(context: Context, tenant: Tenant, name: str, request: RemoveEndpointsRequest) -> Response:
    """A group without endpoints does not exist. Safe to repeat while it has others."""
    urls, names = {it.url for it in request.endpoints}, {it.name for it in request.endpoints} - {None}

    def without(known: list[GroupEndpoint]) -> Sequence[GroupEndpoint]:
        if not known:
            raise no_group(name)
        return [it for it in known if it.url not in urls and it.name not in names]

    await _change(context, tenant, name, without)
    return Response()


@router.get("", summary="The groups, by name", response_model_exclude_none=True)
async def list_groups(context: Context, tenant: Tenant) -> list[GroupInfo]:
    """All of them."""
    return [group async for group in _groups(context, tenant)]


@router.get("/{name}", summary="A group", response_model_exclude_none=True)
async def get_group(context: Context, tenant: Tenant, name: str) -> GroupInfo:
    """With its endpoints."""
    found = await context.wire.document("group", group_document(tenant, name))
    group = None if found is None else _info(found, tenant)
    if group is None:
        raise no_group(name)
    return group


@router.delete("/{name}", summary="Delete a group", response_class=Response)
async def delete_group(context: Context, tenant: Tenant, name: str) -> Response:
    """Nothing happens if it does not exist. What was published to it is delivered."""
    await context.wire.drop_document("group", group_document(tenant, name))
    return Response()


@router.patch("/{name}", summary="Default headers are refused", response_class=Response)
async def set_headers(name: str) -> Response:
    """Publish with these headers instead."""
    raise InputError(
        f"default headers of the URL group '{name}' are not supported; send the headers with each publish request"
    )


async def _change(context: ServerContext, tenant: str, group: str, change: _Change) -> None:
    """Change the endpoints of a group, which has none before it exists. Of changes at the same time none is lost."""
    name, changed = group_document(tenant, group), None
    while changed is None:
        found = await context.wire.document("group", name)
        endpoints = change([] if found is None else read_endpoints(found.text))
        expected = 0 if found is None else found.version
        # A group without endpoints stays as a document: to remove it could remove what is added meanwhile.
        changed = await context.wire.put_document("group", name, endpoints_text(endpoints), expected=expected)


async def _groups(context: ServerContext, tenant: str) -> AsyncIterator[GroupInfo]:
    prefix, after = group_document(tenant, ""), ""
    while page := await context.wire.documents("group", prefix=prefix, after=after, limit=_PAGE):
        after = page[-1].name
        for document in page:
            if (group := _info(document, tenant)) is not None:
                yield group


def _info(document: Document, tenant: str) -> GroupInfo | None:
    """The JSON of a group; None for one without endpoints."""
    endpoints = [EndpointInfo(url=it.url, name=it.name) for it in read_endpoints(document.text)]
    if not endpoints:
        return None
    return GroupInfo(
        name=document.name.removeprefix(group_document(tenant, "")),
        created_at=document.created_at,
        updated_at=document.updated_at,
        endpoints=endpoints,
    )


def _endpoint_name(name: str | None) -> str | None:
    return check_name(name, "name") if name else None
