"""What the fixture `flow_env` is: makes environments, and sees to it that none outlives its test."""

from datetime import datetime

from batchflow.app import Batchflow
from batchflow.testing.clock import START, ManualClock
from batchflow.testing.environment import Environment
from batchflow.testing.options import StoreOption


class FlowEnv:
    """Makes test environments: `async with flow_env(flow) as env:`. `store` is where their state lives by default."""

    def __init__(self, store: StoreOption = None) -> None:
        self._store = store
        self._made: list[Environment] = []

    def __call__(
        self,
        app: Batchflow,
        *,
        store: StoreOption = None,
        start: ManualClock | datetime | int = START,
        seed: int = 0,
        always_replay: bool | None = None,
        allow_network: bool = False,
        rounds: int = 10_000,
    ) -> Environment:
        """An environment for `app`; what the options are, `Environment` says."""
        made = Environment(
            app,
            store=self._store if store is None else store,
            start=start,
            seed=seed,
            always_replay=always_replay,
            allow_network=allow_network,
            rounds=rounds,
        )
        self._made.append(made)
        return made

    def close(self) -> None:
        """Check at the end of the test that all of them were left.

        Raises:
            AssertionError: one was not; its app is put back all the same.
        """
        left = [made for made in self._made if made.is_open]
        for made in left:
            made.put_back()
        if left:
            raise AssertionError(
                "a test environment was entered and not left; write 'async with flow_env(flow) as env:'"
            )
