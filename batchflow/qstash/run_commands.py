"""The commands of an app for its runs on QStash: start, notify, cancel."""

from collections.abc import Mapping, Sequence
from typing import Any

from batchflow.core.message import Message
from batchflow.core.run import Step
from batchflow.qstash.directory import Directory
from batchflow.qstash.rest import QStashRefused
from batchflow.serve.app_url import ROOT_HEADER, user_headers
from batchflow.wire.submissions import (
    DEFAULT_WAITS,
    Address,
    RunSettings,
    Submission,
    batch_submission,
    init_item,
    invoke_submission,
    notify_submission,
    own_id,
    wire_id,
)


class QStashRunCommands:
    """Starts, notifies and cancels the runs of an app's functions over the REST API of their accounts."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def start(self, messages: Sequence[Message]) -> Sequence[bool]:
        """Start runs of one function, all or none. Returns for each if it is new.

        Raises:
            InputError, StoreError: QStash refuses them, or is away.
        """
        items = [init_item(self._address(it, it.headers), it.body, self._settings(it)) for it in messages]
        rest = self._directory.rest_of(messages[0].destination)
        answers: list[Mapping[str, Any]] = await rest.post(batch_submission(items))
        with rest.reading():
            return [not answer.get("deduplicated") for answer, _ in zip(answers, items, strict=True)]

    async def notify(self, event: str, data: str, run: str | None) -> Sequence[str]:
        """Send data to the runs that wait for an event, or to the one named. Returns their ids."""
        submission = notify_submission(event, data, None if run is None else wire_id(run))
        answers: list[list[Mapping[str, Any]]] = [await it.post(submission) for it in self._directory.rests]
        found = [str(it.get("workflowRunId") or "") for answer in answers for it in answer]
        return [own_id(it) for it in found if it]

    async def cancel(self, destination: str | None, label: str | None, ids: Sequence[str]) -> int:
        """Cancel the runs that all of these name. Returns their number; without any of them it cancels none."""
        query: dict[str, str | Sequence[str]] = {}
        rests = self._directory.rests if destination is None else [self._directory.rest_of(destination)]
        if ids:
            query["workflowRunIds"] = [wire_id(it) for it in ids]
        if destination is not None:
            query |= {"workflowUrl": self._directory.url_of(destination), "workflowUrlExactMatch": "true"}
        if label is not None:
            query["label"] = label
        if not query:
            # Without a filter QStash cancels all runs.
            return 0
        answers = [await it.delete("/v2/workflows/runs", query) for it in rests]
        return sum(int(it["cancelled"]) for it in answers)

    def child_submission(self, address: Address, step: Step, concurrent: int, child: Message) -> Submission:
        """The request that starts a child, whose end is the outcome of a step."""
        # Where the app knows no public URL, the parent has that of its request.
        child_address = self._address(child, {ROOT_HEADER: self._directory.root_of(address.url)})
        return invoke_submission(address, step, concurrent, child_address, child.body, self._settings(child))

    def _address(self, message: Message, headers: Mapping[str, str]) -> Address:
        if message.destination not in self._directory.endpoints:
            raise QStashRefused(
                f"QStash runs the functions of this app, and '{message.destination}' is not one of them"
            )
        return Address(
            wire_id(message.id),
            self._directory.url_of(message.destination, headers),
            depth=message.depth,
            telemetry=self._directory.account_of(message.destination).telemetry,
            timeout_ms=self._directory.endpoints[message.destination].declared_timeout_ms,
        )

    def _settings(self, message: Message) -> RunSettings:
        endpoint = self._directory.endpoints[message.destination]
        retry = message.retry or endpoint.retry
        delays = {it.expression() for it in (retry, endpoint.retry)}
        return RunSettings(
            headers=user_headers(message.headers),
            label=message.label,
            not_before=message.not_before,
            retry=retry,
            retry_delay=None if delays == {DEFAULT_WAITS} else retry.expression(),
            flow=message.flow,
            failure_url=endpoint.failure_url,
        )
