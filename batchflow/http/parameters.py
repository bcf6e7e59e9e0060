"""The parameters of a request's URL: those that a route does not take are refused."""

from collections.abc import Iterator
from typing import Any

from fastapi import Request
from fastapi.routing import iter_route_contexts
from fastapi.security import APIKeyQuery
from pydantic import BaseModel

from batchflow.core.spelling import did_you_mean
from batchflow.errors import InputError
from batchflow.http.refusals import RefusingRoute


class OpenRoute(RefusingRoute):
    """A route whose requests may bring any parameters: third parties send them."""


async def known_parameters(request: Request) -> None:
    """Check the names of a request's parameters, as a dependency of all routes.

    What dependencies of the including app take is known too, where they declare it.

    Raises:
        InputError: one is unknown. Left out of account, it might be what was to narrow the request down.
    """
    route = request.scope["route"]
    if isinstance(route, OpenRoute):
        return
    known = set(_names(route.dependant))
    if known.issuperset(request.query_params):
        return
    # The route is the router's; what was added where it is included stands there.
    for included in iter_route_contexts(getattr(request.scope.get("app"), "routes", ())):
        if included.original_route is route:
            known.update(_names(included.dependant))
    for name in request.query_params:
        if name not in known:
            choice = did_you_mean(name, known) if known else "; this route takes none in its URL"
            raise InputError(f"unknown parameter '{name}'{choice}", field=name)


def _names(dependant: Any) -> Iterator[str]:
    for parameter in dependant.query_params:
        model = parameter.field_info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield from (field.alias or name for name, field in model.model_fields.items())
        else:
            yield parameter.alias
    if isinstance(dependant.call, APIKeyQuery):
        yield dependant.call.model.name
    for part in dependant.dependencies:
        yield from _names(part)
