"""The columns that verbs expect are those of the statements: a misplaced column is found when they are loaded."""

import pytest

from batchflow.stores.sql import columns
from batchflow.stores.sqlite.connection import Queries
from tests.stores.test_sqlite_queries import TEXT


def test_the_statements_are_those_that_the_verbs_go_by() -> None:
    """All that are given rows of several columns, or find them."""
    Queries(TEXT).check()


@pytest.mark.parametrize(
    ("there", "instead", "statement"),
    [
        ("WITH given (id, lane, batch, number) AS", "WITH given (lane, id, batch, number) AS", "item_message"),
        ("json_array(number, id, state, result,", "json_array(id, number, state, result,", "item_read"),
        ("m.failures, m.losses, m.stage, m.parent", "m.losses, m.failures, m.stage, m.parent", "message_"),
        ("json_array(key, idle)", "json_array(key, idle, burst)", "flow_idle"),
        ("given (run, number, state, value, error)", "given (run, number, state, value)", "arrival_add"),
    ],
)
def test_columns_in_another_order_are_refused_at_the_load(there: str, instead: str, statement: str) -> None:
    """With the statement, before any verb is carried out."""
    assert there in TEXT
    with pytest.raises(AssertionError, match=f"the columns of '{statement}"):
        Queries(TEXT.replace(there, instead)).check()


def test_a_statement_that_nobody_goes_by_is_refused() -> None:
    """Its rows would be taken apart by an order that stands nowhere."""
    with pytest.raises(AssertionError, match="the columns of 'odd'"):
        columns.check(columns.GIVEN, {**columns.FOUND, "odd": ("a", "b")})
