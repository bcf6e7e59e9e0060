"""`batchflow items`: the history of one item over the batches of its workflow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from batchflow.cli.options import JsonOption, UrlOption
from batchflow.cli.output import STATE_STYLES, Output, print_table, program_name, time_column
from batchflow.cli.target import open_batches
from batchflow.core.batch import Item
from batchflow.core.report import headline, one_line
from batchflow.http.schemas.items import ItemHistory

_TITLES = ("batch", "number", "state", "attempts")


@dataclass(frozen=True, kw_only=True)
class ListItemHistory:
    """List the latest batches of WORKFLOW that have started ITEM, newest first.

    Exit codes: 0 listed, 1 none of them has, 2 usage.
    """

    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="The name of the workflow.")]
    item: Annotated[str, typer.Argument(metavar="ITEM", help="The id of the item, as the source gives it.")]
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Show at most N batches.")] = 20
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the list; 1 if it is empty."""
        async with open_batches(self.url) as engine:
            found = await engine.store.find_items(self.workflow, self.item, self.limit)
        if self.as_json:
            Output().print_json(ItemHistory.of(self.workflow, self.item, found).document())
        else:
            _print_history(Output(), self.workflow, self.item, found)
        return 0 if found else 1


def _print_history(output: Output, workflow: str, id: str, found: Sequence[tuple[str, Item]]) -> None:
    if not found:
        output.print(f"No batch of '{workflow}' here has started '{id}'; it may have been skipped as already processed")
        return
    ended, times = time_column("ended", [item.ended_at for _, item in found])
    rows = [
        [batch, f"{item.number:,}", item.state, f"{item.attempts:,}", time, one_line(headline(item.error or ""))]
        for (batch, item), time in zip(found, times, strict=True)
    ]
    styles = [STATE_STYLES.get(item.state, "") for _, item in found]
    print_table(output, [*_TITLES, ended, ""], rows, styles, numbers={"number", "attempts"})
    output.print(f"more: {program_name()} batches item {found[0][0]} {found[0][1].number}", style="dim")
