"""What the server has stored of a run, write by write: its append-only file, which holds all of them in their order.

The patterns of keys are those of `batchflow.stores.redis.keys`.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from batchflow.core.ids import parse_item_run_id

STEP = re.compile(r"s(\d+)")


class Claimed(NamedTuple):
    """A claim of a run: by whom, its fence, and how many claims its worker had made before."""

    worker: str
    fence: int
    before: int


class History:
    """The writes of one namespace, put in order by what they are about."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self._prefix = prefix
        self.claims: dict[str, list[Claimed]] = defaultdict(list)
        """Of each run and message its claims, in their order."""
        self.given_back: list[tuple[str, int, int]] = []
        """Of each claim that did not end its run: run, fence, and how many more claims its worker made meanwhile."""
        self.made: Counter[str] = Counter()
        """How often each message was published."""
        self.steps: dict[tuple[str, int], list[str]] = defaultdict(list)
        """Of each step of a run the texts that were recorded."""
        self.ended: Counter[tuple[str, str]] = Counter()
        """How often each item of a batch ended: by number, and how."""
        self.in_use: dict[str, list[int]] = defaultdict(list)
        """Of each flow key how many places were in use, one after the other."""
        self.after_the_end: list[str] = []
        """What was written of messages that were gone."""
        self._gone: set[str] = set()
        self._calls: Counter[str] = Counter()
        for file in sorted(folder.rglob("*.aof")):
            for command in commands(file.read_bytes()):
                self._take(*command)

    def _take(self, name: str, key: str = "", *arguments: str) -> None:
        match name.upper(), key.removeprefix(self._prefix).partition(":"):
            case "HSET", ("m", _, id):
                self._message(id, dict(zip(arguments[::2], arguments[1::2], strict=True)))
            case "HSET", ("i", _, _):
                for number, value in zip(arguments[::2], arguments[1::2], strict=True):
                    if value[0] != "o":
                        self.ended[number, value[0]] += 1
            case "HSET", ("f", _, flow):
                fields = dict(zip(arguments[::2], arguments[1::2], strict=True))
                if "n" in fields:
                    self.in_use[flow].append(int(float(fields["n"])))
            case "HDEL", ("m", _, id) if "o" in arguments and self.claims[id]:
                last = self.claims[id][-1]
                self.given_back.append((id, last.fence, self._calls[last.worker] - last.before))
            case "SET", ("wc", _, worker):
                self._calls[worker] += 1
            case "DEL", _:
                names = [it.removeprefix(self._prefix) for it in (key, *arguments)]
                self._gone.update(it.removeprefix("m:") for it in names if it.startswith("m:"))
            case _:
                pass

    def _message(self, id: str, fields: dict[str, str]) -> None:
        if id in self._gone:
            self.after_the_end.append(f"{id}: {sorted(fields)}")
        if "f" in fields:
            worker = fields.get("o", "")
            self.claims[id].append(Claimed(worker, int(fields["f"]), self._calls[worker]))
        if "d" in fields and "t" in fields:
            self.made[id] += 1
        for field, value in fields.items():
            if step := STEP.fullmatch(field):
                self.steps[id, int(step[1])].append(value)

    def items(self) -> dict[str, list[Claimed]]:
        """The claims of items' runs."""
        return {id: claims for id, claims in self.claims.items() if parse_item_run_id(id)}


def commands(data: bytes) -> Iterator[list[str]]:
    """The commands of an append-only file."""
    at = 0
    while at < len(data):
        count, at = _number(data, at)
        parts: list[str] = []
        for _ in range(count):
            length, at = _number(data, at)
            parts.append(data[at : at + length].decode())
            at += length + 2
        yield parts


def _number(data: bytes, at: int) -> tuple[int, int]:
    end = data.index(b"\r\n", at)
    return int(data[at + 1 : end]), end + 2
