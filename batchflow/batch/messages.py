"""The messages between the layers. Their ids are derived, so that publishing a message again changes nothing."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from batchflow.batch.definition import Definition
from batchflow.batch.hooks import END_HOOKS
from batchflow.batch.payloads import EntryBody, PaginateBody, Payloads, encode_body
from batchflow.batch.source import SelectedItems
from batchflow.core.batch import NO_HEADERS, NewBatch
from batchflow.core.failure_functions import failure_destination
from batchflow.core.ids import chunk_id, entry_id, page_id, rest_id
from batchflow.core.message import Message
from batchflow.serve.children import ParentLink

PUBLISH_BATCH_SIZE = 200
"""The number of messages that a trigger publishes in one call."""


class Messages:
    """Creates the messages of one workflow."""

    __slots__ = ("_definition", "_paginate_model")

    def __init__(self, definition: Definition, payloads: Payloads) -> None:
        self._definition = definition
        self._paginate_model = payloads.paginate_model

    def batch(self, id: str, params: str, ledger: str, parent: ParentLink | None) -> NewBatch:
        """Create a batch with the options of the class; `parent` is a run that waits for its end."""
        definition = self._definition
        return NewBatch(
            id=id,
            workflow=definition.name,
            execute=definition.routes.execute,
            flow=definition.execute_flow,
            params=params,
            complete=definition.routes.complete if parent is not None or definition.defined_hooks & END_HOOKS else None,
            complete_flow=definition.complete_flow,
            ledger=ledger,
            ledger_ttl=definition.ledger_ttl,
            keep_results=definition.keep_results,
            on_failure=failure_destination(definition.routes.execute)
            if "on_item_failure" in definition.defined_hooks
            else None,
            failure_budget=definition.failure_budget,
            notify_url=definition.notify_url,
            parent=None if parent is None else parent.parent,
            depth=0 if parent is None else parent.depth,
        )

    def entry(
        self, batch: str, body: EntryBody, headers: Mapping[str, str], *, not_before: int = 0, invoked: bool = False
    ) -> Message:
        """Create the entry message. It is kept, since the caller of a trigger reads its result."""
        definition = self._definition
        return Message(
            id=entry_id(batch),
            destination=definition.routes.process,
            flow=definition.invoked_flow if invoked else definition.entry_flow,
            body=encode_body(body),
            headers=headers,
            not_before=not_before,
            batch=batch,
            keep=True,
        )

    def page(self, batch: str, body: PaginateBody, headers: Mapping[str, str], *, held: bool = False) -> Message:
        """Create the message of one page of the walk; a `held` one waits until the batch is approved."""
        return self._to_paginate(page_id(batch, body.page), batch, body, headers=headers, held=held)

    def rest(self, batch: str, body: PaginateBody, headers: Mapping[str, str]) -> Message:
        """Create the message of the items of a page that are left while a canary is started."""
        return self._to_paginate(rest_id(batch, body.page, body.first), batch, body, headers=headers)

    def chunks(
        self, batch: str, page: PaginateBody, selected: SelectedItems, first: int, *, held: bool = False
    ) -> Iterator[Message]:
        """Create a message for each chunk of a page, whose items are numbered from `first` on.

        The `held` ones wait until the walk has ended, or until the batch is approved.
        """
        size = self._definition.chunk_size
        for place, chunk_items in enumerate(selected.chunks(size)):
            body = self._paginate_model(
                item_ids=chunk_items.ids,
                first=first + place * size,
                page=page.page,
                force=page.force,
                marked=chunk_items.marked,
                data=chunk_items.data,
            )
            yield self._to_paginate(chunk_id(batch, page.page, place), batch, body, held=held)

    def of_trigger(
        self, batch: NewBatch, entry: EntryBody, ids: Sequence[str], not_before: int, again: Sequence[int] = ()
    ) -> Iterator[list[Message]]:
        """Return the messages of a trigger in portions: the chunks of the ids that it lists, and the entry last.

        So a batch starts once all its messages are stored. In a retry, `again` are the numbers of the ids in the batch
        that it retries.
        """
        # Late: `import batchflow` does without it.
        from more_itertools import chunked

        # The waiting run has passed its own limits, and many runs may open batches at the same time.
        invoked = batch.parent is not None
        last = self.entry(batch.id, entry, batch.headers, not_before=not_before, invoked=invoked)
        canary = len(ids) if batch.canary is None else batch.canary.items
        named = self._named(batch.id, ids, canary, not_before, again, force=bool(again) and entry.force)
        return chunked(itertools.chain(named, (last,)), PUBLISH_BATCH_SIZE)

    def _named(
        self, batch: str, ids: Sequence[str], canary: int, not_before: int, again: Sequence[int], *, force: bool
    ) -> Iterator[Message]:
        """Create the chunks of a trigger's ids; those after the canary are held.

        They are kept, so that an interrupted trigger can be repeated.
        """
        size = self._definition.chunk_size
        firsts = itertools.chain(range(0, min(canary, len(ids)), size), range(canary, len(ids), size))
        for place, first in enumerate(firsts):
            end = min(first + size, canary) if first < canary else first + size
            body = self._paginate_model(
                item_ids=list(ids[first:end]),
                first=first,
                page=place,
                named=True,
                force=force,
                again=tuple(again[first:end]),
            )
            id, held = chunk_id(batch, place, 0), first >= canary
            yield self._to_paginate(id, batch, body, not_before=not_before, keep=True, held=held)

    def _to_paginate(
        self,
        id: str,
        batch: str,
        body: PaginateBody,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        not_before: int = 0,
        keep: bool = False,
        held: bool = False,
    ) -> Message:
        definition = self._definition
        return Message(
            id=id,
            destination=definition.routes.paginate,
            flow=definition.paginate_flow,
            body=encode_body(body),
            headers=headers,
            not_before=not_before,
            batch=batch,
            keep=keep,
            held=held,
        )
