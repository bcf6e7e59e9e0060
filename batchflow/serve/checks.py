"""What arguments are held to: each check passes what fits, and says of the rest what was wrong and what to write."""

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast

from batchflow.core.codec import Codec
from batchflow.core.duration import Duration, to_ms
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.errors import BatchflowError, ConfigurationError, InputError
from batchflow.serve.callables import is_async
from batchflow.serve.showing import is_writable, kind_of, shown

T = TypeVar("T")

Refusal: TypeAlias = Callable[[str], BatchflowError]
"""Makes the error of a sentence."""

_LONGEST_LABEL = 200
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_HEADERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_NO_LABEL = partial(InputError, field="label")


def check_instance(option: str, value: object, kind: type, how: str) -> None:
    """An object of this class, or None.

    Raises:
        ConfigurationError: it is another.
    """
    if value is not None and not isinstance(value, kind):
        raise ConfigurationError(f"'{option}' cannot be {shown(value)}; write {how}")


def check_retry(value: object) -> None:
    """A whole policy, or None.

    Raises:
        ConfigurationError: it is something else.
    """
    check_instance("retry", value, RetryPolicy, "a policy, such as RetryPolicy(retries=3)")


def check_flow(value: object) -> None:
    """Limits, or None.

    Raises:
        ConfigurationError: it is something else.
    """
    check_instance("flow_control", value, FlowControl, "limits, such as FlowControl(parallelism=10, rate=5)")


def keyed(flow: FlowControl | None) -> FlowControl | None:
    """Limits that are given for one message.

    Raises:
        ConfigurationError: they are none, or name no key, and so would change those of everything else under it.
    """
    check_flow(flow)
    if flow is not None and flow.key is None:
        raise ConfigurationError(
            f"{flow!r} names no key; write FlowControl(key='…', …) to say what shares these limits"
        )
    return flow


def limit_ms(value: Duration | None) -> int | None:
    """How long something may take, in ms; None of None.

    Raises:
        ConfigurationError: it is no duration, or none at all.
    """
    if value is None:
        return None
    limit = to_ms(value, option="timeout")
    if limit == 0:
        raise ConfigurationError(f"'timeout' cannot be {value!r}; write a duration such as '30s', or leave it out")
    return limit


def check_texts(option: str, value: object, *, exactly: bool = False) -> None:
    """Names and texts, or None; `exactly` refuses text that cannot be written.

    Raises:
        ConfigurationError: it is something else. What it holds may be secret, and is not shown.
    """
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"'{option}' cannot be {kind_of(value)}; write names and texts, such as {{'name': 'text'}}"
        )
    for name, text in cast("Mapping[object, object]", value).items():
        if not isinstance(name, str):
            raise ConfigurationError(f"'{option}' has the name {shown(name)}; names are texts")
        if not isinstance(text, str):
            raise ConfigurationError(f"'{option}' has {kind_of(text)} for {name!r}; write text, or leave it out")
        if exactly and not (is_writable(name) and is_writable(text)):
            raise ConfigurationError(f"'{option}' has a text for {name!r} that has no form in UTF-8; write another")


def headers_of(value: Mapping[str, str] | None) -> dict[str, str]:
    """Headers, as HTTP can carry them (RFC 9110, 5.1 and 5.5), wherever they are to go.

    Raises:
        ConfigurationError: they are something else. Values may be secret, and are not shown.
    """
    check_texts("headers", value, exactly=True)
    for name, text in (value or {}).items():
        if not _HEADER_NAME.fullmatch(name):
            raise ConfigurationError(f"'headers' has {name!r}, which is no header's name; write one such as 'x-tenant'")
        if _NOT_IN_HEADERS.search(text):
            raise ConfigurationError(f"'headers' has a line break or control character in {name!r}; write one line")
    return dict(value or {})


def checked_text(what: str, value: object, refuse: Refusal, how: str) -> str:
    """Text that can be written.

    Raises:
        BatchflowError: it is something else; as `refuse` makes it.
    """
    if not isinstance(value, str):
        id: object = None if isinstance(value, type) else getattr(value, "id", None)
        held = f" (its id is {id!r})" if isinstance(id, str) else ""
        raise refuse(f"{what} cannot be {shown(value)}{held}; write {how}")
    if not is_writable(value):
        raise refuse(f"{what} cannot be {shown(value)}, which has no form in UTF-8; write {how}")
    return value


def checked_label(label: str | None, refuse: Refusal = _NO_LABEL) -> str | None:
    """A label, or None.

    Raises:
        InputError: it is no text of 1 to 200 characters; or what `refuse` makes of that.
    """
    if label is None:
        return None
    text = checked_text("a label", label, refuse, f"a text of 1 to {_LONGEST_LABEL} characters")
    if not 0 < len(text) <= _LONGEST_LABEL:
        raise refuse(f"a label has 1 to {_LONGEST_LABEL} characters, not {len(text)}")
    return text


def checked_run_id(value: object, option: str = "run_id") -> str:
    """The id of a run that is there.

    Raises:
        InputError: it is no text.
    """
    refuse = partial(InputError, field="runId")
    return checked_text(f"'{option}'", value, refuse, "the id of a run, such as the id of its handle")


def check_parser(value: Any) -> None:
    """A plain function of one text, or None.

    Raises:
        ConfigurationError: it is another function, or none.
    """
    if value is None:
        return
    fault = f"{shown(value)}, which cannot be called" if not callable(value) else None
    if fault is None and is_async(value):
        fault = f"{shown(value)}, which is async"
    if fault is None and not _takes_one(value):
        fault = f"{shown(value)}, which does not take one argument"
    if fault is not None:
        raise ConfigurationError(
            f"'initial_payload_parser' cannot be {fault}; write a plain function of a request's body: "
            f"def parse(text: str) -> Payload"
        )


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins do not say what they take
        return True
    try:
        signature.bind("")
    except TypeError:
        return False
    return True


def check_response(value: object) -> None:
    """A type that the body of an answer can be read as, or None.

    Raises:
        ConfigurationError: it is something else.
    """
    if value is not None and value is not bytes:
        Codec.of(value)
