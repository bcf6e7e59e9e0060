"""Runs that begin again from the DLQ: they go on where the failed one has stopped, or start over. Pure values."""

from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

from batchflow.core.call import Body
from batchflow.core.posts import Post
from batchflow.core.wire_runs import AddEntry, BeginRun, RunEntry, RunLink
from batchflow.wire.envelope import Envelope, RunPart
from batchflow.wire.publish import post_of
from batchflow.wire.run_config import RunConfig
from batchflow.wire.run_entries import step_of


class ResumedEntries(NamedTuple):
    """The entries of a run that goes on: it begins with `begun`, and each of `added` is one more.

    The last of `begun` and each of `added` are delivered: what its endpoint does again.
    """

    begun: tuple[Body, ...]
    added: tuple[Body, ...] = ()

    @classmethod
    def of(cls, entries: Sequence[RunEntry]) -> "ResumedEntries":
        """The entries with which a run that has these goes on.

        Delivered are the members of a parallel group that have no result; they come last, since an endpoint executes
        the one with which its delivery ends. Without such members the last entry is delivered. Repeated steps are left
        out: an endpoint passes over a delivery that ends with one.
        """
        initial, *bodies = (it.body for it in entries)
        known: set[tuple[str, int]] = set()
        steps: list[tuple[Body, tuple[str, int] | None]] = []
        for body in bodies:
            key = _key(body)
            if key is None or key not in known:
                steps.append((body, key))
            if key is not None:
                known.add(key)
        lacking = [body for body, key in steps if _lacks_result(key, known)]
        done = [body for body, key in steps if not _lacks_result(key, known)]
        return cls((initial, *done, *lacking[:1]), tuple(lacking[1:]))


def again_id(dlq_id: str) -> str:
    """The id of the run that begins again from an entry of the DLQ: a repeated request begins no second one."""
    return f"wfr_{_digest(dlq_id, 0)}"


def again_posts(
    dlq_id: str, url: str, failed: Envelope, entries: ResumedEntries, config: RunConfig, *, not_before: int, now: int
) -> list[Post]:
    """The posts of the run that begins again from an entry of the DLQ, whose post has the envelope `failed`."""
    id = again_id(dlq_id)
    # An endpoint that was never reached by an SDK does not know the run.
    first_contact = failed.run is not None and failed.run.first_contact
    part = RunPart(run=id, url=url, created_at=now, features=config.features, first_contact=first_contact)
    envelope = Envelope(
        url=url,
        tenant=failed.tenant,
        created_at=now,
        content_type="application/json",
        not_before=not_before,
        caller_ip=config.caller_ip,
        run=part,
    )
    links: list[RunLink] = [BeginRun(id, url, entries.begun, now, config.to_text())]
    links += (AddEntry(id, body, now) for body in entries.added)
    return [
        post_of(config.applied(envelope), f"msg_{_digest(dlq_id, number)}", link=link)
        for number, link in enumerate(links)
    ]


def _digest(dlq_id: str, number: int) -> str:
    return sha256(f"run again of {dlq_id}, {number}".encode()).hexdigest()[:32]


def _key(body: Body) -> tuple[str, int] | None:
    """The number of the step that is planned or has a result, which tells it from others."""
    step = step_of(body)
    for name in ("targetStep", "stepId"):
        number = step.get(name)
        if isinstance(number, int) and number > 0:
            return name, number
    return None


def _lacks_result(key: tuple[str, int] | None, known: set[tuple[str, int]]) -> bool:
    return key is not None and key[0] == "targetStep" and ("stepId", key[1]) not in known
