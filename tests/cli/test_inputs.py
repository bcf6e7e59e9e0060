"""The names that `-p` accepts for a payload, by its type."""

from dataclasses import dataclass
from typing import Annotated, Any, Optional

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, JsonValue, RootModel, model_validator
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from batchflow.cli.inputs import InputFields
from batchflow.errors import InputError


class Report(BaseModel):
    year: int = 2030
    paid_only: bool = False


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)

    paid_only: bool = False


class Aliased(BaseModel):
    year: int = Field(2030, validation_alias=AliasChoices("y", "yr"))
    zip_code: str = Field("", validation_alias=AliasPath("address", "zip"))


class Open(Report, extra="allow"):
    pass


class Renamed(Report):
    @model_validator(mode="before")
    @classmethod
    def rename(cls, value: JsonValue) -> JsonValue:
        return value


class Checked(Report):
    @model_validator(mode="after")
    def check(self) -> "Checked":
        return self


class Root(RootModel[Report]):
    pass


class AnyRoot(RootModel[dict[str, int]]):
    pass


class Nothing(BaseModel):
    pass


@dataclass
class Plain:
    year: int = 2030


@pydantic_dataclass
class Fine:
    paid_only: bool = Field(False, alias="paidOnly")


class Typed(TypedDict):
    year: int


@pytest.mark.parametrize(
    ("annotation", "written"),
    [
        (Report, {"year": "year", "paid_only": "paid_only", "paidOnly": "paid_only"}),
        (Camel, {"paid_only": "paidOnly", "paidOnly": "paidOnly"}),
        (Aliased, {"year": "year", "y": "y", "yr": "yr", "zip_code": "zip_code", "address": "address"}),
        (Checked, {"year": "year"}),
        (Root, {"year": "year"}),
        (Annotated[Report, "report"], {"year": "year"}),
        (Report | None, {"year": "year", "paidOnly": "paid_only"}),
        (Optional[Camel], {"paid_only": "paidOnly"}),  # noqa: UP045, how it is written is the subject
        (Report | Camel, {"year": "year", "paid_only": "paid_only", "paidOnly": "paidOnly"}),
        (Plain, {"year": "year"}),
        (Fine, {"paid_only": "paid_only", "paidOnly": "paidOnly"}),
        (Typed, {"year": "year"}),
    ],
)
def test_a_name_that_a_field_goes_by_is_taken(annotation: Any, written: dict[str, str]) -> None:
    """Its own, an alias, camelCase; another one is refused."""
    fields = InputFields.of_payload(annotation, "/reports")
    for name, it in written.items():
        fields.check(name)
        assert fields.field(name) == it
    with pytest.raises(InputError, match="^unknown field 'yaer' of the payload of '/reports'; (did you|known are) "):
        fields.check("yaer")


@pytest.mark.parametrize(
    "annotation", [Open, Renamed, AnyRoot, dict[str, int], Any, list[int], str, type(None), Report | dict[str, int]]
)
def test_a_type_that_takes_other_names_takes_all(annotation: Any) -> None:
    """And so does one that has no fields of its own: whether it fits is for its own validation to say."""
    fields = InputFields.of_payload(annotation, "/reports")
    fields.check("yaer")
    assert fields.field("yaer") == "yaer"


def test_a_model_without_fields_takes_none() -> None:
    """The error says so."""
    with pytest.raises(InputError, match="^unknown field 'a' of the payload of '/reports', which has no fields$"):
        InputFields.of_payload(Nothing, "/reports").check("a")
