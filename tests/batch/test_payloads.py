"""Payloads as they come over the wire."""

from datetime import date
from typing import Any

import pytest
from pydantic import AliasPath, BaseModel, Field
from pydantic_core import from_json

from batchflow.batch.arguments import BatchTrigger
from batchflow.batch.payloads import Payloads, TriggerRequest, encode_body
from batchflow.batch.source import CycleDetector
from batchflow.errors import InputError
from tests.batch.samples import Audience, Welcome
from tests.batch.test_refusals import WORKFLOW, made

WELCOME = Payloads(Welcome.__batch__)


class Span(BaseModel):
    since_day: date
    plan: str = Field(default="all", alias="planName")
    region: str = Field(default="eu", validation_alias=AliasPath("place", "region"))


def of(params: Any) -> Payloads:
    return Payloads(made(WORKFLOW[params]).__batch__)


def test_a_parameter_may_be_named_like_anything_but_a_wire_name(recwarn: pytest.WarningsRecorder) -> None:
    """The payloads' models have no attributes of their own that it could hide."""

    class Letter(BaseModel):
        text: str
        body: str = ""
        value: int = 0

    assert of(Letter).read_entry({"text": "Dear Ada"}).params == Letter(text="Dear Ada")
    assert list(recwarn) == []


def test_controls_and_parameters_stand_side_by_side() -> None:
    """camelCase outside, snake_case inside."""
    text = '{"dryRun":true,"force":true,"limit":3,"userIds":["a"],"label":"x","dedupId":"y","paidOnly":true}'
    options = BatchTrigger(force=True, limit=3, ids=["a"], label="x", dedup_id="y")
    assert WELCOME.read_entry(from_json(text)) == TriggerRequest(
        params=Audience(paid_only=True), dry_run=True, options=options
    )


@pytest.mark.parametrize("text", ["", "  ", "{}", "null", b""])
def test_an_empty_payload_is_all_defaults(text: str | bytes) -> None:
    """A trigger needs no fields, a page no text."""
    assert WELCOME.read_entry({}) == TriggerRequest(params=Audience())
    assert WELCOME.read_page(text) == WELCOME.paginate_model()


def test_parameters_are_sent_by_any_of_their_names() -> None:
    """Their own, camelCase, and the aliases of the model."""
    read = of(Span).read_entry({"sinceDay": "2024-05-01", "planName": "pro", "place": {"region": "us"}}).params
    assert (read.since_day, read.plan, read.region) == (date(2024, 5, 1), "pro", "us")
    assert of(Span).read_entry({"since_day": "2024-05-01", "plan": "pro"}).params.plan == "pro"


@pytest.mark.parametrize(
    ("text", "sentence", "field"),
    [
        ('{"paidonly":true}', "Unknown field 'paidonly' for welcome; did you mean 'paidOnly'?", "paidonly"),
        ('{"dryrun":true}', "Unknown field 'dryrun' for welcome; did you mean 'dryRun'?", "dryrun"),
        (
            '{"zzz":1}',
            "Unknown field 'zzz' for welcome; known are 'approveUnder', 'batchId', 'canary', 'confirm', 'dedup', "
            "'dedupId', 'delay', 'dryRun', 'failureBudget', 'force', 'headers', 'label', 'limit', 'notBefore', "
            "'notifyUrl', 'paidOnly', 'priority', 'userIds'",
            "zzz",
        ),
        (
            '{"paidOnly":"perhaps"}',
            "'paidOnly' does not fit: Input should be a valid boolean, unable to interpret input",
            "paidOnly",
        ),
        ('{"limit":0}', "'limit' does not fit: Input should be greater than or equal to 1", "limit"),
        ('{"userIds":"a"}', "'userIds' does not fit: Input should be a valid list", "userIds"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused(text: str, sentence: str, field: str | None) -> None:
    """The sentence names the field, and what it was probably meant to be."""
    with pytest.raises(InputError) as raised:
        WELCOME.read_entry(from_json(text))
    assert (str(raised.value), raised.value.field) == (sentence, field)


def test_what_is_no_json_is_refused() -> None:
    """With the place where it stops being JSON."""
    with pytest.raises(InputError, match="The payload for welcome is not JSON: .* at line 1 column 2"):
        WELCOME.read_page("nonsense")
    with pytest.raises(InputError, match="The payload for welcome is a JSON object, not list"):
        WELCOME.read_page("[1]")


def test_a_page_is_written_short_and_read_back() -> None:
    """Default values are not sent."""
    page = WELCOME.paginate_model(cursor="c", page=2, probe=CycleDetector("a", 4, 1))
    assert encode_body(page) == '{"cursor":"c","page":2,"probe":["a",4,1]}'
    assert WELCOME.read_page(encode_body(page)) == page
    chunk = WELCOME.paginate_model(item_ids=["a"], first=20)
    assert encode_body(chunk) == '{"userIds":["a"],"first":20}'
    assert WELCOME.read_page('{"userIds":["a"],"paidOnly":true}').item_ids == ["a"]


def test_the_schema_shows_everything_that_may_be_sent() -> None:
    """Controls and parameters, by their names on the wire."""
    schema = WELCOME.entry_model.model_json_schema()
    start = {"batchId", "dedup", "dedupId", "delay", "dryRun", "force", "headers", "label", "limit", "notBefore"}
    more = {"approveUnder", "canary", "confirm", "failureBudget", "notifyUrl", "paidOnly", "priority", "userIds"}
    assert set(schema["properties"]) == start | more
    assert of(Span).entry_model.model_json_schema()["required"] == ["sinceDay"]
