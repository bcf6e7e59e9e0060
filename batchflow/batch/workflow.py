"""The class users write: where the items come from, which still need work, what to do with one of them."""

from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeAlias, cast
from uuid import UUID

from pydantic import BaseModel
from typing_extensions import TypeVar

from batchflow.batch.arguments import Id
from batchflow.batch.definition import Definition, read_definition
from batchflow.batch.hook_scope import call_ledger, require_hook_scope
from batchflow.batch.status import BatchSummary
from batchflow.core.duration import Duration
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.serve.app_url import user_headers
from batchflow.serve.callables import as_async
from batchflow.serve.context import LayerContext, WorkflowContext


class NoParams(BaseModel, extra="forbid"):
    """The parameters of a workflow that has none."""


Params = TypeVar("Params", bound=BaseModel, default=NoParams)
Item = TypeVar("Item", default=str)
Result = TypeVar("Result", default=None)
T = TypeVar("T")

MaybeAwaitable: TypeAlias = T | Awaitable[T]
"""What a hook returns: it may be written with `async def` or `def`; a plain one runs in a worker thread."""


PageItem = TypeVar("PageItem", covariant=True, default=Any)


@dataclass(frozen=True, slots=True)
class Page(Generic[PageItem]):
    """What `fetch` returns: at most `limit` ids, and where the next page starts; None (or "") ends the walk.

        Page(ids=["ada", "grace"], next_cursor="grace")
        Page(items={"ada": User(name="Ada")})

    In place of the ids, `items` brings the items themselves, by id: each is kept with the batch until it has ended, and
    `load` is not called for it. An id that is a number or a UUID is taken as its text.
    """

    ids: Sequence[Id] | None = None
    next_cursor: str | None = None
    items: Mapping[str, PageItem] | Mapping[int, PageItem] | Mapping[UUID, PageItem] | None = None


class BatchWorkflow(Generic[Params, Item, Result]):
    """A batch job over many items, written as one class; `flow.add(instance)` makes it run.

    The type parameters are the parameters of a trigger (a pydantic model), what `execute` is given (the id itself,
    `str`, unless `load` makes more of it) and what it returns. Only `fetch` and `execute` have to be written, and
    `load` where an item is not its id. All other options and hooks have the defaults below.

        class Welcome(BatchWorkflow[NoParams, str, str]):
            entity = "user"

            async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
                return Page(ids=await users.after(cursor, limit), next_cursor=…)

            async def execute(self, user_id: str) -> str:
                return f"Welcome, {user_id}!"

    An intermediate base says so: `class Base(BatchWorkflow[P, I, R], abstract=True)`. With `ids_only=True` there is no
    `fetch`, and every trigger names its ids.

    Raises:
        ConfigurationError: when the class is made, for a hook that is missing, misspelt or does not fit the type
            parameters, and for an option that is misspelt or out of range.
    """

    name: ClassVar[str] = ""
    """Stands in routes, keys, steps and logs; the class's name in kebab-case where it is left out."""
    entity: ClassVar[str] = "item"
    """What one item is: `user` gives `process-users` and `userId`."""
    entity_plural: ClassVar[str] = ""
    """More than one of them; `entity` with an s where it is left out."""
    execute_verb: ClassVar[str] = "execute"
    """What layer 3 does with an item: `generate` gives `generate-user`."""
    page_size: ClassVar[int] = 50
    """How many ids `fetch` is asked for at once."""
    chunk_size: ClassVar[int] = 20
    """How many items one message starts; a page with more of them is cut into chunks."""
    entry_flow: ClassVar[FlowControl | None] = FlowControl(parallelism=1, rate=1)
    paginate_flow: ClassVar[FlowControl | None] = FlowControl(parallelism=20, rate=5)
    execute_flow: ClassVar[FlowControl | None] = FlowControl(parallelism=10, rate=5)
    """The limits of each layer, under the keys `{name}.process`, `.paginate` and `.execute`; None: unlimited."""
    retry: ClassVar[RetryPolicy] = RetryPolicy()
    item_timeout: ClassVar[Duration] = "15m"
    """How long one attempt at an item, a page or `on_complete` may take."""
    processed_ttl: ClassVar[Duration | None] = None
    """How long an item counts as processed; None: for ever."""
    processed_per: ClassVar[tuple[str, ...]] = ()
    """Names of parameters for each of whose values items are processed anew: `("year",)`, one ledger a year."""
    walk_first: ClassVar[bool] = False
    """Walk and store all items before the first one starts.

    Totals are exact from the start, and a source that changes under its own items, such as LIMIT and OFFSET over what
    is not done yet, loses none.
    """

    __batch__: ClassVar[Definition]

    def __init_subclass__(cls, *, abstract: bool = False, ids_only: bool = False, **options: Any) -> None:
        super().__init_subclass__(**options)
        definition = read_definition(cls, BatchWorkflow, abstract=abstract, ids_only=ids_only)
        if definition is not None:
            cls.__batch__ = definition

    def fetch(self, params: Params, cursor: str | None, limit: int, /) -> MaybeAwaitable[Page[Item]]:
        """One page of the ids that are eligible, at most `limit`, from `cursor` on (None: from the start). Required."""
        raise NotImplementedError

    def filter(self, params: Params, ids: Sequence[str], /) -> MaybeAwaitable[Collection[str]]:
        """Those of a page's ids that still need work; not asked with `force`. By default those the ledger lacks."""
        return self.unprocessed(ids)

    def load(self, item_id: str, /) -> MaybeAwaitable[Item | None]:
        """The item of an id (step `get-item`); None: there is none, and it fails without a retry. By default the id.

        It is not called for what a page has brought.
        """
        raise NotImplementedError

    def execute(self, item: Item, /) -> MaybeAwaitable[Result]:
        """The work on ONE item (step `process-item`). Required."""
        raise NotImplementedError

    def save(self, item_id: str, result: Result, /) -> MaybeAwaitable[None]:
        """Keep the result where it belongs (step `save-result`). By default nothing: it stays with the batch."""
        raise NotImplementedError

    def count(self, params: Params, /) -> MaybeAwaitable[int]:
        """How many ids are eligible, where the source can say at once; 0 ends the batch. For totals and ETA only."""
        raise NotImplementedError

    async def process(self, ctx: WorkflowContext[Params], item: Item, /) -> Result:
        """What is done between `load` and `save`: by default `execute` as one durable step.

        Override it for more than one step per item; everything of `ctx` is there.
        """
        batch, layer = self.__batch__, cast("LayerContext[Params]", ctx)
        result = await layer.run_with_codec(batch.steps.process_item, batch.result_codec, as_async(self.execute), item)
        return cast("Result", result)

    def on_complete(self, summary: BatchSummary, /) -> MaybeAwaitable[None]:
        """Called once a batch has ended, however it ended, after its last item (step `on-complete`)."""
        raise NotImplementedError

    @property
    def params(self) -> Params:
        """The parameters of the batch whose hook is running.

        Raises:
            RuntimeError: no hook is running.
        """
        return cast("Params", require_hook_scope(self.__batch__.name, "self.params").params)

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that the trigger gave the batch whose hook is running; none in a dry run.

        Raises:
            RuntimeError: no hook is running.
        """
        return user_headers(require_hook_scope(self.__batch__.name, "self.headers").headers)

    @property
    def item_id(self) -> str:
        """The id of the item whose `load`, `execute`, `process` or `save` is running.

        Raises:
            RuntimeError: none of these is running.
        """
        item_id = require_hook_scope(self.__batch__.name, "self.item_id").item_id
        if not item_id:
            raise RuntimeError("self.item_id can only be used inside load, execute, process and save")
        return item_id

    async def unprocessed(self, ids: Sequence[str]) -> list[str]:
        """Those of `ids`, in their order, that the ledger does not hold as processed.

        That is the workflow's, or with `processed_per` the one of the batch's own parameters.

        Raises:
            RuntimeError: no hook is running.
        """
        name = self.__batch__.name
        scope = require_hook_scope(name, "self.unprocessed()")
        asked = scope.client.marks.processed(self.__batch__.ledger_name(scope.params), ids)
        known = await (call_ledger(asked) if scope.client.ledger is not None and scope.batch else asked)
        return [id for id in ids if id not in known] if known else list(ids)
