"""JSON on the command line: `--payload`, `-p name=value`, the data of an event."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic_core import from_json, to_json

from batchflow.cli.fields import Fields
from batchflow.cli.parameters import fitted
from batchflow.errors import InputError
from batchflow.http.bodies import PayloadReader
from batchflow.serve.functions import ServedFunction

Payload = TypeVar("Payload")


def read_payload(function: ServedFunction[Payload, Any], pairs: Sequence[str], text: str | None) -> Payload:
    """What a run is started with: `text` is JSON, or for the function's own parser if any; each pair is `name=value`.

    With pairs it is a JSON object, and they win over it, whatever name of a field it has. A value is taken as text
    first, and as JSON where the text does not fit.

    Raises:
        InputError: it is no JSON, does not fit, or no field has the name of a pair; one sentence.
    """
    reader = PayloadReader(function)
    given = "" if text is None else _source(text, "--payload")
    if not pairs:
        if given.strip() and function.parse is None:
            _parsed(given, "--payload")
        return reader.read(given.encode(), is_json=function.parse is None)
    fields = Fields(function.payload.annotation, function.endpoint.route)
    named = _split(pairs, fields)
    rest = {name: value for name, value in _object(given).items() if fields.field(name) not in named}
    return fitted({**rest, **named}, set(named), lambda it: reader.read(to_json(it), is_json=True), fields.field)


def read_json(text: str, what: str) -> Any:
    """The JSON that `text` is, or that is in the file `@FILE`, or that comes by stdin with `-`.

    Raises:
        InputError: it is none, or the file cannot be read.
    """
    return _parsed(_source(text, what), what)


def _object(text: str) -> dict[str, Any]:
    value = _parsed(text if text.strip() else "{}", "--payload")
    if not isinstance(value, dict):
        raise InputError("-p gives the fields of a JSON object; --payload beside it is one, or is left out")
    return cast("dict[str, Any]", value)


def _split(pairs: Sequence[str], fields: Fields) -> dict[str, str]:
    named: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"'-p {pair}' is no field; write -p name=value")
        fields.check(name)
        field = fields.field(name)
        if field in named:
            raise InputError(f"the field '{name}' is given twice; give it once, a list as JSON: -p {name}='[…]'")
        named[field] = value
    return named


def _source(text: str, what: str) -> str:
    if text == "-":
        return sys.stdin.read()
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{what} cannot be read from '{text[1:]}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{what} cannot be read from '{text[1:]}': it is no UTF-8 text") from error


def _parsed(text: str, what: str) -> Any:
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise InputError(f"{what} is no JSON: {error}") from error
