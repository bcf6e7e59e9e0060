"""Every key of a namespace: its pattern, its type, what it holds, and how long it stays.

All begin with `bf:{namespace}:`, whose braces make one hash slot of them. `lua/` composes them; nothing else does.
Nothing is found by looking through keys: what has to be found stands in an index.
"""

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from batchflow.errors import ConfigurationError, StoreIncompatible

SCHEMA = 10
"""What a namespace is made with. An older one, from that of 0.1.0 on, is migrated; any other is refused.

Bump it when an older version would misread the data. Adding a key is not such a change.
"""

FIRST_SCHEMA = 10
"""That of 0.1.0."""

BUCKET = 64
"""How many items of a batch share a hash."""

Stays: TypeAlias = Literal["permanent", "waiting", "retention", "batch", "marks"]
"""How long a key stays: as long as the namespace; while somebody waits or runs; until retention removes what it tells
of; until its batch has ended; as long as its marks, of which `prune` removes those that have expired."""


@dataclass(frozen=True, slots=True)
class Key:
    """One pattern, after the prefix; what stands in angle brackets varies."""

    pattern: str
    type: Literal["string", "hash", "list", "set", "zset"]
    stays: Stays
    holds: str


KEYS = (
    Key(
        "meta",
        "hash",
        "permanent",
        "the schema, when it was set up, the latest claim, and counters: stores, batches, turns of flow keys",
    ),
    Key("flows", "zset", "permanent", "the names of flow keys"),
    Key("f:<flow key>", "hash", "permanent", "limits of code and operator, places in use, how many wait, next start"),
    Key("ws", "set", "permanent", "the names of ledgers"),
    Key("workers", "zset", "waiting", "workers by the end of their lease"),
    Key(
        "wi",
        "hash",
        "waiting",
        "workers: since when, last heartbeat, how many claims are meant, how many threads hang",
    ),
    Key("w:<worker>", "hash", "waiting", "the messages a worker holds: an item without incident as =item, else !"),
    Key("wc:<worker>", "string", "waiting", "the latest claim, to be given back where its answer was lost"),
    Key("wl", "hash", "waiting", "workers: the list of destinations that each serves, by its hash"),
    Key("ds:<list>", "set", "waiting", "the destinations of such a list"),
    Key("wa", "hash", "waiting", "workers: the message of each that was claimed alone"),
    Key("q:<lane>", "zset", "waiting", "what is fresh in a lane, by when it is due; 0: at once"),
    Key("s:<lane>", "zset", "waiting", "what has started and waits in a lane, by when it is due"),
    Key("sus", "zset", "waiting", "what was lost so often that it is claimed alone, by when it is due"),
    Key(
        "rd:<destination>",
        "zset",
        "waiting",
        "lanes that are not closed: below 0 what may start now, by the turn of its flow key; else by when it may",
    ),
    Key("rds", "zset", "waiting", "destinations that have such lanes, by the first of them"),
    Key("hb", "zset", "waiting", "lanes that their flow key once held back, found by the key: all at 0"),
    Key("lt", "hash", "waiting", "lanes: when each was served last, and how many claims in a row had started before"),
    Key("dk", "hash", "waiting", "what holds others off: the message or batch that has not ended, by its open_dedup"),
    Key("m:<id>", "hash", "retention", "a message with its steps; also the run that is kept of it, or its dead letter"),
    Key("a:<run>", "list", "waiting", "what came in for steps that wait, until a claim records it"),
    Key("ln:<run>", "hash", "waiting", "steps of a run that wait for an event"),
    Key("e:<event>", "zset", "waiting", "who waits for an event, by since when"),
    Key("k:<run>", "list", "waiting", "events for a run that does not wait for them yet"),
    Key("wh", "hash", "waiting", "webhooks: the run of each token"),
    Key("whr:<run>", "set", "waiting", "the tokens of a run"),
    Key("kids:<run>", "set", "waiting", "messages that have not ended and whose parent the run is"),
    Key("kidb:<run>", "set", "waiting", "batches of which the same is true"),
    Key("od:<destination>", "zset", "waiting", "runs to be kept that have not ended, by destination"),
    Key("ol:<label>", "zset", "waiting", "messages with a label that have not ended"),
    Key("runs", "zset", "retention", "messages that are kept and dead letters, by when they were made"),
    Key("ended", "zset", "retention", "runs that are kept, by when they ended"),
    Key("dead", "zset", "retention", "dead letters, by when they died"),
    Key("bd:<batch>", "zset", "retention", "the dead letters of a batch"),
    Key("b:<batch>", "hash", "retention", "what is one number or word of a batch"),
    Key("p:<batch>", "string", "retention", "the parameters all items of a batch share"),
    Key(
        "i:<batch>:<bucket>",
        "hash",
        "retention",
        f"{BUCKET} items: number, then a letter for the state and the item's id",
    ),
    Key("x:<batch>:<bucket>", "hash", "retention", "how these items ended: when, with which result or error"),
    Key("d:<batch>:<bucket>", "hash", "retention", "what fetch brought of these items, until each has succeeded"),
    Key("bi:<batch>", "set", "batch", "the ids of a batch's items"),
    Key("bq:<batch>", "set", "batch", "the lanes of a batch"),
    Key("r:<batch>", "zset", "batch", "ranges of items that nobody has claimed yet, by their first number"),
    Key("bm:<batch>", "set", "batch", "messages of a batch's layers that have not ended"),
    Key("bs", "zset", "retention", "batches in the order they were made"),
    Key("bw:<workflow>", "zset", "retention", "batches of a workflow"),
    Key("bl:<label>", "zset", "retention", "batches with a label"),
    Key("bo", "zset", "retention", "batches that have not ended"),
    Key("be", "zset", "retention", "batches by when they ended"),
    Key("bc", "set", "batch", "batches of which a part is being cancelled"),
    Key("h:<ledger>", "hash", "batch", "items in flight: the number of the batch that has each"),
    Key("l:<ledger>", "zset", "marks", "a ledger: processed items by when their mark expires (+inf: never)"),
)

CHANNEL = "changes"
"""Where a store that changed something publishes its number."""

_FORBIDDEN = re.compile(r"[\s{}]")


def prefix(namespace: str) -> str:
    """What all keys of a namespace begin with.

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
        StoreIncompatible: its keys are not those of this one.
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
    """Which of the patterns a key of the namespace is; None for one that nobody knows."""
    name = key.removeprefix(prefix)
    for known in KEYS:
        head, cut, _ = known.pattern.partition("<")
        if name == known.pattern or (cut and name.startswith(head)):
            return known
    return None
