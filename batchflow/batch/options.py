"""The options of a workflow's class, read and checked."""

import re
from typing import Any, TypeVar

from batchflow.core.duration import to_ms
from batchflow.core.flow import FlowControl
from batchflow.errors import ConfigurationError

T = TypeVar("T")

NAMES = (
    "name",
    "entity",
    "entity_plural",
    "execute_verb",
    "page_size",
    "chunk_size",
    "entry_flow",
    "paginate_flow",
    "execute_flow",
    "retry",
    "item_timeout",
    "processed_ttl",
    "processed_per",
    "walk_first",
)

_SLUG = re.compile(r"[A-Za-z0-9]+(?:[-_.][A-Za-z0-9]+)*")
_LARGEST = 10_000
# Item numbers are page × page_size + place, and have nine digits.


class Options:
    """Reads a class's options, each with a sentence about what is wrong with it."""

    def __init__(self, cls: type) -> None:
        self._cls = cls

    def value(self, name: str) -> Any:
        """The option as it is written."""
        return getattr(self._cls, name)

    def count(self, name: str) -> int:
        """A whole number from 1 to 10,000."""
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
            raise self._wrong(name, value, f"a whole number from 1 to {_LARGEST:,}, such as 50")
        return value

    def instance(self, name: str, kind: type[T], example: str) -> T:
        """A value of one class."""
        value = self.value(name)
        if not isinstance(value, kind):
            raise self._wrong(name, value, example)
        return value

    def flow(self, name: str, key: str) -> FlowControl:
        """The limits of a layer under `key`, unless they name one themselves; None limits nothing."""
        value = self.value(name)
        if value is None:
            return FlowControl(key=key)
        if not isinstance(value, FlowControl):
            raise self._wrong(name, value, "FlowControl(parallelism=10, rate=5), or None for no limits")
        return value.named(key)

    def duration(self, name: str) -> int:
        """Milliseconds, more than none."""
        value = self.value(name)
        ms = to_ms(value, option=f"{self._cls.__name__}.{name}")
        if ms == 0:
            raise self._wrong(name, value, "a duration such as '15m'")
        return ms

    def _wrong(self, name: str, value: object, how: str) -> ConfigurationError:
        return ConfigurationError(f"{self._cls.__name__}.{name} cannot be {value!r}; write {how}")


def slug(cls: type, name: str, value: object) -> str:
    """A name that can stand in a URL.

    Raises:
        ConfigurationError: it cannot.
    """
    if not isinstance(value, str) or not _SLUG.fullmatch(value):
        raise ConfigurationError(
            f"{cls.__name__}.{name} cannot be {value!r}; write letters and digits, with '-', '_' or '.' between them"
        )
    return value


def check_instance(instance: object) -> None:
    """Refuse options that were set on an object: they are read from its class.

    Raises:
        ConfigurationError: it has one.
    """
    for name in NAMES:
        if name in getattr(instance, "__dict__", {}):
            owner = type(instance).__name__
            raise ConfigurationError(f"{owner}.{name} is set on the object and not read there; set it on the class")
