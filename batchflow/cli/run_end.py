"""Waits for what an ended batch still sends: perhaps no other process would do it."""

import asyncio

from batchflow.core.batch import Notification
from batchflow.core.dead_letters import DeadLetter, DeadLetterQuery
from batchflow.core.store import Store
from batchflow.errors import StoreUnavailable

_LOOK_S, _PAGE = 0.2, 200


async def wait_for_failure_calls(store: Store, batch: str) -> None:
    """Wait until no failure function of an ended batch is still to be called."""
    query, before = DeadLetterQuery(batch=batch), None
    while True:
        try:
            page = await store.dead_letters(query, _PAGE, before)
            if not any(_is_to_be_called(letter) for letter in page):
                if len(page) < _PAGE:
                    return
                before = page[-1].died_at, page[-1].id
                continue
        except StoreUnavailable:
            # The worker tells, and waits for it too.
            pass
        await asyncio.sleep(_LOOK_S)


async def wait_for_notification(store: Store, batch: str) -> Notification | None:
    """Wait until the notification of an ended batch has been sent or has failed; None if there is none."""
    while True:
        try:
            found = await store.batch(batch)
            if found is None or found.notification is None or found.notification.state != "in_progress":
                return None if found is None else found.notification
        except StoreUnavailable:
            pass
        await asyncio.sleep(_LOOK_S)


def _is_to_be_called(letter: DeadLetter) -> bool:
    return letter.failure is not None and letter.failure.state == "in_progress"
