"""The arguments of a trigger, and their checks, which run before anything is started."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias, cast
from uuid import UUID

from pydantic import BaseModel, ValidationError

from batchflow.batch.definition import Definition
from batchflow.batch.options import BUDGET_EXAMPLE
from batchflow.core.batch import PRIORITY_DESCRIPTION, is_priority
from batchflow.core.duration import Duration
from batchflow.core.failure_budget import FailureBudget
from batchflow.errors import InputError
from batchflow.serve.trigger import Dedup
from batchflow.serve.validation import format_value, is_encodable, validate_text

Id: TypeAlias = str | int | UUID
"""The id of an item in a source; numbers and UUIDs are converted to strings."""

MAX_CANARY = 1_000
"""The most items of a canary; with `walk_first` the pages of a walk carry their ids along."""

ID_DESCRIPTION = "a non-empty string, an int or a UUID"
"""The description of a valid id for messages."""


def id_text(value: object) -> str | None:
    """Return the text of an id; None for an invalid one."""
    match value:
        case bool() | "":
            return None
        # Not `str(value)`, which is the name of a member for an enumeration.
        case str():
            return str.__str__(value)
        case int():
            return int.__repr__(value)
        case UUID():
            return str(value)
        case _:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTrigger:
    """The options of a trigger beside the parameters; see `Workflow.trigger`."""

    force: bool = False
    ids: Sequence[Id] | None = None
    limit: int | None = None
    dedup_id: str | None = None
    dedup: Dedup = "kept"
    label: str | None = None
    batch_id: str | None = None
    canary: int | None = None
    approve_under: float | None = None
    delay: Duration | None = None
    not_before: datetime | int | None = None
    headers: Mapping[str, str] | None = None
    notify_url: str | None = field(default=None, repr=False)
    priority: int | None = None
    failure_budget: FailureBudget | None = None


def check_params(definition: Definition, params: Any) -> BaseModel:
    """Return the parameters, created from their defaults for None.

    Raises:
        InputError: they are of another type, or some of them have no default.
    """
    expected = definition.params
    if params is None:
        try:
            return expected()
        except ValidationError as error:
            missing = ", ".join(f"{it['loc'][0]}=…" for it in error.errors() if it["loc"])
            raise InputError(
                f"'{definition.name}' needs parameters; pass {expected.__name__}({missing})", field="params"
            ) from error
    if not isinstance(params, expected):
        # Those who mean the items give them first.
        want = f"trigger(ids={_ids_example(params)})" if _looks_like_ids(params) else f"{expected.__name__}(…)"
        raise InputError(
            f"'{definition.name}' takes {expected.__name__}, not {type(params).__name__}; pass {want}", field="params"
        )
    return params


def _looks_like_ids(params: object) -> bool:
    return isinstance(params, str | int | list | tuple | set) and not isinstance(params, bool)


def _ids_example(ids: object) -> str:
    return f"[{format_value(ids)}]" if isinstance(ids, str | int) else "[…]"


def check_ledger_params(definition: Definition, params: Any) -> BaseModel:
    """Return the parameters that select the ledger; None is enough if there is only one.

    Raises:
        InputError: they are of another type, or there are several ledgers and none are given.
    """
    names = definition.ledger_scope.names
    if params is None and names:
        fields = ", ".join(f"{name}=…" for name in names)
        raise InputError(
            f"'{definition.name}' has a ledger for each {' and '.join(map(repr, names))}; say which one is meant: "
            f"params={definition.params.__name__}({fields})",
            field="params",
        )
    return definition.params.model_construct() if params is None else check_params(definition, params)


def check_source(definition: Definition) -> None:
    """Raise `InputError` for a workflow without `fetch`, whose triggers have to list ids."""
    if "fetch" not in definition.defined_hooks:
        raise InputError(f"'{definition.name}' has no source of ids", want="name them, or give it one", field="ids")


def parse_ids(ids: Iterable[Id]) -> list[str]:
    """Return ids as texts.

    Raises:
        InputError: they are a string or not a collection, or an id is invalid.
    """
    given = cast("object", ids)
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InputError(option="ids", got=format_value(given), want="write a list of ids")
    texts: list[str] = []
    for id in ids:
        text = id_text(id)
        if text is None:
            raise InputError(f"holds {format_value(id)}, and an id is {ID_DESCRIPTION}", option="ids")
        texts.append(text)
    if (unencodable := find_unencodable(texts)) is not None:
        raise InputError(f"holds {unencodable!r}, which has no form in UTF-8", option="ids", want="name it otherwise")
    return texts


def find_unencodable(ids: Sequence[str]) -> str | None:
    """Return the first id with a lone surrogate, as names of files may have; None without one."""
    # Nearly always all ids are ASCII, which is a fast check.
    return None if "".join(ids).isascii() else next((id for id in ids if not is_encodable(id)), None)


def check_ids(definition: Definition, ids: Iterable[Id] | None) -> list[str] | None:
    """Return the ids of a trigger; None if it has none, and the workflow has a source.

    Raises:
        InputError: they are empty, an id is invalid or repeated, or the workflow cannot load items by id.
    """
    if ids is None:
        check_source(definition)
        return None
    texts = [] if isinstance(ids, str) else parse_ids(ids)
    if not texts:
        is_text = isinstance(ids, str) and ids
        want = f"write [{format_value(ids)}]" if is_text else "name one or more, or leave it out to fetch them"
        raise InputError(option="ids", got=format_value(ids), want=want)
    if definition.needs_items:
        raise InputError(
            f"'{definition.name}' takes its items from the pages of fetch, and has no load that makes one of an id; "
            f"leave 'ids' out, or write load",
            field="ids",
        )
    if len(set(texts)) < len(texts):
        repeated = next(id for id, count in Counter(texts).items() if count > 1)
        raise InputError(f"names '{repeated}' twice", option="ids", want="an item runs once per batch")
    return texts


def check_limit(limit: object, ids: list[str] | None) -> None:
    """Raise `InputError` for an invalid limit, or one beside ids."""
    if limit is None:
        return
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InputError(option="limit", got=repr(limit), want="write a whole number of 1 or more")
    if ids is not None:
        raise InputError("exclude each other", option="ids", other="limit", want="name fewer ids")


def check_canary(canary: object, approve_under: object) -> None:
    """Raise `InputError` for an invalid number of items, or an invalid share of failures, or one without canary."""
    if canary is not None and (
        isinstance(canary, bool) or not isinstance(canary, int) or not 1 <= canary <= MAX_CANARY
    ):
        raise InputError(option="canary", got=repr(canary), want=f"write a whole number from 1 to {MAX_CANARY:,}")
    if approve_under is None:
        return
    if isinstance(approve_under, bool) or not isinstance(approve_under, int | float) or not 0 <= approve_under <= 1:
        want = "write the share of items that may fail, from 0 to 1, such as 0.05"
        raise InputError(option="approve_under", got=repr(approve_under), want=want)
    if canary is None:
        want = "say of how many items: canary=20"
        raise InputError("is of a canary, and there is none", option="approve_under", want=want)


def check_dry_run(ids: Sequence[Id] | None) -> None:
    """Raise `InputError` for ids: a dry run counts the whole source."""
    if ids is not None:
        want = "a dry run counts the whole source"
        raise InputError("exclude each other", option="dry_run", other="ids", want=want)


def check_force(force: object) -> None:
    """Raise `InputError` unless `force` is True or False."""
    if not isinstance(force, bool):
        raise InputError(option="force", got=format_value(force), want="write True or False")


def check_priority(priority: object) -> None:
    """Raise `InputError` for an invalid priority."""
    if not is_priority(priority):
        raise InputError(option="priority", got=format_value(priority), want=f"write {PRIORITY_DESCRIPTION}")


def check_failure_budget(budget: object) -> FailureBudget | None:
    """Return the failure budget; raise `InputError` for anything else than one or None."""
    if not isinstance(budget, FailureBudget | None):
        raise InputError(option="failure_budget", got=format_value(budget), want=f"write {BUDGET_EXAMPLE}")
    return budget


def derive_batch_id(workflow: str, dedup_id: str) -> str:
    """Derive the id of a batch from its workflow and dedup id.

    Raises:
        InputError: the dedup id is empty, or not a string.
    """
    refuse = partial(InputError, field="dedupId")
    if not validate_text("'dedup_id'", dedup_id, refuse, "what the batch is for, as text"):
        raise InputError("is empty", option="dedup_id", want="name what the batch is for, or leave it out")
    # The name of a workflow has no spaces, so two pairs never have the same text.
    return f"bat_{hashlib.sha256(f'{workflow} {dedup_id}'.encode()).hexdigest()[:32]}"
