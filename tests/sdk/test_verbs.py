"""Every verb of both SDKs is used by a test here."""

import inspect
import json
import re
import subprocess
from pathlib import Path

from qstash import QStash
from upstash_workflow import AsyncWorkflowContext  # pyright: ignore[reportMissingTypeStubs]

from tests.sdk.javascript import FOLDER

# Deprecated in the SDK itself: a hosted language model, workflows of an earlier time, the former name of URL groups.
NOT_OURS = {"chat", "workflow", "topics"}

LIST_VERBS = """
import { Client, Receiver } from "@upstash/qstash";
const client = new Client({ token: "x", baseUrl: "http://127.0.0.1:1" });
const verbs = (it) => Object.getOwnPropertyNames(Object.getPrototypeOf(it)).filter((name) => name !== "constructor");
const found = { client: verbs(client), queue: verbs(client.queue()), receiver: ["verify"] };
for (const name of verbs(client)) if (typeof client[name] === "object") found[name] = verbs(client[name]);
console.log(JSON.stringify(found));
"""

LIST_WORKFLOW_VERBS = """
import { Client, WorkflowContext } from "@upstash/workflow";
const isVerb = ([, { value }]) => typeof value === "function";
const verbs = (it) => Object.entries(Object.getOwnPropertyDescriptors(it)).filter(isVerb).map(([name]) => name);
const client = new Client({ token: "x", baseUrl: "http://127.0.0.1:1" });
const found = { client: Client.prototype, dlq: Object.getPrototypeOf(client.dlq), context: WorkflowContext.prototype };
console.log(JSON.stringify(Object.entries(found).flatMap(([api, it]) => verbs(it).map((verb) => `${api}.${verb}`))));
"""
NOT_VERBS = {"client.constructor", "dlq.constructor", "context.constructor", "context.addStep"}


def test_every_verb_of_the_python_sdk_is_used() -> None:
    """A new one of a later version is named here."""
    text = "\n".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    client = QStash("token")
    apis: dict[str, object] = {name: api for name, api in vars(client).items() if name != "http"}
    vars(client.http)["_client"].close()
    verbs = {
        f"{api}.{verb}"
        for api, it in apis.items()
        for verb, _ in inspect.getmembers(type(it), inspect.isfunction)
        if not verb.startswith("_")
    }
    # An API may have a shorter name in a test.
    short = {"message": "messages?", "queue": "queues?", "schedule": "schedules?", "url_group": "(?:url_group|groups)"}
    short |= {"flow_control": "(?:flow_control|flow)"}
    unused = [
        verb
        for verb in sorted(verbs)
        if not re.search(rf"\b{short.get(verb.split('.')[0], verb.split('.')[0])}\.{verb.split('.')[1]}\(", text)
    ]
    assert (unused, len(verbs) > 30) == ([], True)


def test_every_verb_of_the_javascript_sdk_is_used(node: str) -> None:
    """Of its client, of the APIs below it, and of its receiver."""
    listed = subprocess.run(
        [node, "--input-type=module", "-e", LIST_VERBS], cwd=FOLDER, capture_output=True, text=True, check=True
    )
    text = "\n".join(file.read_text() for file in FOLDER.glob("*.mjs")).replace("client.queue().", "queue.")
    found: dict[str, list[str]] = json.loads(listed.stdout)
    verbs = {f"{api}.{verb}" for api, names in found.items() if api not in NOT_OURS for verb in names}
    unused = [
        verb for verb in sorted(verbs - {f"client.{it}" for it in NOT_OURS}) if not re.search(rf"\b{verb}\b", text)
    ]
    assert (unused, len(verbs) > 40) == ([], True)


def test_every_verb_of_the_javascript_workflow_sdk_is_used(node: str) -> None:
    """Of its client, of its DLQ, and of the context of a run, but those for hosted language models."""
    listed = subprocess.run(
        [node, "--input-type=module", "-e", LIST_WORKFLOW_VERBS], cwd=FOLDER, capture_output=True, text=True, check=True
    )
    text = "\n".join(file.read_text() for file in FOLDER.glob("workflows/*.mjs"))
    verbs = set[str](json.loads(listed.stdout)) - NOT_VERBS
    assert ([it for it in sorted(verbs) if f"{it}(" not in text], len(verbs) > 15) == ([], True)


def test_every_verb_of_the_python_workflow_sdk_is_used() -> None:
    """Those of the context of a run: it has no client."""
    text = (Path(__file__).parent / "test_python_workflows.py").read_text()
    verbs = [it for it, _ in inspect.getmembers(AsyncWorkflowContext, inspect.isfunction) if not it.startswith("_")]
    assert ([it for it in verbs if f"context.{it}(" not in text], len(verbs) > 3) == ([], True)
