"""The example's text models: the local writer, and a model behind HTTP."""

import json
from collections.abc import Callable

import httpx
import pytest

from examples.welcome_placeholder.model import LocalWriter, OpenAICompatibleModel, model_from_env
from examples.welcome_placeholder.prompt import (
    ModelBusy,
    ModelError,
    ModelRefused,
    ModelUnavailable,
    Prompt,
    UnusableAnswer,
)
from examples.welcome_placeholder.repository import Agent, User

USER = User(id="user-0001", name="Chloé Martin", locale="fr-FR", interests=("jazz piano", "yoga"))
AGENT = Agent(
    id="agent-0001",
    owner_id="user-0001",
    name="Trip Planner",
    purpose="turns a free weekend into an itinerary",
    topics=("night trains",),
    locale="fr-FR",
)
PROMPT = Prompt.for_user(USER)
LOCAL_TEXTS = ["Ask me for one good tip on jazz piano", "Ask me about yoga", "Ask me what is new in jazz piano"]
ANSWER = ["Ask me about jazz", "Ask me about yoga", "Ask me about both"]

Handler = Callable[[httpx.Request], httpx.Response]


def model(handler: Handler) -> OpenAICompatibleModel:
    return OpenAICompatibleModel("https://models.test/v1/", "secret", "tiny", transport=httpx.MockTransport(handler))


def completion(content: str | None) -> httpx.Response:
    return httpx.Response(200, json={"choices": [{"message": {"role": "assistant", "content": content}}]})


async def failure(handler: Handler) -> ModelError:
    asked = model(handler)
    with pytest.raises(ModelError) as caught:
        await asked.write(PROMPT)
    await asked.aclose()
    return caught.value


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
async def test_local_writer_composes_three_to_five_placeholders(count: int) -> None:
    """As many as there are interests within these bounds, all different, each about one of them."""
    interests = tuple(f"interest {number}" for number in range(count))
    texts = await LocalWriter().write(Prompt.for_user(USER.model_copy(update={"interests": interests})))
    assert len(set(texts)) == len(texts) == min(max(count, 3), 5)
    assert all(text.startswith("Ask me ") and text.endswith(interests) for text in texts)


async def test_local_writer_writes_the_same_for_the_same_prompt() -> None:
    """The texts of a known prompt, word for word."""
    assert await LocalWriter().write(PROMPT) == await LocalWriter(latency=0.0).write(PROMPT) == LOCAL_TEXTS


async def test_local_writer_waits_out_its_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is spent in the event loop, so that other tasks go on."""
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("examples.welcome_placeholder.model.asyncio.sleep", wait)
    await LocalWriter(latency=0.25).write(PROMPT)
    await LocalWriter().write(PROMPT)
    assert waited == [0.25]


async def test_local_writer_welcomes_for_an_agent() -> None:
    """First the welcome, then open questions about the agent's topics."""
    assert await LocalWriter().write(Prompt.for_agent(AGENT)) == [
        "Hello! I am your Trip Planner, an agent that turns a free weekend into an itinerary.",
        "What would you like to know about night trains?",
        "Where are you stuck with night trains?",
        "What comes first for you: night trains?",
    ]


def test_prompt_without_topics_is_refused() -> None:
    """The message says for whom."""
    with pytest.raises(ValueError) as caught:
        Prompt(kind="placeholders", name="Ada", locale="en-GB", topics=())
    assert str(caught.value) == "nothing to write about for 'Ada'; give at least one topic"


async def test_model_sends_the_facts_and_the_key() -> None:
    """One POST to chat/completions: the model's name, the instruction, and the facts as JSON."""
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return completion(json.dumps(ANSWER))

    assert await model(answer).write(PROMPT) == ANSWER
    (request,) = sent
    body = json.loads(request.content)
    system, user = body["messages"]
    assert (request.method, str(request.url)) == ("POST", "https://models.test/v1/chat/completions")
    assert (request.headers["Authorization"], body["model"]) == ("Bearer secret", "tiny")
    assert (system["role"], user["role"]) == ("system", "user")
    assert "a JSON list of 3 to 5 short strings" in system["content"]
    facts = {"name": "Chloé Martin", "locale": "fr-FR", "topics": ["jazz piano", "yoga"], "purpose": ""}
    assert json.loads(user["content"]) == facts


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ANSWER),
        f"Sure!\n```json\n{json.dumps(ANSWER)}\n```",
        json.dumps([f"  {text}\n" for text in ANSWER]),
    ],
)
async def test_model_reads_the_list_out_of_its_wrapping(content: str) -> None:
    """A sentence, a code fence or blanks around the texts do no harm."""
    assert await model(lambda _: completion(content)).write(PROMPT) == ANSWER


async def test_model_cuts_a_list_that_is_too_long() -> None:
    """The first five are taken."""
    texts = [f"text {number}" for number in range(8)]
    assert await model(lambda _: completion(json.dumps(texts))).write(PROMPT) == texts[:5]


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "I would rather not",
        '["one", "two"]',
        '["one", "two", " "]',
        '["one", "two", 3]',
        '["one", "two',
        "][",
    ],
)
async def test_model_refuses_an_answer_that_is_no_list_of_texts(content: str | None) -> None:
    """Too few, blank, of another type, cut off, or no list at all."""
    error = await failure(lambda _: completion(content))
    assert type(error) is UnusableAnswer
    assert str(error).startswith("the model's answer holds no list of 3 or more texts: {")


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"choices": []}', b"\xff"])
async def test_model_refuses_a_body_that_is_no_completion(body: bytes) -> None:
    """A proxy's page with status 200 is not an answer either."""
    error = await failure(lambda _: httpx.Response(200, content=body))
    assert type(error) is UnusableAnswer


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, ModelBusy),
        (408, ModelUnavailable),
        (500, ModelUnavailable),
        (503, ModelUnavailable),
        (302, ModelRefused),
        (400, ModelRefused),
        (401, ModelRefused),
        (404, ModelRefused),
    ],
)
async def test_model_tells_failures_apart(status: int, kind: type[ModelError]) -> None:
    """The status decides whether asking again can help; the message shows what the server said."""
    error = await failure(lambda _: httpx.Response(status, text="not now"))
    assert (type(error), error.retry_after) == (kind, None)
    assert str(error) == f"the model's server answered {status}: not now"


@pytest.mark.parametrize("raised", [httpx.ConnectError("refused"), httpx.ReadTimeout("")])
async def test_model_that_is_not_reached_is_unavailable(raised: httpx.RequestError) -> None:
    """The cause is in the message and in the chain."""

    def answer(_: httpx.Request) -> httpx.Response:
        raise raised

    error = await failure(answer)
    assert (type(error), error.__cause__) == (ModelUnavailable, raised)
    assert str(error) == f"no answer from the model's server: {raised!r}"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("Fri, 01 Mar 2024 10:00:30 GMT", 30.0),
        ("Fri, 01 Mar 2024 09:00:00 GMT", 0.0),
        ("Fri, 01 Mar 2024 10:00:30", None),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
    ],
)
async def test_retry_after_is_read_in_both_forms(status: int, value: str, seconds: float | None) -> None:
    """Seconds, or a date measured against the server's own; what cannot be read is None."""
    headers = {"Retry-After": value, "Date": "Fri, 01 Mar 2024 10:00:00 GMT"}
    error = await failure(lambda _: httpx.Response(status, headers=headers))
    assert error.retry_after == seconds


async def test_retry_after_as_a_date_needs_the_servers_own() -> None:
    """Without a Date header nothing is guessed from the local clock."""
    headers = {"Retry-After": "Fri, 01 Mar 2024 10:00:30 GMT"}
    error = await failure(lambda _: httpx.Response(429, headers=headers))
    assert error.retry_after is None


def test_model_url_must_be_http() -> None:
    """A forgotten scheme is found out before the first request."""
    with pytest.raises(ValueError) as caught:
        OpenAICompatibleModel("models.test/v1", "secret")
    assert str(caught.value) == "the model's URL must begin with http:// or https://, not 'models.test/v1'"


async def test_environment_without_a_model_gives_the_local_writer() -> None:
    """Blank values count as absent; the local writer has nothing to close."""
    for environ in ({}, {"WELCOME_MODEL_URL": " ", "WELCOME_MODEL_KEY": "", "WELCOME_MODEL_NAME": "tiny"}):
        chosen = model_from_env(environ)
        assert isinstance(chosen, LocalWriter)
        await chosen.aclose()


async def test_environment_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """URL and key together choose the model behind HTTP."""
    monkeypatch.setenv("WELCOME_MODEL_URL", "http://localhost:11434/v1")
    monkeypatch.setenv("WELCOME_MODEL_KEY", "any\n")
    chosen = model_from_env()
    assert isinstance(chosen, OpenAICompatibleModel)
    await chosen.aclose()


@pytest.mark.parametrize(("given", "missing"), [("URL", "KEY"), ("KEY", "URL")])
def test_environment_with_half_a_model_is_refused(given: str, missing: str) -> None:
    """The message names what is set and what is missing."""
    expected = f"^WELCOME_MODEL_{given} is set but WELCOME_MODEL_{missing} is not; set both or neither$"
    with pytest.raises(ValueError, match=expected):
        model_from_env({f"WELCOME_MODEL_{given}": "https://models.test/v1"})


async def test_embeddings_come_with_one_request_in_the_order_of_the_texts() -> None:
    """Whatever the order in which the server lists them."""
    asked: list[dict[str, object]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        vectors = [{"index": 1, "embedding": [0, 1]}, {"index": 0, "embedding": [1, 0]}]
        return httpx.Response(200, json={"data": vectors})

    embedding = model(answer)
    assert await embedding.embed(["jazz", "yoga"]) == [[1, 0], [0, 1]]
    assert asked == [{"model": "text-embedding-3-small", "input": ["jazz", "yoga"]}]
    with pytest.raises(UnusableAnswer, match="no vector for each of 3 texts"):
        await embedding.embed(["jazz", "yoga", "chess"])
    await embedding.aclose()


async def test_local_writer_makes_equal_vectors_of_equal_texts() -> None:
    """Of length one, so that their products compare them."""
    one, same, other = await LocalWriter().embed(["jazz, yoga", "Jazz, yoga", "chess"])
    assert one == same != other
    assert sum(value * value for value in one) == pytest.approx(1)
