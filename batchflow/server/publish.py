"""Publish, enqueue and batch: they are what a server mostly does, so they are answered without FastAPI."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

from starlette.responses import Response
from starlette.types import Receive, Scope

from batchflow.core.posts import Post, Posted
from batchflow.core.wire_runs import WireRun
from batchflow.errors import InputError
from batchflow.server.answers import error_list, error_status, json_answer
from batchflow.server.batch_items import item_headers, plan_items, read_item
from batchflow.server.context import ServerContext, refused_by_run
from batchflow.server.raw_request import caller_ip, config_pairs, destination_of, header_pairs, read_body
from batchflow.server.scheduling import make_schedule
from batchflow.wire.publish import PublishRequest, parse_publish, posts_of
from batchflow.wire.run_headers import RunRequest
from batchflow.wire.run_posts import begin_post, run_post
from batchflow.wire.url_groups import endpoints_of_group


class _Plan(NamedTuple):
    """The posts of a request, each with the URL that its answer names."""

    posts: Sequence[Post]
    urls: Sequence[str]
    is_group: bool

    def answer(self, posted: Iterator[Posted]) -> Any:
        """The JSON of what was posted."""
        answers = [_answer(url, next(posted)) for url in self.urls]
        return answers if self.is_group else answers[0]


class PublishRoutes:
    """The routes that publish posts."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def publish(self, scope: Scope, receive: Receive, path: str) -> Response:
        """`POST /v2/publish/{destination}`."""
        return await self._publish(scope, receive, path)

    async def enqueue(self, scope: Scope, receive: Receive, path: str) -> Response:
        """`POST /v2/enqueue/{queue}/{destination}`."""
        queue, _, destination = path.partition("/")
        return await self._publish(scope, receive, destination, unquote(queue))

    async def batch(self, scope: Scope, receive: Receive, _: str) -> Response:
        """`POST /v2/batch`: all items are published, or none."""
        runs: dict[str, WireRun] = {}
        plans = await plan_items(scope, receive, lambda item: self._plan_item(scope, item, runs))
        if isinstance(plans, Response):
            return plans
        try:
            posted = await self._context.post([post for plan in plans for post in plan.posts])
        except InputError as error:
            return error_list([str(error)], error_status(error))
        each = iter(posted)
        return json_answer([plan.answer(each) for plan in plans], status_of(posted))

    async def _publish(self, scope: Scope, receive: Receive, path: str, queue: str | None = None) -> Response:
        request = await read_publish(scope, receive, path, self._context.now(), queue)
        if request.cron is not None:
            return json_answer({"scheduleId": await make_schedule(self._context, request)}, 201)
        plan = await self._plan(request, {})
        posted = await self._context.post(plan.posts)
        return json_answer(plan.answer(iter(posted)), status_of(posted))

    async def _plan_item(self, scope: Scope, item: object, runs: dict[str, WireRun]) -> _Plan:
        return await self._plan(read_item(scope, item, item_headers(item), self._context.now()), runs)

    async def _plan(self, request: PublishRequest, runs: dict[str, WireRun]) -> _Plan:
        """The posts of a request; of the runs that it belongs to, `runs` are those that were read for it before."""
        new_id = self._context.new_message_id
        if request.run is not None:
            return _Plan([await self._run_post(request, request.run, runs)], [request.destination], is_group=False)
        if not request.is_group:
            return _Plan(posts_of(request, new_id), [request.destination], is_group=False)
        endpoints = await endpoints_of_group(self._context.wire, request.envelope.tenant, request.destination)
        return _Plan(posts_of(request, new_id, endpoints), [it.url for it in endpoints], is_group=True)

    async def _run_post(self, request: PublishRequest, asked: RunRequest, runs: dict[str, WireRun]) -> Post:
        """The post of a request of a workflow run: it begins the run, or is a part of it."""
        if asked.init and not asked.answers_contact:
            return begin_post(request, self._context.new_message_id)
        run = runs.get(asked.run) or await self._context.wire.wire_run(request.envelope.tenant, asked.run)
        # A step of an earlier run of this id may have the id of a step of this one.
        if run is None or asked.created_at not in (None, run.created_at):
            raise refused_by_run("ended")
        runs[run.id] = run
        return run_post(request, run, self._context.new_message_id)


async def read_publish(scope: Scope, receive: Receive, path: str, now: int, queue: str | None = None) -> PublishRequest:
    """Read a publish request, or one that makes a schedule, whose destination is `path`, not decoded.

    Raises:
        InputError: the request is not valid.
    """
    return parse_publish(
        destination_of(path, scope),
        header_pairs(scope),
        await read_body(scope, receive),
        tenant=scope["batchflow.tenant"],
        now=now,
        queue=queue,
        caller_ip=caller_ip(scope),
        query=config_pairs(scope),
    )


def _answer(url: str, posted: Posted) -> dict[str, Any]:
    answer: dict[str, Any] = {"messageId": posted.id, "url": url}
    return {**answer, "deduplicated": True} if posted.deduplicated else answer


def status_of(posted: Sequence[Posted]) -> int:
    """The status of an answer: 202 if nothing new was published."""
    return 202 if posted and all(it.deduplicated for it in posted) else 201
