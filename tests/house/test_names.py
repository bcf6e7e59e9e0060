"""Modules are named after what they hold, types live where they are needed, store verbs mean something."""

import ast
from pathlib import PurePosixPath

from tests.house.sources import FOLDERS, Source, sources

BUCKETS = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "models", "types"}
SETTERS = ("update", "set_status", "save")

# Modules that import something of batchflow for its types only, with the reason.
LAZY = {
    "batchflow/app.py": "`import batchflow` needs no settings, which bring pydantic-settings and what reads .env files",
    "batchflow/cli/check.py": "the checker is imported by `batchflow check`, not by the help of the command",
}


def guards_types(node: ast.AST) -> bool:
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def first_party(node: ast.AST) -> bool:
    match node:
        case ast.ImportFrom(module=module, level=level):
            return level > 0 or (module or "").split(".")[0] == "batchflow"
        case ast.Import(names=names):
            return any(alias.name.split(".")[0] == "batchflow" for alias in names)
        case _:
            return False


def hidden_imports(source: Source) -> list[str]:
    return [
        f"{source.path}:{inner.lineno}"
        for node in ast.walk(source.tree)
        if guards_types(node)
        for inner in ast.walk(node)
        if isinstance(inner, (ast.Import, ast.ImportFrom)) and first_party(inner)
    ]


def setters(source: Source) -> list[str]:
    return [
        f"{source.path}:{node.lineno} {node.name}"
        for node in ast.walk(source.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        if any(node.name == name or node.name.startswith(f"{name}_") for name in SETTERS)
    ]


def test_modules_are_named_after_their_subject() -> None:
    """No module and no package is a bucket."""
    names = {source.path: set(PurePosixPath(source.path).with_suffix("").parts) for source in sources(*FOLDERS)}
    assert [path for path, parts in names.items() if parts & BUCKETS] == []


def test_no_import_is_hidden_behind_type_checking() -> None:
    """A type that is needed below belongs below: hiding its import only hides the cycle. A lean start is a reason."""
    hidden = {source.path: hidden_imports(source) for source in sources("batchflow")}
    assert {path for path, places in hidden.items() if places} == set(LAZY)


def test_stores_have_verbs_of_the_domain() -> None:
    """A store has no verb that writes whatever it is given."""
    assert [place for source in sources("batchflow/stores") for place in setters(source)] == []


def test_the_rules_see_what_they_look_for() -> None:
    """Each rule finds its offence in a made-up file."""
    text = "import typing\nif typing.TYPE_CHECKING:\n    from batchflow.engine import engine\n    import redis\n"
    text += "class Store:\n    async def update_run(self): ...\n    def settle(self): ...\n"
    source = Source(path="a.py", text=text, tree=ast.parse(text))
    assert hidden_imports(source) == ["a.py:3"]
    assert setters(source) == ["a.py:6 update_run"]
