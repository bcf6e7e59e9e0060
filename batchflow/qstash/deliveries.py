"""The requests of QStash to the functions of an app, as its routes hand them over."""

from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import quote

from batchflow.errors import ConfigurationError
from batchflow.qstash.endpoint import OF_QSTASH, WireAnswer, WireEndpoint, WireRequest
from batchflow.qstash.engine import QStashEngine
from batchflow.qstash.receiver import Receiver
from batchflow.serve.endpoint import Endpoint
from batchflow.wire.submissions import webhook_event, wire_id


class QStashDeliveries:
    """Answers the requests of QStash to the endpoints of an app (`batchflow.http.triggers.Deliveries`).

    Without a `receiver` they are not verified. `user` is the one of the token, None if it names none.
    """

    def __init__(
        self, engine: QStashEngine, endpoints: Mapping[str, Endpoint], receiver: Receiver | None, *, user: str | None
    ) -> None:
        self._engine = engine
        self._endpoints = endpoints
        self._receiver = receiver
        self._user = user

    def is_delivery(self, headers: Mapping[str, str]) -> bool:
        """See the port."""
        return any(name in headers for name in OF_QSTASH)

    async def answer(self, route: str, url: str, headers: Mapping[str, str], body: bytes) -> WireAnswer:
        """See the port."""
        endpoint = self._endpoints[route]
        failure = None if endpoint.on_failure is None else self._endpoints.get(endpoint.on_failure)
        wire = WireEndpoint(endpoint, failure, self._engine)
        with suppress(ConfigurationError):
            url = self._engine.url_of(route)
        return await wire.answer(WireRequest(headers, body), url, self._receiver)

    def webhook_url(self, token: str) -> str:
        """The URL of a webhook of a run; QStash answers it.

        Raises:
            ConfigurationError: the token of the app names no user.
        """
        if self._user is None:
            raise ConfigurationError(
                "QSTASH_TOKEN names no user, which the URLs of webhooks need; copy it again, whole"
            )
        run = wire_id(token.rpartition(".")[0])
        return f"{self._engine.rest.url}/v2/workflows/hooks/{quote(self._user)}/{quote(run)}/{webhook_event(token)}"
