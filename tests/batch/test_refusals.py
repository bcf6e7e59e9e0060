"""Classes that are rejected, and the messages."""

import re
from collections.abc import Callable, Sequence
from types import new_class
from typing import Any

import pytest
from pydantic import AliasChoices, BaseModel, Field

from batchflow.batch.hooks import HOOK_NAMES
from batchflow.batch.workflow import BatchWorkflow, NoParams, Page
from batchflow.core.flow import FlowControl
from batchflow.errors import ConfigurationError
from batchflow.serve.context import WorkflowContext
from tests.batch.samples import Audience, Greeting, User

WORKFLOW: Any = BatchWorkflow


async def fetch(self: object, params: Any, cursor: str | None, limit: int) -> Page:
    return Page(ids=[])


async def execute(self: object, item_id: str) -> None: ...


def made(base: Any = BatchWorkflow, /, **space: Any) -> type[BatchWorkflow[Any, Any, Any]]:
    """A class `Orders` with `fetch` and `execute`, unless `space` says otherwise; None takes a hook away."""
    written = {"fetch": fetch, "execute": execute, **space}
    kept = {name: value for name, value in written.items() if value is not None or name not in HOOK_NAMES}
    return new_class("Orders", (base,), {}, lambda body: body.update(kept))


async def untyped(self: object, item_id: Any) -> Any: ...
async def takes_two(self: object, a: str, b: str) -> None: ...
async def takes_user(self: object, user: User) -> None: ...
async def gives_text(self: object, item_id: str) -> str: ...
async def gives_list(self: object, params: Any, cursor: str | None, limit: int) -> list[str]: ...
async def yields(self: object, params: Any, cursor: str | None, limit: int) -> Any:
    yield Page(ids=[])


async def many(self: object, item_ids: list[str]) -> list[None]: ...  # pyright: ignore[reportReturnType]
async def gives_one(self: object, users: Sequence[User]) -> Greeting: ...
async def gives_texts(self: object, users: list[User]) -> list[str | ValueError]: ...
async def loads_user(self: object, user_id: str) -> User | None: ...
async def async_process(self: object, ctx: WorkflowContext[Any], item: str) -> None: ...
def sync_process(self: object, ctx: WorkflowContext[Any], item: str) -> None: ...
async def loads_text(self: object, user_id: str) -> str | None: ...
async def executes_user(self: object, user: User) -> Greeting: ...


FETCH = "async def fetch(self, params: NoParams, cursor: str | None, limit: int) -> Page"
EXECUTE = "async def execute(self, item_id: str) -> None"
MANY = "async def execute_many(self, item_ids: list[str]) -> Sequence[None]"
TYPED = BatchWorkflow[Audience, User, Greeting]


def params_with(**fields: Any) -> Any:
    space = {"__annotations__": dict.fromkeys(fields, str), **fields}
    return WORKFLOW[type("Given", (BaseModel,), space)]


REFUSED: list[tuple[str, Callable[[], object], str]] = [
    ("no fetch", lambda: made(fetch=None), f"Orders has no fetch; write: {FETCH}"),
    ("no execute", lambda: made(execute=None), f"Orders has no execute; write: {EXECUTE}"),
    (
        "no load",
        lambda: made(TYPED, execute=executes_user),
        "Orders has no load, which makes a User of an id; write: async def load(self, item_id: str) -> User | None; or "
        "have the pages bring them: fetch(…) -> Page[User]",
    ),
    (
        "hook misspelt",
        lambda: made(execute=None, excute=execute),
        "Unknown hook 'excute' of Orders; did you mean 'execute'? If it is the class's own, name it _excute",
    ),
    (
        "hook in camel",
        lambda: made(onComplete=1),
        "Unknown hook 'onComplete' of Orders; did you mean 'on_complete'? If it is the class's own, name it "
        "_onComplete",
    ),
    (
        "hook turned round",
        lambda: made(laod=execute),
        "Unknown hook 'laod' of Orders; did you mean 'load'? If it is the class's own, name it _laod",
    ),
    (
        "option misspelt",
        lambda: made(chunksize=5),
        "Unknown option 'chunksize' of Orders; did you mean 'chunk_size'? If it is the class's own, name it _chunksize",
    ),
    (
        "too many parameters",
        lambda: made(execute=takes_two),
        f"Orders.execute cannot be called with 1 argument (item_id); write: {EXECUTE}",
    ),
    (
        "too few parameters",
        lambda: made(fetch=execute),
        f"Orders.fetch cannot be called with 3 arguments (params, cursor, limit); write: {FETCH}",
    ),
    ("not a function", lambda: made(fetch=3), f"Orders.fetch is not a function but 3; write: {FETCH}"),
    ("a generator", lambda: made(fetch=yields), f"Orders.fetch yields where it has to return; write: {FETCH}"),
    (
        "another item",
        lambda: made(execute=takes_user),
        f"Orders.execute declares 'user: User' but is given str; write: {EXECUTE}",
    ),
    (
        "another result",
        lambda: made(execute=gives_text),
        f"Orders.execute declares that it returns str, not None; write: {EXECUTE}",
    ),
    (
        "no page",
        lambda: made(fetch=gives_list),
        f"Orders.fetch declares that it returns list[str], not Page; write: {FETCH}",
    ),
    (
        "load of another item",
        lambda: made(TYPED, load=loads_text, execute=executes_user),
        "Orders.load declares that it returns str | None, not User | None; write: "
        "async def load(self, item_id: str) -> User | None",
    ),
    (
        "no execute_many",
        lambda: made(execute=None, executemany=execute),
        "Unknown hook 'executemany' of Orders; did you mean 'execute_many'? If it is the class's own, name it "
        "_executemany",
    ),
    (
        "execute twice",
        lambda: made(execute_many=many),
        "Orders has execute and execute_many, and an item is processed by one of them; remove the other",
    ),
    (
        "process and execute_many",
        lambda: made(execute=None, execute_many=many, process=async_process),
        "Orders has process and execute_many, and an item is processed by one of them; remove the other",
    ),
    (
        "group of no execute_many",
        lambda: made(group_size=20),
        f"Orders.group_size does nothing, since the class has no execute_many; write: {MANY}",
    ),
    (
        "one item of execute_many",
        lambda: made(execute=None, execute_many=execute),
        f"Orders.execute_many declares 'item_id: str' but is given list[str]; write: {MANY}",
    ),
    (
        "one result of execute_many",
        lambda: made(TYPED, execute=None, execute_many=gives_one, load=loads_user),
        "Orders.execute_many declares that it returns Greeting, not one Greeting for each item; write: "
        "async def execute_many(self, items: list[User]) -> Sequence[Greeting]",
    ),
    (
        "other results of execute_many",
        lambda: made(TYPED, execute=None, execute_many=gives_texts, load=loads_user),
        "Orders.execute_many declares that it returns list[str | ValueError], not one Greeting for each item; write: "
        "async def execute_many(self, items: list[User]) -> Sequence[Greeting]",
    ),
    (
        "size",
        lambda: made(execute=None, execute_many=many, group_size=0),
        "Orders.group_size cannot be 0; write a whole number from 1 to 10,000, such as 50",
    ),
    (
        "wait",
        lambda: made(execute=None, execute_many=many, group_wait=0),
        "Orders.group_wait cannot be 0; write a duration such as '15m'",
    ),
    (
        "group parallelism",
        lambda: made(execute=None, execute_many=many, group_parallelism=0),
        "Orders.group_parallelism cannot be 0; write a whole number of 1 or more, or None for no limit",
    ),
    (
        "group larger than what is under way",
        lambda: made(execute=None, execute_many=many, execute_flow=FlowControl(parallelism=10)),
        "Orders.group_size is 50 and execute_flow lets 10 items be under way at once, so that no group can ever be "
        "full; write execute_flow = FlowControl(parallelism=100, …), which counts items, or group_size = 10",
    ),
    (
        "sync process",
        lambda: made(process=sync_process),
        "Orders.process has to be async, since it awaits its ctx; write: "
        "async def process(self, ctx: WorkflowContext, item_id: str) -> None",
    ),
    (
        "params no model",
        lambda: made(WORKFLOW[dict[str, str]]),
        "Orders's parameters are a pydantic model, not dict[str, str]; write a class of BaseModel as the first type "
        "in BatchWorkflow[…]",
    ),
    (
        "a type by its name",
        lambda: made(WORKFLOW[Audience, "User"]),
        "Orders does not say what its item type is; write the class itself in BatchWorkflow[Params, Item, Result], "
        "or abstract=True for a base of other workflows",
    ),
    (
        "what has no JSON form",
        lambda: made(WORKFLOW[NoParams, str, type(re)], execute=untyped),
        "Orders's result type: module has no JSON form: pydantic has none; declare a model, a dataclass or plain data",
    ),
    (
        "a reserved parameter",
        lambda: made(params_with(dry_run="")),
        "Orders's parameter 'Given.dry_run' goes by 'dryRun' in payloads, which is batchflow's own there; name it "
        "otherwise",
    ),
    (
        "a reserved alias",
        lambda: made(params_with(after=Field(default="", alias="cursor"))),
        "Orders's parameter 'Given.after' goes by 'cursor' in payloads, which is batchflow's own there; name it "
        "otherwise",
    ),
    (
        "a reserved choice",
        lambda: made(params_with(after=Field(default="", validation_alias=AliasChoices("since", "page")))),
        "Orders's parameter 'Given.after' goes by 'page' in payloads, which is batchflow's own there; name it "
        "otherwise",
    ),
    (
        "the entity's key",
        lambda: made(params_with(order_id=""), entity="order"),
        "Orders's parameter 'Given.order_id' goes by 'orderId' in payloads, which is batchflow's own there; name it "
        "otherwise",
    ),
    (
        "two of one name",
        lambda: made(params_with(paid_only="", paidOnly="")),
        "Orders's parameters 'paid_only' and 'paidOnly' of Given both go by 'paidOnly' in payloads; rename one",
    ),
    (
        "no page size",
        lambda: made(page_size=0),
        "Orders.page_size cannot be 0; write a whole number from 1 to 10,000, such as 50",
    ),
    (
        "a yes",
        lambda: made(chunk_size=True),
        "Orders.chunk_size cannot be True; write a whole number from 1 to 10,000, such as 50",
    ),
    (
        "no flow",
        lambda: made(execute_flow=5),
        "Orders.execute_flow cannot be 5; write FlowControl(parallelism=10, rate=5), or None for no limits",
    ),
    ("no policy", lambda: made(retry=3), "Orders.retry cannot be 3; write RetryPolicy(retries=3)"),
    ("no flag", lambda: made(walk_first=1), "Orders.walk_first cannot be 1; write True or False"),
    (
        "a flag that went",
        lambda: made(count_first=True),
        "Unknown option 'count_first' of Orders; did you mean 'walk_first'?",
    ),
    ("no time", lambda: made(item_timeout=0), "Orders.item_timeout cannot be 0; write a duration such as '15m'"),
    (
        "no duration",
        lambda: made(processed_ttl="soon"),
        "'Orders.processed_ttl' cannot be 'soon', which is not a duration; write seconds such as 10, text such as "
        "'500ms', '10s', '2h30m' or '7d', or a timedelta",
    ),
    (
        "no URL",
        lambda: made(name="my orders"),
        "Orders.name cannot be 'my orders'; write letters and digits, with '-', '_' or '.' between them",
    ),
    (
        "an entity with a slash",
        lambda: made(entity="a/b"),
        "Orders.entity cannot be 'a/b'; write letters and digits, with '-', '_' or '.' between them",
    ),
    (
        "one route for two",
        lambda: made(entity="sheep", entity_plural="sheep", execute_verb="process"),
        "Orders would serve two layers at '/orders/process-sheep'; set another entity_plural or execute_verb",
    ),
    (
        "a name that is given",
        lambda: made(params=1),
        "Orders.params hides a member that batchflow gives the hooks; use another name",
    ),
]


@pytest.mark.parametrize(("make", "sentence"), [it[1:] for it in REFUSED], ids=[it[0] for it in REFUSED])
def test_a_wrong_class_is_refused_when_it_is_made(make: Callable[[], object], sentence: str) -> None:
    """One sentence names the class, the hook or option, and what to write."""
    with pytest.raises(ConfigurationError) as raised:
        make()
    assert str(raised.value) == sentence
