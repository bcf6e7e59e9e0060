"""What a page says is printed, and what was: `…` stands for anything."""

import difflib
import json
import re
from typing import Any, cast

_ANY = "…"
_LOG = re.compile(
    r"(\x1b\[\d+m)*(\d{4}-\d\d-\d\d[ T])?\d\d:\d\d:\d\d\S* *(\x1b\[\d+m)* ?\[.{0,9}(debug|info|warning|error)"
)
# A line of the log begins with its time and level.
_BARE = re.compile(r"([:\[,]\s*)…")


def without_log(text: str) -> str:
    """The output without log lines, whose times and order are of no interest to a page."""
    return "".join(f"{line}\n" for line in text.splitlines() if not _LOG.match(line))


def text_difference(expected: str, got: str) -> str:
    """Where the two differ; empty where they do not. A line of `…` alone stands for any number of lines."""
    pattern = "\n".join(_line(line) for line in expected.strip().splitlines())
    pattern = pattern.replace("\n\0\n", r"\n(?:.*\n)*?").replace("\n\0", r"(?:\n.*)*").replace("\0\n", r"(?:.*\n)*?")
    found = "\n".join(line.rstrip() for line in got.strip().splitlines())
    return "" if re.fullmatch(pattern, found) else _diff(expected.strip(), found)


def json_difference(expected: str, got: str) -> str:
    """As `text_difference`, for a JSON document, whose layout does not count. `…` may stand for any value."""
    wanted = json.loads(_BARE.sub(r'\1"…"', expected))
    try:
        found = json.loads(got)
    except ValueError:
        return f"this is no JSON: {got!r}"
    if _fits(wanted, found):
        return ""
    return _diff(json.dumps(wanted, indent=2, ensure_ascii=False), json.dumps(found, indent=2, ensure_ascii=False))


def _line(line: str) -> str:
    if line.strip() == _ANY:
        return "\0"
    pattern = ".*?".join(re.escape(part) for part in line.rstrip().split(_ANY))
    # What takes milliseconds takes seconds on a machine under load.
    return pattern.replace(".*?ms", ".*?m?s")


def _fits(wanted: Any, found: Any) -> bool:
    match wanted:
        case "…":
            return True
        case dict():
            fields = cast("dict[str, Any]", wanted)
            return (
                isinstance(found, dict)
                and list(fields) == list(cast("dict[str, Any]", found))
                and all(_fits(value, found[name]) for name, value in fields.items())
            )
        case list():
            values, others = cast("list[Any]", wanted), cast("list[Any]", found)
            return isinstance(found, list) and len(values) == len(others) and all(map(_fits, values, others))
        case str() if _ANY in wanted:
            return isinstance(found, str) and re.fullmatch(_line(wanted), found) is not None
        case _:
            return type(wanted) is type(found) and wanted == found


def _diff(expected: str, got: str) -> str:
    return "\n".join(difflib.unified_diff(expected.splitlines(), got.splitlines(), "page", "printed", lineterm=""))
