"""Checks that each key of a namespace is known, and that its owner exists.

No key has a TTL: it is permanent, or it belongs to something (a run that waits, a batch that is kept, a worker that is
known) and goes with it. So a key whose owner is gone, or has ended where the key should have ended with it, has leaked.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias, cast

from fakeredis import FakeAsyncRedis

from batchflow.core.message import SUSPECT_LOSSES
from batchflow.stores.redis import RedisStore
from batchflow.stores.redis.errors import ERRORS
from batchflow.stores.redis.keys import KEYS, Key, pattern_of, prefix

SNAPSHOT = """
local found, keys = {}, redis.call('KEYS', ARGV[1])
-- What is larger is somebody's measurement.
if #keys > 20000 then return '[]' end
for place, key in ipairs(keys) do
  local kind = redis.call('TYPE', key)
  kind = type(kind) == 'table' and kind.ok or kind
  local holds = {}
  if kind == 'hash' then holds = redis.call('HGETALL', key) end
  if kind == 'zset' then holds = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
  if kind == 'set' then holds = redis.call('SMEMBERS', key) end
  found[place] = { key, kind, holds }
end
return cjson.encode(found)
"""
FUNCTION = f"#!lua name=snapshot\nredis.register_function('snapshot', function(KEYS, ARGV) {SNAPSHOT} end)"
RIGHTS = ("+keys", "+type")
"""The rights that the check needs beside batchflow's own."""


class Holds(NamedTuple):
    """The content of a key: names with values, or only members."""

    kind: str
    values: dict[str, str]


class Snapshot:
    """All keys of a namespace at one moment."""

    def __init__(self, namespace: str, text: str | bytes) -> None:
        self._prefix = prefix(namespace)
        rows: list[tuple[str, str, list[str]]] = json.loads(text) or []
        self.keys = {key: Holds(kind, _values(kind, holds or [])) for key, kind, holds in rows}

    def of(self, name: str) -> dict[str, str]:
        """The content of a key; empty if it does not exist."""
        found = self.keys.get(self._prefix + name)
        return found.values if found else {}

    def patterns(self) -> set[str]:
        """The patterns of all keys there are."""
        return {known.pattern for key in self.keys if (known := pattern_of(key, self._prefix))}

    def leaks(self) -> list[str]:
        """One sentence for each key that should not be there."""
        return [sentence for key, holds in sorted(self.keys.items()) for sentence in self._wrong(key, holds)]

    def _wrong(self, key: str, holds: Holds) -> Iterator[str]:
        known = pattern_of(key, self._prefix)
        if known is None:
            yield f"nobody knows the key {key}"
            return
        if holds.kind != known.type:
            yield f"{key} is a {holds.kind}, not a {known.type}"
        name = key.removeprefix(self._prefix)
        rule = _RULES.get(known.pattern)
        if rule is None:
            if known.stays != "permanent":
                yield f"no rule says to whom {known.pattern} belongs"
            return
        head, cut, _ = known.pattern.partition("<")
        rest = name.removeprefix(head) if cut else ""
        if not cut or known.pattern in _BY_MEMBER:
            yield from (f"{key} holds '{it}' {why}" for it in holds.values if (why := rule(self, it, rest)))
        elif why := rule(self, rest, rest):
            yield f"{key} {why}"

    # Owners

    def open_run(self, id: str, _: str = "") -> str | None:
        """Of what belongs to a message that has not ended."""
        message = self.of(f"m:{id}")
        return None if message and "z" not in message else f"and there is no open run '{id}'"

    def run(self, id: str, _: str = "") -> str | None:
        return None if self.of(f"m:{id}") else f"and there is no run '{id}'"

    def ended_run(self, id: str, _: str = "") -> str | None:
        return None if "z" in self.of(f"m:{id}") else f"and there is no run '{id}' that has ended"

    def worker(self, name: str, _: str = "") -> str | None:
        return None if name in self.of("workers") else f"and there is no worker '{name}'"

    def served(self, list: str, _: str) -> str | None:
        return None if list in self.of("wl").values() else "and no worker serves it"

    def batch(self, name: str, _: str = "") -> str | None:
        """Of what belongs to a batch; behind its id there may be the number of a bucket."""
        id = name.partition(":")[0]
        return None if self.of(f"b:{id}") else f"and there is no batch '{id}'"

    def open_batch(self, id: str, _: str = "") -> str | None:
        batch = self.of(f"b:{id}")
        return None if batch and not float(batch.get("za", 0)) else f"and there is no open batch '{id}'"

    def ended_batch(self, id: str, _: str = "") -> str | None:
        return None if float(self.of(f"b:{id}").get("za", 0)) else f"and there is no batch '{id}' that has ended"

    def listed_batch(self, id: str, _: str = "") -> str | None:
        return None if id in self.of("bs") else "and no such batch is known"

    def working_batch(self, id: str, _: str = "") -> str | None:
        """Of messages of a batch's layers: the end of a batch has one too."""
        return None if float(self.of(f"b:{id}").get("wk", 0)) else f"and there is no batch '{id}' at work"

    def holder(self, item: str, ledger: str) -> str | None:
        """Of items in flight: the number of the batch that has each."""
        number = self.of(f"h:{ledger}")[item]
        batches = (self.of(f"b:{id}") for id in self.of("bs"))
        has = any(float(it["sq"]) == float(number) and not float(it.get("za", 0)) for it in batches)
        return None if has else f"and there is no open batch {number}"

    def listener(self, member: str, _: str) -> str | None:
        run, _, number = member.partition("\1")
        return None if str(int(number)) in self.of(f"ln:{run}") else "and it does not listen"

    def webhook(self, token: str, _: str) -> str | None:
        run = self.of("wh")[token]
        return None if token in self.of(f"whr:{run}") else f"and the run '{run}' knows nothing of it"

    def ready(self, member: str, destination: str) -> str | None:
        flow, _, group = member.partition("\n")
        return self.lane(f"{flow}|{destination}|{group}") or (
            None if destination in self.of("rds") else "and its destination is not among those that have something"
        )

    def nested(self, member: str, place: str) -> str | None:
        """Of a lane nested under a flow key: one lane of that key stands for all of them."""
        parent, _, destination = place.partition(":")
        flow, _, group = member.partition("\n")
        return self.lane(f"{flow}|{destination}|{group}") or (
            None
            if f"{parent}\n^" in self.of(f"rd:{destination}")
            else "and the lane that stands for it is not among those that have something"
        )

    def has_ready(self, destination: str, _: str) -> str | None:
        """Of destinations: a claim looks at no other."""
        first = self.of(f"rd:{destination}")
        return None if first else "and nothing waits there"

    def held_back(self, name: str, _: str) -> str | None:
        flow, destination, group = name.split("\n")
        return self.lane(f"{flow}|{destination}|{group}")

    def lane(self, lane: str, _: str = "") -> str | None:
        if lane.endswith("|^"):
            return None if self.of(f"rn:{lane.removesuffix('|^').replace('|', ':', 1)}") else "and nothing waits there"
        return None if self.of(f"q:{lane}") or self.of(f"s:{lane}") else "and nothing waits there"

    def claimed_alone(self, worker: str, _: str) -> str | None:
        return self.worker(worker) or self.open_run(self.of("wa")[worker])

    def holds_off(self, name: str, _: str) -> str | None:
        """Of what holds others off: a message or a batch that has not ended."""
        id = self.of("dk")[name]
        message = self.of(f"m:{id}")
        return None if message and "z" not in message else self.open_batch(id)

    def queued_schedule(self, id: str, _: str) -> str | None:
        return None if "q" in self.of(f"sc:{id}") else f"and there is no schedule '{id}' with a queued fire"

    def waiting(self, member: str, _: str) -> str | None:
        """Of what waits in a lane: a message that nobody holds, or a range of items."""
        first, cut, _ = member.partition("\n")
        if cut:
            return self.open_batch(first[:-11])
        message = self.of(f"m:{member}")
        return None if message and not {"o", "z"} & set(message) else "and it does not wait"

    def log(self, post: str, _: str) -> str | None:
        """Of the log of a post: it is open, or `prune` finds it."""
        tenant = self.of(f"pl:{post}").get("t")
        found = [post in self.of("pe"), post in self.of(f"po:{tenant}")]
        return None if sum(found) == 1 else "and it is not in just one of the indexes of posts"

    def logged(self, member: str, _: str) -> str | None:
        key, _, post = member.partition(":")
        return None if key in self.of(f"pl:{post}") else "and the log of the post does not have it"

    def open_post(self, post: str, _: str) -> str | None:
        return None if "c" in self.of(f"pl:{post}") else "and no such post was created"

    def ended_post(self, post: str, _: str) -> str | None:
        return None if self.of(f"pl:{post}") else "and there is no such post"

    def deduplicated(self, key: str, _: str) -> str | None:
        return None if key in self.of("pd") and key in self.of("px") else "and only one of its halves is there"

    def queued(self, post: str, _: str) -> str | None:
        return None if {"q", "m"} <= set(self.of(f"pl:{post}")) else "and it does not wait for a place"

    def placed(self, post: str, _: str) -> str | None:
        about = self.of(f"pl:{post}")
        return None if "q" in about and "m" not in about else "and it has no place"

    def wire_run(self, name: str, _: str = "") -> str | None:
        """Of a workflow run: `prune` finds it once it has ended."""
        about = self.of(f"wr:{name}")
        ended = name in self.of("wx")
        return None if about and ended == ("za" in about) else "and it belongs to no such workflow run"

    def begun_run(self, run: str, tenant: str) -> str | None:
        return self.wire_run(f"{tenant}\n{run}")

    def open_wire_run(self, name: str, _: str) -> str | None:
        about = self.of(f"wr:{name}")
        return None if about and "za" not in about else "and there is no such workflow run that is open"

    def open_member(self, post: str, run: str) -> str | None:
        tenant = run.partition("\n")[0]
        return None if post in self.of(f"po:{tenant}") else "and it has ended"

    def waits_for_event(self, post: str, _: str) -> str | None:
        return None if {"r", "w"} <= set(self.of(f"pl:{post}")) else "and it waits for no event"

    def message(self, id: str, _: str) -> str | None:
        """Of a message itself: it waits in its lane, somebody holds it, or it is kept."""
        about = self.of(f"m:{id}")
        if "z" in about:
            return None if id in self.of("runs") else "and it has ended and is not among the runs that are kept"
        if "o" in about:
            return None if id in self.of(f"w:{about['o']}") else f"and its worker '{about['o']}' does not hold it"
        batch = {} if "d" in about else {**self.of(f"b:{id[:-11]}"), "b": id[:-11]}
        place = {**batch, **about}
        if float(about.get("l", 0)) >= SUSPECT_LOSSES:
            return None if id in self.of("sus") else "and it is not among those that are claimed alone"
        group = place.get("b", "") + ("^" if "pa" in about else "~" if "he" in about else "")
        group = "" if re.search(r"\.z\d*$", id) else group
        kind = "s" if float(about.get("f", 0)) else "q"
        lane = self.of(f"{kind}:{place.get('k')}|{place.get('d')}|{group}")
        return None if id in lane else "and it waits in no lane"


def _always(_: Snapshot, __: str, ___: str) -> str | None:
    """Of what is nobody's."""
    return None


Rule: TypeAlias = Callable[[Snapshot, str, str], str | None]
_RULES: dict[str, Rule] = {
    "workers": _always,
    "wi": Snapshot.worker,
    "w:<worker>": Snapshot.worker,
    "wc:<worker>": Snapshot.worker,
    "wl": Snapshot.worker,
    "ds:<list>": Snapshot.served,
    "wa": Snapshot.claimed_alone,
    "q:<lane>": Snapshot.waiting,
    "s:<lane>": Snapshot.waiting,
    "sus": Snapshot.waiting,
    "rd:<destination>": Snapshot.ready,
    "rn:<parent>:<destination>": Snapshot.nested,
    "rds": Snapshot.has_ready,
    "hb": Snapshot.held_back,
    "lt": Snapshot.lane,
    "dk": Snapshot.holds_off,
    "m:<id>": Snapshot.message,
    "a:<run>": Snapshot.open_run,
    "ln:<run>": Snapshot.open_run,
    "e:<event>": Snapshot.listener,
    "k:<run>": Snapshot.open_run,
    "wh": Snapshot.webhook,
    "whr:<run>": Snapshot.open_run,
    # Children may outlive their parent.
    "kids:<run>": Snapshot.open_run,
    "kidb:<run>": Snapshot.open_batch,
    "od:<destination>": Snapshot.open_run,
    "ol:<label>": Snapshot.open_run,
    "runs": Snapshot.run,
    "ended": Snapshot.ended_run,
    "dead": Snapshot.ended_run,
    "bd:<batch>": Snapshot.batch,
    "b:<batch>": Snapshot.listed_batch,
    "er:<batch>": Snapshot.batch,
    "p:<batch>": Snapshot.batch,
    "i:<batch>:<bucket>": Snapshot.batch,
    "x:<batch>:<bucket>": Snapshot.batch,
    "d:<batch>:<bucket>": Snapshot.batch,
    "ik:<batch>:<bucket>": Snapshot.batch,
    "rb:<batch>": Snapshot.batch,
    "ri:<batch>": Snapshot.batch,
    "bi:<batch>": Snapshot.open_batch,
    "bq:<batch>": Snapshot.open_batch,
    "r:<batch>": Snapshot.open_batch,
    "bm:<batch>": Snapshot.working_batch,
    "bs": Snapshot.batch,
    "bw:<workflow>": Snapshot.batch,
    "bl:<label>": Snapshot.batch,
    "scq": Snapshot.queued_schedule,
    "bo": Snapshot.open_batch,
    "be": Snapshot.ended_batch,
    "bc": Snapshot.open_batch,
    "h:<ledger>": Snapshot.holder,
    "pl:<post>": Snapshot.log,
    "lg:<tenant>": Snapshot.logged,
    "po:<tenant>": Snapshot.open_post,
    "pe": Snapshot.ended_post,
    "pd": Snapshot.deduplicated,
    "px": Snapshot.deduplicated,
    "qw:<queue>": Snapshot.queued,
    "qp:<queue>": Snapshot.placed,
    "wr:<run>": Snapshot.wire_run,
    "we:<run>": Snapshot.wire_run,
    "wm:<run>": Snapshot.wire_run,
    "wo:<run>": Snapshot.open_member,
    "wk:<run>": Snapshot.open_wire_run,
    "wv:<event>": Snapshot.waits_for_event,
    "wt:<tenant>": Snapshot.begun_run,
    "wx": Snapshot.wire_run,
    "l:<ledger>": _always,
}
_BY_MEMBER = frozenset(
    {
        *("q:<lane>", "s:<lane>", "rd:<destination>", "rn:<parent>:<destination>"),
        *("e:<event>", "h:<ledger>", "bw:<workflow>", "bl:<label>"),
        *("od:<destination>", "ol:<label>", "kids:<run>", "kidb:<run>"),
        *("lg:<tenant>", "po:<tenant>", "qw:<queue>", "qp:<queue>"),
        *("wo:<run>", "wv:<event>", "wt:<tenant>"),
    }
)
"""Patterns of which each member has a rule to keep, and not the key itself."""


def _values(kind: str, holds: list[str]) -> dict[str, str]:
    if kind in ("hash", "zset"):
        return dict(zip(holds[::2], holds[1::2], strict=True))
    return dict.fromkeys(holds, "")


async def snapshot(client: Any, namespace: str) -> Snapshot:
    """All keys of a namespace, through any client."""
    start = prefix(namespace)
    return Snapshot(namespace, await _run(client, f"{start}meta", f"{start}*"))


async def _run(client: Any, *arguments: str) -> Any:
    is_fake = isinstance(cast(object, client), FakeAsyncRedis)
    if not is_fake:
        return await client.eval(SNAPSHOT, 1, *arguments)
    # A server of fakeredis that has run a script is never freed, and one that has called a function is.
    await client.function_load(FUNCTION, replace=True)
    return await client.fcall("snapshot", 1, *arguments)


def permanent() -> set[str]:
    """The patterns of the keys that are left when all has ended and retention is over, the ledger's aside."""
    return {key.pattern for key in KEYS if key.stays == "permanent"}


def rules_missing() -> list[Key]:
    """Keys that come and go and of which no rule says to whom they belong."""
    return [key for key in KEYS if key.stays != "permanent" and key.pattern not in _RULES]


_LEAKED: list[str] = []


def watch() -> None:
    """Have every Redis store look at its keys before it closes."""
    close = RedisStore.close

    async def checked(self: RedisStore) -> None:
        about = vars(self)
        if about["_commit"] is not None:
            # A server that is gone, or a user who may not look, is no matter here.
            with contextlib.suppress(*ERRORS):
                _LEAKED.extend((await snapshot(about["_client"], about["_namespace"])).leaks())
        await close(self)

    setattr(RedisStore, "close", checked)  # noqa: B010 - it is a method


def leaked() -> list[str]:
    """The leaks found since the last call."""
    found = _LEAKED[:]
    _LEAKED.clear()
    return found
