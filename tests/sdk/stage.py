"""What a test has: a server of the store, a receiver, the SDK's client, and names of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from qstash import QStash
from qstash import Receiver as Verifier
from qstash.message import EnqueueResponse, EnqueueUrlGroupResponse, PublishResponse, PublishUrlGroupResponse

from tests.sdk.receiver import Received, Receiver
from tests.sdk.server import ServerProcess
from tests.waiting import wait_until_sync


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The server with its first tenant's client."""

    server: ServerProcess
    receiver: Receiver
    client: QStash
    id: str

    def name(self, kind: str) -> str:
        """A name that no other test uses; the same for the same kind."""
        return f"{kind}-{self.id}"

    def states(self, id: str) -> list[str]:
        """The states of a message in the log, oldest first."""
        return [log.state.value for log in reversed(self.client.log.list(filter={"message_id": id}).logs)]

    def wait_for_state(self, id: str, state: str) -> None:
        """Return once the log has this state of the message."""
        wait_until_sync(lambda: state in self.states(id), description=f"{id} is {state}: {self.states(id)}")

    def verify(self, received: Received, url: str) -> None:
        """Fail unless the SDK's receiver accepts the signature of a request."""
        keys = self.client.signing_key.get()
        Verifier(keys.current, keys.next).verify(
            signature=received.headers["upstash-signature"], body=received.body.decode(), url=url
        )


def message_id(
    sent: PublishResponse | EnqueueResponse | Sequence[PublishUrlGroupResponse | EnqueueUrlGroupResponse],
) -> str:
    """The id of a message to one URL, or to a URL group that has one."""
    if isinstance(sent, PublishResponse | EnqueueResponse):
        return sent.message_id
    (only,) = sent
    return only.message_id
