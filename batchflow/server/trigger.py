"""Triggers: they begin workflow runs at endpoints, for senders without an SDK."""

import asyncio
from typing import Any

from pydantic_core import from_json
from starlette.responses import Response
from starlette.types import Receive, Scope

from batchflow.core.posts import Post, Posted
from batchflow.core.wire_runs import BeginRun
from batchflow.errors import InputError
from batchflow.server.answers import json_answer
from batchflow.server.batch_items import item_headers, plan_items, read_item
from batchflow.server.context import ServerContext
from batchflow.server.publish import read_publish, status_of
from batchflow.wire.publish import PublishRequest
from batchflow.wire.run_posts import contact_post


class TriggerRoutes:
    """The routes that begin runs."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def trigger(self, scope: Scope, receive: Receive, path: str) -> Response:
        """`POST /v2/trigger/{url}`."""
        post = self._post(await read_publish(scope, receive, path, self._context.now()))
        posted = await self._context.post([post])
        return json_answer(await self._answer(post, posted[0]), status_of(posted))

    async def batch(self, scope: Scope, receive: Receive, _: str) -> Response:
        """`POST /v2/batch/trigger`: all runs begin, or none."""
        posts = await plan_items(scope, receive, lambda item: self._plan_item(scope, item))
        if isinstance(posts, Response):
            return posts
        posted = await self._context.post(posts)
        answers = await asyncio.gather(*map(self._answer, posts, posted))
        return json_answer(answers, status_of(posted))

    async def _plan_item(self, scope: Scope, item: object) -> Post:
        return self._post(read_item(scope, item, item_headers(item), self._context.now()))

    def _post(self, request: PublishRequest) -> Post:
        for what, value in {"schedule": request.cron, "queue": request.envelope.queue}.items():
            if value is not None:
                raise InputError(f"a workflow run cannot be triggered by a {what}; leave it out", status=400)
        if request.is_group:
            sentence = "'destination' is not a URL; name the endpoint of the workflow, such as https://example.com/run"
            raise InputError(sentence, field="destination", status=400)
        wished = None if request.run is None else request.run.run
        return contact_post(request, self._context.new_message_id, wished)

    async def _answer(self, post: Post, posted: Posted) -> dict[str, Any]:
        assert isinstance(post.link, BeginRun)
        answer: dict[str, Any] = {"workflowRunId": post.link.run, "workflowCreatedAt": post.link.created_at}
        if not posted.deduplicated:
            return answer
        # With a deduplication id it may have begun a run with another id.
        created = (await self._context.wire.created_entries(post.tenant, [posted.id])).get(posted.id)
        about: dict[str, Any] = {} if created is None else from_json(created.detail)
        if "workflowRunId" in about:
            answer = {name: about[name] for name in answer}
        elif (run := await self._context.wire.wire_run(post.tenant, post.link.run)) is not None:
            answer["workflowCreatedAt"] = run.created_at
        return {**answer, "deduplicated": True}
