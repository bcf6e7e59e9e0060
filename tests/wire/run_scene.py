"""A workflow run as a test tells it, and its log."""

import json
from dataclasses import replace
from typing import Any

from batchflow.core.call import Body
from batchflow.core.posts import LogEntry, LogState
from batchflow.core.wire_runs import RunEntry, RunMember, WireRun, WireRunState
from batchflow.wire.envelope import RunPart
from batchflow.wire.messages import message_json, response_detail
from batchflow.wire.publish import parse_publish
from batchflow.wire.run_config import RunConfig
from batchflow.wire.run_history import FailureCallback, RunHistory
from batchflow.wire.run_log import run_json
from tests.wire.requests import NOW

FLOW_URL = "https://app.example/flow"
RUN = "wfr_1"


class Told:
    """A run, as a test tells it: its posts get the ids `m0`, `m1`, … in their order."""

    def __init__(self, *, state: WireRunState = "RUN_STARTED", initial: str = "hello", **config: Any) -> None:
        self.state: WireRunState = state
        self.result: str | None = None
        self.invoker: str | None = None
        self.config = RunConfig(**config)
        self.entries: list[RunEntry] = []
        self.members: list[RunMember] = []
        self.created: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, list[LogEntry]] = {}
        self.entry(initial)

    def post(self, entry: int, *, url: str = FLOW_URL, call_type: Any = "step", about: Any = None, **given: str) -> str:
        """A post of the run, with these `Upstash-` headers; 0 for one that is not an entry."""
        id = f"m{len(self.members)}"
        named = {f"upstash-{name.replace('_', '-')}": value for name, value in given.items()}
        headers = {"upstash-forward-x-user": "17", **named}
        read = parse_publish(url, headers.items(), b"", tenant="t", now=NOW).envelope
        part = RunPart(run=RUN, url=FLOW_URL, created_at=NOW, call_type=call_type)
        envelope = replace(read, redact=self.config.redact, run=part)
        self.created[id] = {**message_json(envelope, id), **(about or {})}
        self.members.append(RunMember(id, entry, NOW + len(self.members)))
        self.logs[id] = [LogEntry(id, "t", "CREATED", NOW)]
        return id

    def entry(self, body: str | dict[str, Any], **headers: str) -> str:
        """An entry, with the post that delivers it."""
        text = body if isinstance(body, str) else json.dumps(body)
        id = self.post(len(self.entries) + 1, **headers)
        self.entries.append(RunEntry(id, Body(text=text), NOW + len(self.members) - 1))
        return id

    def step(self, number: int, out: Any = "1", *, concurrent: int = 1, type: str = "Run", **fields: Any) -> str:
        step = {"stepId": number, "stepName": f"step {number}", "stepType": type, "concurrent": concurrent, **fields}
        return self.entry(step if out is None else {**step, "out": out})

    def plan(self, target: int, *, of: int = 2, type: str = "Run", **fields: Any) -> str:
        named = {"stepName": f"step {target}", "stepType": type, "targetStep": target}
        return self.entry({"stepId": 0, "concurrent": of, **named, **fields})

    def log(self, id: str, *states: LogState, **detail: Any) -> None:
        text = response_detail(detail.get("status"), (("x-why", "because"),), b"sorry", error=detail.get("error"))
        self.logs[id] += [LogEntry(id, "t", state, NOW + 50, text) for state in states]

    def delivered(self, *ids: str) -> None:
        for id in ids:
            self.log(id, "ACTIVE", "DELIVERED", status=200)

    def failed(self, id: str) -> None:
        self.log(id, "ACTIVE", "ERROR", "FAILED", status=500, error="answered 500")

    def shown(self, failure: FailureCallback | None = None, *, now: int = NOW) -> dict[str, Any]:
        ended = None if self.state == "RUN_STARTED" else NOW + 99
        text = self.config.to_text()
        run = WireRun(RUN, "t", FLOW_URL, self.state, text, self.invoker, NOW, ended, self.result, 0)
        latest = {id: log[-1] for id, log in self.logs.items()}
        attempts = {id: log for id, log in self.logs.items() if log[-1].state not in ("CREATED", "DELIVERED")}
        created = self.created
        return run_json(
            RunHistory(run, self.config, self.entries, self.members, created, latest, attempts, now), failure
        )

    def steps(self, **options: Any) -> list[tuple[str, list[str]]]:
        """The groups, each with its type, and with the name and state of each of its steps."""
        return [
            (group["type"], [f"{it.get('stepName', it['messageId'])}: {it['state'][5:]}" for it in group["steps"]])
            for group in self.shown(**options)["steps"]
        ]
