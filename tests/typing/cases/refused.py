"""What is refused."""

from pydantic import BaseModel

from batchflow import Batchflow, BatchWorkflow, NoParams, Page, WorkflowContext


class Params(BaseModel):
    paid_only: bool = False


class WrongItem(BatchWorkflow[Params, int, str]):
    async def fetch(self, params: Params, cursor: str | None, limit: int) -> Page:
        return Page([])

    # expect-error: "overrides class .BatchWorkflow. in an incompatible manner"
    async def execute(self, item: str) -> str:
        return item


class WrongResult(BatchWorkflow[Params, str, str]):
    async def fetch(self, params: Params, cursor: str | None, limit: int) -> Page:
        return Page([])

    # expect-error: "overrides class .BatchWorkflow. in an incompatible manner"
    async def execute(self, item: str) -> int:
        return len(item)


class WrongItems(BatchWorkflow[Params, int, str], ids_only=True):
    # expect-error: "overrides class .BatchWorkflow. in an incompatible manner"
    async def execute_many(self, items: list[str]) -> list[str]:
        return items


class WrongResults(BatchWorkflow[Params, str, str], ids_only=True):
    # expect-error: "overrides class .BatchWorkflow. in an incompatible manner"
    async def execute_many(self, items: list[str]) -> list[int]:
        return [len(item) for item in items]


class OneResult(BatchWorkflow[Params, str, int], ids_only=True):
    # expect-error: "overrides class .BatchWorkflow. in an incompatible manner"
    async def execute_many(self, items: list[str]) -> int:
        return len(items)


# expect-error: "cannot be assigned to type variable"
class WrongParams(BatchWorkflow[int]):
    async def execute(self, item: str) -> None:
        return None


class WrongPage(BatchWorkflow[Params, str, str]):
    # expect-error: "overrides class .BatchWorkflow. in an incompatible manner"
    async def fetch(self, params: Params, cursor: str | None, limit: int) -> Page[int]:
        return Page(items={"a": 1})

    async def execute(self, item: str) -> str:
        return item


class Right(BatchWorkflow[Params, str, str]):
    async def fetch(self, params: Params, cursor: str | None, limit: int) -> Page:
        return Page([])

    async def execute(self, item: str) -> str:
        return item


flow = Batchflow("sqlite://")
right = flow.add(Right())


def add(one: int, other: int) -> int:
    return one + other


@flow.serve("/onboarding")
async def onboarding(ctx: WorkflowContext[Params]) -> int:
    # expect-error: "No overloads for .run. match"
    # expect-error: "cannot be assigned to parameter"
    await ctx.run("add", add, "one", 2)
    # expect-error: "No overloads for .run. match"
    # expect-error: "cannot be assigned to parameter"
    await ctx.run("add", add, 1, other="two")
    # expect-error: "is not assignable to declared type"
    text: str = await ctx.run("add", add, 1, 2)
    return len(text)


async def use() -> None:
    # expect-error: "cannot be assigned to parameter"
    await right.trigger(NoParams())
    # expect-error: "cannot be assigned to parameter"
    await onboarding.trigger(3)
