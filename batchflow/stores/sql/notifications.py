"""Notifications of batches' ends: publishing and dropping them, and noting their outcomes."""

from collections.abc import Iterable

from pydantic_core import to_json

from batchflow.core import ids
from batchflow.core.batch import Notification
from batchflow.core.message import NOTIFICATION_DESTINATION, NOTIFICATION_STEP, Message, failure_flow
from batchflow.core.settlement import Settlement
from batchflow.stores.sql import flows, messages
from batchflow.stores.sql.messages import HeldMessage
from batchflow.stores.sql.transaction import BatchHead, Tx


def publish(tx: Tx, head: BatchHead) -> None:
    """Publish the notification of an end; nothing if the batch is open again."""
    number = tx.one("batch_notify", batch=head.key, notification=_text(Notification("in_progress", tx.now)))
    if number is not None:
        message = Message(
            id=ids.notification_id(head.id, number),
            destination=NOTIFICATION_DESTINATION,
            flow=failure_flow(NOTIFICATION_DESTINATION),
            body=to_json(head.id).decode(),
            parent=(head.id, NOTIFICATION_STEP),
        )
        messages.publish(tx, [message])


def after_completion(tx: Tx, batch: int, completion: str) -> None:
    """Publish the notification of the end whose completion message has ended."""
    head = tx.batch_head(batch)
    # A batch may have been reopened, and have ended again, while the completion of its first end ran.
    if head.notify_url and completion == messages.completion_id(tx, batch):
        publish(tx, head)


def end(tx: Tx, ended: Iterable[tuple[Settlement, HeldMessage]]) -> None:
    """Note the outcomes of notifications with their batches."""
    for s, held in ended:
        error = None if s.ending == "done" else s.error or s.sentence
        notification = Notification("succeeded" if s.ending == "done" else "failed", tx.now, error)
        tx.run("batch_notified", batch=held.parent, message=s.id, notification=_text(notification))


def _text(notification: Notification) -> str:
    return to_json(notification).decode()


def drop(tx: Tx, batch: int) -> None:
    """Drop the notification of an end that is undone; one that a worker is sending does not count any more."""
    head = tx.batch_head(batch)
    number = tx.one("batch_drop_notification", batch=batch) if head.notify_url else None
    if number is not None and (waits := messages.waiting_message(tx, id := ids.notification_id(head.id, number))):
        messages.drop(tx, [id])
        flows.recount_lane(tx, waits[0].lane)
