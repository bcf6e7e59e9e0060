"""Requests of any kind: they are read, or refused with a sentence."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from batchflow.errors import InputError
from batchflow.wire.callbacks import Outcome, callback_posts
from batchflow.wire.delivery import delivery_headers
from batchflow.wire.envelope import Envelope
from batchflow.wire.headers import is_header_name, is_header_value
from batchflow.wire.publish import parse_publish, posts_of
from tests.wire.requests import NOW

anything = st.text(st.characters(codec=None), max_size=20)
prefixes = st.sampled_from(["", "upstash-", "Upstash-Forward-", "Upstash-Callback-", "Upstash-Failure-Callback-"])
words = st.sampled_from(
    [
        *(
            "Method",
            "Delay",
            "Not-Before",
            "Retries",
            "Retry-Delay",
            "Timeout",
            "Callback",
            "Failure-Callback",
            "Label",
        ),
        *("Deduplication-Id", "Content-Based-Deduplication", "Flow-Control-Key", "Flow-Control-Value", "Cron"),
        *("Redact-Fields", "Schedule-Id", "Queue-Name", "Content-Type", "Forward-X-User", "Workflow-Init"),
        *("Workflow-RunId", "Workflow-Url", "Workflow-CallType", "Workflow-CreatedAt", "Feature-Set"),
    ]
)
names = st.builds(str.__add__, prefixes, words | anything)
values = anything | st.sampled_from(
    [
        *("GET", "10s", "1d10h", "3", "-3", "1800000000", "pow(2, retried) * 1000", "1/retried", "true", "key", "a, b"),
        *("https://example.com", "https://[", "rate=1", "parallelism=2, period=1m", "body,header[X]", "* * * * *"),
        *("9" * 400, "٣", "exp(" * 60, "1s" * 60),
    ]
)
urls = st.builds("http://{}".format, anything) | st.sampled_from(["https://example.com/a?b=c", "group"]) | anything
pairs = st.lists(st.tuples(names, values), max_size=6)


@given(urls, pairs, st.binary(max_size=20), pairs, st.none() | anything)
def test_a_request_is_read_or_refused_with_a_sentence(
    to: str, headers: list[tuple[str, str]], body: bytes, query: list[tuple[str, str]], queue: str | None
) -> None:
    """What is read can be stored, delivered and told of to its end."""
    refusal: InputError | None = None
    try:
        request = parse_publish(to, headers, body, tenant="t", now=NOW, queue=queue, query=query)
    except InputError as error:
        refusal = error
    else:
        for post in posts_of(request, lambda: "msg_1", [("https://example.com", None)]):
            check(Envelope.of_text(post.message.body), body)
    if refusal is not None:
        assert refusal.status in (400, 412)
        assert str(refusal).isprintable()


def check(pushed: Envelope, body: bytes) -> None:
    assert pushed.body.content == body
    for name, value in delivery_headers(pushed, "msg_1", 0):
        assert is_header_name(name)
        assert is_header_value(value)
        value.encode()
    outcome: dict[str, Any] = {"status": 500, "dlq_id": "msg_1"}
    for post in callback_posts(pushed, "msg_1", Outcome(**outcome), now=NOW, new_id=lambda: "msg_2"):
        assert Envelope.of_text(post.message.body).callback_of == "msg_1"
