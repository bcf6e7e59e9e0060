"""Text that came over HTTP is read in the charset that it declares."""

from typing import Any

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
    ],
)
def test_json_is_utf_8_or_what_it_declares(kind: str, content: bytes) -> None:
    """A wrong charset does no harm to what is UTF-8, as JSON has to be."""
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


def test_an_empty_json_body_is_nothing() -> None:
    """As of a 204."""
    assert answered(b"", "application/json").body is None
