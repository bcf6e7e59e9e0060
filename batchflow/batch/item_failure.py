"""The failure of an item, as `on_item_failure` gets it."""

from dataclasses import dataclass
from typing import Any, Generic

from typing_extensions import TypeVar

from batchflow.serve.failure_functions import RunFailure

Params = TypeVar("Params", default=Any)


@dataclass(frozen=True, kw_only=True)
class ItemFailure(RunFailure[Params], Generic[Params]):
    """An item that has failed for good, as `on_item_failure` gets it: a `RunFailure`, and which item it is.

    `payload` and `params` are the parameters of the batch, and `headers` those of its trigger.
    """

    item_id: str
    batch_id: str

    @property
    def params(self) -> Params:
        """The parameters of the batch.

        Raises:
            InputError: they do not fit the class any more, which may be why the item has failed.
        """
        return self.payload
