"""Runs the blocks of one page, in the current folder: `python -m tests.docs.runner docs/quickstart.md`.

Python blocks share a namespace and an event loop; one marked as a file is written to that file. Of shell commands it
knows `batchflow`, `python`, `curl`, and `uvicorn`, whose app is then served to `curl` without a port. `uvicorn` with a
port and `batchflow server` run beside the page to its end, on free ports; the variables that the server prints are
those of the blocks that follow. What a block prints is compared with the `text` or `json` block that follows it. In a
command `bat_…`, `run_…` and `msg_…` stand for what was printed last. A failed block is said on stderr, and ends it.
"""

import ast
import asyncio
import builtins
import importlib
import io
import os
import re
import shlex
import socket
import sys
import traceback
import types
from collections.abc import Mapping
from contextlib import AsyncExitStack, redirect_stdout
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from tests.docs.comparing import json_difference, text_difference, without_log
from tests.docs.pages import Block, blocks

ANSWERS = {"text": text_difference, "json": json_difference}
SHOWN_ONLY = frozenset({"", "mermaid"})
_SECONDS = 120.0
_ID = re.compile(r"\b(?P<kind>bat_|run_|msg_)[0-9a-z]+")
_VARIABLE = re.compile(r"^(?P<name>QSTASH_\w+)=(?P<value>.*)$", re.MULTILINE)
_STARTED = {"batchflow": "Ctrl-C stops it", "uvicorn": "Uvicorn running on"}
# A program that runs on has printed all that a page shows with a line that has these words.


class Wrong(Exception):
    """A block is not as the page says it is."""


class Page:
    """One page on its way through its blocks."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._printed: str | None = None
        self._stack = AsyncExitStack()
        self._apps: dict[str, FastAPI] = {}
        self._ids: dict[str, str] = {}
        self._ports: dict[str, str] = {}
        # A real module: annotations in classes are looked up there.
        self._module = types.ModuleType("page")
        sys.modules["page"] = self._module

    async def run(self, found: list[Block]) -> None:
        """Run the blocks in their order."""
        # What a served app prints meanwhile is no block's.
        with redirect_stdout(io.StringIO()):
            await self._blocks(found)

    async def _blocks(self, found: list[Block]) -> None:
        async with self._stack:
            for block in found:
                try:
                    await self._block(block)
                except Exception as error:
                    note = "" if isinstance(error, Wrong) else traceback.format_exc()
                    raise Wrong(f"{self._name}:{block.line}: {error or type(error).__name__}\n{note}") from error

    async def _block(self, block: Block) -> None:
        if "not run" in block.marks or block.language in SHOWN_ONLY:
            self._printed = None
        elif block.language in ANSWERS:
            if self._printed is None:
                raise Wrong(f"this '{block.language}' block follows no block that was run")
            if difference := ANSWERS[block.language](block.text, without_log(self._printed)):
                raise Wrong(f"something else is printed:\n{difference}")
            self._printed = None
        elif block.language == "python":
            self._printed = self._seen(await self._python(block))
        elif block.language == "sh":
            self._printed = self._seen(await self._shell(block))
        else:
            raise Wrong(f"nobody knows how to run '{block.language}'")

    def _seen(self, printed: str) -> str:
        self._ids.update((match["kind"], match[0]) for match in _ID.finditer(printed))
        os.environ.update((match["name"], match["value"]) for match in _VARIABLE.finditer(printed))
        for shown, free in self._ports.items():
            printed = printed.replace(f":{free}", f":{shown}")
        return printed

    def _with_ports(self, text: str) -> str:
        """The text of a block, with the ports on which its programs listen."""
        for shown, free in self._ports.items():
            text = text.replace(f":{shown}", f":{free}")
        return text

    async def _python(self, block: Block) -> str:
        if "file" in block.marks:
            Path(block.marks["file"]).write_text(self._with_ports(block.text), encoding="utf-8")
            importlib.invalidate_caches()
            return ""
        # Empty lines in front, so that tracebacks have the page's own line numbers.
        source = "\n" * (block.line - 1) + self._with_ports(block.text)
        code = compile(source, self._name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        printed = io.StringIO()
        with redirect_stdout(printed):
            # Annotations are evaluated later, and then look for the builtins in here.
            self._module.__dict__.setdefault("__builtins__", builtins)
            running = types.FunctionType(code, self._module.__dict__)()
            if asyncio.iscoroutine(running):
                await asyncio.wait_for(running, _SECONDS)
        return printed.getvalue()

    async def _shell(self, block: Block) -> str:
        printed = ""
        for line in self._with_ports(block.text).replace("\\\n", " ").splitlines():
            for kind, id in self._ids.items():
                line = line.replace(f"{kind}…", id)
            words = shlex.split(os.path.expandvars(line), comments=True)
            variables: dict[str, str] = {}
            while words and words[0].partition("=")[0].isidentifier() and "=" in words[0]:
                name, _, variables[name] = words.pop(0).partition("=")
            match words:
                case []:
                    continue
                case ["uvicorn", target]:
                    await self._serve(target)
                case ["uvicorn", _, "--port", port] | ["batchflow", "server", "--port", port]:
                    printed += await self._start(words, port, variables)
                case ["batchflow", "server"]:
                    printed += await self._start([*words, "--port", "8080"], "8080", variables)
                case ["curl", *arguments]:
                    printed += await self._curl(arguments)
                case ["python" | "batchflow", *_]:
                    printed += await self._process(words, variables, int(block.marks.get("exit", "0")))
                case _:
                    raise Wrong(f"nobody knows how to run '{words[0]}'; mark the block as not run, with a reason")
        return printed

    async def _process(self, words: list[str], variables: Mapping[str, str], code: int) -> str:
        if words[0] == "batchflow":
            words = ["python", "-m", "batchflow.cli", *words[1:]]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *words[1:],
            env={**os.environ, **variables},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), _SECONDS)
        if process.returncode != code:
            raise Wrong(f"'{shlex.join(words)}' ended with {process.returncode}:\n{output.decode()}")
        return output.decode()

    async def _serve(self, target: str) -> None:
        module, _, name = target.partition(":")
        app: FastAPI = getattr(importlib.import_module(module), name)
        await self._stack.enter_async_context(app.router.lifespan_context(app))
        self._apps["localhost:8000"] = app

    async def _start(self, words: list[str], port: str, variables: Mapping[str, str]) -> str:
        """Start a program that runs to the end of the page, in place of `port` on a free one; its first lines."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._ports[port] = str(free.getsockname()[1])
        module = {"batchflow": "batchflow.cli"}.get(words[0], words[0])
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *["-m", module, *words[1:-1], self._ports[port]],
            env={**os.environ, **{name: self._with_ports(value) for name, value in variables.items()}},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._stack.push_async_callback(process.wait)
        self._stack.callback(process.terminate)
        assert process.stdout is not None
        printed = ""
        async with asyncio.timeout(_SECONDS):
            while _STARTED[words[0]] not in printed:
                if not (line := await process.stdout.readline()):
                    raise Wrong(f"'{shlex.join(words)}' has ended:\n{printed}")
                printed += line.decode()
        return printed

    async def _curl(self, arguments: list[str]) -> str:
        method, body, url, headers = "GET", None, "", dict[str, str]()
        words = iter(arguments)
        for word in words:
            match word:
                case "-X":
                    method = next(words)
                case "-H":
                    name, _, headers[name] = next(words).partition(": ")
                case "--json" | "-d":
                    method, body = "POST", next(words)
                case "-s" | "-N" | "-sN":
                    pass
                case _ if not word.startswith("-"):
                    url = word
                case _:
                    raise Wrong(f"nobody knows curl's option '{word}'")
        host = url.removeprefix("http://").partition("/")[0]
        transport = httpx.ASGITransport(app) if (app := self._apps.get(host)) else None
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}", timeout=_SECONDS) as client:
            answer = await client.request(method, url.partition(host)[2], content=body, headers=headers)
        return answer.text


def main(path: str) -> None:
    """Run a page."""
    sys.path.insert(0, str(Path.cwd()))
    page: Any = Page(path)
    try:
        asyncio.run(page.run(blocks(Path(path).read_text(encoding="utf-8"))))
    except Wrong as wrong:
        sys.exit(str(wrong))


if __name__ == "__main__":
    main(sys.argv[1])
