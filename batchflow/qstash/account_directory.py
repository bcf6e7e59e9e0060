"""The functions of a QStash account, as a program sees them that does not have their code."""

from collections.abc import Mapping, Sequence
from typing import Literal
from urllib.parse import urlsplit

from batchflow.core.dead_letters import DeadLetterQuery
from batchflow.core.schedule import NewSchedule, ScheduledStart
from batchflow.engine.engine import Engine
from batchflow.errors import ConfigurationError, InputError
from batchflow.http.reserved_routes import DELIVERIES
from batchflow.qstash.account import QStashAccount
from batchflow.qstash.directory import NO_HEADERS, Directory
from batchflow.qstash.engine import QStashEngine
from batchflow.serve.app_url import PublicUrl


def see_account(engine: Engine) -> None:
    """Let the `QStashEngine` of a program without functions see those of its account."""
    assert isinstance(engine, QStashEngine)
    directory = engine.directory
    engine.connect(AccountDirectory(directory.app, directory.public_url))


class AccountDirectory(Directory):
    """The functions of an account by their URLs, and those of the app by their routes, if its public URL is known.

    A route without such a URL stands for all functions whose URLs end with it, where runs and dead letters are read.
    """

    def __init__(self, app: QStashAccount, public_url: PublicUrl) -> None:
        super().__init__(app, {}, public_url)
        try:
            self._base = public_url.resolve({})
        except ConfigurationError:
            self._base = None

    def url_of(self, route: str, headers: Mapping[str, str] = NO_HEADERS) -> str:
        """See `Directory`."""
        return route if _is_url(route) else self.public_url.resolve(headers) + route

    def known_url_of(self, route: str) -> str | None:
        """See `Directory`."""
        return None if self._base is None and not _is_url(route) else self.url_of(route)

    def route_of(self, url: str) -> str:
        """See `Directory`."""
        path = url.partition("?")[0]
        return url if self._base is None or not path.startswith(f"{self._base}/") else path.removeprefix(self._base)

    def is_at(self, route: str, destination: str) -> bool:
        """See `Directory`."""
        known = self.known_url_of(route)
        if known is None:
            return urlsplit(destination).path.endswith(route)
        return known == self.known_url_of(destination)

    def urls_matching(self, query: DeadLetterQuery) -> Sequence[str] | None:
        """See `Directory`."""
        named = [it for it in (query.workflow, query.destination) if it is not None]
        if any(not it.startswith("/") and not _is_url(it) for it in named):
            # The name of a workflow, whose dead letters are items.
            return []
        urls = {url for it in named if (url := self.known_url_of(it)) is not None}
        return [] if len(urls) > 1 else list(urls) or None

    def matches(self, destination: str, query: DeadLetterQuery) -> bool:
        """See `Directory`."""
        named = [it for it in (query.workflow, query.destination) if it is not None]
        return all(self.is_at(it, destination) for it in named) if named else self._is_of_app(destination)

    def target_of(self, url: str) -> "AccountFunction | None":
        """See `Directory`."""
        route = self.route_of(url)
        return AccountFunction(route) if self._is_of_app(route) and not route.endswith(DELIVERIES) else None

    def _is_of_app(self, destination: str) -> bool:
        return self._base is None or not _is_url(destination)


class AccountFunction:
    """A function of which nothing is known but its route or URL. See `batchflow.core.ports.ScheduleTarget`."""

    schedule_starts: Literal["batch", "run"] = "run"
    declared_schedule: NewSchedule | None = None

    def __init__(self, route: str) -> None:
        self.title = self.schedule_route = route

    def schedule_payload(self, params: object, payload: object) -> str:
        """See the port."""
        return "null"

    def scheduled_start(self, schedule: NewSchedule, at: int) -> ScheduledStart:
        """See the port.

        Raises:
            InputError: always.
        """
        raise InputError(f"a run of '{self.title}' is started with its code, which this program does not have")


def _is_url(text: str) -> bool:
    return "://" in text
