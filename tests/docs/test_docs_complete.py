"""The reference pages name everything there is, and nothing that is not; links lead somewhere."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import PurePosixPath
from typing import Any, cast

import pytest
import typer
from fastapi import APIRouter
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import AliasChoices

import batchflow
import batchflow.testing
from batchflow import Batchflow, BatchWorkflow, FlowControl, NoParams, Page, WorkflowContext, errors
from batchflow.batch import hooks, options
from batchflow.batch.dry_run import Statistics
from batchflow.cli.app import app as command
from batchflow.core.batch import BatchState, Counts, ItemState
from batchflow.core.run import RunState
from batchflow.settings import Settings
from tests.docs.pages import MEASURED, ROOT, anchors, links, pages, prose, read

README_WORDS = 500
NOT_THERE = ("dashboard",)
INDEX = "docs/README.md"


class Sample(BatchWorkflow[NoParams, str, None]):
    """Its names are found again in its routes."""

    name = "workflow"
    entity = "thing"
    entity_plural = "many"
    execute_verb = "verb"

    async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
        return Page(ids=[])

    async def execute(self, thing_id: str) -> None: ...


def code_spans(page: str) -> set[str]:
    """What stands between backticks."""
    return set(re.findall(r"`([^`\n]+)`", prose(read(page))))


def missing(names: Iterable[str], page: str) -> list[str]:
    """Names that stand in no code of the page's text."""
    spans = code_spans(page)
    return [name for name in names if not any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", it) for it in spans)]


def variables() -> dict[str, Any]:
    """The settings' environment variables, with their defaults."""
    found: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        variable = str(alias.choices[-1]) if isinstance(alias, AliasChoices) else f"BATCHFLOW_{name.upper()}"
        found[variable] = field.default
    return found


def routes(router: APIRouter) -> list[str]:
    return [
        f"{method} {route.path_format}"
        for found in iter_route_contexts(router.routes)
        if isinstance(route := found.original_route, APIRoute)
        for method in sorted(route.methods or ())
    ]


def commands() -> dict[str, list[str]]:
    """Every command of the command line, with its options."""
    found: dict[str, list[str]] = {}

    def add(group: Any, words: Sequence[str]) -> None:
        found[" ".join(words)] = [option for it in group.params for option in it.opts if option.startswith("-")]
        for name, inner in getattr(group, "commands", {}).items():
            add(inner, [*words, name])

    add(typer.main.get_command(command), ["batchflow"])
    return found


def test_readme_is_short() -> None:
    """Code included."""
    assert len(read("README.md").split()) <= README_WORDS


@pytest.mark.parametrize("page", pages())
def test_docs_links_lead_somewhere(page: str) -> None:
    """Every link to a local file names a file, and a heading of it where it names one."""
    broken: list[str] = []
    for target in links(read(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / page).parent / path if path else ROOT / page
        if not found.is_file() or (anchor and anchor not in anchors(found.read_text(encoding="utf-8"))):
            broken.append(target)
    assert broken == []


def test_docs_index_names_every_page() -> None:
    """From the index one gets everywhere, the benchmarks included."""
    targets = {(PurePosixPath("docs") / target.partition("#")[0]).as_posix() for target in links(read(INDEX))}
    assert {page for page in pages() if page not in {"README.md", INDEX}} | {MEASURED} <= targets


@pytest.mark.parametrize("page", pages())
def test_docs_leave_out_what_is_not_there(page: str) -> None:
    """What is planned stands in one line of the index."""
    lines = prose(read(page)).lower().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("planned, "))
    assert [word for word in NOT_THERE if word in text] == []


def test_docs_name_every_setting() -> None:
    """With its default, where that is one word; and no page names a variable that is none."""
    page = "docs/reference/settings.md"
    assert missing(variables(), page) == []
    plain = [str(default) for default in variables().values() if isinstance(default, (str, int))]
    assert [default for default in plain if default not in code_spans(page)] == []
    named = {name for it in pages() for name in re.findall(r"BATCHFLOW_[A-Z_]+", read(it))}
    assert named - set(variables()) == set()


def test_docs_name_every_command_and_option() -> None:
    """And no option that is none."""
    page = "docs/reference/cli.md"
    known = commands()
    assert missing([name for name in known if name != "batchflow batches list"], page) == []
    every = {option for found in known.values() for option in found}
    assert missing(every, page) == []
    named = {option for span in code_spans(page) for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", span)}
    assert named - every - {"--help", "-h"} == set()


def test_docs_name_every_error() -> None:
    """In the tree and in a table."""
    page = "docs/reference/errors.md"
    assert missing(errors.__all__, page) == []
    tree = read(page).partition("```\n")[2].partition("```")[0]
    assert set(re.findall(r"\w+", tree)) == set(errors.__all__)


def test_docs_name_every_route() -> None:
    """By its pattern; and no route that is none."""
    flow = Batchflow("sqlite://")
    flow.add(Sample())

    @flow.serve("/served")
    async def served(ctx: WorkflowContext[None]) -> None: ...  # pyright: ignore[reportUnusedFunction]: is served

    patterns = {
        "/workflow/": "/{workflow}/",
        "-many": "-{entities}",
        "verb-thing": "{verb}-{entity}",
        "/served": "{route}",
    }
    there: set[str] = set()
    for route in routes(flow.router):
        for name, pattern in patterns.items():
            route = route.replace(name, pattern)
        there.add(route)
    table = {span for span in code_spans("docs/reference/http.md") if re.match(r"(GET|POST|PUT|DELETE|PATCH) ", span)}
    assert table == there


def test_docs_name_every_hook_and_option() -> None:
    """And the defaults of the layers' limits."""
    assert missing([*hooks.HOOK_NAMES, *options.OPTION_NAMES], "docs/how-to/hooks.md") == []
    for name in ("entry_flow", "paginate_flow", "execute_flow"):
        flow = cast("FlowControl", getattr(BatchWorkflow, name))
        assert f"| `{name}` | `FlowControl(parallelism={flow.parallelism}, rate={flow.rate})` |" in read(
            "docs/how-to/hooks.md"
        )


def test_docs_name_every_field_and_state() -> None:
    """Statistics, limits, counts, states."""
    assert missing(Statistics.model_fields, "docs/how-to/dry-runs.md") == []
    assert missing([it.name for it in fields(FlowControl) if it.init], "docs/how-to/flow-control.md") == []
    states = {*BatchState.__args__, *ItemState.__args__, *RunState.__args__}
    assert missing(states, "docs/lifecycle.md") == []
    assert [name for name in Counts._fields if name not in read("docs/lifecycle.md")] == []


def test_docs_name_every_public_name() -> None:
    """Whatever is exported stands somewhere."""
    text = "\n".join(read(page) for page in pages())
    assert [name for name in batchflow.__all__ if not re.search(rf"\b{name}\b", text)] == []
    assert missing(batchflow.testing.__all__, "docs/how-to/testing.md") == []
