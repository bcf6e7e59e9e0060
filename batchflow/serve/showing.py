"""How sentences show what was given, and whether text can be written at all."""

_LONGEST_SHOWN = 100


def shown(value: object) -> str:
    """A value as sentences show it: functions and classes by name, everything in short."""
    name = getattr(value, "__name__", None)
    if isinstance(name, str):
        kind = "class" if isinstance(value, type) else type(value).__name__.replace("_", " ")
        return f"the {kind} '{name}'"
    try:
        text = repr(value)
    except Exception:  # that of an object of the user's may raise anything, and that of a huge int does
        text = kind_of(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def kind_of(value: object) -> str:
    name = type(value).__name__
    return "None" if value is None else f"an {name}" if name[0] in "aeiou" else f"a {name}"


def is_text(value: object) -> bool:
    """Whether this is text that can be written."""
    return isinstance(value, str) and is_writable(value)


def is_writable(text: str) -> bool:
    """Whether text can be written at all: half of a surrogate pair has no form in UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
