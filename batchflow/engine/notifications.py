"""The notifications of batches' ends, sent by any worker to the `notify_url` that a batch was opened with."""

from pydantic_core import from_json

from batchflow.core.message import Claim
from batchflow.core.store import Reads
from batchflow.engine.callbacks import Callback, CallbackSettings


class Notifications:
    """Makes the callbacks to the `notify_url` of batches that have ended."""

    name = "notify_url"

    def __init__(self, store: Reads, settings: CallbackSettings) -> None:
        self._store = store
        self._settings = settings

    async def callback(self, claim: Claim) -> Callback | None:
        """See the protocol; None if the batch is open again, or was removed."""
        batch = await self._store.batch(str(from_json(claim.body)))
        render = self._settings.notification_body
        if batch is None or batch.ended_at is None or batch.notify_url is None or render is None:
            return None
        return Callback(url=batch.notify_url, body=render(batch))
