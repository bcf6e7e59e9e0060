"""The functions of an app on QStash: in which account each one's runs live, and at which URL QStash calls it."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from batchflow.core.dead_letters import DeadLetterQuery
from batchflow.core.ports import ScheduleTarget
from batchflow.errors import ConfigurationError
from batchflow.http.reserved_routes import DELIVERIES
from batchflow.qstash.account import QStashAccount
from batchflow.qstash.rest import QStashRest
from batchflow.serve.app_url import PublicUrl, PublicUrlUnknown
from batchflow.serve.endpoint import Endpoint

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Directory:
    """The endpoints of an app by route, with their accounts: `app` is that of each which has none of its own.

    `public_url` is that of the app.
    """

    def __init__(self, app: QStashAccount, endpoints: Mapping[str, Endpoint], public_url: PublicUrl) -> None:
        self.endpoints = endpoints
        self._app = app
        self.public_url = public_url
        self._own: dict[str, QStashAccount] = {}
        self._of_test: QStashAccount | None = None

    @property
    def app(self) -> QStashAccount:
        """See the class."""
        return self._of_test or self._app

    @contextmanager
    def replaced(self, account: QStashAccount, url: str) -> Generator[None]:
        """Let all functions have this account, and the router this URL, in the body: those of a test."""
        router = self.public_url.router
        own = router.path, router.url_of_test
        router.url_of_test, self._of_test = url, account
        try:
            yield
        finally:
            self._of_test = None
            router.path, router.url_of_test = own

    def add(self, route: str, account: QStashAccount) -> None:
        """Let the runs of a function live in this account."""
        self._own[route] = account

    def account_of(self, route: str) -> QStashAccount:
        """The account of a function."""
        return self._of_test or self._own.get(route, self._app)

    def webhook_url(self, route: str, token: str) -> str:
        """The URL of a webhook of a run of this function; QStash answers it.

        Raises:
            ConfigurationError: the token of the account names no user.
        """
        return self.account_of(route).webhook_url(token)

    def rest_of(self, route: str) -> QStashRest:
        """The REST API of the account of a function."""
        return self.account_of(route).rest

    @property
    def rests(self) -> Sequence[QStashRest]:
        """The REST API of each account, the app's first."""
        return list(dict.fromkeys([self.app.rest, *(self.rest_of(it) for it in self._own)]))

    @property
    def routes_of_app(self) -> Sequence[str]:
        """The routes of the functions whose runs live in the account of the app."""
        return [it for it in self.endpoints if self.rest_of(it) is self.app.rest and it.startswith("/")]

    @property
    def unverified(self) -> Sequence[str]:
        """The routes with an account of their own that does not verify its requests."""
        return sorted(route for route in self._own if self.account_of(route).receiver is None)

    def url_of(self, route: str, headers: Mapping[str, str] = NO_HEADERS) -> str:
        """The public URL of an endpoint, for a run that was started with these headers.

        Raises:
            ConfigurationError: it is not known; the sentence says what to set.
        """
        public_url = self.endpoints[route].public_url
        try:
            # Requests are verified for this one.
            return public_url.resolve(NO_HEADERS) + route
        except PublicUrlUnknown:
            return public_url.resolve(headers) + route

    def known_url_of(self, route: str) -> str | None:
        """The URL of an endpoint, by which QStash is asked for what it has of it; None: it is asked for all."""
        return self.url_of(route)

    def route_of(self, url: str) -> str:
        """The route of the endpoint with this URL; the URL itself if the app has none.

        Where the app does not know its own URL, this is the endpoint with whose route the URL ends.
        """
        path = url.partition("?")[0]
        routes = (it for it in self.endpoints if path.endswith(it) and self._own_url_of(it) in (None, path))
        return max(routes, key=len, default=url)

    def _own_url_of(self, route: str) -> str | None:
        try:
            return self.url_of(route)
        except ConfigurationError:
            return None

    def root_of(self, url: str) -> str:
        """The URL of the router that has the endpoint with this URL."""
        return url.partition("?")[0].removesuffix(self.route_of(url))

    def is_at(self, route: str, destination: str) -> bool:
        """True if the destination of a run is the endpoint at a route."""
        return route == destination

    def urls_matching(self, query: DeadLetterQuery) -> Sequence[str] | None:
        """The URLs by which QStash is asked for dead letters that match; None: it is asked for all of the account.

        Raises:
            ConfigurationError: as for `url_of`.
        """
        routes = [it for it in self.routes_of_app if query.workflow in (None, it) and query.matches(it)]
        return [self.url_of(it) for it in routes]

    def matches(self, destination: str, query: DeadLetterQuery) -> bool:
        """True if the destination of a dead letter that was asked for matches."""
        return True

    def target_of(self, url: str) -> ScheduleTarget | None:
        """Stands for the function of the app with this URL where its code is not known; None for any other URL."""
        return None

    def deliveries_url(self) -> str:
        """The public URL of the route to which QStash delivers the messages of batches.

        Raises:
            ConfigurationError: it is not known; the sentence says what to set.
        """
        return self.public_url.resolve({}) + DELIVERIES
