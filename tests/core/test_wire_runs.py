"""Workflow runs of QStash, as values."""

from typing import Any

from batchflow.core.call import Body
from batchflow.core.flow import FlowControl
from batchflow.core.message import Message
from batchflow.core.posts import Post
from batchflow.core.settlement import EndRun, SendPosts
from batchflow.core.wire_runs import AddEntry, AdoptRun, AwaitEvent, BeginRun, EventWait, RunEntry, WireRun

SECRET = "hush-hush"


def test_runs_and_links_show_no_body_header_or_token() -> None:
    """Neither the values themselves nor what has them in it."""
    body = Body(text=SECRET)
    links: list[Any] = [
        BeginRun("r", "https://a.example", (body,), 1, SECRET, SECRET),
        AdoptRun("r", SECRET, 1),
        AddEntry("r", body),
        AwaitEvent("r", SECRET, SECRET, SECRET),
    ]
    message = Message(id="m", destination="d", flow=FlowControl(key="k"), body=SECRET)
    posts = tuple(Post(message, "t", SECRET, link=link) for link in links)
    values = [
        *links,
        SendPosts(posts),
        EndRun("t", "r", "RUN_SUCCESS", SECRET, posts),
        RunEntry("m", body, 1),
        WireRun("r", "t", "https://a.example", "RUN_STARTED", SECRET, SECRET, 1, None, SECRET, 1),
        EventWait("r", "m", 1, SECRET, 1),
    ]
    assert [repr(value) for value in values if SECRET in repr(value)] == []
