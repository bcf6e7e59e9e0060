"""Sends to a server what the SDK of an endpoint sends for a workflow run."""

import json
from base64 import b64decode
from collections.abc import Mapping
from itertools import count
from typing import Any

from httpx import AsyncClient, Response

URL = "https://app.example/flow"
FEATURES = "LazyFetch,InitialBody,WF_DetectTrigger,WF_TriggerOnConfig"


def run_headers(run: str, url: str, *, init: bool = False) -> dict[str, str]:
    """The headers of a request for a run."""
    return {
        "Upstash-Workflow-Init": str(init).lower(),
        "Upstash-Workflow-RunId": run,
        "Upstash-Workflow-Url": url,
        "Upstash-Workflow-Sdk-Version": "1",
        "Upstash-Feature-Set": FEATURES,
        "Upstash-Forward-Upstash-Workflow-Sdk-Version": "1",
        "Content-Type": "application/json",
    }


class FlowEndpoint:
    """An endpoint with a client of a server."""

    def __init__(self, http: AsyncClient, url: str = URL) -> None:
        self._http = http
        self._url = url
        self._waits = count(1)

    async def begin(self, run: str = "wfr_1", body: str = "", **headers: str) -> str:
        """Begin a run with `Upstash-` headers; its id."""
        named = {f"Upstash-{name.replace('_', '-')}": value for name, value in headers.items()}
        response = await self._batch({**run_headers(run, self._url, init=True), **named}, body)
        assert response.status_code in (201, 202), response.text
        return run

    async def step(self, run: str = "wfr_1", id: int = 1, **headers: str) -> Response:
        """Submit a step."""
        named = {f"Upstash-{name.replace('_', '-')}": value for name, value in headers.items()}
        step = {"stepId": id, "stepName": "s", "stepType": "Run", "out": "1", "concurrent": 1}
        return await self._batch({**run_headers(run, self._url), **named}, json.dumps(step, separators=(",", ":")))

    async def wait(self, event: str, run: str = "wfr_1", timeout: str = "7d", **fields: Any) -> Response:
        """Wait for an event, whose name is a part of the path, each time with the next step."""
        lists = {name: [value] for name, value in run_headers(run, self._url).items()}
        body: Mapping[str, Any] = {
            "url": self._url,
            "timeout": timeout,
            "timeoutUrl": self._url,
            "timeoutHeaders": {**lists, "Upstash-Workflow-Runid": [run], "Upstash-Workflow-CallType": ["step"]},
            "step": {"stepId": next(self._waits), "stepType": "Wait", "stepName": "w", "concurrent": 1},
            **fields,
        }
        return await self._http.post(f"/v2/wait/{event}", json=body, headers=run_headers(run, self._url))

    async def invoke(self, child: str, run: str = "wfr_1", **fields: Any) -> Response:
        """Begin a run for which another one waits."""
        body = {
            "body": "hello",
            "headers": {name: [value] for name, value in run_headers(run, self._url).items()},
            "workflowRunId": run,
            "workflowUrl": self._url,
            "step": {"stepId": 1, "stepType": "Invoke", "stepName": "i", "concurrent": 1},
            **fields,
        }
        headers = {**run_headers(child, f"{self._url}-child", init=True), "Upstash-Workflow-Invoke": "true"}
        return await self._http.post(f"/v2/publish/{self._url}-child", json=body, headers=headers)

    async def steps(self, run: str = "wfr_1") -> list[Any]:
        """The bodies of the steps of a run that goes on, the first as a text."""
        response = await self._http.get(f"/v2/workflows/runs/{run}")
        assert response.status_code == 200, response.text
        first, *rest = [b64decode(it["body"]).decode() for it in response.json()]
        return [first, *map(json.loads, rest)]

    async def is_live(self, run: str = "wfr_1") -> bool:
        """True if the run goes on."""
        return (await self._http.get(f"/v2/workflows/runs/{run}")).status_code == 200

    async def _batch(self, headers: Mapping[str, str], body: str) -> Response:
        item = {"destination": self._url, "headers": {name.lower(): it for name, it in headers.items()}, "body": body}
        return await self._http.post("/v2/batch", json=[item])
