"""Schedules that are wrong: refused where they are written down, or as the mistake of a caller."""

import types
from typing import Any

import pytest

from batchflow import Batchflow, BatchWorkflow, Page, Schedule, WorkflowContext
from batchflow.errors import ConfigurationError, DuplicateNameError, InputError, NotFoundError
from tests.app.test_schedules import Deploys, Report, Sync, place, reports

__all__ = ["place"]


async def test_schedules_of_unknown_names_are_refused(place: Deploys) -> None:
    """With what was meant."""
    flow = place.app(reports("0 * * * *"))
    await place.drive(flow)
    await flow.start()
    with pytest.raises(NotFoundError, match=r"did you mean 'reports\.daily'"):
        await flow.schedules.create("report.daily", "0 * * * *")
    with pytest.raises(NotFoundError, match=r"did you mean 'reports\.daily'"):
        await flow.schedules.get("reports-daily")
    for verb in (flow.schedules.pause, flow.schedules.resume, flow.schedules.trigger):
        with pytest.raises(NotFoundError, match="no schedule 'other'"):
            await verb("other")
    await flow.stop()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"cron": "0 3 * *"}, "cron"),
        ({"timezone": "Europe/Berln"}, "timezone"),
        ({"overlap": "never"}, "overlap"),
        ({"id": "a b"}, "id"),
        ({"id": "reports.daily"}, "id"),
        ({"payload": {"kind": 5}}, "payload"),
        ({"payload": object()}, "payload"),
        ({"params": {}}, "params"),
        ({"label": ""}, "label"),
        ({"headers": {"a b": "c"}}, "headers"),
    ],
)
async def test_create_refuses_what_is_wrong(place: Deploys, options: dict[str, Any], field: str) -> None:
    """As a mistake of the caller, with the option at fault; nothing is stored."""
    flow = place.app(reports("0 * * * *"))
    await flow.start()
    options = {"cron": "0 3 * * *", "payload": {}, **options}
    if "params" in options:
        del options["payload"]
    with pytest.raises(InputError) as caught:
        await flow.schedules.create("reports.daily", **options)
    assert (caught.value.status, caught.value.field) == (422, field)
    assert await flow.schedules.list() == []
    await flow.stop()


def _workflow(schedule: object, *, source: bool = True) -> type[Any]:
    async def fetch(self: Any, params: Sync, cursor: str | None, limit: int) -> Page:
        return Page(ids=[])

    async def execute(self: Any, item: str) -> str:
        return item

    members: dict[str, Any] = {
        "schedule": schedule,
        "execute": execute,
        "__annotations__": {},
        **({"fetch": fetch} if source else {}),
    }
    options = {} if source else {"ids_only": True}
    return types.new_class("Nightly", (BatchWorkflow[Sync, str, str],), options, lambda space: space.update(members))


@pytest.mark.parametrize(
    ("schedule", "phrase"),
    [
        ("0 3 * *", "4 fields"),
        (3, "cron expression"),
        (Schedule("0 3 * * *", params=Report()), "Sync"),
        (Schedule("0 3 * * *", payload={}), "'params'"),
        (Schedule("0 3 * * *", params=[1]), "Sync"),
        (Schedule("0 3 * * *", label=""), "label"),
        (Schedule("0 3 * * *", headers={"a b": "c"}), "headers"),
        (Schedule("0 3 * * *", params={"paidOny": True}), "paidOnly"),
        (Schedule("0 3 * * *", params={"paidOnly": True, "force": True}), "parameters only"),
    ],
)
def test_workflow_with_a_wrong_schedule_is_refused(schedule: object, phrase: str) -> None:
    """When its class is made, or it is added at the latest, in one sentence that names the class."""
    with pytest.raises(ConfigurationError, match=phrase) as caught:
        Batchflow("sqlite://").add(_workflow(schedule)())
    assert str(caught.value).startswith("Nightly.schedule: ")


def test_workflow_without_a_source_has_no_schedule() -> None:
    """Nobody would name its items."""
    with pytest.raises(ConfigurationError, match="no source of ids"):
        _workflow("0 3 * * *", source=False)


@pytest.mark.parametrize(
    ("schedule", "phrase"),
    [
        ("0 3 * *", "4 fields"),
        (Schedule("0 3 * * *", params={}), "'payload'"),
        (Schedule("0 3 * * *", payload={"kind": 5}), "kind"),
        (5, "cron expression"),
    ],
)
def test_function_with_a_wrong_schedule_is_refused(schedule: Any, phrase: str) -> None:
    """When it is declared."""
    with pytest.raises(ConfigurationError, match=phrase):
        reports(schedule)(Batchflow("sqlite://"))


def test_two_declared_schedules_of_one_name_are_refused() -> None:
    """A workflow and a function may have the same name, and then not both a schedule."""
    flow = Batchflow("sqlite://")
    flow.add(_workflow("0 3 * * *")())

    with pytest.raises(DuplicateNameError, match="'nightly'"):

        @flow.serve("/nightly", schedule="0 3 * * *")
        async def nightly(ctx: WorkflowContext[Any]) -> None:
            return None
