"""The relay of an app on QStash: gives what is due in the app's store to QStash, which calls the app for each."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from pydantic_core import to_json

from batchflow.core.flow import FlowControl
from batchflow.core.message import Claim, ClaimResult
from batchflow.core.run import NEVER
from batchflow.core.schedule import Cron
from batchflow.core.settlement import Settlement, released, suspended
from batchflow.core.store import Store
from batchflow.engine.worker import DEREGISTER_TIMEOUT_S, LEASE_MS
from batchflow.errors import InputError, NotFoundError, StoreError
from batchflow.qstash.directory import Directory
from batchflow.qstash.rest import QStashRefused, QStashRest
from batchflow.wire.submissions import FIRST_WAITS, Submission, batch_submission, message_item, schedule_submission

GIVEN_MS = 3_600_000
"""The time after which a message counts as lost in QStash, beside what its rate takes; it is given again."""

WAITING_MS = 1_800_000
"""Of a key with a rate, QStash is given what may start within this time."""

WAITING_FOR_EACH = 25
"""Of a key with a parallelism, QStash is given this many messages for each that may run."""

RELAY_LEASE_MS = 120_000
"""The lease of a relay: longer than QStash has for its answer. What it held when its process died is due again then."""

FEWEST, MOST = 10, 1_000
"""The bounds of the number of messages of one key that wait in QStash."""

LOOK_EVERY_S = 15
"""QStash is asked for no more calls than one in this time, in seconds, to look for leases that have ended."""

REFUSED_MS = 60_000
"""The time after which messages that QStash has refused are given to it again."""

SLICE = 100
"""The number of messages in one request."""

SOON_MS = 1_000
"""The time until QStash calls the app for what another program has made due: all of one second share a call."""

LONGEST_WAKE_MS = 604_800_000
"""QStash keeps no message for longer on some plans; a request that comes too early only looks again."""


@dataclass(slots=True)
class RelaySchedule:
    """The schedule of QStash that calls the app at the times of `cron`; `is_there` once this process knows of it."""

    cron: Cron | None = None
    is_there: bool = False


@dataclass(slots=True)
class _Ended:
    """The messages of a destination that have ended, and those of them that were replaced."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    asked: int = 0
    served: int = 0


class Relay:
    """Gives due messages to QStash, for the endpoints in the `directory`.

    A message stays in the store: there it waits for its delivery, which names its fence, for `GIVEN_MS`. So neither a
    lost nor a doubled delivery changes anything. The `schedule` of QStash calls the app regularly.
    """

    def __init__(
        self,
        store: Store,
        directory: Directory,
        worker: str,
        destinations: Callable[[], Sequence[str]],
        *,
        now: Callable[[], int],
        schedule: RelaySchedule,
    ) -> None:
        self._store = store
        self._rest = directory.app.rest
        # Not that of whoever executes: a late delivery would get what is held here as its own.
        self._worker = f"{worker}-relay"
        self._now = now
        self._registered_at: int | None = None
        self._registering = asyncio.Lock()
        self._is_unsure = False
        """It may hold claims of which it knows nothing."""
        self._destinations = destinations
        self._endpoints = directory.endpoints
        self._url = directory.deliveries_url
        self._schedule = schedule
        self._called_at = 0
        self._wakes_at = 0
        self._looks_at = 0
        self._ended: dict[str, _Ended] = {}

    async def run(self) -> None:
        """Give QStash what is due, as many messages of each key as it should have.

        A program without endpoints knows neither the code nor the limits of messages: it has QStash call the app, which
        gives them.

        Raises:
            StoreError: the store or QStash cannot take them now; they are due as before.
            QStashRefused: QStash does not take the messages of a destination; they are due again after `REFUSED_MS`,
                and all others are given.
        """
        if not self._endpoints:
            await self.wake_at(self._now() + SOON_MS)
            return
        refusals: list[QStashRefused] = []
        while True:
            await self._register()
            claimed = await self._claim(self._destinations(), SLICE)
            all_given = await self._give(claimed, refusals, only_with_room=True)
            if not all_given or len(claimed.claims) < SLICE:
                break
        await self.wake_at(claimed.next_due)
        if refusals:
            raise refusals[0]

    async def replace(self, destination: str) -> None:
        """Give QStash one message in the place of one of this destination that has ended, of the same if one is due.

        Of calls at the same time, those that wait share the next request.

        Raises:
            StoreError: as for `run`.
        """
        ended = self._ended.setdefault(destination, _Ended())
        ended.asked += 1
        asked = ended.asked
        async with ended.lock:
            if ended.served < asked:
                count = min(ended.asked - ended.served, SLICE)
                await self._replace(destination, count)
                ended.served += count

    async def _replace(self, destination: str, count: int) -> None:
        await self._register()
        claimed = await self._claim((destination,), count)
        refusals: list[QStashRefused] = []
        # A message of another key would take the place from this one, and wait where there is no room for it.
        if claimed.claims:
            await self._give(claimed, refusals, only_with_room=False)
        if refusals or len(claimed.claims) < count:
            await self.run()
        else:
            await self.wake_at(claimed.next_due)
        if refusals:
            raise refusals[0]

    async def close(self) -> None:
        """Leave the store, unless it does not answer."""
        if self._registered_at is not None or self._is_unsure:
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(DEREGISTER_TIMEOUT_S):
                    await self._store.deregister(self._worker)

    async def _register(self) -> None:
        async with self._registering:
            if self._is_unsure:
                await self._release_all()
            now = self._now()
            # The clock may be set back.
            if self._registered_at is None or not 0 <= now - self._registered_at < RELAY_LEASE_MS // 4:
                await self._store.register(self._worker, RELAY_LEASE_MS, 0, ())
                self._registered_at = now

    async def _release_all(self) -> None:
        """Make due what this relay holds; what QStash has of it already has an old fence then."""
        self._is_unsure = False
        try:
            await self._store.deregister(self._worker)
        except BaseException:
            self._is_unsure = True
            raise
        self._registered_at = None

    async def _claim(self, destinations: Sequence[str], limit: int) -> ClaimResult:
        try:
            return await self._store.claim(self._worker, destinations, limit)
        except BaseException:
            self._is_unsure = True
            raise

    async def _settle(self, ends: Sequence[Settlement]) -> None:
        try:
            answers = await asyncio.gather(*(self._store.settle(it) for it in ends), return_exceptions=True)
            if errors := [it for it in answers if isinstance(it, BaseException)]:
                raise errors[0]
        except BaseException:
            self._is_unsure = True
            raise

    async def _give(self, claimed: ClaimResult, refusals: list[QStashRefused], *, only_with_room: bool) -> bool:
        """Give QStash these messages, or only those for which it has room, and release the others.

        Adds to `refusals` why it does not take messages. Returns False if there were others.
        """
        given, left = list(claimed.claims), list[Claim]()
        try:
            if only_with_room:
                given, left = self._split(claimed.claims, await self._rooms(claimed.claims))
            refused = await self._post_all(given, claimed.now, refusals)
        except BaseException:
            with suppress(StoreError):
                await self._settle([released(it) for it in claimed.claims])
            raise
        ends = [released(it) for it in left]
        for claim in given:
            # Due at once, those that are refused would be all that is claimed.
            wait = REFUSED_MS if claim.destination in refused else self._lost_after_ms(claim)
            ends.append(suspended(claim, claimed.now + wait, ()))
        await self._settle(ends)
        return not left

    async def _post_all(self, claims: Sequence[Claim], now: int, refusals: list[QStashRefused]) -> set[str]:
        """Post these messages; returns the destinations whose messages QStash refuses."""
        by_destination: dict[str, list[Claim]] = {}
        for claim in claims:
            by_destination.setdefault(claim.destination, []).append(claim)
        refused: set[str] = set()
        try:
            if claims:
                await self._post(batch_submission([self._item(it, now) for it in claims]))
        except QStashRefused as error:
            if len(by_destination) > 1:
                # It takes all or none.
                for part in by_destination.values():
                    refused |= await self._post_all(part, now, refusals)
            else:
                refusals.append(error)
                refused.update(by_destination)
        return refused

    def _split(self, claims: Sequence[Claim], rooms: dict[str, int]) -> tuple[list[Claim], list[Claim]]:
        """The messages for which QStash has room, and the others."""
        given: list[Claim] = []
        left: list[Claim] = []
        for claim in claims:
            key = self._key_of(claim)
            room = rooms.get(key, 1)
            (given if room > 0 else left).append(claim)
            if key in rooms:
                rooms[key] = room - 1
        return given, left

    async def _rooms(self, claims: Sequence[Claim]) -> dict[str, int]:
        """The number of messages that QStash should have more, by key; keys without limits have room for all."""
        flows = {it.flow.key: it.flow for claim in claims if (it := self._endpoints.get(claim.destination)) is not None}
        return {
            key: max(0, most_waiting(flow) - await self._waiting(key))
            for key, flow in flows.items()
            if key is not None and (flow.rate is not None or flow.parallelism is not None)
        }

    async def _waiting(self, key: str) -> int:
        found = await self._shown(f"/v2/flowControl/{quote(key, safe='')}")
        return 0 if found is None else int(found.get("waitListSize") or 0)

    async def _shown(self, path: str) -> dict[str, Any] | None:
        """The JSON object that QStash has there; None if there is none."""
        try:
            return await self._rest.get(path)
        except NotFoundError:
            return None
        except InputError as error:
            raise _refused(self._rest, error) from error

    def _key_of(self, claim: Claim) -> str:
        endpoint = self._endpoints.get(claim.destination)
        return "" if endpoint is None else endpoint.flow.key or ""

    def _lost_after_ms(self, claim: Claim) -> int:
        endpoint = self._endpoints.get(claim.destination)
        if endpoint is None:
            return GIVEN_MS
        return GIVEN_MS + int(most_waiting(endpoint.flow) * endpoint.flow.interval_ms)

    def _item(self, claim: Claim, now: int) -> dict[str, Any]:
        endpoint = self._endpoints.get(claim.destination)
        return message_item(
            self._url(),
            to_json({"message": claim.id, "fence": claim.fence}).decode(),
            # A message that is resumed has the fences that it had before.
            dedup_id=f"{claim.id}-{claim.fence}-{now}",
            flow=None if endpoint is None else endpoint.flow,
            label=None if endpoint is None else endpoint.name.replace(":", "."),
            timeout_ms=None if endpoint is None else endpoint.declared_timeout_ms,
        )

    async def _post(self, submission: Submission) -> None:
        try:
            await self._rest.post(submission)
        except InputError as error:
            raise _refused(self._rest, error) from error

    async def wake_after_lease(self) -> None:
        """Have QStash call the app when a lease that is held now has ended, if nobody renews it.

        Raises:
            StoreError: QStash cannot take it now.
        """
        # Whatever calls before finds the lease held, and nothing that is due later.
        second = -(-(self._now() + LEASE_MS) // (1000 * LOOK_EVERY_S)) * LOOK_EVERY_S
        if second != self._looks_at:
            await self._call_at(second)
            self._looks_at = second

    async def wake_at(self, due: int | None) -> None:
        """Have QStash call the app when something is due (ms), unless it does that anyway until then.

        Raises:
            StoreError: QStash cannot take it now.
        """
        now = self._now()
        if due is None or due <= now or self._is_called_until(due, now):
            return
        due = min(due, now + LONGEST_WAKE_MS)
        if now < self._wakes_at <= due:
            return
        second = -(-due // 1000)
        await self._call_at(second)
        self._wakes_at = second * 1000

    async def _call_at(self, second: int) -> None:
        """Have QStash call the app at this second of the epoch; once, however many processes ask for it."""
        url = self._url()
        item = message_item(url, "{}", dedup_id=f"batchflow-{name_of(url)}-{second}", not_before=second * 1000)
        await self._post(batch_submission([item]))

    def _is_called_until(self, due: int, now: int) -> bool:
        cron = self._schedule.cron
        if cron is None or not self._schedule.is_there:
            # QStash may have refused the schedule.
            return False
        if not now < self._called_at:
            self._called_at = cron.next_after(now) or NEVER
        return self._called_at <= due

    async def schedule(self) -> None:
        """Create the schedule of QStash that calls the app, unless it is there; each process looks once.

        Raises:
            StoreError: QStash cannot do it now.
        """
        if (times := self._schedule.cron) is None or self._schedule.is_there:
            return
        url = self._url()
        cron = f"CRON_TZ={times.timezone} {times.fields}"
        id = f"batchflow-{name_of(url)}"
        shown = await self._shown(f"/v2/schedules/{id}") or {}
        if [shown.get(it) for it in ("destination", "cron", "retryDelayExpression")] != [url, cron, FIRST_WAITS]:
            await self._post(schedule_submission(url, cron, id, "{}"))
        self._schedule.is_there = True


def _refused(rest: QStashRest, error: InputError) -> QStashRefused:
    return QStashRefused(f"QStash at {rest.url} refuses it: {error}")


def name_of(url: str) -> str:
    """A short name of an app for ids, from its URL: several apps may share one QStash."""
    return sha256(url.encode()).hexdigest()[:12]


def most_waiting(flow: FlowControl) -> int:
    """The number of messages of a key that QStash is given at a time: enough, and not what waits longer than we do."""
    limits = [MOST]
    if flow.rate is not None:
        limits.append(flow.rate * WAITING_MS // flow.period_ms)
    if flow.parallelism is not None:
        limits.append(flow.parallelism * WAITING_FOR_EACH)
    return max(FEWEST, min(limits))
