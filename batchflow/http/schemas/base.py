"""The base of all documents, their times and errors."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from batchflow.core.frames import own_frame
from batchflow.core.report import headline, one_line, traceback_text

LATEST_MS = 253_402_300_799_999
"""The end of the year 9999. A later time means: never by itself."""


class ApiModel(BaseModel):
    """Base of all documents."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        field_title_generator=lambda name, _: name.replace("_", " ").capitalize(),
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )

    def document(self) -> dict[str, Any]:
        """The document as plain JSON values."""
        return self.model_dump(mode="json")


class BatchflowErrorResponse(ApiModel):
    """The reason why nothing was done, in one sentence. `field` is the part of the request at fault, if any."""

    success: Literal[False] = False
    error: str
    field: str | None = None


def required_datetime(ms: int) -> datetime:
    """A time in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def to_datetime(ms: int | None) -> datetime | None:
    """A time in UTC; None for no time, and for one after the year 9999."""
    return None if ms is None or ms > LATEST_MS else required_datetime(ms)


def short_error(text: str | None) -> str | None:
    """The first line of a stored error, with the user's own last frame; None for no error."""
    if text is None:
        return None
    frame = own_frame(text)
    return f"{one_line(headline(text))} ({frame})" if frame else one_line(headline(text))


def stored_traceback(text: str | None) -> str | None:
    """The traceback in a stored error; None if it has none."""
    return traceback_text(text or "") or None
