"""What may be given as the id of an item. Inside, an id is always text."""

from typing import TypeAlias
from uuid import UUID

Id: TypeAlias = str | int | UUID
"""An id as a source has it: a number or a UUID is taken as its text."""

WANTED = "a non-empty string, an int or a UUID"
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
