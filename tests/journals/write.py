"""`python -m tests.journals.write`: records the functions that have no record yet; what is there stays as it is."""

import asyncio

from tests.house.sources import ROOT
from tests.journals.functions import Functions, Order
from tests.journals.record import Record, place
from tests.scenarios.scenario_app import Scene


async def write() -> list[str]:
    """The names of what was written."""
    missing = [name for name in Functions(Scene(always_replay=False)).served if not place(name).exists()]
    for name in missing:
        scene = Scene(always_replay=False)
        run = await scene.to_the_end(Functions(scene).served[name].trigger(Order()))
        # Tracebacks name files; where they lie on this machine is nobody's business.
        text = Record.of(run).model_dump_json(indent=1).replace(f"{ROOT}/", "")
        place(name).write_text(text + "\n")
        await scene.flow.stop()
    return missing


if __name__ == "__main__":
    asyncio.run(write())
