"""A QStash account: where the runs of functions live, and who verifies the requests that come from there."""

from typing import NamedTuple
from urllib.parse import quote

from batchflow.errors import ConfigurationError
from batchflow.qstash.receiver import Receiver
from batchflow.qstash.rest import QStashRest
from batchflow.wire.envelope import HeaderPairs
from batchflow.wire.submissions import webhook_event, wire_id


class QStashAccount(NamedTuple):
    """The QStash account of a function. Without a `receiver` its requests are not verified.

    `user` is the one of the token, None if it names none. The headers of `telemetry` describe this program.
    """

    rest: QStashRest
    receiver: Receiver | None
    user: str | None
    telemetry: HeaderPairs

    def webhook_url(self, token: str) -> str:
        """The URL of a webhook of a run; QStash answers it.

        Raises:
            ConfigurationError: the token of the account names no user.
        """
        if self.user is None:
            raise ConfigurationError(
                "QSTASH_TOKEN names no user, which the URLs of webhooks need; copy it again, whole"
            )
        run = wire_id(token.rpartition(".")[0])
        return f"{self.rest.url}/v2/workflows/hooks/{quote(self.user)}/{quote(run)}/{webhook_event(token)}"
