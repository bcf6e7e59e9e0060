"""Text that came over HTTP is read in the charset that it declares."""

from typing import Any, cast

import pytest

from batchflow.core.call import Body, CallResult
from batchflow.errors import InputError, UnserializableError
from batchflow.serve.calls import CallResponse
from batchflow.serve.waits import WebhookRequest

LATIN, UTF = "häl".encode("latin-1"), "häl".encode()

CASES = [
    ("text/plain; charset=iso-8859-1", LATIN, "häl"),
    ('text/plain;format=flowed; Charset="ISO-8859-1"', LATIN, "häl"),
    ("text/plain; charset=iso-8859-1", UTF, "hÃ¤l"),
    ("text/plain; charset=utf-16", "häl".encode("utf-16"), "häl"),
    ("text/plain; charset=utf-8", LATIN, "h\ufffdl"),
    ("text/plain", UTF, "häl"),
    ("", LATIN, "h\ufffdl"),
    ("text/plain; charset=nobody-knows", UTF, "häl"),
    ("text/plain; charset=base64", UTF, "häl"),
    ("text/plain; charset=undefined", UTF, "häl"),
    ("text/plain; charset=", UTF, "häl"),
]


def answered(content: bytes, kind: str, response: Any = None) -> CallResponse[Any]:
    return CallResponse("ask", CallResult(status=200, headers={"content-type": kind}, body=Body.of(content)), response)


def sent(content: bytes, kind: str) -> WebhookRequest:
    return WebhookRequest(method="POST", headers={"content-type": kind}, sent=Body.of(content))


@pytest.mark.parametrize(("kind", "content", "text"), CASES)
def test_text_is_read_in_its_charset(kind: str, content: bytes, text: str) -> None:
    """UTF-8 where none is declared, or none that is known."""
    answer = answered(content, kind)
    assert (answer.text, answer.body, answered(content, kind, str).body) == (text, text, text)
    assert answer.content == content
    assert sent(content, kind).text == text


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/json", '["häl"]'.encode()),
        ("application/json; charset=iso-8859-1", '["häl"]'.encode()),
        ("application/json; charset=iso-8859-1", '["häl"]'.encode("latin-1")),
        ("application/json; charset=utf-16", '["häl"]'.encode("utf-16")),
        ("application/json", '["häl"]'.encode("utf-8-sig")),
        ("application/json", '["häl"]'.encode("utf-16")),
        ("application/json; charset=utf-8", '["häl"]'.encode("utf-16-le")),
        ("application/json", '["häl"]'.encode("utf-32-be")),
        ("Application/JSON; profile=x", '["häl"]'.encode()),
        ("TEXT/json", '["häl"]'.encode()),
        ("application/vnd.api+JSON", '["häl"]'.encode()),
    ],
)
def test_json_is_read_however_it_is_encoded(kind: str, content: bytes) -> None:
    """Byte order marks, UTF-16 and UTF-32 are recognized; a wrong charset does no harm to UTF-8."""
    assert answered(content, kind).body == ["häl"]
    assert answered(content, kind, list[str]).body == ["häl"]
    assert sent(content, kind).json() == ["häl"]


def test_json_in_no_known_charset_is_refused() -> None:
    """Instead of characters that nobody sent."""
    content = '["häl"]'.encode("latin-1")
    for kind in ("application/json", "application/json; charset=nobody-knows"):
        with pytest.raises(UnserializableError, match="^the answer of call 'ask' says it is JSON and is not: "):
            _ = answered(content, kind).body
        with pytest.raises(InputError, match="the webhook is not JSON: "):
            sent(content, kind).json()


@pytest.mark.parametrize("kind", ["application/x-ndjson", "application/jsonl", "application/json-seq", "jsonp/x"])
def test_lines_of_json_are_text(kind: str) -> None:
    """One JSON parser cannot read them."""
    content = b'{"a": 1}\n{"a": 2}\n'
    assert answered(content, kind).body == content.decode()
    assert answered(content, kind.title()).body == content.decode()


@pytest.mark.parametrize("content", [b"", b" \n", b"\xef\xbb\xbf"])
def test_an_empty_json_body_is_nothing(content: bytes) -> None:
    """As of a 204: None where the type takes it, else an error that says so."""
    assert answered(content, "application/json").body is None
    assert answered(content, "application/json", cast("Any", list[str] | None)).body is None
    with pytest.raises(UnserializableError, match=r"\(200\) is empty, which is not a valid list\[str\]"):
        _ = answered(content, "application/json", list[str]).body
    with pytest.raises(InputError, match="has no body"):
        sent(content, "application/json").json()
