"""Slips in the names that a workflow's class gives its members: hooks and options that batchflow would never read."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

from batchflow.batch import options
from batchflow.batch.hooks import HOOK_NAMES
from batchflow.core.duration import is_duration
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import LIMIT_WORDS, FlowControl
from batchflow.core.retry import RETRIES_WORDS, RetryPolicy
from batchflow.core.suggestions import find_typos
from batchflow.errors import ConfigurationError

INHERITED_MEMBERS = ("params", "item_id", "headers", "unprocessed")
"""Members of the base class that a subclass uses but must not override."""


def check_member_names(cls: type) -> None:
    """Reject misspelt members, those with a word of another API, and those that would hide one of the base.

    A name with an underscore in front of it is the class's own.

    Raises:
        ConfigurationError: the message says what to write.
    """
    for name in INHERITED_MEMBERS:
        if name in cls.__dict__:
            raise ConfigurationError(
                f"{cls.__name__}.{name} hides a member that batchflow gives the hooks; use another name"
            )
    if any("count_first" in it.__dict__ for it in cls.__mro__):
        raise ConfigurationError(f"Unknown option 'count_first' of {cls.__name__}; did you mean 'walk_first'?")
    members = {name: value for name, value in cls.__dict__.items() if not name.startswith("_")}
    for name, meant in (*find_typos(members, _KNOWN), *_find_inflections(members)):
        raise ConfigurationError(
            f"Unknown {_kind(meant)} '{name}' of {cls.__name__}; did you mean '{meant}'? "
            f"If it is the class's own, name it _{name}"
        )
    for name, value in members.items():
        is_size = name == "batch_size" and "execute_many" in cls.__dict__
        word = _GROUP_SIZE if is_size else _FOREIGN_WORDS.get(name)
        if word is _MANY and not members.keys().isdisjoint(_PROCESSING_HOOKS):
            # A helper of the hook that there is.
            continue
        if word is not None and word.fits(value):
            raise ConfigurationError(
                f"'{name}' of {cls.__name__} does nothing; write {word.example(value)}. "
                f"If it is the class's own, name it _{name}"
            )


def check_class_keywords(cls: type, accept: Callable[..., None], keywords: Mapping[str, Any]) -> None:
    """Call `accept`, the other bases' `__init_subclass__`, with the keywords of a class statement.

    Raises:
        ConfigurationError: there is one that no base takes.
    """
    try:
        accept(**keywords)
    except TypeError as error:
        if not keywords:
            raise
        named = ", ".join(f"'{name}'" for name in keywords)
        raise ConfigurationError(
            f"{cls.__name__} takes abstract and ids_only beside its bases, not {named}; write an option as an "
            f"attribute of the class"
        ) from error


def _kind(name: str) -> str:
    return "hook" if name in HOOK_NAMES else "option"


_KNOWN = (*options.OPTION_NAMES, *HOOK_NAMES)
_Fits: TypeAlias = Callable[[Any], bool]


def _is_function(value: object) -> bool:
    return inspect.isroutine(value) or isinstance(value, staticmethod | classmethod)


def _takes(count: int) -> _Fits:
    """Return a test for functions that can be called with self and `count` arguments, as a hook is."""

    def fits(value: Any) -> bool:
        if not _is_function(value):
            return False
        function = getattr(value, "__func__", value)
        try:
            inspect.signature(function).bind(*range(count + (not isinstance(value, staticmethod))))
        except (TypeError, ValueError):
            return False
        return True

    return fits


def _is(*kinds: type) -> _Fits:
    return lambda value: isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


_is_count, _is_flow = _is(int), _is(FlowControl)


def _is_ids(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


_NOUNS_TOO = ("load", "count", "filter")
"""Hooks whose plural is a name of its own: json.loads, the counts of a report, a table of filters."""


def _find_inflections(members: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find names that are a known one with one letter more or less, or in the plural.

    "processs", "fetches", "on_completed", "execute_flo": whatever they hold, since they do nothing. A name that extends
    a known one otherwise ("loader", "saved", "fetch_page") is the class's own, and so is a plural that holds several
    things ("names", a list).
    """
    return [
        (name, meant)
        for name, value in members.items()
        if name not in _KNOWN
        for meant in _KNOWN
        if _is_shortened_or_doubled(name, meant) or (_is_plural(name, meant) and not _is_own_plural(meant, value))
    ]


def _is_shortened_or_doubled(name: str, meant: str) -> bool:
    return name in (meant[:-1], meant + meant[-1]) or (name == "on_completed" and meant == "on_complete")


def _is_plural(name: str, meant: str) -> bool:
    return name in (f"{meant}s", f"{meant}es")


def _is_own_plural(meant: str, value: Any) -> bool:
    if meant in HOOK_NAMES and meant not in _NOUNS_TOO:
        return False
    return meant in ("load", "count") or (isinstance(value, Collection) and not isinstance(value, str))


class _ForeignWord(NamedTuple):
    """A word of another API, or of another library: the values with which it is probably a slip, and what to write."""

    fits: _Fits
    write: str

    def example(self, value: Any) -> str:
        return self.write.replace("{}", repr(value))


_PROCESSING_HOOKS = ("execute", "execute_many", "process")
_MANY = _ForeignWord(_takes(1), "execute_many(self, items), which returns one result for each item")
_GROUP_SIZE = _ForeignWord(_is_count, "group_size = {}")
_GROUP_WAIT = _ForeignWord(is_duration, "group_wait = {}")
_GROUP_PARALLELISM = _ForeignWord(_is_count, "group_parallelism = {}")

_RETRIES = _ForeignWord(_is_count, "retry = RetryPolicy(retries={})")
_TIMEOUT = _ForeignWord(is_duration, "item_timeout = {}")
_PARALLELISM = _ForeignWord(_is_count, "execute_flow = FlowControl(parallelism={})")
_RATE = _ForeignWord(_is_count, "execute_flow = FlowControl(rate={})")
_FLOW = _ForeignWord(_is(FlowControl, int), "execute_flow = FlowControl(parallelism=…, rate=…)")
_FAILURE = _ForeignWord(
    _is_function, "on_item_failure(self, failure), which is called once for each item that has failed for good"
)
_END = _ForeignWord(_is_function, "on_complete(self, summary), which is called once, when the batch has ended")
_MAX_FAILURES = _ForeignWord(_is_count, "failure_budget = FailureBudget(max_failures={})")
_MAX_FAILURE_RATE = _ForeignWord(_is(float), "failure_budget = FailureBudget(max_rate={})")
_BUDGET = _ForeignWord(_is(FailureBudget), "failure_budget = {}")
_LIFE = _ForeignWord(_is_function, "@flow.resource, which a process opens before it works and closes after it")

_FOREIGN_WORDS: Mapping[str, _ForeignWord] = {
    **dict.fromkeys(("retries", *RETRIES_WORDS), _RETRIES),
    "retry_delay": _ForeignWord(is_duration, "retry = RetryPolicy(first={}, factor=1)"),
    "retry_policy": _ForeignWord(_is(RetryPolicy), "retry = {}"),
    "timeout": _TIMEOUT,
    "time_limit": _TIMEOUT,
    "flow": _FLOW,
    "flow_control": _FLOW,
    **{word: _RATE if limit == "rate=…" else _PARALLELISM for word, limit in LIMIT_WORDS.items()},
    "parallelism": _PARALLELISM,
    "rate": _RATE,
    "ttl": _ForeignWord(is_duration, "processed_ttl = {}"),
    "processed_by": _ForeignWord(_is(tuple, str), "processed_per = {}"),
    "batch_size": _ForeignWord(_is_count, "page_size = {}"),
    "max_batch_size": _GROUP_SIZE,
    "batch_wait": _GROUP_WAIT,
    "batch_timeout": _GROUP_WAIT,
    "max_wait": _GROUP_WAIT,
    "group_timeout": _GROUP_WAIT,
    "group_concurrency": _GROUP_PARALLELISM,
    "execute_all": _MANY,
    "execute_batch": _MANY,
    "execute_group": _MANY,
    "process_many": _MANY,
    "process_batch": _MANY,
    "ids": _ForeignWord(_is_ids, "fetch, which returns pages of them, or give them to the trigger: trigger(ids=…)"),
    "delay": _ForeignWord(is_duration, "it in the trigger: trigger(delay={})"),
    "not_before": _ForeignWord(_is(int, datetime), "it in the trigger: trigger(not_before=…)"),
    "dedup_id": _ForeignWord(_is(str), "it in the trigger: trigger(dedup_id={})"),
    "failure_function": _FAILURE,
    "on_item_failed": _FAILURE,
    "on_error": _FAILURE,
    "on_finish": _END,
    "on_finished": _END,
    "on_done": _END,
    "on_end": _END,
    **dict.fromkeys(("max_failures", "max_failed", "max_errors", "failure_limit", "error_limit"), _MAX_FAILURES),
    **dict.fromkeys(
        ("max_rate", "max_failure_rate", "max_error_rate", "failure_rate", "error_rate"), _MAX_FAILURE_RATE
    ),
    **dict.fromkeys(("budget", "error_budget", "failures_budget", "max_failure_budget"), _BUDGET),
    "on_start": _LIFE,
    "on_startup": _LIFE,
    "on_stop": _LIFE,
    "on_shutdown": _LIFE,
}
