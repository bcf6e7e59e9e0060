"""Workflow runs in the store of a server, as the requests of an SDK and the deliveries of a worker make them."""

import json
from itertools import count
from typing import Any

from batchflow.core.message import Claim
from batchflow.core.posts import PUSH_DESTINATION, LogEntry, LogState, Post
from batchflow.core.settlement import EndRun, Log, dead, done
from batchflow.core.wire_runs import RunEntry, WireRun
from batchflow.engine.engine import Engine
from batchflow.server.context import wire_store
from batchflow.testing.clock import ManualClock
from batchflow.wire.callbacks import Outcome
from batchflow.wire.envelope import Envelope
from batchflow.wire.messages import response_detail
from batchflow.wire.publish import parse_publish
from batchflow.wire.run_posts import begin_post, failure_id, failure_post, run_post

FLOW_URL = "https://app.example/flow"
_FEATURES = "LazyFetch,InitialBody,WF_DetectTrigger,WF_TriggerOnConfig"


class FailingRuns:
    """Begins runs, records their steps, and lets deliveries end; a second is between two requests."""

    def __init__(self, engine: Engine, clock: ManualClock) -> None:
        self.wire = wire_store(engine)
        self._engine = engine
        self._clock = clock
        self._ids = count(1)
        self._claims: dict[str, Claim] = {}

    async def begin(
        self, run: str = "wfr_1", *, url: str = FLOW_URL, body: bytes = b"hello", tenant: str = "ours", **headers: str
    ) -> str:
        """Begin a run with these `Upstash-` headers; returns the id of its first post."""
        given = {"Workflow_Init": "true", "Forward_Upstash_Workflow_Sdk_Version": "1", **headers}
        return await self._post(begin_post(self._request(run, url, body, tenant, given), self._new_id))

    async def step(self, step: Any, run: str = "wfr_1", *, tenant: str = "ours", **headers: str) -> str:
        """Record a step; returns the id of the post that delivers it."""
        given = {"Workflow_Init": "false", **headers}
        body = step if isinstance(step, bytes) else json.dumps(step).encode()
        request = self._request(run, FLOW_URL, body, tenant, given)
        return await self._post(run_post(request, await self.run(run, tenant), self._new_id))

    async def run(self, run: str = "wfr_1", tenant: str = "ours") -> WireRun:
        """A run."""
        found = await self.wire.wire_run(tenant, run)
        assert found is not None
        return found

    async def delivered(self, *ids: str) -> None:
        """The posts are delivered."""
        for id in ids:
            claim = await self._claimed(id)
            await self._engine.store.settle(done(claim, "null", (Log((self._entry(claim, "DELIVERED", 200),)),)))

    async def fail(self, id: str, run: str | None = "wfr_1") -> None:
        """A post fails for good, and its run with it; without a run nothing else ends."""
        claim = await self._claimed(id)
        effects: list[Any] = [Log((self._entry(claim, "ERROR", 500), self._entry(claim, "FAILED", 500)))]
        if run is not None:
            tenant = Envelope.of_text(claim.body).tenant
            effects.append(EndRun(tenant, run, "RUN_FAILED", posts=await self._failure_posts(claim, run, tenant)))
        await self._engine.store.settle(dead(claim, "answered 500", effects=tuple(effects)))

    async def failed(self, run: str = "wfr_1", **headers: Any) -> str:
        """A run that has failed at once; returns the id of its entry in the DLQ."""
        id = await self.begin(run, **headers)
        await self.fail(id, run)
        return id

    async def waiting(self, run: str | None = None) -> dict[str, Envelope]:
        """The posts that are due, of this run or of all, by id."""
        await self._claim()
        found = {id: Envelope.of_text(it.body) for id, it in self._claims.items()}
        return {id: it for id, it in found.items() if run is None or (it.run is not None and it.run.run == run)}

    async def entries(self, run: str, message: str | None = None) -> list[str]:
        """The entries of a run, or those that a post of it delivers."""
        found: Any = await self.wire.run_entries("ours", run)
        if message is not None:
            found = await self.wire.claim_entry("ours", run, message)
        return [it.body.text for it in found or ()]

    async def _failure_posts(self, claim: Claim, run: str, tenant: str) -> tuple[Post, ...]:
        outcome = Outcome(status=500, body=b"sorry", dlq_id=claim.id)
        first: RunEntry = (await self.wire.run_entries(tenant, run))[0]
        envelope, found = Envelope.of_text(claim.body), await self.run(run, tenant)
        post = failure_post(envelope, claim.id, outcome, found, first.body, now=self._clock.now())
        return () if post is None else (post,)

    def _request(self, run: str, url: str, body: bytes, tenant: str, headers: dict[str, str]) -> Any:
        named = {"Workflow_RunId": run, "Workflow_Url": url, "Feature_Set": _FEATURES, **headers}
        pairs = [(f"Upstash-{name.replace('_', '-')}", value) for name, value in named.items()]
        now = self._clock.advance("1s")
        return parse_publish(url, pairs, body, tenant=tenant, now=now, caller_ip="10.0.0.1")

    async def _post(self, post: Post) -> str:
        (posted,) = await self.wire.post([post])
        assert posted.refused is None
        return posted.id

    async def _claim(self) -> None:
        await self._engine.store.register("worker", 30_000)
        found = (await self._engine.store.claim("worker", [PUSH_DESTINATION], 100)).claims
        self._claims.update((it.id, it) for it in found)

    async def _claimed(self, id: str) -> Claim:
        await self._claim()
        return self._claims.pop(id)

    def _entry(self, claim: Claim, state: LogState, status: int) -> LogEntry:
        detail = response_detail(status, (("x-why", "because"),), b"sorry", error=None if status == 200 else "failed")
        return LogEntry(claim.id, Envelope.of_text(claim.body).tenant, state, self._clock.now(), detail)

    def _new_id(self) -> str:
        return f"msg_{next(self._ids)}"


def plan(target: int, of: int = 2) -> dict[str, Any]:
    """The plan of a member of a parallel group."""
    return {"stepId": 0, "stepName": f"step {target}", "stepType": "Run", "concurrent": of, "targetStep": target}


def result(number: int, concurrent: int = 1, out: str = "1") -> dict[str, Any]:
    """The result of a step."""
    return {"stepId": number, "stepName": f"step {number}", "stepType": "Run", "out": out, "concurrent": concurrent}


def callback_id(dlq_id: str, attempt: int = 0) -> str:
    """The id of the failure callback of an entry of the DLQ."""
    return failure_id(dlq_id, attempt)
