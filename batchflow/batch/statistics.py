"""What a dry run answers."""

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

BindingLimit: TypeAlias = Literal[
    "execute rate", "execute parallelism", "paginate rate", "paginate parallelism", "none"
]
"""The limit that makes the batch take as long as it does; "none" where everything starts at once."""


class Statistics(BaseModel):
    """What a trigger would do now. As JSON its names are camelCase.

    `sample` are the first ids that would be processed, `pages` and `chunks` what layer 2 takes them in. The duration is
    predicted from the workflow's limits and the mean time of an item in its latest batch, `mean_item_ms`; None: there
    has been none, and items are taken to need no time.
    """

    model_config = ConfigDict(
        frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )

    success: bool = True
    total_eligible: int
    to_process: int
    already_processed: int
    duplicates: int = 0
    dry_run: bool = True
    message: str
    pages: int
    chunks: int
    sample: tuple[str, ...] = ()
    predicted_duration_ms: int = 0
    predicted_duration: str = "0s"
    binding_limit: BindingLimit = "none"
    mean_item_ms: float | None = None
