"""A plain model of a store that keeps workflow runs of QStash, on the one of posts."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field, replace

from batchflow.core.call import Body
from batchflow.core.posts import Post, Posted
from batchflow.core.settlement import EndRun
from batchflow.core.wire_runs import (
    WAIT_TIMEOUT,
    AddEntry,
    AdoptRun,
    AwaitEvent,
    BeginRun,
    EventWait,
    JoinRun,
    RunEntry,
    RunMember,
    WireRun,
)
from tests.stores.wire_model import WireModel


@dataclass(eq=False)
class RunModel:
    """A run with its entries, its posts and the events kept for it."""

    run: WireRun
    entries: list[RunEntry] = field(default_factory=list[RunEntry])
    members: dict[str, RunMember] = field(default_factory=dict[str, RunMember])
    kept: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @property
    def live(self) -> bool:
        """True until it ends."""
        return self.run.state == "RUN_STARTED"

    def append(self, message: str, body: Body, now: int) -> None:
        """Add an entry."""
        self.entries.append(RunEntry(message, body, now))
        self.run = self.run._replace(size=self.run.size + len(body.text))

    def join(self, message: str, entry: int, now: int) -> None:
        """Add a post."""
        self.members[message] = RunMember(message, entry, now)


@dataclass(eq=False)
class WaitModel:
    """A post that waits for an event."""

    of: RunModel
    message: str
    event: str
    head: str
    due: int
    about: str

    def seen(self) -> EventWait:
        """The wait as a store shows it."""
        return EventWait(self.of.run.id, self.message, self.due, self.about, self.of.run.created_at)


class WireRunModel(WireModel):
    """Posts and runs; none of these runs is ever full."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[tuple[str, str], RunModel] = {}
        self.waits: list[WaitModel] = []
        # Of one call: the runs that have begun, and the times of begins that other runs have deduplicated.
        self.begun: set[tuple[str, str]] = set()
        self.repeated: dict[tuple[str, str], int] = {}

    # Posts

    def post(self, posts: Iterable[Post], now: int) -> list[Posted]:
        """Publish the new ones, all or none of those with links."""
        posts = list(posts)
        known = {id(it.post): it.post for it in self.messages.values()}
        before = deepcopy(self.__dict__, known) if any(it.link for it in posts) else self.__dict__
        self.begun, self.repeated = set(), {}
        answers = super().post(posts, now)
        if any(answer.refused for answer in answers):
            self.__dict__ = before
            return [Posted(it.message.id, refused="ended") for it in posts]
        return answers

    def send(self, posts: Iterable[Post], now: int) -> None:
        """Publish posts, but for those that are refused."""
        for post in posts:
            self.post([post], now)

    def admit(self, post: Post, now: int) -> Post | Posted:
        """The post as it is published, or the answer about one that is not."""
        link, id = post.link, post.message.id
        if link is None:
            return post
        key = post.tenant, link.run
        of = self.runs.get(key)
        if of is not None and of.live and id in of.members:
            return Posted(id)
        if isinstance(link, BeginRun):
            if of is not None and of.live:
                if key not in self.begun:
                    self.repeated[key] = link.created_at
                return Posted(next(iter(of.members)), True)
            run = WireRun(
                link.run, post.tenant, link.url, "RUN_STARTED", link.config, None, link.created_at, None, None, 0
            )
            of = self.runs[key] = RunModel(run)
            self.begun.add(key)
            for body in link.entries:
                of.append(id, body, now)
            of.join(id, len(of.entries), now)
            return post
        if of is not None and key in self.repeated and link.created_at in (None, self.repeated[key]):
            return Posted(next(iter(of.members)), True)
        late = isinstance(link, AddEntry) and link.late
        if of is None or not (of.live or late) or link.created_at not in (None, of.run.created_at):
            return Posted(id, refused="ended")
        match link:
            case AddEntry() if not of.live:
                if all(entry.message != id for entry in of.entries):
                    of.append(id, link.body, now)
                return Posted(id)
            case AddEntry():
                of.append(id, link.body, now)
                of.join(id, len(of.entries), now)
            case AdoptRun():
                of.run = of.run._replace(config=link.config)
                of.join(id, next(iter(of.members.values())).entry, now)
            case JoinRun():
                of.join(id, 0, now)
            case AwaitEvent():
                return self._await(of, post, link, now)
        return post

    def _await(self, of: RunModel, post: Post, link: AwaitEvent, now: int) -> Post:
        id = post.message.id
        kept = next((it for it in of.kept if it[0] == link.event), None)
        of.join(id, 0, now)
        self.waits.append(WaitModel(of, id, link.event, link.head, post.message.not_before, link.about))
        if kept is None:
            return post
        of.kept.remove(kept)
        self._arrive(self.waits[-1], kept[1], now)
        return post._replace(message=replace(post.message, not_before=0))

    # Runs

    def notify(self, tenant: str, event: str, tail: str, run: str | None, now: int) -> list[EventWait]:
        """Send an event."""
        found = [it for it in self.waits if it.of.run.tenant == tenant and it.event == event]
        if run is not None:
            found = [it for it in found if it.of.run.id == run][:1]
            of = self.runs.get((tenant, run))
            if not found and of is not None and of.live:
                of.kept.append((event, tail))
        for wait in found:
            self._arrive(wait, tail, now)
            message = self.messages[wait.message]
            if message.state == "waiting":
                message.due = 0
        return [wait.seen() for wait in found]

    def claim_entry(self, tenant: str, run: str, message: str, now: int) -> list[RunEntry] | None:
        """The entries that a post delivers."""
        of = self.runs.get((tenant, run))
        if of is None or not of.live or message not in of.members:
            return None
        for wait in [it for it in self.waits if it.message == message]:
            self._arrive(wait, WAIT_TIMEOUT, now)
        return of.entries[: of.members[message].entry]

    def _arrive(self, wait: WaitModel, tail: str, now: int) -> None:
        self.waits.remove(wait)
        wait.of.append(wait.message, Body(text=wait.head + tail), now)
        wait.of.members[wait.message] = wait.of.members[wait.message]._replace(entry=len(wait.of.entries))

    def end_run(self, end: EndRun, now: int) -> bool:
        """End a run."""
        of = self.runs.get((end.tenant, end.run))
        if of is None or not of.live or end.created_at not in (None, of.run.created_at):
            return False
        of.run = of.run._replace(state=end.state, result=end.result, ended_at=now)
        of.kept.clear()
        self.waits = [it for it in self.waits if it.of is not of]
        self.cancel_some([id for id in of.members if id in self.messages], now)
        self.send(end.posts, now)
        return True

    def end_cancelled(self, id: str, now: int) -> None:
        """A post that is cancelled waits no more."""
        super().end_cancelled(id, now)
        self.waits = [it for it in self.waits if it.message != id]

    def prune(self, before: int, now: int) -> None:
        """Remove what is old."""
        super().prune(before, now)
        self.runs = {key: it for key, it in self.runs.items() if it.run.ended_at is None or it.run.ended_at >= before}
