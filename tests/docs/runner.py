"""Runs the blocks of one page, in the current folder: `python -m tests.docs.runner docs/quickstart.md`.

Python blocks share a namespace and an event loop; one marked as a file is written to that file. Of shell commands it
knows `batchflow`, `python`, `curl`, and `uvicorn`, whose app is then served to `curl` without a port. What a block
prints is compared with the `text` or `json` block that follows it. In a command `bat_…` and `run_…` stand for the
batch and run that were printed last. A failed block is said on stderr, and ends it.
"""

import ast
import asyncio
import builtins
import importlib
import io
import os
import re
import shlex
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
_ID = re.compile(r"\b(?P<kind>bat_|run_)[0-9a-z]+")


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
        return printed

    async def _python(self, block: Block) -> str:
        if "file" in block.marks:
            Path(block.marks["file"]).write_text(block.text, encoding="utf-8")
            importlib.invalidate_caches()
            return ""
        # Empty lines in front, so that tracebacks have the page's own line numbers.
        source = "\n" * (block.line - 1) + block.text
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
        for line in block.text.replace("\\\n", " ").splitlines():
            for kind, id in self._ids.items():
                line = line.replace(f"{kind}…", id)
            words = shlex.split(line, comments=True)
            variables: dict[str, str] = {}
            while words and words[0].partition("=")[0].isidentifier() and "=" in words[0]:
                name, _, variables[name] = words.pop(0).partition("=")
            match words:
                case []:
                    continue
                case ["uvicorn", target]:
                    await self._serve(target)
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

    async def _curl(self, arguments: list[str]) -> str:
        method, body, url = "GET", None, ""
        words = iter(arguments)
        for word in words:
            match word:
                case "-X":
                    method = next(words)
                case "--json":
                    method, body = "POST", next(words)
                case "-s" | "-N" | "-sN":
                    pass
                case _ if not word.startswith("-"):
                    url = word
                case _:
                    raise Wrong(f"nobody knows curl's option '{word}'")
        host = url.removeprefix("http://").partition("/")[0]
        transport = httpx.ASGITransport(self._apps[host])
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}", timeout=_SECONDS) as client:
            answer = await client.request(method, url.partition(host)[2], content=body)
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
