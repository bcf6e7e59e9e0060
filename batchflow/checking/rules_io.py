"""Input and output between steps, where every replay repeats it; waiting; and globals that are changed there."""

import ast
import re
from collections.abc import Iterator

from batchflow.checking.body import Body
from batchflow.checking.finding import Finding, spell_call
from batchflow.checking.paths import is_file_access

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
# What reads, writes or asks about the machine; the rest of `os` computes.
_OS = re.compile(
    r"os\.(access|chdir|chmod|chown|copy_file_range|fork|getcwd|getenv|getpid|kill|link|listdir|lstat|makedirs|mkdir|open|"
    r"popen|putenv|read|readlink|remove|removedirs|rename|renames|replace|rmdir|scandir|sendfile|stat|symlink|system|"
    r"truncate|unlink|unsetenv|utime|walk|write|path\.(exists|getatime|getctime|getmtime|getsize|isdir|isfile|islink|"
    r"lexists|realpath|samefile))"
)
_SLEEPS = frozenset({"anyio.sleep", "asyncio.sleep", "time.sleep", "trio.sleep"})


def input_and_output(body: Body) -> Iterator[Finding]:
    """Calls that reach outside of the program, and the environment's variables."""
    for node in body.nodes:
        what = _reached(body, node)
        if what is not None and isinstance(node, ast.expr):
            message = f"{what} is repeated on every replay; {_cure(body, what)}"
            yield Finding(body.source.path, node.lineno, IO, message)


def sleeping(body: Body) -> Iterator[Finding]:
    """Waiting that starts anew on every replay; `asyncio.sleep(0)` only lets others run."""
    for node in body.nodes:
        if is_sleep(body, node) and isinstance(node, ast.Call):
            message = f"{spell_call(node)} waits anew on every replay; use await {body.context}.sleep(name, duration)"
            yield Finding(body.source.path, node.lineno, SLEEP, message)


def global_state(body: Body) -> Iterator[Finding]:
    """A `global` statement: what is assigned to it is assigned again by every replay."""
    for node in body.nodes:
        if isinstance(node, ast.Global):
            names = ", ".join(f"'{name}'" for name in node.names)
            message = f"every replay changes the global {names} again; change it in a step, or keep it in a variable"
            yield Finding(body.source.path, node.lineno, GLOBAL, message)


def is_io(body: Body, call: ast.Call) -> bool:
    """Whether a call reaches outside of the program, as far as its name tells."""
    name = body.scope.dotted(call.func)
    return (name is not None and _is_io_name(name)) or is_file_access(body, call)


def is_sleep(body: Body, node: ast.AST) -> bool:
    """Whether a node is a call that waits for time to pass."""
    match node:
        case ast.Call(args=[ast.Constant(value=0), *_]) if body.scope.dotted(node.func) != "time.sleep":
            return False
        case ast.Call(func=func):
            return body.scope.dotted(func) in _SLEEPS
        case _:
            return False


def _reached(body: Body, node: ast.AST) -> str | None:
    match node:
        case ast.Call() if is_io(body, node):
            return spell_call(node)
        case ast.Attribute(attr="environ") if body.scope.dotted(node) == "os.environ":
            return "os.environ"
        case ast.Name() if body.scope.dotted(node) == "os.environ":
            return "os.environ"
        case _:
            return None


def _cure(body: Body, what: str) -> str:
    if "environ" in what or "getenv" in what:
        return f"use {body.context}.env, or read it in a step"
    return f"do it in a step: await {body.context}.run(name, function)"


def _is_io_name(name: str) -> bool:
    if name in {"builtins.input", "builtins.open", "io.open"} or _OS.fullmatch(name):
        return True
    is_value = name in _VALUES or name.endswith(("Error", "Exception", "Timeout", "Warning"))
    return name.startswith(_PACKAGES) and not is_value
