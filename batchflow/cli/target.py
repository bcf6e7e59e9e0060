"""`MODULE:ATTR` and the name of a workflow: from what is written on the command line to the objects."""

import importlib
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from batchflow.app import Batchflow
from batchflow.batch.bound import Workflow
from batchflow.core.spelling import did_you_mean
from batchflow.errors import BatchflowError, ConfigurationError, InputError
from batchflow.serve.functions import ServedFunction


def load_flow(target: str) -> Batchflow:
    """The `Batchflow` that `MODULE:ATTR` names; the current directory is looked in first.

    Raises:
        InputError: there is no such module or attribute, or it is something else.
        ConfigurationError: the module itself raises when it is imported.
    """
    name, _, attribute = target.partition(":")
    module = _import(name, target)
    found = _flows_in(module)
    if not attribute:
        example = f"{name}:{found[0] if found else 'flow'}"
        raise InputError(f"'{target}' names a module and no attribute; write {example}")
    value = getattr(module, attribute, None)
    if value is None and not hasattr(module, attribute):
        there = did_you_mean(attribute, found) if found else ", nor any other Batchflow"
        raise InputError(f"the module '{name}' has no '{attribute}'{there}")
    if not isinstance(value, Batchflow):
        instead = f"; write {name}:{found[0]}" if found else ""
        raise InputError(f"'{target}' is no Batchflow but a {type(value).__name__}{instead}")
    return value


def choose_workflow(flow: Batchflow, name: str | None, target: str) -> Workflow[Any, Any]:
    """The workflow of that name, or the only one there is.

    Raises:
        InputError: there is none, or several and none is named.
    """
    workflows = flow.workflows
    if not workflows:
        raise InputError(f"'{target}' has no workflow; add one with flow.add(…)")
    if name is None:
        if len(workflows) > 1:
            raise InputError(f"'{target}' has {len(workflows)} workflows; name one of {_listed(workflows)}")
        return next(iter(workflows.values()))
    if name not in workflows:
        raise InputError(f"'{target}' has no workflow '{name}'; there is {_listed(workflows)}")
    return workflows[name]


def choose_function(flow: Batchflow, route: str | None, target: str) -> ServedFunction[Any, Any]:
    """The function served at a route, whose first slash may be left out, or the only one there is.

    Raises:
        InputError: there is none, or several and none is named.
    """
    served = flow.served
    if not served:
        raise InputError(f"'{target}' serves no function; add one with @flow.serve(…)")
    if route is None:
        if len(served) > 1:
            raise InputError(f"'{target}' serves {len(served)} functions; name one of {_listed(served)}")
        return next(iter(served.values()))
    # Some shells take what begins with a slash for a path of theirs.
    function = served.get(route) or served.get(f"/{route}")
    if function is None:
        raise _nothing_at(flow, route, target)
    return function


def check_route(flow: Batchflow, route: str, target: str) -> None:
    """Raise `InputError` for a route at which the app serves no function."""
    if route not in flow.served:
        raise _nothing_at(flow, route, target)


def _nothing_at(flow: Batchflow, route: str, target: str) -> InputError:
    there = f"there is {_listed(flow.served)}" if flow.served else "it serves no function"
    return InputError(f"'{target}' serves nothing at '{route}'; {there}")


def _import(name: str, target: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
        raise InputError(f"'{target}' names no module; write MODULE:ATTR with dots, such as app.jobs:flow")
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
        raise _broken(name, error) from error
    except BatchflowError:
        raise
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _broken(name: str, error: BaseException) -> ConfigurationError:
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    if not isinstance(error, SyntaxError):
        # Where the user has to look: the last line of their own, not that of a library they called.
        frames = traceback.extract_tb(error.__traceback__)
        own = [it for it in frames if Path.cwd() in Path(it.filename).parents and "site-packages" not in it.filename]
        what += f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return ConfigurationError(f"importing '{name}' failed: {what}")


def _flows_in(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, Batchflow)]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))
