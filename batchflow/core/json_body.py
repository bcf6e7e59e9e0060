"""Reading JSON bodies as they come: the media types of JSON, byte order marks, charsets."""

import re
from codecs import BOM_UTF8

_CHARSET = re.compile(r";\s*charset\s*=\s*[\"']?([^\s;\"']+)", re.IGNORECASE)
_UTF_8 = ("utf-8", "utf-8-sig")


def is_json_type(content_type: str) -> bool:
    """True for a media type of JSON, in any case and with any parameters. Lines of JSON (NDJSON) are not JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("application/json", "text/json") or kind.endswith("+json")


def decode_body(content: bytes, content_type: str = "") -> str:
    """A body as text, in the charset that its type declares; without one, or with an unknown one, UTF-8.

    Bytes that do not fit become U+FFFD.
    """
    if (charset := _CHARSET.search(content_type)) is not None:
        try:
            return content.decode(charset[1], "replace")
        except (LookupError, ValueError):
            pass
    return content.decode(errors="replace")


def json_text(content: bytes, content_type: str = "") -> bytes | str:
    """The bytes of a body for a JSON parser: without a byte order mark, and as text if they are not UTF-8.

    UTF-16 and UTF-32 are recognized by their first bytes, other charsets by the type. Empty if the body has only
    blanks. Bytes that fit nothing stay as they are, for the parser to refuse.
    """
    # Late: pydantic-core reads and writes JSON, and nothing else needs this module.
    from json import detect_encoding

    content = content.removeprefix(BOM_UTF8)
    if not content.strip():
        return b""
    if (encoding := detect_encoding(content)) not in _UTF_8:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            return content
    if content.isascii() or _CHARSET.search(content_type) is None:
        return content
    try:
        content.decode()
    except UnicodeDecodeError:
        text = decode_body(content, content_type)
        return content if "\ufffd" in text else text
    return content
