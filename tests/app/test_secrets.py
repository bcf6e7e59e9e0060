"""Nothing secret leaves (promise 20): one secret in every place, and no answer, line, command or repr shows it."""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
import structlog
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from pydantic import BaseModel, SecretBytes, SecretStr

from batchflow import Batchflow, BatchWorkflow, NonRetryable, Page, RetryPolicy, Secret, StepFailed, WorkflowContext
from batchflow.batch.workflow import NoParams
from batchflow.cli import invoke
from batchflow.core.secrets import MASK
from tests.engine.http_server import serving
from tests.waiting import wait_until

CANARY = "c4nary"
TOKEN = re.compile(r"whk_[0-9a-f]{8}")


def secret(place: str) -> str:
    """The secret of a place, so that a leak names where it comes from."""
    return f"{CANARY}-{place}"


class Key(BaseModel):
    """A secret of each kind, beside what is none."""

    token: SecretStr
    note: Annotated[str, Secret]
    raw: SecretBytes | None = None
    plain: str = "plain"


def key(place: str) -> Key:
    return Key(token=SecretStr(secret(place)), note=secret(place), raw=SecretBytes(secret(place).encode()))


class Params(BaseModel):
    """Parameters, one of them with a secret default."""

    api_key: Annotated[str, Secret]
    password: SecretStr = SecretStr(secret("default"))
    preset: Annotated[str, Secret] = secret("preset")


class Sync(BatchWorkflow[Params, Key, Key]):
    """Its items come with the pages; "bad" fails as code does that validates what it has got."""

    entity = "thing"
    entry_flow = paginate_flow = execute_flow = None
    retry = RetryPolicy.none()

    def __init__(self, seen: list[str]) -> None:
        self._seen = seen

    async def fetch(self, params: Params, cursor: str | None, limit: int) -> Page[Key]:
        return Page(items={"good": key("item"), "bad": key("item"), "told": key("item")})

    async def execute(self, item: Key) -> Key:
        self._seen.append(f"{item.note} {self.params.api_key} {self.params.password.get_secret_value()}")
        if self.item_id == "bad":
            Params.model_validate({"apikey": secret("input"), "password": secret("input")})
        if self.item_id == "told":
            raise ValueError(f"{item.note} {self.params.api_key!r} {item.model_dump()} {self.params.password!s}")
        return key("result")


def session_of(account: Key) -> Annotated[str, Secret]:
    return f"{secret('session')} of {account.plain}"


def serve_all(flow: Batchflow, seen: list[str], tokens: list[str], url: str) -> None:
    """Functions that have secrets in every place."""

    @flow.serve("/everything", base_url="https://app.test", verbose=True)
    async def everything(ctx: WorkflowContext[Key]) -> Key:
        made = await ctx.run("make", key, "step")
        webhook = await ctx.create_webhook("hook")
        tokens.append(webhook.token)
        await ctx.run("give away", str, webhook.url)
        headers = {"Authorization": f"Bearer {secret('call')}", "X-Api-Key": secret("call")}
        answer = await ctx.call("call", url, body=made, headers=headers)
        typed = await ctx.call("typed", url, response=Key)
        await ctx.run("heard", lambda: seen.append(f"{answer.headers['set-cookie']} {typed.body.note}"))
        try:
            away = f"http://u:{secret('userinfo')}@127.0.0.1:1/?t={secret('query')}"
            await ctx.call("refused", away, headers=headers)
        except StepFailed as error:
            ctx.log.warning(str(error))
        event = await ctx.wait_for_event("event", "approved", data=Key)
        request = await ctx.wait_for_webhook("request", webhook)
        heard = f"{event.data.note} {request.data.headers['authorization']} {request.data.query}"
        await ctx.run("heard all", lambda: seen.append(f"{ctx.payload.note} {ctx.headers['x-mine']} {heard}"))
        return key("end")

    @flow.serve("/fails", base_url="https://app.test", retries=0)
    async def fails(ctx: WorkflowContext[Key]) -> None:
        webhook = await ctx.create_webhook("hook")
        tokens.append(webhook.token)
        await ctx.sleep("rest", "10ms")
        session = await ctx.run("open", session_of, ctx.payload)
        told = f"{ctx.payload.token.get_secret_value()} {session}"
        raise NonRetryable(f"nobody listens at {webhook.url}, https://u:{secret('url')}@h for {told}") from KeyError(
            told
        )

    @flow.serve("/invokes")
    async def invokes(ctx: WorkflowContext[NoParams]) -> str:
        await ctx.notify("tell", "nobody", key("notified"))
        return (await ctx.invoke("child", flow.served["/echo"], key("child"))).plain

    @flow.serve("/echo")
    async def echo(ctx: WorkflowContext[Key]) -> Key:
        return ctx.payload

    assert invokes.endpoint.route != echo.endpoint.route != everything.endpoint.route != fails.endpoint.route


class Surfaces:
    """What is shown, by where."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def add(self, where: str, text: str) -> None:
        self.texts[where] = self.texts.get(where, "") + text

    def leaks(self) -> dict[str, set[str]]:
        """Where a secret is shown, and which."""
        found = {it: {*re.findall(rf"{CANARY}-\w+", text), *TOKEN.findall(text)} for it, text in self.texts.items()}
        return {where: those for where, those in found.items() if those}


@pytest.fixture
def surfaces() -> Iterator[Surfaces]:
    """With all lines of the log, DEBUG too."""
    shown = Surfaces()

    def keep(_logger: Any, _method: str, event: Any) -> Any:
        shown.add("log", f"{event}\n")
        raise structlog.DropEvent

    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(0))
    yield shown
    structlog.reset_defaults()


async def work(flow: Batchflow, surfaces: Surfaces, server: Any) -> Mapping[str, str]:
    """Run everything to its end, over HTTP; the ids by what they are of."""
    app = FastAPI()
    app.include_router(flow.router)
    http = AsyncClient(transport=ASGITransport(app), base_url="http://localhost")
    sent = {"token": secret("payload"), "note": secret("payload")}
    headers = {"Authorization": secret("auth"), "Upstash-Forward-X-Mine": secret("forwarded")}

    async def post(path: str, body: Any, **options: Any) -> dict[str, Any]:
        response = await http.post(path, json=body, **options)
        surfaces.add(f"POST {path}", response.text)
        assert response.status_code < 300, response.text
        return response.json()

    run = (await post("/everything", sent, headers=headers))["workflowRunId"]
    failing = (await post("/fails", sent))["workflowRunId"]
    parent = (await post("/invokes", {}))["workflowRunId"]
    params = {"apiKey": secret("param"), "password": secret("param"), "headers": {"X-Mine": secret("forwarded")}}
    batch = (await post("/sync/process-things", params))["batchId"]
    for wrong in ({"apiKey": {secret("wrong"): 1}}, {"apiKey": 1, "password": [secret("wrong")]}):
        surfaces.add("422", (await http.post("/sync/process-things", json=wrong)).text)
    surfaces.add("422", (await http.post("/everything", json={"token": 1, "note": [secret("wrong")]})).text)
    await wait_until(lambda: _waits(flow, "approved"), description="the run waits for the event")
    await show(flow, http, surfaces, {"run": run, "batch": batch}, ended=False)
    await post("/events/approved", {"token": secret("event"), "note": secret("event")})
    hook = next(it for it in server["tokens"] if it.startswith(run))
    headers = {"Authorization": secret("webhook")}
    await http.put(f"/webhooks/{hook}?key={secret('webhook')}", headers=headers, content="x")
    for id in (run, failing, parent):
        await flow.engine.ended(id, lambda id=id: _ended(flow, id), 30)
    await flow.workflows["sync"].batch(batch).wait()
    return {
        "run": run,
        "failing": failing,
        "parent": parent,
        "child": f"{parent}.2",
        "batch": batch,
        "call": f"{run}.4",
        "refused": f"{run}.7",
    }


async def _waits(flow: Batchflow, event: str) -> bool:
    return bool(await flow.waiters(event))


async def _ended(flow: Batchflow, id: str) -> Any:
    run = await flow.engine.store.run(id)
    return run if run is not None and run.ended_at is not None else None


async def show(
    flow: Batchflow, http: AsyncClient, surfaces: Surfaces, ids: Mapping[str, str], *, ended: bool = True
) -> None:
    """Ask every route that can be read, for each id, and print what Python can read."""
    document = (await http.get("/openapi.json")).json()
    surfaces.add("GET /openapi.json", json.dumps(document))
    for path, operations in document["paths"].items():
        # The stream of a run that waits has no end.
        if "get" not in operations or (path.endswith("/progress") and not ended):
            continue
        of_items = path.replace("{workflow}/{id}", "sync/bad").replace("{number}", "0"), path.replace("{number}", "1")
        for filled in {re.sub(r"\{[^}]*\}", id, it) for id in ids.values() for it in of_items}:
            surfaces.add(f"GET {path}", (await http.get(filled)).text)
    for event in ("approved", "nobody"):
        surfaces.add("GET waiters", (await http.get(f"/events/{event}/waiters")).text)
    store = flow.engine.store
    for name, id in ids.items():
        found: list[Any] = [await store.run(id), await store.batch(id), await store.items(id, limit=10)]
        surfaces.add(f"repr of {name}", repr(found))
    surfaces.add("repr of dead letters", repr(await store.dead_letters(limit=10)))
    surfaces.add("repr of the app", f"{flow!r} {flow.settings!r} {flow.settings} {flow.workflows!r} {flow.served!r}")
    surfaces.add("runs", repr(await flow.runs()))


COMMANDS = (
    ("batches",), ("batches", "show", "{batch}"), ("batches", "cancel", "{batch}"),
    ("batches", "item", "{batch}", "good"), ("batches", "item", "{batch}", "1"), ("items", "sync", "bad"),
    ("items", "sync", "told"), ("workers",), ("ledger", "list"),
    ("runs",), ("runs", "show", "{run}"), ("runs", "show", "{failing}"), ("runs", "show", "{parent}"),
    ("runs", "show", "{child}"), ("runs", "show", "{call}"), ("runs", "show", "{refused}"),
    ("runs", "cancel", "{run}"), ("waiters", "approved"),
)  # fmt: skip


def test_nothing_secret_leaves(
    tmp_path: Path, surfaces: Surfaces, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters, payloads, items, results, events, webhooks, headers, calls: code gets them, nobody else does."""
    seen: list[str] = []
    tokens: list[str] = []
    url = f"sqlite:///{tmp_path}/batchflow.db"
    ids: dict[str, str] = {}

    async def main() -> None:
        answer = json.dumps({"token": secret("answer"), "note": secret("answer")}).encode()
        head = f"200 OK\r\nset-cookie: {secret('cookie')}\r\ncontent-type: application/json"
        async with serving((head, b"{}"), (head, answer)) as server:
            flow = Batchflow(url)
            flow.add(Sync(seen))
            serve_all(flow, seen, tokens, server.url)
            async with flow:
                ids.update(await work(flow, surfaces, {"tokens": tokens}))
            assert json.loads(server.asked[0].body)["token"] == secret("step")
        # An app that knows none of the types, as after a renaming.
        for other in (flow, Batchflow(url, worker=False)):
            app = FastAPI()
            app.include_router(other.router)
            async with other, AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as http:
                await show(other, http, surfaces, ids)

    asyncio.run(main())
    monkeypatch.setenv("BATCHFLOW_URL", url)
    for arguments in COMMANDS:
        for options in ((), ("--json",)):
            capsys.readouterr()
            invoke([it.format(**ids) for it in (*arguments, *options)])
            written = capsys.readouterr()
            surfaces.add(" ".join((*arguments, *options)), written.out + written.err)
    assert surfaces.leaks() == {}
    heard = " ".join(seen)
    for place in ("item", "param", "cookie", "answer", "event", "webhook", "payload", "forwarded"):
        assert secret(place) in heard
    assert {"log", "GET /runs/{id}", "runs show {run} --json", "POST /everything"} <= set(surfaces.texts)
    for place in ("GET /runs/{id}/progress", "GET /batches/{id}/progress"):
        assert "event: done" in surfaces.texts[place]
    for place in ("GET /items/{workflow}/{id}", "items sync bad", "items sync bad --json"):
        assert ids["batch"] in surfaces.texts[place]
    # They are masked and not left out.
    for place in (
        *("log", "GET /runs/{id}", "GET /runs/{id}/progress", "GET /batches/{id}/items/{number}", "runs show {run}"),
        *("batches show {batch}", "batches show {batch} --json", "batches item {batch} good --json"),
    ):
        assert MASK in surfaces.texts[place], place


def test_values_of_the_core_show_no_secret() -> None:
    """The values that hold a body, parameters or headers, as a debugger or a log line prints them."""
    from batchflow.core import batch, dead_letters, flow, message, run, settlement

    text = json.dumps(secret("body"))
    headers = {"authorization": secret("header")}
    free = flow.FlowControl(key="free")
    claim = message.Claim("a", 1, "/f", text, headers=headers, params=text, data=text)
    sent = message.Message(id="a", destination="/f", flow=free, body=text, headers=headers)
    step = run.Step(1, "s", "run", "done", 1, text)
    values: list[object] = [
        claim,
        sent,
        step,
        run.Arrival(1, "done", text, None, 0),
        run.Run(id="a", destination="/f", state="completed", created_at=0, payload=text, result=text, journal=(step,)),
        batch.NewBatch(id="a", workflow="w", execute="/f", flow=free, params=text, headers=headers),
        batch.Batch(id="a", workflow="w", state="open", params=text, headers=headers),
        batch.Item(number=0, id="a", state="succeeded", result=text),
        dead_letters.FailureCall("succeeded", 1, text),
        dead_letters.DeadLetter(
            message=sent, error="x", failures=1, losses=0, created_at=0, started_at=0, died_at=0, journal=(step,)
        ),
        settlement.done(claim, text, (settlement.Notify("e", text), settlement.Publish((sent,)))),
        settlement.Notify("e", text),
        settlement.AcceptWebhook("run_1.whk_0123456789"),
        settlement.Listen(1, "batchflow:webhook:run_1.whk_0123456789"),
    ]
    shown = Surfaces()
    for value in values:
        shown.add(type(value).__name__, repr(value))
    assert shown.leaks() == {}
