"""What is written together with a step or with the end of a claim."""

from collections.abc import Sequence

from batchflow.core.settlement import (
    Accept,
    Effect,
    Enter,
    Listen,
    Notify,
    OpenBatch,
    Page,
    Publish,
    StartItems,
    Unlisten,
    Walked,
)
from batchflow.stores.sql import batches, messages, waiting
from batchflow.stores.sql.transaction import Tx


def apply(tx: Tx, effects: Sequence[tuple[str, Effect]]) -> None:
    """Write effects, each of a run."""
    starts: list[StartItems] = []
    publish: list[Publish] = []
    for run, effect in effects:
        match effect:
            case StartItems():
                starts.append(effect)
            case Publish():
                publish.append(effect)
            case OpenBatch():
                batches.open_batch(tx, effect.batch, effect.messages)
            case _:
                _apply_one(tx, run, effect)
    if publish:
        messages.publish(tx, [message for effect in publish for message in effect.messages])
    if starts:
        batches.start_items(tx, starts)


def _apply_one(tx: Tx, run: str, effect: Effect) -> None:
    match effect:
        case Enter():
            batches.enter(tx, effect)
        case Page():
            batches.page(tx, effect)
        case Walked():
            batches.walked(tx, effect)
        case Listen():
            waiting.listen(tx, run, effect.number, effect.event, effect.until)
        case Unlisten():
            waiting.unlisten(tx, [(run, number) for number in effect.numbers])
        case Accept():
            waiting.accept(tx, run, effect.token)
        case Notify():
            waiting.notify(tx, effect.event, effect.data, effect.run)
        case _:
            raise AssertionError(effect)
