"""The callbacks of failure URLs, sent by any worker: the app whose run has failed need not be up."""

from collections.abc import Mapping

from pydantic_core import from_json

from batchflow.core.call import is_credential
from batchflow.core.dead_letters import DeadLetter
from batchflow.core.failure_functions import FAILURE_URL_HEADER, FailureResponse, FailureUrlHeader
from batchflow.core.message import Claim
from batchflow.core.schedule import SCHEDULE_ID_HEADER
from batchflow.core.secrets import MASK, masked_text
from batchflow.core.store import Reads
from batchflow.engine.callbacks import Callback, CallbackSettings
from batchflow.wire.callbacks import CallbackBody


class FailureUrls:
    """Makes the callbacks of dead letters to their failure URLs.

    The URL is that of the code, if this process serves the function, else the one that the run was started with. Secret
    values of the payload and the values of headers that usually have one are masked.
    """

    name = "failure_url"

    def __init__(self, store: Reads, settings: CallbackSettings) -> None:
        self._store = store
        self._settings = settings

    async def callback(self, claim: Claim) -> Callback | None:
        """See the protocol; None if the run was resumed or deleted meanwhile, and has not failed any more."""
        letter = await self._store.dead_letter(str(from_json(claim.body)))
        if letter is None:
            return None
        run = letter.message
        stored = FailureUrlHeader.parse(run.headers[FAILURE_URL_HEADER])
        known = self._settings.failure_urls.get(run.destination)
        run_url = run.destination if known is None else known.run_url(run.headers)
        return Callback(
            url=stored.url if known is None else known.url,
            body=_body(letter, stored, run_url),
            headers={"Upstash-Workflow-RunId": letter.id, "Upstash-Workflow-Is-Failure": "true"},
        )


def _body(letter: DeadLetter, stored: FailureUrlHeader, run_url: str) -> bytes:
    run, response = letter.message, FailureResponse.of(letter)
    # It may have been resumed with other retries.
    retries = stored.max_retries if run.retry is None else run.retry.attempts - 1
    return CallbackBody(
        status=response.status,
        header=_lists(response.headers),
        body=response.body,
        # Its steps have attempts of their own, and lost workers count as attempts.
        retried=min(max(0, letter.attempts - 1), retries),
        max_retries=retries,
        source_message_id=letter.id,
        url=run_url,
        method="POST",
        source_header=_lists(_printable_headers(run.headers)),
        source_body=masked_text(run.body).encode(),
        not_before=stored.not_before or letter.created_at,
        created_at=letter.created_at,
        workflow_run_id=letter.id,
        dlq_id=letter.id,
        schedule_id=run.headers.get(SCHEDULE_ID_HEADER),
    ).to_json()


def _printable_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of the run's trigger; the values of those that usually have a secret are masked."""
    return {
        name: MASK if is_credential(name) else value
        for name, value in headers.items()
        if not name.startswith("batchflow-")
    }


def _lists(headers: Mapping[str, str]) -> dict[str, list[str]]:
    return {name: [value] for name, value in headers.items()}
