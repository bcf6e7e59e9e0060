"""The requests of QStash to the functions of an app, as its routes hand them over."""

from collections.abc import Callable, Mapping
from contextlib import suppress

from batchflow.errors import ConfigurationError
from batchflow.qstash.account import QStashAccount
from batchflow.qstash.account_engine import AccountEngine
from batchflow.qstash.endpoint import OF_QSTASH, WireAnswer, WireEndpoint, WireRequest
from batchflow.qstash.engine import QStashEngine
from batchflow.qstash.options import AccountOptions
from batchflow.serve.endpoint import Endpoint


class QStashDeliveries:
    """Answers the requests of QStash to the endpoints of an app (`batchflow.http.triggers.Deliveries`).

    `find_account` returns the account of a function with these options.
    """

    def __init__(
        self,
        engine: QStashEngine,
        endpoints: Mapping[str, Endpoint],
        find_account: Callable[[AccountOptions], QStashAccount],
    ) -> None:
        self._engine = engine
        self._endpoints = endpoints
        self.find_account = find_account

    def add_account(self, endpoint: Endpoint, account: QStashAccount) -> None:
        """Let the runs of an endpoint live in this account."""
        self._engine.accounts[endpoint.route] = account

    def is_delivery(self, headers: Mapping[str, str]) -> bool:
        """See the port."""
        return any(name in headers for name in OF_QSTASH)

    async def answer(self, route: str, url: str, headers: Mapping[str, str], body: bytes) -> WireAnswer:
        """See the port."""
        endpoint = self._endpoints[route]
        failure = None if endpoint.on_failure is None else self._endpoints.get(endpoint.on_failure)
        account = self._engine.account_of(route)
        wire = WireEndpoint(endpoint, failure, AccountEngine(self._engine, account))
        with suppress(ConfigurationError):
            url = self._engine.url_of(route)
        return await wire.answer(WireRequest(headers, body), url, account.receiver)
