"""Slips in the names of a class's members are found when it is made, and what is its own is left alone."""

from decimal import Decimal
from typing import Any

import pytest

from batchflow.batch.workflow import BatchWorkflow
from batchflow.core.flow import FlowControl
from batchflow.errors import ConfigurationError
from tests.batch.test_refusals import made


async def one(self: object, a: Any) -> Any: ...
async def two(self: object, a: Any, b: Any) -> Any: ...
async def three(self: object, a: Any, b: Any, c: Any) -> Any: ...


def one_plain(params: Any, ids: Any) -> Any: ...


LIMITS = FlowControl(rate=5)

SLIPS: list[tuple[str, Any, str]] = [
    ("on_completed", one, "did you mean 'on_complete'?"),
    ("on_complet", one, "did you mean 'on_complete'?"),
    ("processs", two, "did you mean 'process'?"),
    ("proces", two, "did you mean 'process'?"),
    ("processes", two, "did you mean 'process'?"),
    ("filters", two, "did you mean 'filter'?"),
    ("filters", staticmethod(one_plain), "did you mean 'filter'?"),
    ("saves", two, "did you mean 'save'?"),
    ("execute_flo", LIMITS, "did you mean 'execute_flow'?"),
    ("execute_flows", LIMITS, "did you mean 'execute_flow'?"),
    ("page_sizes", 10, "did you mean 'page_size'?"),
    ("names", "orders", "did you mean 'name'?"),
    ("fetches", 3, "did you mean 'fetch'?"),
    ("fetches", ["a"], "did you mean 'fetch'?"),
    ("feth", one, "did you mean 'fetch'?"),
    ("exceute", one, "did you mean 'execute'?"),
    ("exceute", None, "did you mean 'execute'?"),
    ("excute", two, "did you mean 'execute'?"),
    ("executes", True, "did you mean 'execute'?"),
    ("filters", one, "did you mean 'filter'?"),
    ("execute_flo", None, "did you mean 'execute_flow'?"),
    ("on_complet", None, "did you mean 'on_complete'?"),
    ("retrys", 3, "did you mean 'retry'?"),
    ("page_sizes", "50", "did you mean 'page_size'?"),
    ("Fetch", one, "did you mean 'fetch'?"),
    ("retries", 5, "write retry = RetryPolicy(retries=5)"),
    ("max_retries", 5, "write retry = RetryPolicy(retries=5)"),
    ("retry_delay", "5s", "write retry = RetryPolicy(first='5s', factor=1)"),
    ("timeout", 30, "write item_timeout = 30"),
    ("timeout", "5m", "write item_timeout = '5m'"),
    ("flow", LIMITS, "write execute_flow = FlowControl("),
    ("flow_control", LIMITS, "write execute_flow = FlowControl("),
    ("concurrency", 10, "write execute_flow = FlowControl(parallelism=10)"),
    ("rate", 5, "write execute_flow = FlowControl(rate=5)"),
    ("ids", ["a"], "give them to the trigger: trigger(ids=…)"),
    ("delay", "10s", "trigger(delay='10s')"),
    ("dedup_id", "today", "trigger(dedup_id='today')"),
    ("failure_function", one, "write on_item_failure(self, failure)"),
    ("on_startup", one, "write @flow.resource"),
    ("max_batch_size", 20, "write group_size = 20"),
    ("batch_wait", "2s", "write group_wait = '2s'"),
    ("group_concurrency", 4, "write group_parallelism = 4"),
]

OWN: list[tuple[str, Any]] = [
    *[(f"_{name}", value) for name, value, _ in SLIPS],
    ("execute_one", one),
    ("fetch_page", three),
    ("fetcher", three),
    ("loader", one),
    ("loads", one),
    ("counts", one),
    ("saved", two),
    ("process_payment", two),
    ("filters", {"state": "open"}),
    ("filters", [one]),
    ("names", ["ada"]),
    ("page_sizes", (10, 20)),
    ("executed", 0),
    ("FETCH", 3),
    ("rate", Decimal("0.19")),
    ("rate", 0.19),
    ("timeout", one),
    ("ids", property(lambda self: self)),
    ("flow", "wide"),
    ("retry_on", (ValueError,)),
    ("base_url", "https://example.com"),
    ("limit", 100),
]


@pytest.mark.parametrize(("name", "value", "said"), SLIPS)
def test_a_slip_is_found_when_the_class_is_made(name: str, value: Any, said: str) -> None:
    """The message says what to write, and how to keep a name that is the class's own."""
    with pytest.raises(ConfigurationError) as caught:
        made(**{name: value})
    assert f"'{name}' of Orders" in str(caught.value)
    assert said in str(caught.value)
    assert f"name it _{name}" in str(caught.value)


def test_words_for_many_items_are_explained() -> None:
    """Beside `execute` they may be helpers; in a class with `execute_many`, `batch_size` means that of its groups."""
    for name in ("execute_batch", "process_many", "execute_all"):
        with pytest.raises(ConfigurationError, match="does nothing; write execute_many"):
            made(execute=None, **{name: one})
        assert made(**{name: one})
    with pytest.raises(ConfigurationError, match="write group_size = 20"):
        made(execute=None, execute_many=one, batch_size=20)
    with pytest.raises(ConfigurationError, match="write page_size = 20"):
        made(batch_size=20)


@pytest.mark.parametrize(("name", "value"), OWN)
def test_members_of_its_own_are_left_alone(name: str, value: Any) -> None:
    """Helpers, constants, and anything with an underscore in front."""
    assert made(**{name: value})


def test_a_keyword_of_the_class_statement_that_nothing_takes_is_refused() -> None:
    """Options are attributes."""
    with pytest.raises(ConfigurationError, match="Slip takes abstract and ids_only beside its bases, not 'retries'"):

        class Slip(BatchWorkflow, retries=3): ...  # pyright: ignore[reportUnusedClass]: it is never made
