"""`processed_per`: the parameters that belong to a workflow's ledger."""

import types
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from batchflow import Batchflow, BatchWorkflow, FlowControl, NoParams, Page
from batchflow.batch.options import LedgerScope
from batchflow.errors import ConfigurationError, InputError
from batchflow.testing import Environment


class Params(BaseModel):
    year: int = 2030
    note: str = ""


class Reports(BatchWorkflow[Params, str, str]):
    """The reports of a year are not those of another."""

    entity = "customer"
    processed_per = ("year",)

    async def fetch(self, params: Params, cursor: str | None, limit: int) -> Page:
        return Page(ids=["c1", "c2"])

    async def execute(self, customer_id: str) -> str:
        return f"report {self.params.year} of {customer_id}"


async def test_what_was_processed_of_one_scope_is_not_of_another() -> None:
    """Marks, filter and dry run go by workflow and scope; other parameters do not matter."""
    flow = Batchflow("sqlite://")
    reports = flow.add(Reports())
    async with Environment(flow) as env:
        for year in (2030, 2031):
            assert (await reports.dry_run(Params(year=year))).to_process == 2
            batch = await env.run(reports, Params(year=year))
            assert batch.results == {f"c{n}": f"report {year} of c{n}" for n in (1, 2)}
            assert (await reports.dry_run(Params(year=year, note="again"))).to_process == 0
            assert (await env.run(reports, Params(year=year))).summary.counts.already_processed == 2


async def test_items_of_one_scope_are_not_in_flight_in_another() -> None:
    """Batches of two years run side by side; two of one year do not."""
    flow = Batchflow("sqlite://")

    class Slow(Reports):
        execute_flow = FlowControl(rate=1)

    reports = flow.add(Slow())
    async with Environment(flow) as env:
        first, other, same = [await env.trigger(reports, Params(year=year)) for year in (2030, 2031, 2030)]
        await env.drive()
        assert first.summary.counts.succeeded == other.summary.counts.succeeded == 2
        assert same.summary.counts.succeeded == 0


async def test_the_ledger_is_asked_and_changed_by_scope() -> None:
    """`processed`, `mark` and `forget` take the parameters that say which one is meant."""
    flow = Batchflow("sqlite://")
    reports = flow.add(Reports())
    async with Environment(flow) as env:
        await reports.mark(["c1"], Params(year=2031, note="by hand"))
        assert await reports.processed(["c1", "c2"], Params(year=2031)) == {"c1"}
        assert await reports.processed(["c1"], Params(year=2030)) == frozenset()
        assert list((await env.run(reports, Params(year=2031))).results) == ["c2"]
        assert await reports.forget(params=Params(year=2031)) == 2
        assert await reports.forget(["c1"], Params(year=2031)) == 0


@pytest.mark.parametrize("verb", ["processed", "mark", "forget"])
async def test_a_ledger_with_a_scope_is_not_guessed(verb: str) -> None:
    """Defaults of the parameters do not say which one is meant."""
    flow = Batchflow("sqlite://")
    reports = flow.add(Reports())
    async with Environment(flow):
        with pytest.raises(InputError) as refused:
            await getattr(reports, verb)(["c1"])
        assert str(refused.value) == (
            "'reports' has a ledger for each 'year'; say which one is meant: params=Params(year=…)"
        )


async def test_a_ledger_without_a_scope_takes_parameters_too() -> None:
    """They say nothing there; those of another workflow are refused all the same."""
    flow = Batchflow("sqlite://")

    @flow.batch
    async def greet(user_id: str) -> None: ...

    async with Environment(flow):
        await greet.mark(["a"], NoParams())
        assert await greet.processed(["a"]) == {"a"}
        wrong: Any = Params()
        with pytest.raises(InputError, match="^'greet' takes NoParams, not Params; pass NoParams"):
            await greet.forget(["a"], wrong)


@dataclass
class Handle:
    number: int


class Odd:
    pass


class Many(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    day: date = date(2030, 1, 2)
    tags: set[str] = set()
    parts: dict[str, int] = {}
    handle: Handle = Handle(7)
    odd: Odd = Field(default_factory=Odd)
    call: Callable[[], int] = int
    key: SecretStr = SecretStr("x")
    keys: list[SecretStr | None] = []
    tenant_id: str = Field(default="", alias="tenantId")


def scope(*names: str) -> LedgerScope:
    return LedgerScope.read("Job", "job", Many, names)


def test_a_scope_is_named_by_values_and_not_by_their_order() -> None:
    """Sets, mappings and the scope itself have no order; other values are what JSON has for them."""
    letters = [f"t{number}" for number in range(20)]
    first = Many(tags=set(letters), parts={"a": 1, "b": 2})
    second = Many(tags=set(letters), parts={"b": 2, "a": 1})
    name = scope("tags", "parts", "day").name_for(first)
    assert name == scope("day", "parts", "tags").name_for(second)
    assert name.startswith('job{"day":"2030-01-02","parts":{"a":1,"b":2},"tags":["t0","t1",')
    assert scope("handle", "tenant_id").name_for(Many(tenantId="é")) == 'job{"handle":{"number":7},"tenant_id":"é"}'
    assert scope().name_for(first) == "job"


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("year", "Job.processed_per cannot be 'year'; write a tuple of names of parameters, such as ('year',)"),
        (["day"], "Job.processed_per cannot be ['day']; write a tuple of names of parameters, such as ('year',)"),
        ((7,), "Job.processed_per cannot be (7,); write a tuple of names of parameters, such as ('year',)"),
        (("dya",), "Job.processed_per names 'dya', not a parameter of Many; did you mean 'day'?"),
        (("tenantId",), "Job.processed_per names 'tenantId', not a parameter of Many; did you mean 'tenant_id'?"),
        (("odd",), "Job.processed_per names 'Many.odd', whose type has no JSON; name another"),
        (("call",), "Job.processed_per names 'Many.call', whose type has no JSON; name another"),
        (("key",), "Job.processed_per names 'Many.key', which is secret, and names of ledgers are shown; name another"),
        (
            ("keys",),
            "Job.processed_per names 'Many.keys', which is secret, and names of ledgers are shown; name another",
        ),
    ],
)
def test_a_scope_that_is_none_is_refused_with_the_class(names: Any, sentence: str) -> None:
    """One sentence, when the class is made."""
    with pytest.raises(ConfigurationError) as refused:
        LedgerScope.read("Job", "job", Many, names)
    assert str(refused.value) == sentence


def test_a_class_names_its_own_parameters() -> None:
    """A misspelt parameter is an error of the class, and so is any parameter of the short form, which has none."""

    class Job(Reports, abstract=True):
        processed_per = ("yaer",)

    with pytest.raises(ConfigurationError, match=r"^Mine.processed_per names 'yaer', not a parameter of Params;"):
        types.new_class("Mine", (Job,))

    flow = Batchflow("sqlite://")

    async def greet(user_id: str) -> None: ...

    with pytest.raises(ConfigurationError, match="names 'year', not a parameter of NoParams, which has none"):
        flow.batch(processed_per=("year",))(greet)
