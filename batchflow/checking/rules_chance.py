"""What comes out differently on a replay: the time, and chance."""

import ast
from collections.abc import Iterator

from batchflow.checking.body import Body
from batchflow.checking.finding import Finding, spell_call

TIME = "time"
RANDOM = "random"

_CLOCKS = frozenset(
    {
        "datetime.date.today",
        "datetime.datetime.now",
        "datetime.datetime.today",
        "datetime.datetime.utcnow",
        "time.monotonic",
        "time.monotonic_ns",
        "time.perf_counter",
        "time.perf_counter_ns",
        "time.process_time",
        "time.process_time_ns",
        "time.time",
        "time.time_ns",
    }
)
_CLOCKS_BY_DEFAULT = frozenset({"time.ctime", "time.gmtime", "time.localtime"})
# These show a given time, and the present one where none is given.
_LOOPS = frozenset({"asyncio.get_event_loop", "asyncio.get_running_loop"})
_IDS = frozenset({"uuid.uuid1", "uuid.uuid4", "uuid.uuid6", "uuid.uuid7"})
_DRAWN = frozenset({"os.getrandom", "os.urandom", "random.SystemRandom"})
_DRAWN_FROM = ("numpy.random.", "random.", "secrets.")
_SEEDED = frozenset({"numpy.random.default_rng", "random.Random"})
_SAME = frozenset({"secrets.compare_digest"})


def time_and_chance(body: Body) -> Iterator[Finding]:
    """Calls that ask the machine for the time, for a random value or for a new id."""
    for node in body.nodes:
        if isinstance(node, ast.Call):
            found = _asked(body, node)
            if found is not None:
                rule, cure = found
                message = f"{spell_call(node)} comes out differently on every replay; {cure}"
                yield Finding(body.source.path, node.lineno, rule, message)


def _asked(body: Body, call: ast.Call) -> tuple[str, str] | None:
    name = body.scope.dotted(call.func)
    ctx = body.context
    if _is_time(body, call, name):
        return TIME, f"use {ctx}.now(), or read the time in a step"
    if name in _IDS:
        return RANDOM, f"use {ctx}.uuid(), or draw it in a step"
    if name is not None and _is_drawn(name, call):
        return RANDOM, f"use {ctx}.random(), or draw it in a step"
    return None


def _is_time(body: Body, call: ast.Call, name: str | None) -> bool:
    match call.func:
        case ast.Attribute(value=ast.Call(func=loop), attr="time"):
            return body.scope.dotted(loop) in _LOOPS
        case _:
            return name in _CLOCKS or (name in _CLOCKS_BY_DEFAULT and not call.args)


def _is_drawn(name: str, call: ast.Call) -> bool:
    if name in _SEEDED and (call.args or call.keywords):
        return False
    return name in _DRAWN or (name.startswith(_DRAWN_FROM) and name not in _SAME)
