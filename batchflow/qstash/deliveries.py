"""The requests of QStash to the functions of an app, as its routes hand them over."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from hashlib import sha256

from batchflow.batch.definition import Definition
from batchflow.core.duration import format_duration
from batchflow.errors import ConfigurationError, InputError, StoreError
from batchflow.logs import logger
from batchflow.qstash.account import QStashAccount
from batchflow.qstash.account_engine import AccountEngine
from batchflow.qstash.endpoint import WireAnswer, WireEndpoint, WireRequest
from batchflow.qstash.engine import QStashEngine
from batchflow.qstash.fires import answer_fire, is_fire
from batchflow.qstash.options import AccountOptions
from batchflow.qstash.receiver import NOT_OF_QSTASH, REFUSAL_LOG
from batchflow.qstash.run_options import OF_QSTASH, check_flow
from batchflow.serve.endpoint import Endpoint
from batchflow.wire.headers import REDELIVERED
from batchflow.wire.signature import SIGNATURE
from batchflow.wire.submissions import LONGEST_TIMEOUT_MS

RETRIED = "upstash-retried"
"""The header with the number of deliveries of a message before this one."""


class QStashDeliveries:
    """Answers the requests of QStash to the endpoints of an app (`batchflow.http.deliveries.Deliveries`).

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
        self._has_warned = False

    def add_account(self, endpoint: Endpoint, account: QStashAccount) -> None:
        """Let the runs of an endpoint live in this account.

        Raises:
            ConfigurationError: QStash does not wait as long for an answer as the function may take.
        """
        _check_timeout("timeout", endpoint.declared_timeout_ms, f"'{endpoint.route}'")
        self._engine.directory.add(endpoint.route, account)

    def webhooks_of(self, endpoint: Endpoint) -> Callable[[str], str]:
        """Makes the URLs of webhooks of the runs of an endpoint, from their tokens."""
        return partial(self._engine.directory.webhook_url, endpoint.route)

    def is_delivery(self, headers: Mapping[str, str]) -> bool:
        """See the port."""
        return is_fire(headers) or any(name in headers for name in OF_QSTASH)

    def check_sender(self, route: str, headers: Mapping[str, str]) -> None:
        """See the port."""
        if (receiver := self._engine.directory.account_of(route).receiver) is not None:
            receiver.check(headers.get(SIGNATURE.lower()))

    def start_id(self, route: str, url: str | None, headers: Mapping[str, str], body: bytes) -> str | None:
        """See the port: QStash repeats what somebody has published until it is answered."""
        directory = self._engine.directory
        with suppress(ConfigurationError):
            url = directory.url_of(route)
        receiver, message = directory.account_of(route).receiver, headers.get("upstash-message-id")
        if receiver is None or message is None or url is None:
            return None
        if not receiver.has_signed(headers.get(SIGNATURE.lower()), url, body, now=self._engine.now()):
            return None
        return f"run_{sha256(message.encode()).hexdigest()[:26]}"

    async def answer(self, route: str, url: str | None, headers: Mapping[str, str], body: bytes) -> WireAnswer:
        """See the port."""
        endpoint = self._endpoints[route]
        failure = None if endpoint.on_failure is None else self._endpoints.get(endpoint.on_failure)
        account = self._engine.directory.account_of(route)
        url = self._public_url(partial(self._engine.directory.url_of, route), url)
        if is_fire(headers):
            now = self._engine.now()
            if account.receiver is not None:
                account.receiver.verify(headers.get(SIGNATURE.lower()), url, body, now=now)
            return await answer_fire(self._engine, self._engine.schedule_targets[route], headers, body, now=now)
        wire = WireEndpoint(endpoint, failure, AccountEngine(self._engine, account))
        return await wire.answer(WireRequest(headers, body), url, account.receiver)

    async def wake(self, url: str | None, headers: Mapping[str, str], body: bytes) -> WireAnswer:
        """See the port."""
        url = self._public_url(self._engine.directory.deliveries_url, url)
        if (receiver := self._engine.directory.app.receiver) is not None:
            receiver.verify(headers.get(SIGNATURE.lower()), url, body, now=self._engine.now())
        try:
            if (batches := self._engine.batches) is not None:
                await batches.answer(body, repeated=REDELIVERED in headers or headers.get(RETRIED, "0") != "0")
        except StoreError as error:
            # QStash sends it again.
            logger().warning("[batchflow] A message of a batch waits until QStash sends it again", error=str(error))
            return WireAnswer(503, {"Content-Type": "text/plain"}, str(error).encode())
        return WireAnswer(200, {}, b"")

    def _public_url(self, find: Callable[[], str], seen: str | None) -> str:
        """The URL for which a request has to be signed: the public one, else that of the request, if it is our own.

        QStash signs the calls of runs with the same keys: whoever gets one could send it to us, under its own host.
        """
        try:
            return find()
        except ConfigurationError:
            if seen is not None:
                return seen
        if not self._has_warned:
            self._has_warned = True
            reason = "the public URL of this app is not known, and its Host may be anybody's; set APP_URL"
            logger().warning(REFUSAL_LOG, reason=reason)
        raise InputError(NOT_OF_QSTASH, status=401)

    async def schedule(self) -> None:
        """Have QStash call the app regularly, as `QStash(relay_cron=…)` says; once in a process."""
        if (batches := self._engine.batches) is not None:
            await batches.schedule()

    def check_batch(self, definition: Definition) -> None:
        """Check that QStash can keep what a workflow declares.

        Raises:
            ConfigurationError: it cannot, or there is no store for the state of its batches.
        """
        name = definition.name
        if not self._engine.has_store:
            raise ConfigurationError(
                f"the batches of '{name}' need a store for their state, which QStash does not have; write "
                f"BATCHFLOW_STORE=redis://HOST:PORT into the environment, or QStash(store=…)"
            )
        if "item_flow" in definition.defined_hooks:
            raise ConfigurationError(
                f"'{name}' has item_flow, and QStash has one flow key for each message; leave it out, or use another "
                f"engine"
            )
        if definition.schedule is not None and self._engine.relay_schedule.cron is None:
            raise ConfigurationError(
                f"'{name}' has a schedule, which nothing fires with QStash(relay_cron=None); leave relay_cron out"
            )
        _check_timeout("item_timeout", definition.declared_timeout_ms, f"'{name}'")
        for flow in definition.flows:
            try:
                check_flow(flow)
            except InputError as error:
                raise ConfigurationError(f"a flow key of '{name}': {error}") from None


def _check_timeout(option: str, timeout_ms: int | None, whose: str) -> None:
    if timeout_ms is not None and timeout_ms > LONGEST_TIMEOUT_MS:
        raise ConfigurationError(
            f"of {whose} is {format_duration(timeout_ms)}, and QStash waits no longer than "
            f"{format_duration(LONGEST_TIMEOUT_MS)} for an answer",
            option=option,
            want="write less, and divide the work into steps",
        )
