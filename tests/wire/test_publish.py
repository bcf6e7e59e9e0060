"""Publish requests: each header with its grammar."""

from typing import Any

import pytest

from batchflow.errors import InputError
from batchflow.wire.envelope import CallbackTarget
from tests.wire.requests import NOW, envelope, parsed, posts


def refused(headers: dict[str, str], **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        parsed(headers, **options)
    assert caught.value.status == 400
    return str(caught.value)


def test_forwarded_headers_lose_their_prefix_and_keep_their_case() -> None:
    """The content type is a field of its own, and is not taken from what is forwarded."""
    found = envelope(
        {
            "Content-Type": "text/plain",
            "Upstash-Forward-Content-Type": "text/html",
            "Upstash-Forward-X-User": " 17 ",
            "upstash-forward-authorization": "Bearer x",
            "X-Other": "not forwarded",
            "Authorization": "Bearer of the server",
        }
    )
    assert found.headers == (("X-User", "17"), ("authorization", "Bearer x"))
    assert found.content_type == "text/plain"


@pytest.mark.parametrize(
    "name",
    [
        *("Host", "content-length", "Transfer-Encoding", "connection", "Expect", "accept-encoding"),
        *("Upstash-Signature", "upstash-message-id", "Upstash-Retried"),
    ],
)
def test_headers_of_another_connection_or_delivery_are_not_forwarded(name: str) -> None:
    """The Python SDK forwards each header of the request that it serves."""
    assert envelope({f"Upstash-Forward-{name}": "x"}).headers == ()


def test_a_header_that_is_forwarded_twice_stays_twice() -> None:
    """In its order."""
    pairs = [("upstash-forward-cookie", "a=1"), ("upstash-forward-cookie", "b=2")]
    assert envelope(pairs).headers == (("cookie", "a=1"), ("cookie", "b=2"))


@pytest.mark.parametrize("value", ["a\r\nX-Injected: 1", "a\0b", "\ud800"])
def test_a_value_that_would_end_its_header_is_refused(value: str) -> None:
    """And is not shown."""
    sentence = refused({"Upstash-Forward-X-User": value})
    assert sentence == "the value of 'upstash-forward-x-user' has a control character in it; leave it out"


def test_parameters_of_the_query_count_as_headers_and_a_header_wins() -> None:
    """Other parameters are those of the destination."""
    query = (("upstash-retries", "7"), ("upstash-delay", "10s"), ("a", "1"))
    found = envelope({"Upstash-Retries": "2"}, query=query)
    assert (found.retries, found.not_before) == (2, NOW + 10_000)


@pytest.mark.parametrize(
    ("text", "ms"),
    [("10s", 10_000), ("2h30m", 9_000_000), ("1d10h30m", 124_200_000), ("50", 50_000), ("0s", 0)],
)
def test_a_delay_is_a_duration_or_seconds(text: str, ms: int) -> None:
    """The message is due that much later."""
    found = envelope({"Upstash-Delay": text})
    assert found.not_before == NOW + ms
    (post,) = posts(parsed({"Upstash-Delay": text}))
    assert post.message.not_before == (NOW + ms if ms else 0)


def test_not_before_wins_over_a_delay() -> None:
    """One that has passed is now."""
    assert envelope({"Upstash-Delay": "10s", "Upstash-Not-Before": "1800000000"}).not_before == 1_800_000_000_000
    assert envelope({"Upstash-Not-Before": "5"}).not_before == NOW


def test_a_timeout_is_a_duration_or_seconds() -> None:
    """None without one."""
    assert envelope({"Upstash-Timeout": "30"}).timeout_ms == 30_000
    assert envelope({"Upstash-Timeout": "2m"}).timeout_ms == 120_000
    assert envelope().timeout_ms is None


@pytest.mark.parametrize(("name", "value"), [("Upstash-Retries", "21"), ("Upstash-Timeout", "13h")])
def test_a_limit_of_the_server_is_status_412(name: str, value: str) -> None:
    """As a limit of a plan is on QStash."""
    with pytest.raises(InputError) as caught:
        parsed({name: value})
    assert caught.value.status == 412


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        (
            {"Upstash-Retries": "-1"},
            "'upstash-retries' cannot be '-1'; write a whole number from 0 to 20",
        ),
        ({"Upstash-Delay": "soon"}, "'upstash-delay' cannot be 'soon'; write a time such as 10s, 2h30m or 7d"),
        (
            {"Upstash-Retry-Delay": "retried **"},
            "'upstash-retry-delay' is not valid: the retry delay 'retried **' is not well-formed; "
            "write one such as 'pow(2, retried) * 1000'",
        ),
        (
            {"Upstash-Label": "a,b c"},
            "'upstash-label' cannot be 'b c'; write a name of letters, digits, '-', '_' and '.', not '.' or '..'",
        ),
        (
            {"Upstash-Redact-Fields": "body, url"},
            "'upstash-redact-fields' cannot be 'url'; write body, header or header[NAME]",
        ),
        (
            {"Upstash-Method": "FETCH"},
            "'upstash-method' cannot be 'FETCH'; write one of GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS",
        ),
        (
            {"Upstash-Callback": "example.com/secret"},
            "'upstash-callback' is not a URL with a host; write one such as https://example.com/path",
        ),
        (
            {"Upstash-Header-Forward": "true"},
            "the header 'upstash-header-forward' is refused: it is not supported; "
            "name each header as Upstash-Forward-NAME",
        ),
        (
            {"Upstash-Flow-Control-Key": "k"},
            "'upstash-flow-control-value' is missing; it goes with 'upstash-flow-control-key'",
        ),
        (
            {"Upstash-Cron": "* * * * *", "Upstash-Not-Before": "1"},
            "a schedule has no 'upstash-not-before'; write 'upstash-delay' to delay each of its messages",
        ),
    ],
)
def test_a_wrong_header_is_refused_with_what_to_write(headers: dict[str, str], sentence: str) -> None:
    """Status 400."""
    assert refused(headers) == sentence


@pytest.mark.parametrize("value", ["", "rate=0", "rate=x", "speed=1", "period=1s", "rate=1,rate=2", "rate=1,period=8d"])
def test_wrong_limits_are_refused(value: str) -> None:
    """At least one of parallelism and rate, periods of at most a week."""
    assert "upstash-flow-control-value" in refused(
        {"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": value}
    )


def test_a_queue_and_flow_control_exclude_each_other() -> None:
    """Status 400, from wherever the queue is named."""
    flow = {"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": "rate=1"}
    assert "exclude each other" in refused(flow, queue="q")
    assert "exclude each other" in refused({**flow, "Upstash-Queue-Name": "q"})
    assert "upstash-queue-name" in refused({}, queue="a/b")


def test_callbacks_have_headers_of_their_own_and_the_retries_of_the_message() -> None:
    """As if they had been published by themselves."""
    found = envelope(
        {
            "Upstash-Retries": "7",
            "Upstash-Callback": "https://a.example",
            "Upstash-Callback-Forward-X-User": "17",
            "Upstash-Callback-Method": "PUT",
            "Upstash-Failure-Callback": "https://b.example",
            "Upstash-Failure-Callback-Retries": "0",
            "Upstash-Callback-Failure-Callback": "https://c.example",
            "Upstash-Callback-Failure-Callback-Delay": "5s",
        }
    )
    assert found.callback == CallbackTarget(
        url="https://a.example",
        headers={
            "upstash-retries": "7",
            "upstash-forward-x-user": "17",
            "upstash-method": "PUT",
            "upstash-failure-callback": "https://c.example",
            "upstash-failure-callback-delay": "5s",
        },
    )
    assert found.failure_callback == CallbackTarget(url="https://b.example", headers={"upstash-retries": "0"})
    assert found.callback is not None
    inner = envelope(dict(found.callback.headers), to=found.callback.url)
    assert (inner.method, inner.retries, inner.headers) == ("PUT", 7, (("x-user", "17"),))
    assert inner.failure_callback == CallbackTarget(
        url="https://c.example", headers={"upstash-retries": "7", "upstash-delay": "5s"}
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"Upstash-Callback-Retry-Delay": "x"},
        {"Upstash-Callback-Failure-Callback": "nowhere"},
        {"Upstash-Callback-Cron": "* * * * *"},
        {"Upstash-Callback-Queue-Name": "q"},
        {"Upstash-Callback-Deduplication-Id": "7"},
    ],
)
def test_a_callback_that_could_not_be_published_is_refused_with_its_message(headers: dict[str, str]) -> None:
    """No later than that."""
    refused({"Upstash-Callback": "https://a.example", **headers})


def test_callbacks_of_callbacks_end_with_the_length_of_a_name() -> None:
    """A request cannot nest them until the stack is full."""
    headers = {f"Upstash-{'Callback-' * depth}Callback": "https://a.example" for depth in range(200)}
    assert "is not the name of a header" in refused(headers)


def test_labels_and_redacted_fields_are_lists() -> None:
    """Spaces and repetitions do not count."""
    found = envelope(
        {
            "Upstash-Label": "a, b,a ,",
            "Upstash-Redact-Fields": " body , headers[X-Key],header[ Cookie ],headers",
        }
    )
    assert found.labels == ("a", "b")
    assert found.redact == ("body", "header[X-Key]", "header[Cookie]", "header")


@pytest.mark.parametrize(
    "destination",
    ["", "https://", "http:/example.com", "https://exa mple.com", "ftp://example.com", "a/b", "api/llm", "x" * 300],
)
def test_a_destination_is_a_url_or_the_name_of_a_group(destination: str) -> None:
    """Anything else is refused."""
    assert "destination" in refused({}, to=destination)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("HTTPS://example.com", "HTTPS://example.com"),
        ("https://example.com/größe?q=ü#x", "https://example.com/gr%C3%B6%C3%9Fe?q=%C3%BC#x"),
        ("http://[::1]:8080/a%20b//c", "http://[::1]:8080/a%20b//c"),
        ("http://user:pw@localhost?x", "http://user:pw@localhost?x"),
    ],
)
def test_a_url_is_kept_as_it_is_but_for_letters_outside_ascii(given: str, kept: str) -> None:
    """Those are percent-encoded."""
    assert envelope(to=given).url == kept


def test_a_schedule_has_its_cron_and_its_id() -> None:
    """The id of a request without a cron belongs to nothing."""
    request = parsed({"Upstash-Cron": " */5 * * * * ", "Upstash-Schedule-Id": "nightly", "Upstash-Queue-Name": "q"})
    assert (request.cron, request.schedule_id, request.envelope.queue) == ("*/5 * * * *", "nightly", "q")
    assert parsed({"Upstash-Schedule-Id": "nightly"}).schedule_id is None


def test_telemetry_and_unknown_headers_are_passed_over() -> None:
    """As are empty ones, which SDKs send."""
    headers = {
        "Upstash-Telemetry-Sdk": "x",
        "Upstash-Brand-New": "1",
        "Upstash-Telemetry-Platform": "",
        "Upstash-Delay": "",
    }
    assert envelope(headers) == envelope()
