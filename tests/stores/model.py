"""The reference: what a store promises, in plain dicts that go through JSON after every operation."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from batchflow.core import ids
from batchflow.core.message import (
    LOSS_LIMIT,
    NOTIFICATION_DESTINATION,
    NOTIFICATION_STEP,
    SUSPECT_LOSSES,
    Claim,
    failure_flow,
    loss_delay_ms,
)
from batchflow.core.run import Step, last_position
from batchflow.core.secrets import SECRET_OUTCOME
from batchflow.core.settlement import (
    Effect,
    FinishEntry,
    Listen,
    Notify,
    Publish,
    RecordPage,
    Settlement,
    StartItems,
    Unlisten,
)

STAYS = {"suspended", "retry", "parked", "released"}
RUN_STATE = {"done": "completed", "failed": "failed", "dead": "failed", "cancelled": "cancelled"}
ARRIVES = {"done": "done", "failed": "failed", "dead": "failed", "cancelled": "cancelled"}
ITEM_STATE = {"done": "succeeded", "failed": "failed", "dead": "failed", "cancelled": "cancelled"}
COUNTS = (
    "eligible", "open", "succeeded", "failed", "cancelled", "already_processed", "in_flight", "duplicates", "left_out",
    "retrying", "parked",
)  # fmt: skip
NOTIFICATION_KEY = failure_flow(NOTIFICATION_DESTINATION).key or ""
Row = dict[str, Any]


class Model:
    """One store with several workflows, whose flow keys have the parallelism they are made with."""

    def __init__(self, flows: dict[str, int | None]) -> None:
        self.flows: dict[str, Row] = {
            key: {
                "limit": limit,
                "pin": None,
                "pin_until": None,
                "paused": False,
                "paused_until": None,
                "in_use": 0,
                "parked_until": 0,
            }
            for key, limit in (*flows.items(), (NOTIFICATION_KEY, None))
        }
        self.messages: dict[str, Row] = {}
        self.runs: dict[str, str] = {}
        self.dead: dict[str, Row] = {}
        self.batches: dict[str, Row] = {}
        self.marks: list[str] = []
        self.holders: dict[str, str] = {}
        self.arrivals: list[Row] = []
        self.listeners: list[Row] = []
        self.kept: list[Row] = []
        self.schedules: dict[str, Row] = {}
        self.scheduled: dict[str, str] = {}

    def recode(self) -> None:
        """An operation passes its values through JSON, as a store does."""
        for name, value in vars(self).items():
            setattr(self, name, json.loads(json.dumps(value)))

    def end_timed_limits(self, now: int) -> None:
        """Pins and pauses whose time is over have ended by themselves."""
        for flow in self.flows.values():
            for name, none in (("pin", None), ("paused", False)):
                until = flow[f"{name}_until"]
                if until is not None and until <= now:
                    flow.update({name: none, f"{name}_until": None})

    # Schedules

    def put_schedule(self, id: str, text: str, next_at: int) -> None:
        known = self.schedules.setdefault(id, {"paused": False, "next_at": next_at, "fires": 0, "skips": 0})
        if known.get("text", text) != text:
            known["next_at"] = next_at
        known["text"] = text

    def pause_schedule(self, id: str, paused: bool, next_at: int) -> bool:
        known = self.schedules.get(id)
        if known is None or known["paused"] == paused:
            return False
        known["paused"] = paused
        if not paused:
            known["next_at"] = next_at
        return True

    def fire_schedule(self, id: str, run: str, next_at: int) -> str:
        known = self.schedules[id]
        known["next_at"] = next_at
        if self.scheduled.get(id) in self.messages:
            known["skips"] += 1
            return "skipped"
        self.publish(run, "work", "free", 0)
        self.scheduled[id] = run
        known["fires"] += 1
        return "fired"

    # Messages

    def publish(
        self,
        id: str,
        destination: str,
        flow: str,
        due: int,
        *,
        batch: str | None = None,
        keep: bool = False,
        parent: tuple[str, int] | None = None,
        held: bool = False,
    ) -> bool:
        self._link(parent)
        known = id in self.messages or id in self.runs or id in self.dead
        takes = batch is None or (batch in self.batches and self._takes(self.batches[batch]))
        if known or not takes:
            return False
        self._add(id, destination, flow, due, batch=batch, keep=keep)
        self.messages[id].update(parent=parent, held=held)
        if batch is not None:
            self.batches[batch]["working"] += 1
        return True

    def _add(
        self,
        id: str,
        destination: str,
        flow: str,
        due: int,
        *,
        batch: str | None,
        keep: bool = False,
        number: int = -1,
        layer: str | None = None,
    ) -> None:
        self.messages[id] = {
            "destination": destination, "flow": flow, "layer": layer, "due": due, "batch": batch, "number": number,
            "keep": keep, "owner": None, "fence": 0, "failures": 0, "losses": 0, "cancelled": False, "journal": {},
            "parent": None, "failed": False, "attempts": 0, "waits": "", "held": False, "linked": False,
            "beside": False,
        }  # fmt: skip

    def limit(self, key: str) -> int | None:
        """The number of messages that may run under a key."""
        flow = self.flows[key]
        return flow["limit"] if flow["pin"] is None else flow["pin"]

    def is_suspect(self, id: str) -> bool:
        """True if a message is claimed alone."""
        return self.messages[id]["losses"] >= SUSPECT_LOSSES

    def alone(self, worker: str) -> bool:
        """True if the worker holds a message that is claimed alone."""
        return any(row["owner"] == worker and self._is_alone(id) for id, row in self.messages.items())

    def _is_alone(self, id: str) -> bool:
        return self.is_suspect(id) and not self.messages[id]["beside"]

    def startable(self, worker: str, now: int) -> list[str]:
        """The messages that a claim may lease to the worker: the one that is claimed alone, or any others."""
        if self.alone(worker):
            return []
        found = [id for id in self.messages if self.may_start(id, now)]
        suspects = sorted((self.messages[id]["due"], id) for id in found if self.is_suspect(id))
        return [suspects[0][1]] if suspects else found

    def may_start(self, id: str, now: int) -> bool:
        """True if a claim may lease this message."""
        message = self.messages[id]
        return (
            message["owner"] is None
            and message["due"] <= now
            and not self._is_held_back(message, now)
            and all(self._has_room(key) for key in self.keys(message))
        )

    def _is_held_back(self, message: Row, now: int) -> bool:
        """Its batch or one of its keys lets nothing start, whatever its limits."""
        batch = self.batches.get(message["batch"] or "")
        flows = [self.flows[key] for key in self.keys(message)]
        return (batch is not None and (batch["paused"] or bool(message["held"] and batch["canary"]))) or any(
            flow["paused"] or flow["parked_until"] > now for flow in flows
        )

    def _has_room(self, key: str) -> bool:
        limit = self.limit(key)
        return limit is None or self.flows[key]["in_use"] < limit

    @staticmethod
    def keys(message: Row) -> list[str]:
        """The flow keys of which a message takes a place."""
        return [key for key in (message["flow"], message["layer"]) if key is not None]

    def _use(self, message: Row, count: int) -> None:
        for key in self.keys(message):
            self.flows[key]["in_use"] += count

    def claimed(self, claim: Claim, worker: str, now: int) -> None:
        """A message was leased; every field of the claim has to be what is known of it."""
        assert self.may_start(claim.id, now), claim
        if not self.is_suspect(claim.id):
            assert claim.id == min(self._alike(claim.id, now), key=self._place), claim
            assert self._priority(claim.id) == max(map(self._priority, self._of_key(claim.id, now))), claim
        self._lease(claim, worker, now, beside=False)

    def claim_one(self, worker: str, id: str, fence: int, now: int) -> bool:
        """Whether a worker may have this message; if it waits and may not start now, it is due."""
        message = self.messages[id]
        if message["fence"] != fence:
            return message["owner"] == worker and message["fence"] == fence + 1
        if message["owner"] is not None:
            # Whoever hands it over loses it.
            return not message["cancelled"]
        if held_back := self._is_held_back(message, now):
            message["due"] = 0
        return not held_back

    def claimed_one(self, claim: Claim, worker: str, now: int) -> None:
        """One message was leased, or its claim was asked for again."""
        if self.messages[claim.id]["fence"] == claim.fence:
            self._check(claim)
        else:
            self._lease(claim, worker, now, beside=True)

    def _lease(self, claim: Claim, worker: str, now: int, *, beside: bool) -> None:
        message = self.messages[claim.id]
        if message["owner"] is None:
            self._use(message, 1)
        message.update(owner=worker, beside=beside)
        self._wait(message, "")
        assert claim.fence > message["fence"]
        message["fence"] = claim.fence
        self._apply_arrivals(claim.id, now)
        self._check(claim)

    def _check(self, claim: Claim) -> None:
        message = self.messages[claim.id]
        found = (claim.destination, claim.batch, claim.number, claim.failures, claim.losses)
        assert found == tuple(message[name] for name in ("destination", "batch", "number", "failures", "losses"))
        assert list(claim.journal) == self.journal(message)
        if claim.number >= 0:
            assert claim.item == self.batches[message["batch"]]["items"][str(claim.number)]["id"]

    def _alike(self, id: str, now: int) -> list[str]:
        """The messages of the same lane that may start and have also started, or are also fresh."""

        def kind(id: str) -> tuple[object, ...]:
            row = self.messages[id]
            lane = row["destination"], row["flow"], row["layer"], row["batch"], row["held"]
            return *lane, row["fence"] > 0, self.is_suspect(id)

        return [other for other in self.messages if kind(other) == kind(id) and self.may_start(other, now)]

    def _of_key(self, id: str, now: int) -> list[str]:
        """The messages of the same flow key that may start, but those that are claimed alone."""
        key = self.keys(self.messages[id])[-1]
        found = [
            other for other, row in self.messages.items() if self.keys(row)[-1] == key and self.may_start(other, now)
        ]
        return [other for other in found if not self.is_suspect(other)]

    def _priority(self, id: str) -> int:
        batch = self.messages[id]["batch"]
        return self.batches[batch]["priority"] if batch and not ids.completes(id, batch) else 0

    def _place(self, id: str) -> tuple[object, ...]:
        message = self.messages[id]
        return (message["due"], id) if message["fence"] else (0, id)

    def journal(self, message: Row) -> list[Step]:
        """The steps of a message, by number."""
        return sorted(Step._make(step) for step in message["journal"].values())

    def _apply_arrivals(self, id: str, now: int) -> None:
        journal = {step.number: step for step in self.journal(self.messages[id])}
        came: list[tuple[int, int, int, int, Row]] = []
        for number, step in journal.items():
            if step.kind in {"sleep", "wait"} and 0 < step.due <= now:
                state = "done" if step.kind == "sleep" else "timeout"
                came.append((step.due, 1, number, number, {"state": state, "value": "null"}))
        mine = [arrival for arrival in self.arrivals if arrival["run"] == id]
        for place, arrival in enumerate(mine):
            what = {"state": arrival["state"], "value": arrival["value"], "error": arrival["error"]}
            came.append((min(arrival["at"], now), 0, place, arrival["number"], what))
        position = last_position(journal.values())
        for _, _, _, number, what in sorted(came, key=lambda one: one[:3]):
            if journal[number].state == "pending":
                position += 1
                if journal[number].value == SECRET_OUTCOME and what.get("value") and what["state"] != "timeout":
                    what["value"] = f'{{"batchflow:secret":{what["value"]}}}'
                self.messages[id].update(failures=0, losses=0)
                journal[number] = journal[number]._replace(position=position, at=now, **what)
                self.messages[id]["journal"][str(number)] = list(journal[number])
                self._unlisten(id, [number])
        self._without("arrivals", id)

    def record(self, id: str, fence: int, step: Step, effects: Sequence[Effect] = (), now: int = 0) -> str:
        message = self.held(id, fence)
        if message is None:
            return "stale"
        if message["cancelled"]:
            return "cancelled"
        known = message["journal"].get(str(step.number))
        self._put(message, [step])
        if known is None or (known[3], known[4]) != (step.state, step.position):
            for effect in effects:
                self._apply(id, effect, now)
        return "recorded"

    def _put(self, message: Row, steps: Sequence[Step]) -> None:
        for step in steps:
            message["journal"][str(step.number)] = list(step)
            if step.position:
                message["failures"] = message["losses"] = 0

    def held(self, id: str, fence: int) -> Row | None:
        """The message, if its claim is held with this fence."""
        message = self.messages.get(id)
        return message if message and message["owner"] is not None and message["fence"] == fence else None

    # Endings

    def settle(self, settlement: Settlement, now: int) -> bool:
        """End a claim, and return whether it was stale."""
        message = self.held(settlement.id, settlement.fence)
        if message is None:
            return True
        ending = settlement.ending
        if message["cancelled"] and ending in {*STAYS, "dead"}:
            ending = "cancelled"
        self._use(message, -1)
        if ending in STAYS:
            self._put(message, settlement.steps)
            message["failures"] += ending == "retry"
            at_once = ending == "released" or (ending == "suspended" and self._has_come(settlement.id))
            at_once = at_once or settlement.due <= now
            message["owner"], message["due"] = None, 0 if at_once else settlement.due
            message["failed"] = ending in {"retry", "parked"}
            if message["failed"] or settlement.failures:
                self._wait(message, "parked" if ending == "parked" else "retrying")
                self._fail(message, settlement, ends=False)
            if ending == "parked":
                flow = self.flows[message["flow"]]
                flow["parked_until"] = max(flow["parked_until"], message["due"])
            for effect in settlement.effects:
                self._apply(settlement.id, effect, now)
        else:
            self._end(settlement._replace(ending=ending), now)
        return False

    def _publish_notification(self, batch: Row) -> None:
        if batch["notifies"]:
            batch["notifications"] += 1
            batch["notification"] = "in_progress"
            id = ids.notification_id(batch["id"], batch["notifications"])
            self._add(id, NOTIFICATION_DESTINATION, NOTIFICATION_KEY, 0, batch=None)
            self.messages[id]["parent"] = (batch["id"], NOTIFICATION_STEP)

    def _drop_notification(self, batch: Row) -> None:
        if batch["notification"]:
            id = ids.notification_id(batch["id"], batch["notifications"])
            if id in self.messages and self.messages[id]["owner"] is None:
                del self.messages[id]
            batch["notifications"] += 1
            batch["notification"] = None

    def _end(self, settlement: Settlement, now: int) -> None:
        id, ending, error = settlement.id, settlement.ending, settlement.error
        message = self.messages.pop(id)
        if ending == "dead" and (message["parent"] or ("", 0))[1] == NOTIFICATION_STEP:
            ending = "failed"
        self._wait(message, "")
        if ending in {"dead", "failed"}:
            self._fail(message, settlement, ends=True)
        if ending == "dead":
            self._put(message, settlement.steps)
            self.dead[id] = {**message, "owner": None, "cancelled": False}
        elif message["keep"]:
            self.runs[id] = RUN_STATE[ending]
        batch = self.batches.get(message["batch"] or "")
        if batch is None:
            pass
        elif message["number"] >= 0:
            self._end_item(batch, str(message["number"]), ITEM_STATE[ending])
        else:
            batch["working"] -= 1
            if ids.completes(id, batch["id"]):
                batch["incomplete"] = ending != "done"
                if batch["ended"] and id == ids.complete_id(batch["id"], batch["generation"]):
                    self._publish_notification(batch)
            elif ending != "done" and not batch["ended"] and batch["state"] != "cancelling":
                batch["broken"], batch["entered"] = batch["broken"] or True, True
        run, number = message["parent"] or ("", 0)
        if number == NOTIFICATION_STEP:
            noted = self.batches[run]
            if id == ids.notification_id(run, noted["notifications"]):
                noted["notification"] = "succeeded" if ending == "done" else "failed"
        elif message["parent"]:
            self._arrive(run, number, ARRIVES[ending], settlement.result, error, now)
        for what in ("arrivals", "listeners", "kept"):
            self._without(what, id)
        # Not those of an earlier run of this id, which ended without them.
        if ending == "cancelled" and message["linked"]:
            for child in [run for run, m in self.messages.items() if (m["parent"] or [None])[0] == id]:
                self.cancel_run(child, now)
        effects = settlement.effects if ending != "cancelled" else ()
        for effect in sorted(effects, key=lambda effect: isinstance(effect, StartItems)):
            self._apply(id, effect, now)
        if batch is not None:
            self._finish(message["batch"], now)

    def _wait(self, message: Row, reason: str) -> None:
        """An item waits for a reason that its batch counts, or for none."""
        batch = self.batches.get(message["batch"] or "")
        if batch is not None and message["number"] >= 0:
            for name, count in ((message["waits"], -1), (reason, 1)):
                if name:
                    batch["counts"][name] += count
        message["waits"] = reason

    def _fail(self, message: Row, settlement: Settlement, *, ends: bool) -> None:
        """Failed attempts; one that ends a message has failed at least once."""
        failures = len(settlement.failures) or int(ends and settlement.error is not None)
        message["attempts"] += max(0, failures - (settlement.ending == "parked"))
        batch = self.batches.get(message["batch"] or "")
        if batch is not None:
            batch["failures"] += failures
            batch["failed_items"] += ends and failures > 0 and message["number"] >= 0

    # What comes from outside

    def _without(self, what: str, run: str) -> None:
        setattr(self, what, [row for row in getattr(self, what) if row["run"] != run])

    def _unlisten(self, run: str, numbers: Sequence[int]) -> None:
        self.listeners = [row for row in self.listeners if row["run"] != run or row["number"] not in numbers]

    def _has_come(self, run: str) -> bool:
        return any(arrival["run"] == run for arrival in self.arrivals)

    def _arrive(self, run: str, number: int, state: str, value: str | None, error: str | None, now: int) -> None:
        message = self.messages.get(run)
        if message is None or message["journal"].get(str(number), [None] * 4)[3] != "pending":
            return
        self.arrivals.append({"run": run, "number": number, "state": state, "value": value, "error": error, "at": now})
        if message["owner"] is None and not message["failed"] and message["due"] > now:
            message["due"] = 0

    def _link(self, step: tuple[str, int] | None) -> None:
        """The run of a step waits, or has waited, for something from outside."""
        if step is not None and step[0] in self.messages:
            self.messages[step[0]]["linked"] = True

    def _listen(self, run: str, effect: Listen, now: int) -> None:
        self._link((run, effect.number))
        kept = next((row for row in self.kept if (row["run"], row["event"]) == (run, effect.event)), None)
        if kept is None:
            row = {"run": run, "number": effect.number, "event": effect.event, "since": now, "until": effect.until}
            self.listeners.append(row)
        else:
            self.kept.remove(kept)
            self._arrive(run, effect.number, "done", kept["data"], None, now)

    def parents(self) -> list[str]:
        """Runs that have a child."""
        found = {message["parent"][0] for message in self.messages.values() if message["parent"]}
        return sorted(found & set(self.messages))

    def waiters(self, event: str, now: int) -> list[Row]:
        """Those that listen, those that have waited longest first."""
        found = [row for row in self.listeners if row["event"] == event and not 0 < row["until"] <= now]
        return sorted(found, key=lambda row: (row["since"], row["run"], row["number"]))

    def notify(self, event: str, data: str, run: str | None, now: int) -> list[str]:
        found = self.waiters(event, now)
        if run is not None:
            found = [row for row in found if row["run"] == run][:1]
            if not found and run in self.messages and not self.messages[run]["cancelled"]:
                self.kept.append({"run": run, "event": event, "data": data})
                self.messages[run]["linked"] = True
                return [run]
        for row in found:
            self.listeners.remove(row)
            self._arrive(row["run"], row["number"], "done", data, None, now)
        return list(dict.fromkeys(row["run"] for row in found))

    def _end_item(self, batch: Row, number: str, state: str) -> None:
        item = batch["items"][number]
        item["state"] = state
        batch["counts"]["open"] -= 1
        batch["counts"][state] += 1
        name = f"{batch['ledger']} {item['id']}"
        origin = self.batches.get(batch["retry_of"] or "")
        if state == "succeeded" and origin is not None:
            taken = origin["taken"][item["id"]]
            batch["recovered"] += taken[:2] == [batch["id"], int(number)] and taken[2] in ("failed", "cancelled")
        if state == "succeeded" or self.holders.get(name) == batch["id"]:
            self.holders.pop(name, None)
        if state == "succeeded" and name not in self.marks:
            self.marks.append(name)

    def _apply(self, run: str, effect: Effect, now: int) -> None:
        match effect:
            case Publish(messages):
                for message in messages:
                    due, flow = message.not_before if message.not_before > now else 0, message.flow.key or ""
                    about: Row = {
                        "batch": message.batch,
                        "keep": message.keep,
                        "parent": message.parent,
                        "held": message.held,
                    }
                    self.publish(message.id, message.destination, flow, due, **about)
            case Listen():
                self._listen(run, effect, now)
            case Unlisten(numbers):
                self._unlisten(run, numbers)
            case Notify():
                self.notify(effect.event, effect.data, effect.run, now)
            case FinishEntry(batch):
                if not self.batches[batch]["entered"]:
                    self.batches[batch].update(entered=True, begun=True)
                    if self.batches[batch]["state"] == "pending":
                        self.batches[batch]["state"] = "open"
            case RecordPage():
                self.batches[effect.batch]["pages"] += 1
                for name in ("eligible", "already_processed", "duplicates", "left_out"):
                    self.batches[effect.batch]["counts"][name] += getattr(effect, name)
            case StartItems():
                self._start(effect, now)
            case _:
                raise AssertionError(effect)

    def _start(self, effect: StartItems, now: int) -> None:
        batch = self.batches[effect.batch]
        if not self._takes(batch):
            return
        origin = self.batches.get(batch["retry_of"] or "")
        for place, (number, id) in enumerate(enumerate(effect.ids, effect.first)):
            name = f"{batch['ledger']} {id}"
            earlier = None if origin is None else self._earlier(origin, id, effect.again[place])
            every = batch["force"] and origin is None
            if id in {item["id"] for item in batch["items"].values()} or str(number) in batch["items"]:
                batch["counts"]["duplicates"] += 1
            elif (not every and self.holders.get(name, effect.batch) != effect.batch) or earlier == "open":
                batch["counts"]["in_flight"] += 1
            elif not batch["force"] and (name in self.marks or earlier == "succeeded"):
                batch["counts"]["already_processed"] += 1
            else:
                if origin is not None:
                    origin["taken"][id] = [effect.batch, number, earlier]
                    batch["replaced"].update({earlier: batch["replaced"][earlier] + 1} if earlier else {})
                self.holders[name] = effect.batch
                batch["items"][str(number)] = {"id": id, "state": "open"}
                batch["counts"]["open"] += 1
                run = ids.item_run_id(effect.batch, number)
                own = effect.flows[place] if effect.flows else None
                key = batch["flow"] if own is None or own.key is None else own.key
                layer = None if key == batch["flow"] else batch["flow"]
                self._add(run, "execute", key, 0, batch=effect.batch, number=number, layer=layer)

    def _earlier(self, origin: Row, id: str, number: int) -> str | None:
        batch, at, _ = origin["taken"].get(id, [origin["id"], number, None])
        return self.batches[batch]["items"].get(str(at), {}).get("state")

    def numbers_in_origin(self, id: str, items: Sequence[str]) -> tuple[int, ...]:
        """The numbers of items in the batch that this one retries; nothing for one that is not a retry."""
        origin = self.batches.get(self.batches[id]["retry_of"] or "")
        known = {item["id"]: int(number) for number, item in origin["items"].items()} if origin else {}
        return tuple(known.get(item, -1) for item in items) if origin else ()

    def _has_taken(self, batch: Row, number: int) -> bool:
        origin = self.batches[batch["retry_of"] or batch["id"]]
        taken = origin["taken"].get(batch["items"][str(number)]["id"])
        return taken is not None and taken[:2] != [batch["id"], number]

    def expire(self, worker: str, now: int) -> int:
        held = [id for id, message in self.messages.items() if message["owner"] == worker]
        alone = {id for id in held if self._is_alone(id)}
        for id in held:
            self._take_back(id, now, lost=not alone or id in alone)
        return len(held)

    def deregister(self, worker: str, now: int) -> None:
        for id in [id for id, message in self.messages.items() if message["owner"] == worker]:
            self._take_back(id, now, lost=False)

    def holds(self, worker: str) -> dict[str, int]:
        return dict(Counter(row["destination"] for row in self.messages.values() if row["owner"] == worker))

    def _take_back(self, id: str, now: int, *, lost: bool) -> None:
        message = self.messages[id]
        self._use(message, -1)
        message["owner"], message["due"], message["failed"] = None, 0, False
        message["losses"] += lost
        message["attempts"] += lost and not message["cancelled"] and message["losses"] < LOSS_LIMIT
        if lost and message["losses"] >= SUSPECT_LOSSES:
            message["due"] = now + loss_delay_ms(message["losses"])
        if message["cancelled"]:
            self._end(Settlement(id, 0, "cancelled"), now)
        elif message["losses"] >= LOSS_LIMIT:
            error = f"WorkerLost: {message['losses']} workers in a row died or hung while they ran it"
            self._end(Settlement(id, 0, "dead", error=error), now)

    def cancel_run(self, id: str, now: int) -> bool:
        message = self.messages.get(id)
        if message is None:
            return False
        if message["owner"] is None:
            self._end(Settlement(id, 0, "cancelled"), now)
        else:
            message["cancelled"] = True
        return True

    def redrive(self, id: str, restart: bool = False) -> bool:
        """Redrive a dead letter, and return whether it waits again."""
        message = self.dead.get(id)
        if message is None:
            return False
        batch = self.batches.get(message["batch"] or "")
        if batch is not None:
            if ids.completes(id, batch["id"]):
                self._drop_notification(batch)
                batch["working"] += 1
            elif batch["state"] == "cancelling" or (
                message["number"] >= 0 and self._has_taken(batch, message["number"])
            ):
                return False
            else:
                self._reopen(message["batch"], batch, message["number"])
        del self.dead[id]
        failed = max((step[4] for step in message["journal"].values() if step[3] == "failed"), default=0)
        journal = {
            number: step
            for number, step in message["journal"].items()
            if not restart and step[3] != "pending" and (step[3], step[4]) != ("failed", failed)
        }
        again = {"due": 0, "failures": 0, "losses": 0, "journal": journal, "failed": False, "linked": False}
        self.messages[id] = {**message, **again}
        return True

    def delete_dead_letter(self, id: str) -> bool:
        """Remove a dead letter, and return whether there was one."""
        return self.dead.pop(id, None) is not None

    def _reopen(self, id: str, batch: Row, number: int) -> None:
        completion = ids.complete_id(id, batch["generation"])
        self._drop_notification(batch)
        if batch["state"] == "cancelled":
            batch["broken"] = "cancelled"
        if batch["ended"]:
            waits = self.messages.get(completion)
            if waits is not None and waits["owner"] is None:
                del self.messages[completion]
                batch["working"] -= 1
            batch["generation"] += 1
            batch["state"] = "sealed"
        if number >= 0:
            item = batch["items"][str(number)]
            item["state"] = "open"
            batch["counts"]["open"] += 1
            batch["counts"]["failed"] -= 1
            self.holders[f"{batch['ledger']} {item['id']}"] = id
        else:
            batch["working"] += 1
            batch["broken"] = batch["broken"] if batch["broken"] == "cancelled" else False
            batch["entered"] = batch["begun"]
            batch["state"] = "open" if batch["begun"] else "pending"
        batch["ended"] = False

    # Batches

    def open_batch(
        self,
        id: str,
        flow: str,
        entry: str,
        *,
        ledger: str = "welcome",
        force: bool = False,
        retry_of: str | None = None,
        priority: int = 0,
        notifies: bool = False,
    ) -> bool:
        if id in self.batches:
            return False
        self.batches[id] = {
            "state": "pending", "flow": flow, "entered": False, "ended": False, "broken": False, "working": 0,
            "pages": 0, "counts": dict.fromkeys(COUNTS, 0), "items": {}, "id": id, "ledger": ledger, "force": force,
            "paused": False, "generation": 1, "begun": False, "incomplete": False, "failures": 0, "failed_items": 0,
            "retry_of": retry_of, "taken": {}, "recovered": 0,
            "replaced": {"succeeded": 0, "failed": 0, "cancelled": 0},
            "priority": priority,
            "notifies": notifies, "notifications": 0, "notification": None,
            "canary": None,
        }  # fmt: skip
        self.publish(entry, "entry", flow, 0, batch=id)
        return True

    def pause_batch(self, id: str, paused: bool) -> bool:
        batch = self.batches.get(id)
        if batch is None or not self._takes(batch) or (not paused and not batch["paused"]):
            return False
        batch["paused"] = paused
        return True

    def set_batch_priority(self, id: str, priority: int) -> bool:
        batch = self.batches.get(id)
        if batch is None or not self._takes(batch):
            return False
        batch["priority"] = priority
        return True

    def approve_batch(self, id: str) -> bool:
        batch = self.batches.get(id)
        if batch is None or not self._takes(batch) or batch["canary"] is None:
            return False
        batch["canary"] = None
        return True

    def cancel_batch(self, id: str, now: int) -> bool:
        batch = self.batches.get(id)
        if batch is None or batch["ended"]:
            return False
        batch["state"] = "cancelling"
        mine = [run for run, message in self.messages.items() if message["batch"] == id]
        for run in mine:
            self.cancel_run(run, now)
        self._finish(id, now)
        return True

    def _takes(self, batch: Row) -> bool:
        return not batch["ended"] and batch["state"] != "cancelling"

    def _finish(self, id: str, now: int) -> None:
        batch = self.batches[id]
        idle, opened = batch["working"] == 0, batch["counts"]["open"]
        if batch["state"] == "open" and batch["entered"] and idle and opened:
            batch["state"] = "sealed"
        if not batch["ended"] and idle and not opened and (batch["entered"] or batch["state"] == "cancelling"):
            batch["ended"], batch["paused"] = True, False
            cancelled = batch["state"] == "cancelling"
            batch["state"] = "cancelled" if cancelled else "failed" if batch["broken"] else "completed"
            self._add(ids.complete_id(id, batch["generation"]), "complete", batch["flow"], 0, batch=id)
            batch["working"] += 1
        self._end_canary(id, batch)

    def _end_canary(self, id: str, batch: Row) -> None:
        """At most half of the items of a canary may fail."""
        done = sum(batch["counts"][state] for state in ("succeeded", "failed", "cancelled"))
        held = any(message["held"] and message["batch"] == id for message in self.messages.values())
        if batch["canary"] and held and self._takes(batch) and not batch["counts"]["open"] and done >= batch["canary"]:
            batch["canary"] = batch["canary"] if batch["counts"]["failed"] > done / 2 else None
