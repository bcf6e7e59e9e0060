"""What a trigger is given, checked before anything is started."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias, cast
from uuid import UUID

from more_itertools import duplicates_everseen
from pydantic import BaseModel, ValidationError

from batchflow.batch.definition import Definition
from batchflow.core.duration import Duration
from batchflow.errors import InputError
from batchflow.serve.trigger import Dedup
from batchflow.serve.validation import format_value, is_encodable, validate_text

Id: TypeAlias = str | int | UUID
"""An id as a source has it: a number or a UUID is taken as its text."""

ID_DESCRIPTION = "a non-empty string, an int or a UUID"
"""What an id is, in a sentence."""


def id_text(value: object) -> str | None:
    """The text of an id; None for what is none."""
    match value:
        case bool() | "":
            return None
        # Past what an enumeration calls its members.
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
    """What a trigger sets beside the parameters; see `Workflow.trigger`."""

    force: bool = False
    ids: Sequence[Id] | None = None
    limit: int | None = None
    dedup_id: str | None = None
    dedup: Dedup = "kept"
    label: str | None = None
    batch_id: str | None = None
    delay: Duration | None = None
    not_before: datetime | int | None = None
    headers: Mapping[str, str] | None = None


def check_params(definition: Definition, params: Any) -> BaseModel:
    """The parameters, made of their defaults where none are given.

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
        raise InputError(
            f"'{definition.name}' takes {expected.__name__}, not {type(params).__name__}; pass {expected.__name__}(…)",
            field="params",
        )
    return params


def check_ledger_params(definition: Definition, params: Any) -> BaseModel:
    """The parameters that say which ledger is meant; any will do where there is only one.

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
    """Raise `InputError` for a workflow without `fetch`, which runs named ids only."""
    if "fetch" not in definition.defined_hooks:
        raise InputError(f"'{definition.name}' has no source of ids", want="name them, or give it one", field="ids")


def parse_ids(ids: Iterable[Id]) -> list[str]:
    """Some ids, each as its text.

    Raises:
        InputError: they are one text or no collection, or one of them is no id.
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
    """The first id that cannot be written, as names of files may be; None where all can."""
    # Nearly always all of it is ASCII, which is seen at once.
    return None if "".join(ids).isascii() else next((id for id in ids if not is_encodable(id)), None)


def check_ids(definition: Definition, ids: Iterable[Id] | None) -> list[str] | None:
    """The ids a trigger names; None where it names none and the workflow has a source.

    Raises:
        InputError: there are none, one is no id, one comes twice, or nothing makes items of them.
    """
    if ids is None:
        check_source(definition)
        return None
    texts = [] if isinstance(ids, str) else parse_ids(ids)
    if not texts:
        want = "name one or more, or leave it out to fetch them"
        raise InputError(option="ids", got=format_value(ids), want=want)
    if definition.needs_items:
        raise InputError(
            f"'{definition.name}' takes its items from the pages of fetch, and has no load that makes one of an id; "
            f"leave 'ids' out, or write load",
            field="ids",
        )
    if len(set(texts)) < len(texts):
        repeated = next(duplicates_everseen(texts))
        raise InputError(f"names '{repeated}' twice", option="ids", want="an item runs once per batch")
    return texts


def check_limit(limit: object, ids: list[str] | None) -> None:
    """Raise `InputError` for a limit that is none, or one beside named ids."""
    if limit is None:
        return
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InputError(option="limit", got=repr(limit), want="write a whole number of 1 or more")
    if ids is not None:
        raise InputError("exclude each other", option="ids", other="limit", want="name fewer ids")


def check_dry_run(ids: Sequence[Id] | None) -> None:
    """Raise `InputError` for named ids: a dry run counts the whole source."""
    if ids is not None:
        want = "a dry run counts the whole source"
        raise InputError("exclude each other", option="dry_run", other="ids", want=want)


def check_force(force: object) -> None:
    """Raise `InputError` for what says neither yes nor no."""
    if not isinstance(force, bool):
        raise InputError(option="force", got=format_value(force), want="write True or False")


def derive_batch_id(workflow: str, dedup_id: str) -> str:
    """The batch id of a dedup id: the same each time, another one for another workflow.

    Raises:
        InputError: it is no text, or empty.
    """
    refuse = partial(InputError, field="dedupId")
    if not validate_text("'dedup_id'", dedup_id, refuse, "what the batch is for, as text"):
        raise InputError("is empty", option="dedup_id", want="name what the batch is for, or leave it out")
    # No workflow's name holds a space, so two pairs never read alike.
    return f"bat_{hashlib.sha256(f'{workflow} {dedup_id}'.encode()).hexdigest()[:32]}"
