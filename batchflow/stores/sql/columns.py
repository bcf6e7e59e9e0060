"""The columns of statements, in the order in which the verbs write and read rows.

A dialect compares its statements with these names when it loads them, so that a column in the wrong place is an error
then and not a value in the wrong field.
"""

from collections.abc import Mapping, Sequence

from batchflow.core.breaker import Breaker
from batchflow.core.dead_letters import DeadLetterGroup
from batchflow.core.flow import FlowHolder
from batchflow.core.posts import Document, LogEntry, Queue
from batchflow.core.run import Arrival, Step
from batchflow.core.wire_runs import EventWait, RunMember, WireRun
from batchflow.stores import base
from batchflow.stores.sql.batches import START_CANDIDATE
from batchflow.stores.sql.claims import CANDIDATE, Lane
from batchflow.stores.sql.dead_letters import Dead
from batchflow.stores.sql.events import NewArrival
from batchflow.stores.sql.failures import ErrorRow
from batchflow.stores.sql.messages import HeldMessage, NewMessage, WaitingMessage
from batchflow.stores.sql.retries import Again
from batchflow.stores.sql.transaction import BatchHead
from batchflow.stores.sql.wire_runs import NewEntry, RunHead, Waiting

Names = tuple[str, ...]
Columns = Sequence[str | None]

GIVEN: Mapping[str, Names] = {
    "arrival_add": NewArrival._fields,
    "item_add": ("batch", "number", "id"),
    "item_add_data": ("batch", "number", "data"),
    "item_classify": START_CANDIDATE,
    "dedup_put": ("key", "message"),
    "failure_add": ErrorRow._fields,
    "item_end": ("batch", "number", "state", "result", "error"),
    "item_fail": ("batch", "number", "attempts", "error"),
    "item_mark_in_flight": ("ledger", "item", "holder"),
    "flows_lease": ("flow", "count", "next_start", "turn"),
    "lanes_set_served": ("lane", "turn", "ahead"),
    "flows_follow": ("key", "parallelism", "rate", "period", "burst"),
    "item_message": ("id", "lane", "batch", "number"),
    "lanes_add_nested": ("layer", "flow"),
    "lanes_nested_keys": ("layer", "flow"),
    "listener_drop": ("run", "number"),
    "log_add": LogEntry._fields,
    "mark_items": ("batch", "number", "ledger", "expires_at"),
    "mark_release": ("batch", "number", "ledger"),
    "mark_drop_empty": ("batch", "number", "ledger"),
    "message_add": NewMessage._fields,
    "message_make_dead_letter": ("id", "error", "failures", "losses", "attempts", "status", "fingerprint"),
    "message_log_attempts": ("id", "attempts"),
    "message_begin_failure": ("id", "failure"),
    "message_end_failure": ("id", "call", "state", "result", "error"),
    "message_release": ("id", "due", "failures", "losses", "error", "stage", "waits", "attempts"),
    "message_held": ("slot", "id", "fence"),
    "message_keep": ("id", "state", "result", "error"),
    "message_of_claims": ("id", "fence"),
    "message_reset_counts": ("id", "fence"),
    "messages_known": ("id", "open_dedup"),
    "queue_place_pass": ("message", "heir"),
    "queued_post_add": ("message", "row"),
    "retry_earlier": Again._fields,
    "retry_note": ("origin", "item", "batch", "number", "replaced"),
    "step_drop_some": ("run", "number"),
    "step_put": ("run", "fence", *Step._fields),
    "step_refused": ("slot", "id", "fence"),
    "step_resolve": ("run", *Step._fields),
    "step_written": ("slot", "run", "number", "state", "position"),
    "wire_entry_add": NewEntry._fields,
    "wire_member_add": ("message", "entry"),
    "wire_member_number": ("run", "message", "entry"),
    "wire_run_grow": ("run", "entries", "size"),
    "wire_wait_add": ("message", "event", "head", "due", "about"),
}
"""The columns of the rows given to statements, if there is more than one."""

FOUND: Mapping[str, Names] = {
    "arrival_of_runs": ("run", *Arrival._fields),
    "batch_head": BatchHead._fields,
    "batch_list": base.BATCH,
    "batch_read": base.BATCH,
    "batch_retries": base.BATCH,
    "claim_begin": ("has_suspect", "changes_at", "opens"),
    "dead_letter_groups": DeadLetterGroup._fields,
    "dead_letter_list": base.DEAD_LETTER,
    "dead_letter_list_of_batch": base.DEAD_LETTER,
    "dead_letter_read": base.DEAD_LETTER,
    "dedup_holders": ("key", "message"),
    "document_list": Document._fields,
    "document_read": Document._fields,
    "failure_groups": ("type", "place"),
    "flow_breakers": ("is_top", "key", *Breaker._fields),
    "flow_holders": FlowHolder._fields,
    "flow_idle": ("key", "idle"),
    "flow_status": base.FLOW,
    "flow_status_all": base.FLOW,
    "item_classify": ("slot", "reason"),
    "item_find": ("batch", *base.ITEM),
    "item_read": base.ITEM,
    "item_find_in_batch": base.ITEM,
    "items_with_ids": base.ITEM,
    "kept_event_oldest": ("key", "data"),
    "lane_parent": Lane._fields,
    "lanes_nested_keys": ("layer", "flow", "key"),
    "lanes_ready": Lane._fields,
    "listener_of_event": ("run", "number"),
    "listener_of_run": ("run", "number"),
    "listener_read": ("run", "name", "since", "until"),
    "log_created": LogEntry._fields,
    "log_latest": LogEntry._fields,
    "log_list": ("key", *LogEntry._fields),
    "log_list_of_post": ("key", *LogEntry._fields),
    "mark_list": ("item", "expires_at"),
    "nested_ready": Lane._fields,
    "message_suspended": ("id", "lane"),
    "message_open_of_batch": base.OPEN_MESSAGE,
    "message_candidates": CANDIDATE,
    "message_dead": Dead._fields,
    "message_held": ("slot", *HeldMessage._fields),
    "message_of_claims": ("id", "fence", *HeldMessage._fields),
    "message_of_worker": ("id", "fence", *HeldMessage._fields),
    "message_candidate": CANDIDATE,
    "message_of_fence": ("key", "destination", "is_own", "is_held", "may_start"),
    "message_waiting": WaitingMessage._fields,
    "message_waiting_of_batch": WaitingMessage._fields,
    "message_waiting_of_lane": WaitingMessage._fields,
    "message_waiting_of_parents": WaitingMessage._fields,
    "messages_waiting": WaitingMessage._fields,
    "open_post_list": ("key", *LogEntry._fields),
    "open_posts_of": ("message", "tenant"),
    "post_progress": ("message", "progress"),
    "queue_read": Queue._fields,
    "retry_earlier": ("slot", "state"),
    "retry_items": ("id", *base.ITEM),
    "run_outcome": ("state", "result", "error"),
    "run_list": base.RUN,
    "run_read": base.RUN,
    "schedule_due": base.SCHEDULE,
    "schedule_list": base.SCHEDULE,
    "schedule_read": base.SCHEDULE,
    "step_of_runs": ("run", *Step._fields),
    "step_refused": ("slot", "cancelled"),
    "suspects_due": (*Lane._fields, "id"),
    "worker_all": ("key", "name", "lease_until"),
    "work_unserved": ("destination", "waiting", "batch"),
    "wire_entry_list": ("message", "text", "base64", "at"),
    "wire_kept_next": ("key", "tail"),
    "wire_member_first": ("message", "entry"),
    "wire_member_list": RunMember._fields,
    "wire_run_find": RunHead._fields,
    "wire_run_list": WireRun._fields,
    "wire_run_read": WireRun._fields,
    "wire_wait_list": ("id", *EventWait._fields[1:]),
    "wire_wait_of_event": Waiting._fields,
    "wire_wait_of_run": Waiting._fields,
    "worker_status": ("name", "since", "seen_at", "lease_until", "concurrency", "hanging", "holds", "serves"),
}
"""The columns of the rows that statements return, if there is more than one."""


def check(given: Mapping[str, Columns], found: Mapping[str, Columns]) -> None:
    """Compare the columns of a dialect's statements with those that the verbs expect.

    `given` and `found` have the statements with more than one column; an expression, None, matches any name.

    Raises:
        AssertionError: a statement has other columns, or another order of them.
    """
    for ours, theirs in ((GIVEN, given), (FOUND, found)):
        for statement in ours.keys() | theirs.keys():
            wanted, there = ours.get(statement, ()), theirs.get(statement, ())
            if len(wanted) != len(there) or any(a not in (None, b) for a, b in zip(there, wanted, strict=True)):
                raise AssertionError(f"the columns of '{statement}' are {there}, and the verbs expect {wanted}")
