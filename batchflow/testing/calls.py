"""Calls of `ctx.call` that a test answers, so that none goes over the network."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic_core import to_json

from batchflow.core.call import Body, CallAnswer, CallRequest
from batchflow.engine.delivery import HttpCaller
from batchflow.errors import NonRetryable
from batchflow.testing.history import History
from batchflow.testing.standins import Rules


class Unanswered(AssertionError):
    """A call was made that the test does not answer; the message names it."""


class AnsweringCaller(HttpCaller):
    """Answers as the test wants; what it says nothing about is refused, or made where the network is allowed."""

    def __init__(self, history: History, *, allow_network: bool) -> None:
        super().__init__()
        self.rules = Rules()
        self.unanswered: list[str] = []
        self._history = history
        self._allow_network = allow_network

    async def _call(self, request: CallRequest, id: str) -> CallAnswer:
        run, _, number = id.rpartition(".")
        self._history.calls[run, int(number)] = request
        rule = self.rules.pick(run, lambda target: target == request.step or request.url.startswith(target))
        if rule is not None:
            answer: CallAnswer = await rule.act(request)
            return answer
        if self._allow_network:
            return await super()._call(request, id)
        sentence = (
            f"call '{request.step}' ({request.method} {request.url}) has no answer; write "
            f"env.answer_call({request.step!r}, …), or flow_env(flow, allow_network=True)"
        )
        self.unanswered.append(sentence)
        raise NonRetryable(sentence)


def answering(status: int, body: object, headers: Mapping[str, str] | None) -> Callable[..., Awaitable[CallAnswer]]:
    """What answers a call: text and bytes go as they are, anything else as JSON; a function is given the request."""

    async def answer(request: CallRequest) -> CallAnswer:
        content, kind = _content(body(request) if callable(body) else body)
        named = {name.lower(): value for name, value in (headers or {}).items()}
        if kind:
            named.setdefault("content-type", kind)
        return CallAnswer(status=status, headers=named, body=Body.of(content))

    return answer


def _content(body: Any) -> tuple[bytes, str]:
    match body:
        case None:
            return b"", ""
        case bytes():
            return body, "application/octet-stream"
        case str():
            return body.encode(), "text/plain; charset=utf-8"
        case _:
            return to_json(body, by_alias=True), "application/json"
