"""What survives JSON comes back the same, type for type; what does not is refused and named, with the cure."""

import dataclasses
import re
from collections import OrderedDict, defaultdict, deque
from collections.abc import Generator, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Flag, IntEnum, StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic.dataclasses
import pytest
from pydantic import (
    Base64Bytes,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    HttpUrl,
    PlainSerializer,
    RootModel,
    SecretStr,
    field_serializer,
)
from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypedDict

from batchflow.core.codec import Codec
from batchflow.core.roundtrip import find_difference
from batchflow.errors import UnserializableError

STEP = "step 'x:process-item' of 'welcome'"
T = TypeVar("T")
UserId = NewType("UserId", int)


class Color(StrEnum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Right(Flag):
    READ = 1
    WRITE = 2


class Pet(BaseModel):
    name: str


class Dog(Pet):
    age: int = 1


class Cat(BaseModel):
    name: str


class Aliased(BaseModel):
    kind: Literal["aliased"] = Field(default="aliased", alias="Kind")
    number: int = Field(alias="theNumber")


class Other(BaseModel):
    kind: Literal["other"] = Field(default="other", alias="Kind")


class Nested(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)
    one: Annotated[Aliased | Other, Field(discriminator="kind")] = Field(alias="theOne")
    many: dict[str, list[Aliased]] = Field(default_factory=dict[str, list[Aliased]], alias="theMany")


class Open(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)
    number: int


class Box(BaseModel, Generic[T]):
    value: T


class Numbers(RootModel[list[int]]):
    pass


class Hidden(BaseModel):
    shown: int = 0
    hidden: int | None = Field(default=None, exclude=True)


class HiddenRequired(BaseModel):
    hidden: int = Field(exclude=True)


class Login(BaseModel):
    token: Annotated[SecretStr, PlainSerializer(str)]


class Shown(BaseModel):
    token: SecretStr

    @field_serializer("token")
    def _reveal(self, token: SecretStr) -> str:
        return token.get_secret_value()


class Rounded(BaseModel):
    price: Decimal

    @field_serializer("price")
    def _as_float(self, price: Decimal) -> float:
        return round(float(price), 2)


class Broken(BaseModel):
    number: int

    @field_serializer("number")
    def _break(self, number: int) -> int:
        raise RuntimeError("no numbers today")


@dataclasses.dataclass
class Point:
    x: int
    y: Any = None
    made: int = dataclasses.field(default=3, init=False)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Slotted:
    x: Annotated[int, Field(alias="theX")]


@dataclasses.dataclass
class Initial:
    x: int
    plus: dataclasses.InitVar[int]

    def __post_init__(self, plus: int) -> None:
        self.x += plus


@pydantic.dataclasses.dataclass
class Checked:
    x: int
    inner: list[Point] = dataclasses.field(default_factory=list[Point])


class Pair(NamedTuple):
    left: int
    right: str


class Row(TypedDict):
    a: int
    b: str


class Loose(TypedDict, total=False):
    c: Any
    a: "Opaque"
    b: int


class Opaque:
    """No `__eq__`, and a form of its own that keeps only numbers."""

    def __init__(self, value: object) -> None:
        self.value = value

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def read(value: object) -> "Opaque":
            return value if isinstance(value, Opaque) else Opaque(value if isinstance(value, int) else 0)

        def write(value: Opaque) -> object:
            return value.value

        writer = core_schema.plain_serializer_function_ser_schema(write)
        return core_schema.no_info_plain_validator_function(read, serialization=writer)


ALIASED = Aliased.model_validate({"theNumber": 3})

SURVIVORS: list[tuple[Any, Any]] = [
    (None, None),
    (str, 'é "quoted"\n\u2028'),
    (int, -(10**30)),
    (bool, True),
    (float, 0.1),
    (float, 3),
    (list[float], [1, 2.5]),
    (int | str | None, "1"),
    (Any, {"a": [1, None, True, {"b": 2.5}]}),
    (object, "text"),
    (UserId, 5),
    (Literal["a", 1], 1),
    (Color, Color.RED),
    (Level | int, 7),
    (Right, Right.READ | Right.WRITE),
    (dict[Color, Level], {Color.RED: Level.LOW}),
    (dict[int, str], {1: "a", -2: "b"}),
    (dict[Pair | str, int], {"a": 1}),
    (tuple[int, ...], (1, 2)),
    (set[Color], {Color.RED}),
    (frozenset[tuple[int, str]], frozenset({(1, "a")})),
    (bytes, b"text"),
    (Base64Bytes, b"\xff\x00"),
    (complex, 1 + 2j),
    (ByteSize, ByteSize(5)),
    (Decimal, Decimal("1.10")),
    (UUID, UUID(int=7)),
    (Path, Path("/a/b")),
    (IPv4Address, IPv4Address("127.0.0.1")),
    (HttpUrl, HttpUrl("http://example.com/")),
    (re.Pattern[str], re.compile("a+")),
    (date, date(2024, 2, 29)),
    (datetime, datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=UTC)),
    (datetime, datetime(2024, 2, 29, tzinfo=ZoneInfo("UTC"))),
    (datetime, datetime(2024, 2, 29, tzinfo=timezone(timedelta(hours=-5)))),
    (datetime, datetime.fromisoformat("2024-02-29T01:02")),
    (time, time(1, 2, 3, tzinfo=UTC)),
    (timedelta, timedelta(days=-1, microseconds=3)),
    (defaultdict[str, list[int]], defaultdict(list, {"a": [1]})),
    (OrderedDict[str, int], OrderedDict(b=1, a=2)),
    (deque[int], deque([1, 2])),
    (Sequence[int], [1, 2]),
    (Pair, Pair(1, "a")),
    (Row, {"b": "x", "a": 1}),
    (Point, Point(1, [2])),
    (Slotted, Slotted(1)),
    (Checked, Checked(1, [Point(2)])),
    (Pet, Pet(name="Rex")),
    (Pet | Dog, Dog(name="Rex")),
    (list[Pet | None], [Pet(name="Rex"), None]),
    (Nested, Nested.model_validate({"theOne": {"theNumber": 1, "Kind": "aliased"}, "theMany": {"k": [ALIASED]}})),
    (Open, Open.model_validate({"number": 1, "more": [{"a": None}]})),
    (Box[int], Box[int](value=1)),
    (Box[Box[str]], Box[Box[str]](value=Box[str](value="a"))),
    (Numbers, Numbers([1, 2])),
    (Hidden, Hidden(shown=1)),
    (Shown, Shown(token=SecretStr("s"))),
    (Rounded, Rounded(price=Decimal("1.5"))),
]


@pytest.mark.parametrize(("annotation", "value"), SURVIVORS)
def test_value_of_its_declared_type_comes_back_the_same(annotation: Any, value: Any) -> None:
    codec = Codec.of(annotation)
    text, came = codec.round_trip(value, where=STEP)
    assert codec.encode(value) == text
    assert type(codec.decode(text)) is type(came)
    assert codec.decode(text.encode()) == came or isinstance(value, Slotted)
    assert came == value or isinstance(value, Slotted)


def back(other: str, kind: str, path: str = "") -> str:
    return f"{f'the {kind} at {path}' if path else 'it'} comes back as {other}; declare {kind} there, or use {other}"


def keys(kind: str, path: str = "") -> str:
    what = f"{f'the dict at {path}' if path else 'it'} has a key that is {kind} and comes back as str"
    return f"{what}; declare the type of its keys, such as dict[{kind}, …]"


def misfit(declared: str, what: str = "it") -> str:
    return f"{what} is not the declared {declared}; let value and declaration agree"


def unreadable(what: str) -> str:
    return f"it cannot be read back ({what}); let its JSON hold every required part, in a form that its validators take"


MASKED = "is masked in JSON; drop the serializer that masks it; batchflow stores it whole and shows it masked"
KEEP = "let its serializers and validators, or what is declared there, keep the whole value"
FORMLESS = "it holds object, which has no JSON form; use a model, a dataclass or plain data"
DEFAULTS = "it loses its default_factory; use a dict, or the factory that its type declares"
UNION = "it comes back as Pet; declare Cat there, with a discriminator if it is part of a union"
EXCLUDED = "the int at .hidden is excluded from JSON; drop exclude=True, or leave the field at its default"
ROOM = "it loses its maxlen; use a list, and make a deque of it where it is read"
ZONE = "it loses its time zone Europe/Berlin; use UTC, and keep the zone's name beside it"
NO_TEXT = "it holds bytes that are not text; declare Base64Bytes, or use text"
OPAQUE = "it comes back changed; give it an __eq__, and a form that keeps all of it"

LOSSES: list[tuple[Any, Any, str]] = [
    (Pet, Dog(name="Rex"), back("Pet", "Dog")),
    (dict[str, list[Pet]], {"k": [Pet(name="a"), Dog(name="b")]}, back("Pet", "Dog", "['k'][1]")),
    (Pet | Cat, Cat(name="Tom"), UNION),
    (Login, Login(token=SecretStr("hush")), f"the SecretStr at .token {MASKED}"),
    (Any, (1, 2), back("list", "tuple")),
    (Any, [{1}], back("list", "set", "[0]")),
    (Any, Color.RED, back("str", "Color")),
    (str, Color.RED, back("str", "Color")),
    (int, Level.LOW, back("int", "Level")),
    (int, True, back("int", "bool")),
    (Any, Point(1), back("dict", "Point")),
    (Any, Pair(1, "a"), back("list", "Pair")),
    (Any, Pet(name="a"), back("dict", "Pet")),
    (Any, b"raw", back("str", "bytes")),
    (Any, UUID(int=1), back("str", "UUID")),
    (Point, Point(1, (2,)), back("list", "tuple", ".y")),
    (Loose, {"c": (1,)}, back("list", "tuple", "['c']")),
    (Open, Open.model_validate({"number": 1, "more": {"x": (1,)}}), back("list", "tuple", "['more']['x']")),
    (Sequence[int], (1,), back("list", "tuple")),
    (dict[str, int], defaultdict(int, a=1), back("dict", "defaultdict")),
    (set[str], {Color.RED}, back("str", "Color", "[<Color.RED: 'red'>]")),
    (defaultdict[str, int], defaultdict(lambda: 7, a=1), DEFAULTS),
    (deque[int], deque([1], maxlen=2), ROOM),
    (Any, {1: "a"}, keys("int")),
    (Any, {"a": {True: 1}}, keys("bool", "['a']")),
    (dict[str, int], {Color.RED: 1}, keys("Color")),
    (Hidden, Hidden(hidden=4), EXCLUDED),
    (HiddenRequired, HiddenRequired(hidden=4), unreadable(".hidden: Field required")),
    (Initial, Initial(1, 2), unreadable(".plus: Field required")),
    (Rounded, Rounded(price=Decimal("1.999")), f"the Decimal at .price comes back with another value; {KEEP}"),
    (datetime, datetime(2024, 2, 29, tzinfo=ZoneInfo("Europe/Berlin")), ZONE),
    (Broken, Broken(number=1), "it cannot be written ("),
    (str, "\ud800", "it cannot be written ("),
    (bytes, b"\xff", NO_TEXT),
    (Any, [object()], FORMLESS),
    (list[Opaque], [Opaque("x")], OPAQUE),
    (Pet, {"name": "a"}, misfit("Pet")),
    (Pet, Cat(name="a"), misfit("Pet")),
    (Pet, Point(1), misfit("Pet")),
    (Generator[int, None, None], [1], "it comes back as ValidatorIterator; declare list there"),
    (Pet, Pet.model_construct(name=5), misfit("str", "the int at .name")),
    (None, 5, misfit("None")),
    (int | str, 2.5, misfit("int | str")),
    (float, 2**53 + 1, misfit("float")),
    (float, True, misfit("float")),
    (Box[int], Box(value=1), misfit("Box[int]")),
]


@pytest.mark.parametrize(("annotation", "value", "message"), LOSSES)
def test_value_that_does_not_survive_is_refused_in_one_sentence(annotation: Any, value: Any, message: str) -> None:
    with pytest.raises(UnserializableError) as refused:
        Codec.of(annotation).round_trip(value, where=STEP)
    said, expected = str(refused.value), f"{STEP}: {type(value).__name__} does not survive JSON: {message}"
    assert said == expected or (message.endswith("(") and said.startswith(expected))
    assert "\n" not in said


def test_what_has_no_equality_is_compared_by_its_form() -> None:
    text, came = Codec.of(list[Opaque]).round_trip([Opaque(3)], where=STEP)
    assert (text, came[0].value) == ("[3]", 3)
    assert Codec.of(Loose).round_trip({"b": 1, "a": Opaque(3)}, where=STEP)[0] == '{"b":1,"a":3}'


class Vague:
    """Equal to everything, to nothing, or it cannot be told."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> Any:
        return self.answer if self.answer is not None else 1 / 0


FEWER = "let its serializers and validators keep every entry"


@pytest.mark.parametrize(
    ("sent", "came", "said"),
    [
        ([1, 2], [1], f"it comes back with 1 of 2 entries; {FEWER}"),
        ({"a": {"b": 1}}, {"a": {}}, f"the dict at ['a'] comes back with 0 of 1 entries; {FEWER}"),
        ({1, 2}, {1}, f"it comes back with 1 of 2 entries; {FEWER}"),
        ({1, 2}, {1, 3}, "it comes back with other members; declare the type of its members"),
        ({"a": 1}, {"b": 1}, "it comes back with other keys; declare the type of its keys, such as dict[str, …]"),
        ({1: (1,)}, {1: [1]}, back("list", "tuple", "[1]")),
        (Vague(answer=False), Vague(answer=True), f"it comes back with another value; {KEEP}"),
        (Pet.model_construct(), Pet(name="a"), "the field at .name is set on one side only; set every field"),
    ],
)
def test_each_loss_is_said_where_it_happens(sent: object, came: object, said: str) -> None:
    assert str(find_difference(sent, came, [])) == said


def test_what_cannot_be_compared_is_left_to_its_form() -> None:
    unsure: list[type] = []
    sent, came = [Vague(None), Vague("perhaps"), Opaque(1), {Opaque(1)}], [Vague(1), Vague(1), Opaque(1), {Opaque(1)}]
    assert find_difference(sent, came, unsure) is None
    assert unsure == [Vague, Vague, Opaque, Opaque]
