"""Workers over HTTP."""

from httpx import AsyncClient

from batchflow import Batchflow
from batchflow.core.worker import WorkerStatus
from batchflow.http.workers import WorkerAnswer


async def test_workers_are_listed_with_what_they_hold(idle: Batchflow, idle_http: AsyncClient) -> None:
    """By name; those of other processes, too."""
    assert (await idle_http.get("/workers")).json() == {"workers": []}
    store = idle.engine.store
    await store.enlist("w2", 30_000, 7)
    await store.enlist("w1", 30_000)
    for payload in ("1", "2"):
        await idle_http.post("/approvals", json=payload)
    assert len((await store.claim("w2", ["/approvals"], 5)).claims) == 2
    one, two = (await idle_http.get("/workers")).json()["workers"]
    assert (one["name"], one["state"], one["concurrency"], one["held"], one["holds"]) == ("w1", "working", None, 0, {})
    assert (two["name"], two["concurrency"], two["held"], two["holds"]) == ("w2", 7, 2, {"/approvals": 2})
    assert two["since"] == two["seenAt"] < two["leaseUntil"]


async def test_a_worker_that_works_here_is_among_them(flow: Batchflow, http: AsyncClient) -> None:
    """With the concurrency of its app."""
    (worker,) = (await http.get("/workers")).json()["workers"]
    assert (worker["state"], worker["concurrency"]) == ("working", flow.settings.concurrency)


def test_what_an_older_worker_has_not_told_is_null() -> None:
    """Since when it works, and its heartbeat; one that has died is lost."""
    answer = WorkerAnswer.of(WorkerStatus("w", 0, 0, 1_000, 0, 3, {"b": 1, "a": 2}, True))
    assert (answer.since, answer.seen_at, answer.concurrency, answer.hanging) == (None, None, None, 3)
    assert (answer.state, answer.held, list(answer.holds)) == ("lost", 3, ["a", "b"])
