"""Rules about code between steps that every replay repeats: time, chance, I/O, waiting, globals, foreign awaits."""

import ast
import re
from collections.abc import Iterable, Iterator

from batchflow.checking.finding import Finding, format_call
from batchflow.checking.function import UNNAMED_METHODS, FunctionBody
from batchflow.checking.values import assigned_values, is_file_access

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
# They format the time of their argument, or the current time without one.
_EVENT_LOOPS = frozenset({"asyncio.get_event_loop", "asyncio.get_running_loop"})
_IDS = frozenset({"uuid.uuid1", "uuid.uuid4", "uuid.uuid6", "uuid.uuid7"})
_RANDOM = frozenset({"os.getrandom", "os.urandom", "random.SystemRandom"})
_RANDOM_MODULES = ("numpy.random.", "random.", "secrets.")
_SEEDED = frozenset({"numpy.random.default_rng", "random.Random"})
_NOT_RANDOM = frozenset({"secrets.compare_digest"})


def time_and_chance(body: FunctionBody) -> Iterator[Finding]:
    """Find calls that read the time, draw a random value or make a new id."""
    for node in body.nodes:
        if isinstance(node, ast.Call):
            found = _time_or_chance(body, node)
            if found is not None:
                rule, advice = found
                message = f"{format_call(node)} comes out differently on every replay; {advice}"
                yield Finding(body.source.path, node.lineno, rule, message)


def _time_or_chance(body: FunctionBody, call: ast.Call) -> tuple[str, str] | None:
    name = body.scope.dotted(call.func)
    ctx = body.context
    if _is_time(body, call, name):
        return TIME, f"use {ctx}.now(), or read the time in a step"
    if name in _IDS:
        return RANDOM, f"use {ctx}.uuid(), or draw it in a step"
    if name is not None and _is_random(name, call):
        return RANDOM, f"use {ctx}.random(), or draw it in a step"
    return None


def _is_time(body: FunctionBody, call: ast.Call, name: str | None) -> bool:
    match call.func:
        case ast.Attribute(value=ast.Call(func=loop), attr="time"):
            return body.scope.dotted(loop) in _EVENT_LOOPS
        case _:
            return name in _CLOCKS or (name in _CLOCKS_BY_DEFAULT and not call.args)


def _is_random(name: str, call: ast.Call) -> bool:
    if name in _SEEDED and (call.args or call.keywords):
        return False
    return name in _RANDOM or (name.startswith(_RANDOM_MODULES) and name not in _NOT_RANDOM)


IO = "io"
SLEEP = "sleep"
GLOBAL = "global"

_PACKAGES = (
    "aiohttp.",
    "asyncio.create_subprocess_",
    "asyncio.open_",
    "ftplib.",
    "http.client.",
    "httpx.",
    "requests.",
    "shutil.",
    "smtplib.",
    "socket.",
    "sqlite3.",
    "subprocess.",
    "tempfile.",
    "urllib.request.",
    "urllib3.",
)
_VALUES = frozenset(
    {"httpx.URL", "httpx.Timeout", "httpx.Limits", "httpx.Headers", "httpx.QueryParams", "aiohttp.ClientTimeout"}
)
# The functions of `os` that access the machine; the others compute.
_OS = re.compile(
    r"os\.(access|chdir|chmod|chown|copy_file_range|fork|getcwd|getenv|getpid|kill|link|listdir|lstat|makedirs|mkdir|open|"
    r"popen|putenv|read|readlink|remove|removedirs|rename|renames|replace|rmdir|scandir|sendfile|stat|symlink|system|"
    r"truncate|unlink|unsetenv|utime|walk|write|path\.(exists|getatime|getctime|getmtime|getsize|isdir|isfile|islink|"
    r"lexists|realpath|samefile))"
)
_SLEEPS = frozenset({"anyio.sleep", "asyncio.sleep", "time.sleep", "trio.sleep"})


def input_and_output(body: FunctionBody) -> Iterator[Finding]:
    """Find calls that reach outside of the program, and reads of environment variables."""
    for node in body.nodes:
        what = _io_call(body, node)
        if what is not None and isinstance(node, ast.expr):
            message = f"{what} is repeated on every replay; {_io_advice(body, what)}"
            yield Finding(body.source.path, node.lineno, IO, message)


def sleeping(body: FunctionBody) -> Iterator[Finding]:
    """Find waits that start again on every replay; `asyncio.sleep(0)` only lets other tasks run."""
    for node in body.nodes:
        if is_sleep(body, node) and isinstance(node, ast.Call):
            message = f"{format_call(node)} waits again on every replay; use await {body.context}.sleep(name, duration)"
            yield Finding(body.source.path, node.lineno, SLEEP, message)


def global_state(body: FunctionBody) -> Iterator[Finding]:
    """Find `global` statements: every replay repeats the assignment."""
    for node in body.nodes:
        if isinstance(node, ast.Global):
            names = ", ".join(f"'{name}'" for name in node.names)
            message = f"every replay changes the global {names} again; change it in a step, or keep it in a variable"
            yield Finding(body.source.path, node.lineno, GLOBAL, message)


def is_io(body: FunctionBody, call: ast.Call) -> bool:
    """Tell if a call reaches outside of the program, judging by its name."""
    name = body.scope.dotted(call.func)
    return (name is not None and _is_io_name(name)) or is_file_access(body, call)


def is_sleep(body: FunctionBody, node: ast.AST) -> bool:
    """Tell if a node is a call that waits for time to pass."""
    match node:
        case ast.Call(args=[ast.Constant(value=0), *_]) if body.scope.dotted(node.func) != "time.sleep":
            return False
        case ast.Call(func=func):
            return body.scope.dotted(func) in _SLEEPS
        case _:
            return False


def _io_call(body: FunctionBody, node: ast.AST) -> str | None:
    match node:
        case ast.Call() if is_io(body, node):
            return format_call(node)
        case ast.Attribute(attr="environ") if body.scope.dotted(node) == "os.environ":
            return "os.environ"
        case ast.Name() if body.scope.dotted(node) == "os.environ":
            return "os.environ"
        case _:
            return None


def _io_advice(body: FunctionBody, what: str) -> str:
    if "environ" in what or "getenv" in what:
        return f"use {body.context}.env, or read it in a step"
    return f"do it in a step: await {body.context}.run(name, function)"


def _is_io_name(name: str) -> bool:
    if name in {"builtins.input", "builtins.open", "io.open"} or _OS.fullmatch(name):
        return True
    is_value = name in _VALUES or name.endswith(("Error", "Exception", "Timeout", "Warning"))
    return name.startswith(_PACKAGES) and not is_value


AWAIT = "await"

_COMBINATORS = frozenset(
    {
        "asyncio.as_completed",
        "asyncio.create_task",
        "asyncio.ensure_future",
        "asyncio.gather",
        "asyncio.shield",
        "asyncio.wait",
    }
)
_FIRST_ARGUMENT_ONLY = frozenset({"asyncio.wait_for"})
_ASYNC_SCOPES = frozenset(
    {
        "anyio.create_task_group",
        "anyio.fail_after",
        "anyio.move_on_after",
        # They only order the branches of one run.
        "asyncio.BoundedSemaphore",
        "asyncio.Lock",
        "asyncio.Semaphore",
        "asyncio.TaskGroup",
        "asyncio.timeout",
        "asyncio.timeout_at",
        "contextlib.AsyncExitStack",
        "contextlib.nullcontext",
    }
)
_TASK_METHODS = frozenset({"create_task"})
_COLLECTIONS = frozenset({"builtins.list", "builtins.set", "builtins.tuple", "builtins.reversed"})


def foreign_awaits(body: FunctionBody) -> Iterator[Finding]:
    """Find coroutines that are awaited, or started as tasks, and do not come from the context."""
    seen = set[ast.AST]()
    for node in body.nodes:
        for foreign in (it for expr in _awaited(body, node) for it in _foreign_calls(body, expr)):
            if foreign not in seen:
                seen.add(foreign)
                yield Finding(body.source.path, foreign.lineno, AWAIT, _await_message(body, foreign))


def _await_message(body: FunctionBody, call: ast.Call) -> str:
    return (
        f"{format_call(call)} is awaited outside of a step, again on every replay; "
        f"put it in one: await {body.context}.run(name, function)"
    )


def _awaited(body: FunctionBody, node: ast.AST) -> list[ast.expr]:
    """Return the expressions that a node waits for."""
    match node:
        case ast.Await(value=value):
            return [value]
        case ast.AsyncFor(iter=value):
            return [value]
        case ast.comprehension(iter=value, is_async=1):
            return [value]
        case ast.AsyncWith(items=items):
            return [it.context_expr for it in items]
        case ast.Call(func=func, args=args):
            name = body.scope.dotted(func)
            if name in _COMBINATORS:
                return args
            if body.contexts.method(func) in UNNAMED_METHODS:
                return args
            starts = isinstance(func, ast.Attribute) and func.attr in _TASK_METHODS
            return args[:1] if name in _FIRST_ARGUMENT_ONLY or starts else []
        case _:
            return []


def _foreign_calls(body: FunctionBody, expr: ast.expr) -> Iterator[ast.Call]:
    """Yield the calls in an awaited expression whose result is not a coroutine of the context."""
    match expr:
        case ast.Call():
            if _is_foreign(body, expr):
                yield expr
            elif body.scope.dotted(expr.func) in _COLLECTIONS:
                yield from _foreign_calls_of_all(body, expr.args)
        case ast.Name(id=name) if name not in body.carriers.names:
            yield from _foreign_calls_of_all(body, assigned_values(body, name))
        case ast.Starred(value=value) | ast.NamedExpr(value=value):
            yield from _foreign_calls(body, value)
        case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
            yield from _foreign_calls_of_all(body, elements)
        case ast.ListComp(elt=element) | ast.SetComp(elt=element) | ast.GeneratorExp(elt=element):
            yield from _foreign_calls(body, element)
        case ast.IfExp(body=one, orelse=other):
            yield from _foreign_calls_of_all(body, (one, other))
        case _:
            pass


def _foreign_calls_of_all(body: FunctionBody, expressions: Iterable[ast.expr]) -> Iterator[ast.Call]:
    for expr in expressions:
        yield from _foreign_calls(body, expr)


def _is_foreign(body: FunctionBody, call: ast.Call) -> bool:
    if body.carriers.carries(call) or is_io(body, call) or is_sleep(body, call):
        return False
    name = body.scope.dotted(call.func)
    known = _COMBINATORS | _FIRST_ARGUMENT_ONLY | _ASYNC_SCOPES | _COLLECTIONS
    starts = isinstance(call.func, ast.Attribute) and call.func.attr in _TASK_METHODS
    return name not in known and not starts and name not in {"asyncio.sleep", "anyio.sleep"}
