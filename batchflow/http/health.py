"""The endpoints that load balancers and probes ask: can this process answer, and can it reach its store."""

import asyncio

from fastapi import APIRouter, Request, Response

from batchflow.core.ports import Client
from batchflow.errors import StoreError
from batchflow.http.access import Access
from batchflow.http.errors import json_response
from batchflow.http.openapi import error_responses
from batchflow.http.schemas.workers import HealthInfo

_LONGEST_READ_S = 2.0


class HealthEndpoints:
    """Tells everybody if the app is well, and operators why not."""

    def __init__(self, client: Client, access: Access) -> None:
        self._client = client
        self._access = access

    def add_routes(self, router: APIRouter) -> None:
        """Add the routes."""
        router.add_api_route(
            "/health",
            self.ready,
            methods=["GET"],
            response_model=HealthInfo,
            name="health:ready",
            summary="Ready: the app has started, and its store answers",
            tags=["health"],
            responses={
                **error_responses(422),
                503: {"model": HealthInfo, "description": "the app has not started, or its store is away"},
            },
        )
        router.add_api_route(
            "/health/live",
            self.live,
            methods=["GET"],
            response_model=HealthInfo,
            name="health:live",
            summary="Alive: the process answers",
            tags=["health"],
            responses=error_responses(422),
        )

    async def ready(self, request: Request) -> Response:
        """For readiness probes and load balancers. Operators also get the `reason`, and the number of workers."""
        shown = self._access.is_operator(request)
        try:
            async with asyncio.timeout(_LONGEST_READ_S):
                workers = await self._client.store.workers()
        except (StoreError, TimeoutError) as error:
            reason = str(error) or f"the store has not answered for {_LONGEST_READ_S:g} s"
            return json_response(HealthInfo(status="unavailable", reason=reason if shown else None), 503)
        working = sum(not it.lost for it in workers)
        return json_response(HealthInfo(status="ok", workers=working if shown else None))

    async def live(self) -> Response:
        """For liveness probes: to restart the process would not bring back a store that is away."""
        return json_response(HealthInfo(status="ok"))
