"""Every key of a namespace: its pattern, its type, what it holds, and how long it stays.

All begin with `bf:{namespace}:`, whose braces make one hash slot of them. `lua/` composes them; nothing else does.
Nothing is found by looking through keys: what has to be found stands in an index.
"""

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from batchflow.errors import ConfigurationError, StoreIncompatible

SCHEMA = 1
"""What a namespace is made with. One of another number is refused, so that all who work on one understand its keys.

It grows with a change that an earlier version would misread; a key that it does not know of is none.
"""

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
        "the schema, when it was set up, and counters: stores, batches, turns of flow keys; what a claim writes first",
    ),
    Key("flows", "zset", "permanent", "the names of flow keys"),
    Key("f:<flow key>", "hash", "permanent", "limits of code and operator, places in use, how many wait, next start"),
    Key("ws", "set", "permanent", "the names of workflows"),
    Key("workers", "zset", "waiting", "workers by the end of their lease"),
    Key("wi", "hash", "waiting", "workers: since when, their last heartbeat, how many claims each means to have"),
    Key("w:<worker>", "hash", "waiting", "the messages a worker holds: an item without incident as =item, else !"),
    Key("wc:<worker>", "string", "waiting", "the latest claim, to be given back where its answer was lost"),
    Key("q:<flow key>|<destination>", "zset", "waiting", "what waits in a lane, by when it is due"),
    Key("rd:<destination>", "zset", "waiting", "flow keys of a destination, by when the earliest of the lane is due"),
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
    Key("i:<batch>:<bucket>", "hash", "retention", "64 items: number, then a letter for the state and the item's id"),
    Key("x:<batch>:<bucket>", "hash", "retention", "how these items ended: when, with which result or error"),
    Key("bi:<batch>", "set", "batch", "the ids of a batch's items"),
    Key("r:<batch>", "zset", "batch", "ranges of items that nobody has claimed yet, by their first number"),
    Key("bm:<batch>", "set", "batch", "messages of a batch's layers that have not ended"),
    Key("bs", "zset", "retention", "batches in the order they were made"),
    Key("bw:<workflow>", "zset", "retention", "batches of a workflow"),
    Key("bo", "zset", "retention", "batches that have not ended"),
    Key("be", "zset", "retention", "batches by when they ended"),
    Key("bc", "set", "batch", "batches that are being cancelled"),
    Key("h:<workflow>", "hash", "batch", "items in flight: the number of the batch that has each"),
    Key("l:<workflow>", "zset", "marks", "the ledger: processed items by when their mark expires (+inf: never)"),
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
    """Refuse a namespace that another version has made.

    Raises:
        StoreIncompatible: its keys are not those of this one.
    """
    if schema == SCHEMA:
        return
    newer = schema > SCHEMA
    cure = (
        "upgrade this one, or name another namespace"
        if newer
        else "let that one finish what is in it, and name another namespace for this one"
    )
    raise StoreIncompatible(
        f"the namespace '{namespace}' of {place} was made by {'a newer' if newer else 'an older'} batchflow "
        f"(schema {schema}, this one knows {SCHEMA}); {cure} with BATCHFLOW_NAMESPACE"
    )


def pattern_of(key: str, prefix: str) -> Key | None:
    """Which of the patterns a key of the namespace is; None for one that nobody knows."""
    name = key.removeprefix(prefix)
    for known in KEYS:
        head, cut, _ = known.pattern.partition("<")
        if name == known.pattern or (cut and name.startswith(head)):
            return known
    return None
