"""What cannot be the name of a step, and what the store never takes: the run ends with a sentence, and does no work."""

from typing import Any

import pytest

from batchflow.core.run import Step
from batchflow.core.settlement import Effect
from batchflow.errors import StoreError
from batchflow.serve.context import WorkflowContext
from tests.serve.store_model import Calls, Model, endpoint, first_line

Context = WorkflowContext[Any]


NAMES = {
    "nothing": (None, "None"),
    "a number": (5, "5"),
    "empty": ("", "''"),
    "too long": ("x" * 501, f"'{'x' * 99}…"),
    "half a surrogate pair, as in names of files": ("caf\udce9.txt", "'caf\\udce9.txt'"),
    "swapped with the function": (first_line, "the function 'first_line'"),
}


@pytest.mark.parametrize(("name", "shown"), NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("how", ["run", "sleep"])
async def test_what_cannot_be_the_name_of_a_step_is_refused_where_it_is_asked_for(
    name: Any, shown: str, how: str
) -> None:
    """At once and for good: nothing is executed, and no retry would help."""
    calls = Calls()

    async def run(ctx: Context) -> None:
        await (ctx.run(name, calls("charge")) if how == "run" else ctx.sleep(name, 60))

    ending = await Model().drive(endpoint(run))
    assert (ending.ending, calls.made) == ("dead", [])
    assert first_line(ending) == (
        f"ConfigurationError: a step cannot have the name {shown}; its first argument is a text of 1 to 500 "
        "characters, as in ctx.run('charge', charge, order_id)"
    )


async def test_a_step_that_the_store_never_takes_ends_the_run() -> None:
    """It is executed once, where a store that is away for now would have it executed again."""
    calls = Calls()

    class Refusing(Model):
        async def record(self, claim: str, fence: int, step: Step, effects: tuple[Effect, ...] = ()) -> Any:
            raise StoreError("the disk is of stone")

    async def run(ctx: Context) -> None:
        try:
            await ctx.run("charge", calls("charge"))
        except Exception:
            calls.made.append("caught")

    ending = await Refusing().drive(endpoint(run))
    assert (ending.ending, calls.made) == ("dead", ["charge"])
    assert first_line(ending) == "UnserializableError: step 'charge' cannot be stored: the disk is of stone"
