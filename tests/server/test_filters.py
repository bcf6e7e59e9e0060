"""Filters: alternatives of one parameter, all parameters together, and none that is passed over."""

from typing import Any

import pytest
from fastapi import Request
from pydantic_core import to_json

from batchflow.errors import InputError
from batchflow.server.filters import (
    DATE_FILTERS,
    MESSAGE_FILTERS,
    POST_FILTERS,
    Filters,
    body_filters,
    filter_parameters,
)

MESSAGE: dict[str, Any] = {
    "messageId": "msg_1",
    "url": "https://me:secret@app.example:8443/a,b?c=d",
    "topicName": "group",
    "callerIP": "10.0.0.1",
    "label": "one",
    "labels": ["one", "two"],
}


def read(query: str, *more: str) -> Filters:
    scope = {"type": "http", "query_string": query.encode()}
    return Filters(Request(scope), {*MESSAGE_FILTERS, *DATE_FILTERS, "count", *more})


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("", True),
        ("messageId=msg_1", True),
        ("messageId=msg_2", False),
        ("messageId=msg_2&messageId=msg_1", True),
        ("messageId=msg_2,msg_1", True),
        ("label=two", True),
        ("label=three", False),
        ("label=two&topicName=other", False),
        ("label=two&topicName=group&callerIp=10.0.0.1", True),
        ("url=https://me:secret@app.example:8443/a,b?c=d", True),
        ("url=https://app.example/a,b", False),
        ("host=app.example:8443", True),
        ("path=/a,b", True),
        ("queueName=q", False),
        ("label=", False),
        ("messageIds=msg_0,msg_1", True),
        ("qstash_token=x", True),
    ],
)
def test_all_filters_have_to_match(query: str, matches: bool) -> None:
    """With one of their values."""
    assert read(query).matches(MESSAGE) is matches


@pytest.mark.parametrize(
    ("query", "covers"),
    [("", True), ("fromDate=100&toDate=100", True), ("fromDate=101", False), ("toDate=99", False), ("toDate=0", False)],
)
def test_dates_are_inclusive(query: str, covers: bool) -> None:
    """They are in ms."""
    assert read(query).covers(100) is covers


def of_body(body: object) -> Filters:
    return Filters(Request({"type": "http"}), MESSAGE_FILTERS, body_filters(to_json(body), "messageIds"))


def test_filters_may_be_in_the_body() -> None:
    """The Python SDK sends ids there; an empty list of them must not select every message."""
    assert of_body({"messageIds": ["msg_0", "msg_1"]}).matches(MESSAGE)
    assert not of_body({"messageIds": []}).matches(MESSAGE)
    assert not of_body({})
    with pytest.raises(InputError, match="^unknown filter 'ids'"):
        of_body({"ids": ["msg_1"]})


@pytest.mark.parametrize("body", [[], "x", {"label": {}}, {"label": [["x"]]}, {"label": True}])
def test_bodies_have_texts(body: object) -> None:
    """And lists of them."""
    with pytest.raises(InputError):
        body_filters(to_json(body), "messageIds")


def test_an_unknown_filter_is_refused() -> None:
    """If it were passed over, everything would be cancelled."""
    with pytest.raises(InputError, match="^unknown filter 'lable'; did you mean 'label'") as caught:
        read("lable=one")
    assert caught.value.status == 400


@pytest.mark.parametrize("query", ["count=0", "count=x", "count=-1", "count=1&count=2", "count=99999999999999999"])
def test_a_count_that_is_not_a_number_is_refused(query: str) -> None:
    """With the name of the parameter."""
    with pytest.raises(InputError, match="^'count' "):
        read(query).count(100)


@pytest.mark.parametrize(("query", "count"), [("", 100), ("count=7", 7), ("count=1000", 100)])
def test_a_count_is_limited(query: str, count: int) -> None:
    """As hosted QStash does it."""
    assert read(query).count(100) == count


def test_filters_are_described() -> None:
    """In the OpenAPI document."""
    names = [it["name"] for it in filter_parameters(POST_FILTERS)["parameters"]]
    assert names == list(POST_FILTERS)
