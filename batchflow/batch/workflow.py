"""`BatchWorkflow`, the base class of batch jobs."""

from collections.abc import AsyncIterator, Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeAlias, cast
from uuid import UUID

from pydantic import BaseModel
from typing_extensions import TypeVar

from batchflow.batch.arguments import Id
from batchflow.batch.definition import Definition, read_definition
from batchflow.batch.hook_scope import call_ledger, require_hook_scope
from batchflow.batch.item_failure import ItemFailure
from batchflow.batch.items import BatchItem, read_items
from batchflow.batch.member_names import check_class_keywords
from batchflow.batch.scheduling import check_declared_schedule
from batchflow.batch.status import BatchSummary
from batchflow.core.batch import ItemState
from batchflow.core.duration import Duration
from batchflow.core.failure_budget import FailureBudget
from batchflow.core.flow import FlowControl
from batchflow.core.retry import RetryPolicy
from batchflow.core.schedule import Schedule
from batchflow.core.suggestions import explains_options
from batchflow.serve.app_url import user_headers
from batchflow.serve.callables import as_async
from batchflow.serve.context import LayerContext, WorkflowContext


class NoParams(BaseModel, extra="forbid", defer_build=True):
    """The parameters of a workflow without parameters."""


Params = TypeVar("Params", bound=BaseModel, default=NoParams)
Item = TypeVar("Item", default=str)
Result = TypeVar("Result", default=None)
T = TypeVar("T")

MaybeAwaitable: TypeAlias = T | Awaitable[T]
"""The return type of a hook, which is either `async def`, or `def` and runs in a worker thread."""


PageItem = TypeVar("PageItem", covariant=True, default=Any)


@explains_options(cursor="next_cursor=…", next="next_cursor=…", id="ids=[…]", item="items={id: item}")
@dataclass(frozen=True, slots=True)
class Page(Generic[PageItem]):
    """One page of ids, returned by `fetch`, and the cursor of the next page; None (or "") for the last page.

        Page(ids=["ada", "grace"], next_cursor="grace")
        Page(items={"ada": User(name="Ada")})

    A page may have `items`, a mapping of ids to items, instead of ids. These items are stored until the batch has
    ended, and `load` is not called for them. Numbers and UUIDs are converted to strings.
    """

    ids: Sequence[Id] | None = None
    next_cursor: str | None = None
    items: Mapping[str, PageItem] | Mapping[int, PageItem] | Mapping[UUID, PageItem] | None = None


class BatchWorkflow(Generic[Params, Item, Result]):
    """A batch job over many items, written as one class; `flow.add(instance)` makes it run.

    The type arguments are the parameters of a trigger (a pydantic model), the item that `execute` takes (`str`, the id,
    unless `load` returns another type) and its result. `fetch` and `execute` are required, and `load` if an item is not
    its id. All other options and hooks have the defaults below.

        class Welcome(BatchWorkflow[NoParams, str, str]):
            entity = "user"

            async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page:
                return Page(ids=await users.after(cursor, limit), next_cursor=…)

            async def execute(self, user_id: str) -> str:
                return f"Welcome, {user_id}!"

    An intermediate base class is declared with `class Base(BatchWorkflow[P, I, R], abstract=True)`. With
    `ids_only=True` there is no `fetch`, and every trigger lists its ids.

    Raises:
        ConfigurationError: when the class is created: a hook is missing, misspelt or does not match the type
            arguments, or an option is misspelt or out of range.
    """

    name: ClassVar[str] = ""
    """Used in routes, keys, steps and logs; by default the name of the class in kebab-case."""
    entity: ClassVar[str] = "item"
    """The noun for an item: `user` gives `process-users` and `userId`."""
    entity_plural: ClassVar[str] = ""
    """The plural of `entity`; by default `entity` with an s."""
    execute_verb: ClassVar[str] = "execute"
    """The verb in the route of layer 3: `generate` gives `generate-user`."""
    page_size: ClassVar[int] = 50
    """The `limit` that `fetch` gets."""
    chunk_size: ClassVar[int] = 20
    """The most items that one message starts; a larger page is split into chunks."""
    entry_flow: ClassVar[FlowControl | None] = FlowControl(parallelism=1, rate=1)
    paginate_flow: ClassVar[FlowControl | None] = FlowControl(parallelism=20, rate=5)
    execute_flow: ClassVar[FlowControl | None] = FlowControl(parallelism=10, rate=5)
    """The limits of each layer, under the keys `{name}.process`, `.paginate` and `.execute`; None means unlimited.

    They count items, also where one call processes many. The default of `execute_flow` means calls: with
    `execute_many` it is `group_size` times as large.
    """
    retry: ClassVar[RetryPolicy] = RetryPolicy()
    item_timeout: ClassVar[Duration] = "15m"
    """The timeout of one attempt at an item, a page or `on_complete`."""
    group_size: ClassVar[int] = 50
    """The most items of one call of `execute_many`."""
    group_wait: ClassVar[Duration] = "2s"
    """The time that a group waits for more items, from its first one on."""
    group_parallelism: ClassVar[int | None] = None
    """The most calls of `execute_many` at once in one process; None means no limit of its own."""
    processed_ttl: ClassVar[Duration | None] = None
    """The time for which an item counts as processed; None means forever."""
    processed_per: ClassVar[tuple[str, ...]] = ()
    """Names of parameters whose values each have their own ledger: with `("year",)` items are processed once a year."""
    walk_first: ClassVar[bool] = False
    """Fetch and store all items before the first one starts.

    Totals are exact from the start, and no item is missed by a source that shrinks as items are processed, such as
    LIMIT and OFFSET over rows that are not done.
    """

    priority: ClassVar[int] = 0
    """The priority of its batches, from 0 to 9, unless their trigger names one; those with the highest start first."""
    confirm_above: ClassVar[int | None] = None
    """A number of items above which the command asks before it starts a batch, and HTTP wants `"confirm": true`."""
    schedule: ClassVar[Schedule | str | None] = None
    """When batches start by themselves: a cron expression in UTC, or a `Schedule` with time zone and parameters."""
    failure_budget: ClassVar[FailureBudget | None] = None
    """The failed items after which a batch is paused or cancelled; None: it never is. A trigger may set another."""
    notify_url: ClassVar[str | None] = None
    """A URL that gets a POST about the end of each batch, after `on_complete`; a trigger may name another."""

    __batch__: ClassVar[Definition]

    def __init_subclass__(cls, *, abstract: bool = False, ids_only: bool = False, **options: Any) -> None:
        check_class_keywords(cls, super().__init_subclass__, options)
        definition = read_definition(cls, BatchWorkflow, abstract=abstract, ids_only=ids_only)
        if definition is not None:
            check_declared_schedule(definition)
            cls.__batch__ = definition

    def fetch(self, params: Params, cursor: str | None, limit: int, /) -> MaybeAwaitable[Page[Item]]:
        """Return a page of at most `limit` eligible ids from `cursor` on; None is the start. Required."""
        raise NotImplementedError

    def filter(self, params: Params, ids: Sequence[str], /) -> MaybeAwaitable[Collection[str]]:
        """Return those of a page's ids that need work; not called with `force`. By default those not in the ledger."""
        return self.unprocessed(ids)

    def item_flow(self, params: Params, item_id: str, /) -> FlowControl | None:
        """Return the limits of an item that is to start, beside those of `execute_flow`; None means only these.

        They are for all items with the same key, in every batch: `FlowControl(key=f"tenant-{…}", parallelism=1)` runs
        the items of a tenant one at a time. An item starts when both keys have room. It is a plain function, called
        for each item once, as its page is walked. With a parameter `item=None` it gets the item of the page, if
        `fetch` returned items.
        """
        raise NotImplementedError

    def load(self, item_id: str, /) -> MaybeAwaitable[Item | None]:
        """Return the item of an id (step `get-item`), by default the id. None fails the item without a retry.

        It is not called for items that a page contains.
        """
        raise NotImplementedError

    def execute(self, item: Item, /) -> MaybeAwaitable[Result]:
        """Process ONE item (step `process-item`). Required, or `execute_many`."""
        raise NotImplementedError

    def execute_many(self, items: list[Item], /) -> MaybeAwaitable[Sequence[Result | BaseException]]:
        """Process up to `group_size` items of one batch with one call; return their results in the same order.

        It takes the place of `execute`. Each item keeps its own run, its retries and its result (step `process-items`):
        the call is only shared. An exception among the results is the failure of its item, as if `execute` had raised
        it. A call that raises is repeated for each half of its items, and so on, so that one bad item fails alone; a
        `RateLimited`, a `RetryAfter`, a timeout or a lost connection is the failure of all of them at once.
        """
        raise NotImplementedError

    def save(self, item_id: str, result: Result, /) -> MaybeAwaitable[None]:
        """Save the result elsewhere (step `save-result`). By default it is only kept with the batch."""
        raise NotImplementedError

    def count(self, params: Params, /) -> MaybeAwaitable[int]:
        """Return the number of eligible ids, if the source knows it; 0 ends the batch. Only for totals and ETA."""
        raise NotImplementedError

    async def process(self, ctx: WorkflowContext[Params], item: Item, /) -> Result:
        """Process an item between `load` and `save`: by default call `execute` as one durable step.

        Override it for several steps per item; it may use all of `ctx`. It cannot be combined with `execute_many`.
        """
        batch, layer = self.__batch__, cast("LayerContext[Params]", ctx)
        result = await layer.run_with_codec(batch.steps.process_item, batch.result_codec, as_async(self.execute), item)
        return cast("Result", result)

    def on_success(self, summary: BatchSummary, /) -> MaybeAwaitable[None]:
        """Called once at the end of a batch of which every item that was to run has succeeded (step `on-success`)."""
        raise NotImplementedError

    def on_failure(self, summary: BatchSummary, /) -> MaybeAwaitable[None]:
        """Called once at the end of any other batch (step `on-failure`): `summary.failure()` is the reason.

        Items have failed, its walk has failed, or it was cancelled.
        """
        raise NotImplementedError

    def on_complete(self, summary: BatchSummary, /) -> MaybeAwaitable[None]:
        """Called once, after the last item of a batch, also of a failed or cancelled one (step `on-complete`).

        It is called after `on_success` or `on_failure`, also if that has failed.
        """
        raise NotImplementedError

    def on_item_failure(self, failure: ItemFailure[Params], /) -> MaybeAwaitable[Any]:
        """Called once for each item that has failed for good (step `on-item-failure`), not for one that is cancelled.

        That is: its attempts are used up, it raised `NonRetryable`, exceeded its time limit or lost ten workers. What
        it returns is kept with the dead letter, as JSON. It is retried by itself; its failure does not count as one of
        the item.
        """
        raise NotImplementedError

    @property
    def params(self) -> Params:
        """The parameters of the running hook's batch.

        Raises:
            RuntimeError: no hook is running.
        """
        return cast("Params", require_hook_scope(self.__batch__.name, "self.params").params)

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the running hook's batch, as its trigger set them; empty in a dry run.

        Raises:
            RuntimeError: no hook is running.
        """
        return user_headers(require_hook_scope(self.__batch__.name, "self.headers").headers)

    @property
    def item_id(self) -> str:
        """The id of the item that the running `load`, `execute`, `process`, `save` or `on_item_failure` is for.

        Raises:
            RuntimeError: none of these hooks is running.
        """
        item_id = require_hook_scope(self.__batch__.name, "self.item_id").item_id
        if not item_id:
            usage = "self.item_id can only be used inside load, execute, process, save and on_item_failure"
            many = "; execute_many has many items at once, so have load return each with its id"
            raise RuntimeError(usage + many if "execute_many" in self.__batch__.defined_hooks else usage)
        return item_id

    def outcomes(self, state: ItemState | None = None) -> AsyncIterator[BatchItem[Result]]:
        """Iterate over the items that the running hook's batch has started, or those in `state`, ordered by number.

        They are read page by page: `async for item in self.outcomes("failed")`, in an async hook.

        Raises:
            RuntimeError: no hook is running, or one of a dry run.
        """
        scope = require_hook_scope(self.__batch__.name, "self.outcomes()")
        if not scope.batch:
            raise RuntimeError("self.outcomes() can only be used inside the hooks of a batch, not in a dry run")
        return read_items(scope.client.store, self.__batch__, scope.batch, state)

    async def unprocessed(self, ids: Sequence[str]) -> list[str]:
        """Return those of `ids`, in their order, that the ledger does not contain.

        With `processed_per` it is the ledger for the batch's own parameters.

        Raises:
            RuntimeError: no hook is running.
        """
        name = self.__batch__.name
        scope = require_hook_scope(name, "self.unprocessed()")
        asked = scope.client.marks.processed(self.__batch__.ledger_name(scope.params), ids)
        known = await (call_ledger(asked) if scope.client.ledger is not None and scope.batch else asked)
        return [id for id in ids if id not in known] if known else list(ids)
