"""`batchflow check`: finds code in the durable functions of an app that is unsafe to replay."""

import functools
import inspect
import linecache
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

from batchflow.app import Batchflow
from batchflow.cli.options import JsonOption, TargetArgument
from batchflow.cli.output import Output
from batchflow.cli.target import load_flow

# No other command needs the checker.
if TYPE_CHECKING:
    from batchflow.checking.finding import Finding
    from batchflow.checking.source import SourceFile

UNREADABLE = "unreadable"
"""The rule of a finding for a function whose source cannot be read."""


@dataclass(frozen=True, kw_only=True)
class CheckFunctions:
    """Find code in durable functions that is unsafe to replay.

    No function is called. Lines with the comment "# batchflow: ok" are left out.

    Exit codes: 0 nothing found, 1 something found, 2 usage.
    """

    target: TargetArgument
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Check all functions and print the findings."""
        functions, files = list(_durable_functions(load_flow(self.target))), SourceFiles()
        findings = sorted({_with_relative_path(finding) for it in functions for finding in _findings(it, files)})
        if self.as_json:
            Output().print_json(_to_json(functions, findings))
        else:
            for finding in findings:
                Output().print(str(finding))
            Output().print(_count_text(len(functions), len(findings)))
        return 1 if findings else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DurableFunction:
    """A durable function, its name in the app, and the name of its context parameter; empty if it has none."""

    name: str
    context: str
    function: Callable[..., Any]

    @property
    def location(self) -> tuple[str, int]:
        """The file of the code, and its first line: that of the first decorator, if any."""
        code = getattr(self.function, "__code__", None)
        # A function that is compiled to machine code has no `__code__`.
        return (code.co_filename, code.co_firstlineno) if isinstance(code, CodeType) else (self.function.__module__, 1)


class SourceFiles:
    """Reads each file once."""

    def __init__(self) -> None:
        self._sources: dict[str, SourceFile | None] = {}

    def source(self, path: str, function: Callable[..., Any]) -> "SourceFile | None":
        """The file of a function; None if there is no such file, or it is not Python."""
        if path not in self._sources:
            # linecache also finds the source of modules in an archive.
            text = "".join(linecache.getlines(path, getattr(function, "__globals__", None)))
            self._sources[path] = _parse(text, path) if text else None
        return self._sources[path]


def _durable_functions(flow: Batchflow) -> Iterator[DurableFunction]:
    for route, served in flow.served.items():
        yield _unwrapped(route, served.function, 0)
    for name, workflow in flow.workflows.items():
        if "process" in workflow.definition.defined_hooks:
            yield _unwrapped(f"{name}.process", type(workflow.instance).process, 1)


def _unwrapped(name: str, function: Callable[..., Any], place: int) -> DurableFunction:
    """The function as it is written, without its wrappers; `place` is the position of its context parameter."""
    function = inspect.unwrap(function)
    while isinstance(function, functools.partial):
        place += len(function.args)
        function = inspect.unwrap(function.func)
    if not inspect.isroutine(function):
        function = inspect.unwrap(type(function).__call__)
        place += 1
    elif inspect.ismethod(function):
        function = function.__func__
        place += 1
    names = list(inspect.signature(function).parameters)
    return DurableFunction(name=name, context=names[place] if place < len(names) else "", function=function)


def _findings(durable: DurableFunction, files: SourceFiles) -> "list[Finding]":
    from batchflow.checking.check import check
    from batchflow.checking.finding import Finding

    path, line = durable.location
    source = files.source(path, durable.function)
    node = None if source is None else source.function_at(durable.function.__name__, line)
    if source is None or node is None:
        message = f"the source of '{durable.name}' cannot be read, so it is not checked; define it in a Python file"
        return [Finding(path, line, UNREADABLE, message)]
    return check(source, node, durable.context)


def _parse(text: str, path: str) -> "SourceFile | None":
    from batchflow.checking.source import SourceFile

    try:
        return SourceFile(text, path)
    except SyntaxError:
        return None


def _with_relative_path(finding: "Finding") -> "Finding":
    path = Path(finding.path)
    here = Path.cwd()
    name = str(path.relative_to(here)) if path.is_relative_to(here) else finding.path
    return replace(finding, path=name)


def _to_json(functions: list[DurableFunction], findings: "list[Finding]") -> dict[str, Any]:
    return {
        "success": not findings,
        "functions": [it.name for it in functions],
        "findings": [asdict(finding) for finding in findings],
    }


def _count_text(functions: int, findings: int) -> str:
    checked = f"{functions} durable function{'' if functions == 1 else 's'} checked"
    found = "nothing found" if not findings else f"{findings} finding{'' if findings == 1 else 's'}"
    return f"{checked}: {found}"
