"""Every key of a namespace: its pattern, its type, what it holds, and how long it stays.

All begin with `bf:{namespace}:`, whose braces put them in one hash slot. Only the files of `lua/` compose them. No key
is ever found by a scan: there is an index for each search.
"""

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from batchflow.errors import ConfigurationError, StoreIncompatible

SCHEMA = 16
"""The schema of new namespaces. An older one, from that of 0.1.0 on, is migrated; any other is refused.

Bump it when an older version would misread the data. Adding a key is not such a change.
"""

FIRST_SCHEMA = 10
"""The schema of 0.1.0."""

BUCKET = 64
"""The number of items of a batch that share a hash."""

Stays: TypeAlias = Literal["permanent", "waiting", "retention", "batch", "marks"]
"""The lifetime of a key: that of the namespace; while something waits or runs; until retention removes its run, dead
letter, batch or post; until its batch has ended; that of its marks, of which `prune` removes the expired ones."""


@dataclass(frozen=True, slots=True)
class Key:
    """The pattern of a key after the prefix; the part in angle brackets varies."""

    pattern: str
    type: Literal["string", "hash", "list", "set", "zset"]
    stays: Stays
    holds: str


KEYS = (
    Key(
        "meta",
        "hash",
        "permanent",
        "the schema, the time of its setup, the latest claim, and counters: stores, batches, turns of flow keys",
    ),
    Key("flows", "zset", "permanent", "the names of flow keys"),
    Key("f:<flow key>", "hash", "permanent", "limits of code and operator, slots in use, waiting messages, next start"),
    Key(
        "fe", "zset", "permanent", "flow keys of which a pin or the pause ends by itself, by the time of the first end"
    ),
    Key("ws", "set", "permanent", "the names of ledgers"),
    Key("workers", "zset", "waiting", "workers by the end of their lease"),
    Key(
        "wi",
        "hash",
        "waiting",
        "workers: registered at, last heartbeat, concurrency, hanging threads",
    ),
    Key("w:<worker>", "hash", "waiting", "the messages a worker holds: =item for an item on the fast path, else !"),
    Key("wc:<worker>", "string", "waiting", "the latest claim, to be released if its answer was lost"),
    Key("wl", "hash", "waiting", "workers: the hash that names the list of destinations of each"),
    Key("ds:<list>", "set", "waiting", "the destinations of such a list"),
    Key("wa", "hash", "waiting", "workers: the message that each has claimed alone"),
    Key("q:<lane>", "zset", "waiting", "fresh messages of a lane, by due time; 0: at once"),
    Key("s:<lane>", "zset", "waiting", "messages of a lane that have started and wait, by due time"),
    Key("sus", "zset", "waiting", "messages lost so often that they are claimed alone, by due time"),
    Key(
        "rd:<destination>",
        "zset",
        "waiting",
        "open lanes: below 0 those that may start now, by the turn of the flow key; else by the time",
    ),
    Key(
        "rn:<parent>:<destination>",
        "zset",
        "waiting",
        "open lanes nested under a key, unless their own is full: below 0 those that may start now, else by time",
    ),
    Key("rds", "zset", "waiting", "destinations that have such lanes, by the first of them"),
    Key("hb", "zset", "waiting", "lanes that their flow key once delayed, found by the key: all at 0"),
    Key("lt", "hash", "waiting", "lanes: the turn in which each was served last, and how far it has run ahead"),
    Key("dk", "hash", "waiting", "the message or batch that has not ended, by its open_dedup"),
    Key("m:<id>", "hash", "retention", "a message with its steps; also its kept run or its dead letter"),
    Key("a:<run>", "list", "waiting", "arrivals for waiting steps, until a claim records them"),
    Key("ln:<run>", "hash", "waiting", "steps of a run that wait for an event"),
    Key("e:<event>", "zset", "waiting", "steps that wait for an event, by the time since when"),
    Key("k:<run>", "list", "waiting", "events for a run that does not wait for them yet"),
    Key("wh", "hash", "retention", "webhooks: the run of each token"),
    Key("whr:<run>", "set", "retention", "the tokens of a run"),
    Key("kids:<run>", "set", "waiting", "messages that have not ended and whose parent the run or batch is"),
    Key("kidb:<run>", "set", "waiting", "batches that have not ended and whose parent the run is"),
    Key("od:<destination>", "zset", "waiting", "runs to be kept that have not ended, by destination"),
    Key("ol:<label>", "zset", "waiting", "messages with a label that have not ended"),
    Key("runs", "zset", "retention", "kept messages and dead letters, by creation time"),
    Key("ended", "zset", "retention", "kept runs, by end time"),
    Key("dead", "zset", "retention", "dead letters, by time of death"),
    Key("bd:<batch>", "zset", "retention", "the dead letters of a batch"),
    Key("b:<batch>", "hash", "retention", "the fields of a batch"),
    Key("er:<batch>", "hash", "retention", "the failures of a batch in groups, by exception type and line of code"),
    Key("p:<batch>", "string", "retention", "the parameters that all items of a batch share"),
    Key(
        "i:<batch>:<bucket>",
        "hash",
        "retention",
        f"{BUCKET} items: number, then a letter for the state and the item's id",
    ),
    Key(
        "x:<batch>:<bucket>",
        "hash",
        "retention",
        "the ends of these items: time, result, error, attempts; of open ones the latter two",
    ),
    Key("d:<batch>:<bucket>", "hash", "retention", "data that fetch returned for these items, until they succeed"),
    Key("rb:<batch>", "zset", "retention", "the retries of a batch, in the order of creation"),
    Key("ri:<batch>", "hash", "retention", "items of a batch that a retry has started: the latest run of each"),
    Key("ik:<batch>:<bucket>", "hash", "retention", "the flow keys of these items: of those with one of their own"),
    Key("bi:<batch>", "set", "batch", "the ids of a batch's items; a retry may have those of the batch, too"),
    Key("bq:<batch>", "set", "batch", "the lanes of a batch"),
    Key("r:<batch>", "zset", "batch", "ranges of items that nobody has claimed yet, by their first number"),
    Key("bm:<batch>", "set", "batch", "messages of a batch's layers that have not ended"),
    Key("bs", "zset", "retention", "batches in the order of creation"),
    Key("bw:<workflow>", "zset", "retention", "batches of a workflow"),
    Key("bl:<label>", "zset", "retention", "batches with a label"),
    Key("bo", "zset", "retention", "batches that have not ended"),
    Key("be", "zset", "retention", "batches, by end time"),
    Key("bc", "set", "batch", "batches of which messages are being cancelled"),
    Key("h:<ledger>", "hash", "batch", "items in flight: the number of the batch of each"),
    Key("sc:<schedule>", "hash", "permanent", "a schedule, until it is deleted"),
    Key("scs", "zset", "permanent", "the ids of schedules: all at 0"),
    Key("scn", "zset", "permanent", "schedules that are not paused, by the time of their next fire"),
    Key("scq", "set", "waiting", "schedules with a fire that waits for the end of the previous one"),
    Key(
        "pl:<post>",
        "hash",
        "retention",
        "the log of a post: its entries, tenant, queue and run; what it waits for: its message for a place, an event",
    ),
    Key("lg:<tenant>", "zset", "retention", "all entries of a tenant's log, by their keys"),
    Key("po:<tenant>", "zset", "waiting", "posts that have not ended, by the key of their first entry"),
    Key("pe", "zset", "retention", "all other posts, by the time of their latest entry"),
    Key("pd", "hash", "marks", "the post of each deduplication key"),
    Key("px", "zset", "marks", "deduplication keys, by the time of that post"),
    Key("qs:<tenant>", "hash", "permanent", "the queues of a tenant, until each is removed"),
    Key("qw:<queue>", "zset", "waiting", "posts that wait for a place in a queue, by the key of their first entry"),
    Key("qp:<queue>", "zset", "waiting", "posts that have a place in a queue, by the time since when"),
    Key("wr:<run>", "hash", "retention", "a workflow run of QStash: its URL, configuration, times, state and result"),
    Key("we:<run>", "list", "retention", "the entries of such a run"),
    Key("wm:<run>", "hash", "retention", "its posts: the number of the last entry of each, and when it was published"),
    Key("wo:<run>", "zset", "waiting", "those of them that have not ended, by the key of their first entry"),
    Key("wk:<run>", "list", "waiting", "events for such a run that does not wait for them yet"),
    Key("wv:<event>", "zset", "waiting", "posts that wait for an event of a tenant, by the key of their first entry"),
    Key("wt:<tenant>", "zset", "retention", "the runs of a tenant, by begin"),
    Key("wx", "zset", "retention", "runs that have ended, by end time"),
    Key("dc:<kind>", "hash", "permanent", "documents of a kind, such as URL groups, until each is removed"),
    Key("dn:<kind>", "zset", "permanent", "the names of these documents: all at 0"),
    Key("l:<ledger>", "zset", "marks", "a ledger: processed items by expiry of their mark (+inf: never)"),
)

CHANNEL = "changes"
"""The channel on which a store publishes its number after a change."""

_FORBIDDEN = re.compile(r"[\s{}]")


def prefix(namespace: str) -> str:
    """The prefix of all keys of a namespace.

    Raises:
        ConfigurationError: the namespace is empty, or has braces or spaces.
    """
    if not namespace or _FORBIDDEN.search(namespace):
        raise ConfigurationError(
            f"a namespace cannot be {namespace!r}; write a name without braces and spaces, such as 'batchflow'"
        )
    return f"bf:{{{namespace}}}:"


def check_schema(schema: int, namespace: str, place: str) -> None:
    """Refuse a namespace that another version has made and that cannot be migrated.

    Raises:
        StoreIncompatible: this version cannot read the namespace.
    """
    if FIRST_SCHEMA <= schema <= SCHEMA:
        return
    made = f"the namespace '{namespace}' of {place} was made by"
    if schema > SCHEMA:
        raise StoreIncompatible(
            f"{made} a newer batchflow (schema {schema}, this one knows {SCHEMA}); upgrade this one, or name another "
            "namespace with BATCHFLOW_NAMESPACE"
        )
    raise StoreIncompatible(
        f"{made} a batchflow before 0.1.0 (schema {schema}), which this one does not read; let that version finish "
        "what is in it, save which items are processed with 'batchflow ledger export', name another namespace with "
        "BATCHFLOW_NAMESPACE, and take them over with 'batchflow ledger import'"
    )


def pattern_of(key: str, prefix: str) -> Key | None:
    """The pattern of a key of the namespace; None if it matches none."""
    name = key.removeprefix(prefix)
    for known in KEYS:
        head, cut, _ = known.pattern.partition("<")
        if name == known.pattern or (cut and name.startswith(head)):
            return known
    return None
