"""The body of the notification of a batch's end, which is one of the documents of batches."""

from pydantic_core import to_json

from batchflow.core.batch import Batch


def notification_body(batch: Batch) -> bytes:
    """The JSON of a `BatchNotification` about a batch that has ended."""
    # Imported when used: few programs send one.
    from batchflow.http.schemas.batches import BatchNotification

    return to_json(BatchNotification.of_batch(batch).document())
