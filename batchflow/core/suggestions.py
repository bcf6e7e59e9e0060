"""Suggestions for unknown names: typos of known ones."""

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from batchflow.errors import ConfigurationError

T = TypeVar("T")

_CLOSE = 0.85


def find_typos(written: Iterable[str], known: Collection[str]) -> list[tuple[str, str]]:
    """Names that look like a typo of a known one, with that one: ("chunksize", "chunk_size"), ("excute", "execute").

    Only close ones, since a class has helpers of its own: a name that extends a known one ("loader", "saved") is not a
    typo, and neither is a constant beside the known name that it resembles ("PAGE_SIZE").
    """
    written = list(written)
    return [
        (name, meant)
        for name in written
        if name not in known
        and (meant := _meant(name, known)) is not None
        and not (name.isupper() and meant in written)
    ]


NO_WORDS: Mapping[str, str] = {}


def did_you_mean(name: str, known: Iterable[str], words: Mapping[str, str] = NO_WORDS) -> str:
    """The end of a message about an unknown name: "; did you mean 'paidOnly'?", or the known names.

    `words` has what to write for words of other APIs.
    """
    if name in words:
        return f"; write {words[name]}"
    known = sorted(known)
    if (close := closest(name, known)) is not None:
        return f"; did you mean '{close}'?"
    listed = ", ".join(f"'{it}'" for it in known)
    return f"; known are {listed}" if known else "; there are none"


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`; None if none is."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, list(known), n=1, cutoff=0.6)), None)


def check_options(what: str, given: Iterable[str], known: Collection[str], words: Mapping[str, str] = NO_WORDS) -> None:
    """Raise `ConfigurationError` for an option that `what` does not have."""
    for name in given:
        if name not in known:
            raise ConfigurationError(f"{what} takes no option '{name}'{did_you_mean(name, known, words)}")


def explains_options(**words: str) -> Callable[[type[T]], type[T]]:
    """Have a dataclass raise `ConfigurationError` for an argument that it does not take, with what to write.

    `words` are those of other APIs.
    """

    def decorate(cls: type[T]) -> type[T]:
        init: Callable[..., None] = cls.__init__
        parameters = list(inspect.signature(init).parameters.values())[1:]
        known = [it.name for it in parameters if it.kind is not it.VAR_KEYWORD]
        positional = sum(it.kind is it.POSITIONAL_OR_KEYWORD for it in parameters)

        @functools.wraps(init)
        def checked(self: T, *args: Any, **kwargs: Any) -> None:
            check_options(cls.__name__, kwargs, known, words)
            if len(args) > positional:
                listed = ", ".join(f"{it}=…" for it in known)
                raise ConfigurationError(
                    f"{cls.__name__} takes {positional or 'no'} values without their names, and got {len(args)}; write "
                    f"{cls.__name__}({listed})"
                )
            init(self, *args, **kwargs)

        cls.__init__ = checked
        return cls

    return decorate


def _meant(name: str, known: Collection[str]) -> str | None:
    from difflib import SequenceMatcher

    plain = _plain(name)
    for candidate in known:
        if plain == _plain(candidate) or sorted(name) == sorted(candidate):
            return candidate
    ratio, best = max((SequenceMatcher(None, name, candidate).ratio(), candidate) for candidate in known)
    extends = name.startswith(best) or best.startswith(name)
    return best if ratio >= _CLOSE and not extends else None


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
