"""The engine of an app, as its endpoints use it for the runs of one QStash account."""

from pydantic_core import to_json

from batchflow.core.dead_letters import DeadLetter
from batchflow.core.message import Message
from batchflow.core.ports import Runtime
from batchflow.core.run import Step
from batchflow.core.settlement import OpenBatch
from batchflow.errors import NotFoundError
from batchflow.qstash.account import QStashAccount
from batchflow.qstash.endpoint import ObserveRecorder
from batchflow.qstash.engine import QStashEngine
from batchflow.qstash.invoked_batches import invoked_message
from batchflow.qstash.reads import latest_began
from batchflow.qstash.rest import QStashRefused
from batchflow.wire.envelope import HeaderPairs
from batchflow.wire.steps import batch_event
from batchflow.wire.submissions import Address, Submission, began_header, run_path, wait_submission


class AccountEngine:
    """See `batchflow.qstash.endpoint.WireEngine`."""

    def __init__(self, engine: QStashEngine, account: QStashAccount) -> None:
        self._engine = engine
        self._account = account

    @property
    def runtime(self) -> Runtime:
        """See the port."""
        return self._engine.runtime

    @property
    def telemetry(self) -> HeaderPairs:
        """See the port."""
        return self._account.telemetry

    @property
    def observe(self) -> ObserveRecorder | None:
        """See the port."""
        return self._engine.observe

    @property
    def told(self) -> dict[str, DeadLetter]:
        """See the port."""
        return self._engine.told

    async def submit(self, address: Address, submission: Submission) -> bool:
        """See the port."""
        rest = self._account.rest
        reason = await rest.submit(submission)
        if reason is None:
            return True
        # The official SDK takes each of these answers for the end of the run, which would wait for ever then.
        if await self._has_ended(address):
            return False
        raise QStashRefused(f"QStash at {rest.url} refuses it: {reason}")

    async def _has_ended(self, address: Address) -> bool:
        try:
            await self.steps_of(address.run)
        except NotFoundError:
            return True
        # The run that goes on may be a later one with this id.
        began = await latest_began(self._account.rest, address.run)
        return 0 < address.created_at < began

    def child_submission(self, address: Address, step: Step, concurrent: int, child: Message) -> Submission:
        """See the port."""
        if self._engine.directory.rest_of(child.destination) is not self._account.rest:
            raise QStashRefused(
                f"QStash starts children in the account of their parent, and '{child.destination}' has another; "
                f"trigger it in a step"
            )
        return self._engine.run_commands.child_submission(address, step, concurrent, child)

    async def invoke_batch(self, address: Address, step: Step, concurrent: int, opens: OpenBatch) -> bool:
        """See the port."""
        if not self._engine.has_store:
            raise QStashRefused(
                f"step '{step.name}' invokes a batch, which needs a store for its state; write "
                f"BATCHFLOW_STORE=redis://HOST:PORT into the environment, or QStash(store=…)"
            )
        message = invoked_message(address, self._engine.directory.route_of(address.url), step.number, opens)
        now = self.runtime.clock.now()
        # First, so that no batch is opened for a run that has ended.
        if not await self.submit(address, wait_submission(address, step, concurrent, batch_event(message.id), now=now)):
            return False
        await self._engine.open_invoked(message)
        return True

    async def cancel(self, address: Address) -> None:
        """See the port."""
        await self._account.rest.delete(run_path(address.run), {"cancel": "true"}, headers=began_header(address))
        await self._engine.cancel_invoked_by(address)

    async def steps_of(self, run: str) -> bytes:
        """See the port."""
        return to_json(await self._account.rest.get(run_path(run)))

    async def finish(self, address: Address, result: str | None) -> None:
        """See the port."""
        body = (result or "null").encode()
        await self._account.rest.delete(run_path(address.run), {"cancel": "false"}, body, began_header(address))
