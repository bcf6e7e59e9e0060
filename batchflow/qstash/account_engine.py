"""The engine of an app, as its endpoints use it for the runs of one QStash account."""

from urllib.parse import quote

from pydantic_core import to_json

from batchflow.core.dead_letters import DeadLetter
from batchflow.core.message import Message
from batchflow.core.ports import Runtime
from batchflow.core.run import Step
from batchflow.errors import NotFoundError
from batchflow.qstash.account import QStashAccount
from batchflow.qstash.engine import QStashEngine
from batchflow.qstash.rest import QStashRefused
from batchflow.wire.envelope import HeaderPairs
from batchflow.wire.submissions import Address, Submission


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
    def told(self) -> dict[str, DeadLetter]:
        """See the port."""
        return self._engine.told

    async def submit(self, run: str, submission: Submission) -> bool:
        """See the port."""
        rest = self._account.rest
        reason = await rest.submit(submission)
        if reason is None:
            return True
        # The official SDK takes each of these answers for the end of the run, which would wait for ever then.
        try:
            await self.steps_of(run)
        except NotFoundError:
            return False
        raise QStashRefused(f"QStash at {rest.url} refuses it: {reason}")

    def child_submission(self, address: Address, step: Step, concurrent: int, child: Message) -> Submission:
        """See the port."""
        if self._engine.directory.rest_of(child.destination) is not self._account.rest:
            raise QStashRefused(
                f"QStash starts children in the account of their parent, and '{child.destination}' has another; "
                f"trigger it in a step"
            )
        return self._engine.run_commands.child_submission(address, step, concurrent, child)

    async def cancel_run(self, id: str) -> bool:
        """See the port."""
        return await self._engine.cancel_run(id)

    async def steps_of(self, run: str) -> bytes:
        """See the port."""
        return to_json(await self._account.rest.get(f"/v2/workflows/runs/{quote(run, safe='')}"))

    async def finish(self, address: Address, result: str | None) -> None:
        """See the port."""
        path = f"/v2/workflows/runs/{quote(address.run, safe='')}"
        await self._account.rest.delete(path, {"cancel": "false"}, (result or "null").encode())
