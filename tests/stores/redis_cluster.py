"""A real Redis Cluster for tests: three nodes of our own on free ports, each with a third of the slots."""

import itertools
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from redis.crc import key_slot

from tests.stores.redis_server import Server, free_port, served
from tests.waiting import wait_until_sync

SLOTS = 16_384
NODES = 3


class Node:
    """A server of a cluster; `bus` is where the nodes talk to each other."""

    def __init__(self, server: Server, bus: int) -> None:
        self.server = server
        self.bus = bus

    def ask(self, *words: object) -> Any:
        """Send it a command; the answer."""
        with self.server.client() as client:
            return client.execute_command(*words)

    @property
    def id(self) -> str:
        return self.ask("CLUSTER MYID")


class Cluster:
    """The nodes, and where each namespace lies."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        """One node is enough to find the others."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].server.port}"

    @property
    def port(self) -> int:
        return self.nodes[0].server.port

    def owner(self, namespace: str) -> Node:
        """The node that has the slot of a namespace."""
        slot = slot_of(namespace)
        for first, last, (_, port, *_), *_ in self.nodes[0].ask("CLUSTER SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.server.port == port)
        raise AssertionError(f"nobody has slot {slot}")

    def apart(self, count: int = 2) -> list[str]:
        """Names of namespaces that lie on different nodes."""
        found: dict[int, str] = {}
        for number in itertools.count():
            name = f"apart{number}"
            found.setdefault(self.owner(name).server.port, name)
            if len(found) == count:
                return list(found.values())
        raise AssertionError

    def begin_move(self, namespace: str) -> "Move":
        """The slot of a namespace is to go to the next node."""
        source = self.owner(namespace)
        target = self.nodes[(self.nodes.index(source) + 1) % len(self.nodes)]
        return Move(self, slot_of(namespace), source, target)


class Move:
    """A slot on its way from one node to another."""

    def __init__(self, cluster: Cluster, slot: int, source: Node, target: Node) -> None:
        self._cluster, self._slot, self._source, self._target = cluster, slot, source, target
        target.ask("CLUSTER SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER SETSLOT", slot, "MIGRATING", target.id)

    def some(self, count: int, *, first: str = "") -> int:
        """Move so many keys, `first` before others; how many there were."""
        keys: list[str] = self._source.ask("CLUSTER GETKEYSINSLOT", self._slot, 100_000)
        keys.sort(key=lambda key: key != first)
        port = self._target.server.port
        for key in keys[:count]:
            assert self._source.ask("MIGRATE", "127.0.0.1", port, key, 0, 5_000) in ("OK", True)
        return len(keys[:count])

    def end(self) -> None:
        """Move the rest, and give the slot over."""
        self.some(100_000)
        for node in (self._target, self._source, *self._cluster.nodes):
            node.ask("CLUSTER SETSLOT", self._slot, "NODE", self._target.id)


def slot_of(namespace: str) -> int:
    return key_slot(f"{{{namespace}}}".encode())


@contextmanager
def clustered(folder: Path, *options: str) -> Generator[Cluster]:
    """A cluster; without redis-server on PATH the test is left out, which is a failure where one is required."""
    with ExitStack() as stack:
        nodes: list[Node] = []
        for number in range(NODES):
            place, bus = folder / str(number), free_port()
            place.mkdir()
            fixed = ("--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", "2000")
            nodes.append(Node(stack.enter_context(served(place, *fixed, *options)), bus))
        for number, node in enumerate(nodes):
            node.ask("CLUSTER ADDSLOTSRANGE", SLOTS * number // NODES, SLOTS * (number + 1) // NODES - 1)
            # Otherwise they have to find out first which of them is which.
            node.ask("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            nodes[0].ask("CLUSTER MEET", "127.0.0.1", node.server.port, node.bus)
        wait_until_sync(lambda: all(_is_ready(node) for node in nodes), description="the cluster is ready")
        yield Cluster(nodes)


def _is_ready(node: Node) -> bool:
    about = node.ask("CLUSTER INFO")
    return about["cluster_state"] == "ok" and about["cluster_known_nodes"] == str(NODES)
