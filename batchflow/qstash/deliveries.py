"""The requests of QStash to the functions of an app, as its routes hand them over."""

from collections.abc import Callable, Mapping
from contextlib import suppress

from batchflow.errors import ConfigurationError
from batchflow.qstash.account import QStashAccount
from batchflow.qstash.account_engine import AccountEngine
from batchflow.qstash.endpoint import OF_QSTASH, WireAnswer, WireEndpoint, WireRequest
from batchflow.qstash.engine import QStashEngine
from batchflow.qstash.fires import answer_fire, is_fire
from batchflow.qstash.options import AccountOptions
from batchflow.serve.endpoint import Endpoint
from batchflow.wire.signature import SIGNATURE


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
        return is_fire(headers) or any(name in headers for name in OF_QSTASH)

    async def answer(self, route: str, url: str, headers: Mapping[str, str], body: bytes) -> WireAnswer:
        """See the port."""
        endpoint = self._endpoints[route]
        failure = None if endpoint.on_failure is None else self._endpoints.get(endpoint.on_failure)
        account = self._engine.account_of(route)
        with suppress(ConfigurationError):
            url = self._engine.url_of(route)
        if is_fire(headers):
            now = self._engine.now()
            if account.receiver is not None:
                account.receiver.verify(headers.get(SIGNATURE.lower()), url, body, now=now)
            return await answer_fire(self._engine, self._engine.schedule_targets[route], headers, body, now=now)
        wire = WireEndpoint(endpoint, failure, AccountEngine(self._engine, account))
        return await wire.answer(WireRequest(headers, body), url, account.receiver)
