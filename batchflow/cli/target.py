"""Finds the app, workflow, function or store that a command line names."""

import importlib
import sys
import traceback
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from batchflow.app import Batchflow
from batchflow.batch.bound import Workflow
from batchflow.core.secrets import printable_error
from batchflow.core.store import Store
from batchflow.core.suggestions import did_you_mean
from batchflow.engine.clock import SystemClock
from batchflow.engine.engine import Engine
from batchflow.errors import BatchflowError, ConfigurationError, InputError, NotFoundError
from batchflow.logs import safe_str
from batchflow.qstash.options import ON_QSTASH, QStash
from batchflow.serve.functions import ServedFunction
from batchflow.settings import Settings, open_store
from batchflow.stores.sqlite import SqliteStore


def load_flow(target: str) -> Batchflow:
    """Import the `Batchflow` that `MODULE:ATTR` names; the current directory comes first on the path.

    Raises:
        InputError: there is no such module or attribute, or the attribute is not a `Batchflow`.
        ConfigurationError: the import of the module raises.
    """
    name, _, attribute = target.partition(":")
    module = _import_module(name, target)
    found = _flows_in(module)
    if not attribute:
        example = f"{name}:{found[0] if found else 'flow'}"
        raise InputError(f"'{target}' names a module without an attribute; write {example}")
    value = getattr(module, attribute, None)
    if value is None and not hasattr(module, attribute):
        there = did_you_mean(attribute, found) if found else ", nor any other Batchflow"
        raise InputError(f"the module '{name}' has no '{attribute}'{there}")
    if not isinstance(value, Batchflow):
        instead = f"; write {name}:{found[0]}" if found else ""
        raise InputError(f"'{target}' is not a Batchflow but a {type(value).__name__}{instead}")
    return value


def choose_workflow(flow: Batchflow, name: str | None, target: str) -> Workflow[Any, Any]:
    """The workflow with this name; without a name, the only one.

    Raises:
        InputError: there is no such workflow, or no name and several of them.
    """
    workflows = flow.workflows
    if not workflows:
        raise InputError(f"'{target}' has no workflow; add one with flow.add(…)")
    if name is None:
        if len(workflows) > 1:
            raise InputError(f"'{target}' has {len(workflows)} workflows; name one of {_quote_names(workflows)}")
        return next(iter(workflows.values()))
    try:
        return flow.find_workflow(name)
    except NotFoundError:
        there = did_you_mean(name, workflows)
        if (served := flow.served.get(name) or flow.served.get(f"/{name}")) is not None:
            there = f", but a function; write: batchflow runs trigger {target} {served.endpoint.route}"
        raise InputError(f"'{target}' has no workflow '{name}'{there}") from None


def choose_function(flow: Batchflow, route: str | None, target: str) -> ServedFunction[Any, Any]:
    """The function at a route, whose first slash can be omitted; without a route, the only one.

    Raises:
        InputError: there is no such function, or no route and several of them.
    """
    served = flow.served
    if not served and route not in flow.workflows:
        raise InputError(f"'{target}' serves no function; add one with @flow.serve(…)")
    if route is None:
        if len(served) > 1:
            raise InputError(f"'{target}' serves {len(served)} functions; name one of {_quote_names(served)}")
        return next(iter(served.values()))
    # Some shells turn a word with a leading slash into a path.
    function = served.get(route) or served.get(f"/{route}")
    if function is None:
        raise _unknown_route(flow, route, target)
    return function


def check_route(flow: Batchflow, route: str, target: str) -> None:
    """Raise `InputError` if the app serves no function at the route."""
    if route not in flow.served:
        raise _unknown_route(flow, route, target)


def _unknown_route(flow: Batchflow, route: str, target: str) -> InputError:
    there = did_you_mean(route, flow.served) if flow.served else "; it serves no function"
    if route in flow.workflows:
        there = f", but has such a workflow; write: batchflow run {target} {route}"
    return InputError(f"'{target}' serves nothing at '{route}'{there}")


def _import_module(name: str, target: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
        raise InputError(f"'{target}' does not name a module; write MODULE:ATTR with dots, such as app.jobs:flow")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise InputError(
                f"there is no module '{error.name}' here; run the command in the folder that holds it"
            ) from error
        raise _import_failed(name, error) from error
    except BatchflowError:
        raise
    except (Exception, SystemExit) as error:
        raise _import_failed(name, error) from error


def _import_failed(name: str, error: BaseException) -> ConfigurationError:
    what = f"{type(error).__name__}: {printable_error(safe_str(error))}".removesuffix(": ")
    if not isinstance(error, SyntaxError):
        # The last line of the user's own code, not of a library that it calls.
        frames = traceback.extract_tb(error.__traceback__)
        own = [it for it in frames if Path.cwd() in Path(it.filename).parents and "site-packages" not in it.filename]
        what += f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    if isinstance(error, RuntimeError) and "running event loop" in what:
        what += "; put what starts the program below if __name__ == '__main__':"
    return ConfigurationError(f"importing '{name}' failed: {what}")


def _flows_in(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, Batchflow)]


def _quote_names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def location_text(store: Store) -> str:
    """The location of an open store, for the first line of a command: `/srv/app/batchflow.db (new)`."""
    return store.location + (" (new)" if store.is_new and store.is_durable else "")


def store_settings(url: str | None) -> Settings:
    """The settings with the URL of the store: of an app on QStash that of its batches.

    Raises:
        InputError: it has none.
    """
    settings = Settings.load(url=url)
    if settings.url != ON_QSTASH:
        return settings
    if not settings.store or settings.store.startswith("qstash:"):
        raise InputError(
            "an app on QStash keeps its batches and its ledger in a store; set BATCHFLOW_STORE to the URL of that "
            "store, or name it with --url"
        )
    return settings.model_copy(update={"url": settings.store})


@asynccontextmanager
async def open_engine(url: str | None) -> AsyncGenerator[Engine]:
    """An engine for reads and commands on what the settings name; it does no work.

    That is an existing store, or QStash: there the runs of the account, and the app's store of batches if it has one.

    Raises:
        InputError: as for `existing_store`.
    """
    settings = Settings.load(url=url)
    flow = _on_qstash(settings) if settings.url == ON_QSTASH else Batchflow(existing_store(settings), worker=False)
    async with flow:
        yield flow.engine


@asynccontextmanager
async def open_batches(url: str | None) -> AsyncGenerator[Engine]:
    """As `open_engine`, for commands about batches.

    Raises:
        InputError: as for `existing_store`; or there is no store for batches.
    """
    store_settings(url)
    async with open_engine(url) as engine:
        yield engine


@asynccontextmanager
async def open_server(url: str | None) -> AsyncGenerator[Engine]:
    """As `open_engine`, for commands about the store of a `batchflow server`.

    Raises:
        InputError: as for `existing_store`; or it is not a store.
    """
    check_server_settings(Settings.load(url=url))
    async with open_engine(url) as engine:
        yield engine


def check_server_settings(settings: Settings) -> None:
    """Raise `InputError` for settings of an app on QStash: its server is another program, with a store of its own."""
    if settings.url == ON_QSTASH:
        raise InputError("BATCHFLOW_URL is qstash://, as for its apps; name the store of the server with --url")


def _on_qstash(settings: Settings) -> Batchflow:
    from batchflow.qstash.account_directory import see_account

    store = existing_store(store_settings(ON_QSTASH), "BATCHFLOW_STORE") if settings.store else None
    # Requests are verified, and the app is called regularly, by the process that serves them.
    flow = Batchflow(QStash(store=store, verify=False, relay_cron=None))
    see_account(flow.engine)
    return flow


@asynccontextmanager
async def open_existing_store(url: str | None) -> AsyncGenerator[Store]:
    """The existing store at `url`, opened.

    Raises:
        InputError: as for `existing_store`.
    """
    store = existing_store(store_settings(url))
    try:
        await store.open()
        yield store
    finally:
        await store.close()


def existing_store(settings: Settings, variable: str = "BATCHFLOW_URL") -> Store:
    """The store of the settings, not opened yet. No file is created. `variable` names it in errors.

    Raises:
        InputError: the file does not exist, or the store is in memory and so of another process.
    """
    store = open_store(settings, SystemClock())
    if isinstance(store, SqliteStore):
        if store.path == ":memory:":
            raise InputError(f"'{settings.url}' is the memory of one process; name a file with --url or {variable}")
        if not Path(store.path).exists():
            raise InputError(
                f"there is no database '{store.path}' here; go to its folder, or name it with --url or {variable}"
            )
    return store
