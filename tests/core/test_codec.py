"""The codec: text by field name, one codec per type, and what a function declares to return."""

import functools
import gc
import math
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NewType, NoReturn, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, computed_field

from batchflow.core.codec import Codec, return_type, type_name
from batchflow.errors import ConfigurationError, UnserializableError

STEP = "step 'x:process-item' of 'welcome'"
T = TypeVar("T")
UserId = NewType("UserId", int)
LIMITED = Annotated[int, Field(gt=1)]


class Pet(BaseModel):
    name: str


class Cat(BaseModel):
    name: str


class Box(BaseModel, Generic[T]):
    value: T


class Lax(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    number: float


def numbers() -> Generator[int, None, None]:
    yield 1


class Quiet(BaseModel):
    number: int
    _seen: int = PrivateAttr(default=0)

    def look(self) -> None:
        self._seen += 1

    @computed_field
    @functools.cached_property
    def double(self) -> int:
        return self.number * 2


class Aliased(BaseModel):
    kind: Literal["aliased"] = Field(default="aliased", alias="Kind")
    number: int = Field(alias="theNumber")
    choice: int = Field(default=0, validation_alias=AliasChoices("a", "b"))
    path: int = Field(default=0, validation_alias=AliasPath("deep", "down"))


def test_private_and_computed_parts_of_a_model_do_not_disturb() -> None:
    quiet = Quiet(number=2)
    assert quiet.double == 4
    quiet.look()
    text, came = Codec.of(Quiet).round_trip(quiet, where=STEP)
    assert (text, came.number) == ('{"number":2}', 2)


def test_text_is_written_by_field_name_and_read_by_it_alone() -> None:
    codec = Codec.of(Aliased)
    aliased = Aliased.model_validate({"theNumber": 1, "a": 2})
    assert codec.encode(aliased) == '{"kind":"aliased","number":1,"choice":2,"path":0}'
    assert codec.decode('{"number":1}').number == 1
    with pytest.raises(ValidationError, match="number\n  Field required"):
        codec.decode('{"theNumber":1}')
    assert list(codec.json_schema()["properties"]) == ["kind", "number", "choice", "path"]


NUMBER = "JSON knows no such number, use None or text in its place"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("annotation", [float, float | None, Any])
def test_number_that_json_does_not_know_is_refused_wherever_it_stands(annotation: Any, number: float) -> None:
    for holder, value, place in (
        (annotation, number, "it"),
        (list[annotation], [1.0, number], "the float at [1]"),
        (Box[annotation], Box[annotation](value=number), "the float at .value"),
        (dict[str, list[annotation]], {"k": [number]}, "the float at ['k'][0]"),
    ):
        with pytest.raises(UnserializableError) as refused:
            Codec.of(holder).round_trip(value, where=STEP)
        assert str(refused.value).endswith(f"does not survive JSON: {place} is {number}; {NUMBER}")


def test_nan_is_refused_even_where_its_type_has_a_form_for_it() -> None:
    assert math.isnan(Codec.of(Lax).decode(Codec.of(Lax).encode(Lax(number=math.nan))).number)
    with pytest.raises(UnserializableError, match=r"the float at \.number is nan; "):
        Codec.of(Lax).round_trip(Lax(number=math.nan), where=STEP)
    with pytest.raises(UnserializableError, match=r"it is NaN; "):
        Codec.of(Annotated[Decimal, Field(allow_inf_nan=True)]).round_trip(Decimal("NaN"), where=STEP)
    with pytest.raises(UnserializableError, match=r"it is sNaN; "):
        Codec.of(Decimal).round_trip(Decimal("sNaN"), where=STEP)


@pytest.mark.parametrize("annotation", [Any, Iterable[int], Generator[int, None, None]])
def test_what_can_be_read_only_once_is_refused(annotation: Any) -> None:
    with pytest.raises(UnserializableError, match=r": it can be read only once; use a list$"):
        Codec.of(annotation).round_trip(numbers(), where=STEP)


# Deep data is slow to draw on a busy machine.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@unhurried
@given(JSON)
def test_plain_data_survives_without_a_declaration(value: Any) -> None:
    _, came = Codec.of(Any).round_trip(value, where=STEP)
    assert repr(came) == repr(value)


@unhurried
@given(JSON)
def test_text_is_the_same_with_and_without_the_fast_path(value: Any) -> None:
    text, came = Codec.of(Any).round_trip([value], where=STEP)
    assert text == f"[{Codec.of(Any).round_trip(value, where=STEP)[0]}]"
    assert Codec.of(Any).decode(text) == came == [value]


def test_encoding_refuses_what_is_not_of_the_declared_type() -> None:
    with pytest.raises(UnserializableError) as refused:
        Codec.of(Pet).encode({"name": "a"})
    said = "the value: dict does not survive JSON: it is not the declared Pet; let value and declaration agree"
    assert str(refused.value) == said


@pytest.mark.parametrize("value", ["\ud800", 10**4_300], ids=["surrogate", "digits"])
def test_plain_value_that_cannot_be_written_or_read_again_is_refused(value: str | int) -> None:
    for annotation in (type(value), Any, list[Any]):
        with pytest.raises(UnserializableError, match=r" does not survive JSON: it cannot be "):
            Codec.of(annotation).round_trip([value] if annotation == list[Any] else value, where=STEP)


def test_codec_of_a_type_is_built_once() -> None:
    assert Codec.of(Pet) is Codec.of(Pet)
    assert Codec.of(list[Pet]) is Codec.of(list[Pet])
    assert Codec.of(Annotated[int, ["unhashable"]]).round_trip(5, where=STEP) == ("5", 5)


def test_unions_in_another_order_are_read_in_their_own() -> None:
    """They are equal to Python, and which was seen first must not decide what a replay gives."""
    for first, second in ((Pet, Cat), (Cat, Pet)):
        assert type(Codec.of(first | second).decode('{"name":"a"}')) is first


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (threading.Thread | None, "Thread | None has no JSON form: pydantic has none"),
        (list[Exception], "list[Exception] has no JSON form: pydantic has none"),
    ],
)
def test_type_without_a_json_form_is_refused_when_its_codec_is_made(annotation: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Codec.of(annotation)
    assert str(refused.value) == f"{message}; declare a model, a dataclass or plain data"


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        (None, "None"),
        (Any, "Any"),
        (Pet, "Pet"),
        (Box[int], "Box[int]"),
        (Pet | None, "Pet | None"),
        (list[Pet] | None, "list[Pet] | None"),
        (dict[str, tuple[int, ...]], "dict[str, tuple[int, ...]]"),
        (Annotated[int, Field(gt=1)], "int"),
        (Literal["a", 1], "Literal['a', 1]"),
        (UserId, "UserId"),
    ],
)
def test_type_is_described_in_short(annotation: Any, name: str) -> None:
    assert type_name(annotation) == name
    assert repr(Codec.of(annotation)) == f"Codec({name})"


class Worker:
    async def work(self, item: object) -> Pet:
        return Pet(name=str(item))

    async def __call__(self) -> "list[Pet]":
        return []

    @staticmethod
    def idle() -> None: ...

    @classmethod
    def build(cls) -> "Worker":
        return cls()


def traced(fn: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(fn)
    def wrapper(*args: Any) -> Any:
        return fn(*args)

    return wrapper


def later() -> Coroutine[Any, Any, Pet | None]:
    raise NotImplementedError


def declaring(**annotations: Any) -> Callable[[], object]:
    """A function of this module with these annotations, as they stand in its source."""

    def fn() -> object: ...

    fn.__annotations__ = {name.removesuffix("_"): annotation for name, annotation in annotations.items()}
    return fn


@pytest.mark.parametrize(
    ("fn", "declared"),
    [
        (Worker().work, Pet),
        (Worker.work, Pet),
        (Worker(), list[Pet]),
        (Worker.idle, type(None)),
        (Worker.build, Worker),
        (Worker, Worker),
        (traced(Worker.build), Worker),
        (functools.partial(functools.partial(Worker().work, 1)), Pet),
        (functools.partial(traced(traced(later))), Pet | None),
        (functools.lru_cache(later), Pet | None),
        (declaring(return_=Pet | Awaitable[Pet]), Pet),
        (declaring(return_="Awaitable[Pet] | None"), Pet | None),
        (declaring(return_="Pet", item="NotImported"), Pet),
        (declaring(return_=None), type(None)),
        (declaring(return_=NoReturn), type(None)),
        (declaring(return_=LIMITED), LIMITED),
        (declaring(), Any),
        (len, Any),
    ],
)
def test_return_type_is_what_the_function_declares(fn: Callable[..., object], declared: Any) -> None:
    assert return_type(fn) == declared
    assert return_type(fn) is return_type(fn)


@pytest.mark.parametrize(
    ("declared", "fault"),
    [
        ("Nowhere", f"there is no 'Nowhere' in '{__name__}'"),
        ("dict[str, Nowhere]", f"there is no 'Nowhere' in '{__name__}'"),
        ("not a type", "that is not a type (Forward reference must be an expression -- got 'not a type')"),
    ],
)
def test_return_type_that_does_not_exist_is_refused(declared: str, fault: str) -> None:
    fn = declaring(return_=declared)
    with pytest.raises(ConfigurationError) as refused:
        return_type(fn)
    cure = "name a type that the module defines or imports at its top, outside TYPE_CHECKING"
    assert str(refused.value) == f"'{fn.__qualname__}' declares to return '{declared}', but {fault}; {cure}"


def test_codec_of_a_result_is_built_once_for_each_function() -> None:
    """Also where its type cannot be hashed, as one with a `Field` cannot."""
    limited = declaring(return_=LIMITED)
    assert Codec.of_result(limited) is Codec.of_result(functools.partial(limited))
    assert Codec.of_result(Worker().work) is Codec.of(Pet)
    assert Codec.of_result(len) is Codec.of(Any)


def test_return_type_is_forgotten_with_its_function() -> None:
    def local() -> int:
        return 1

    Codec.of_result(local)
    gone = weakref.ref(local)
    del local
    gc.collect()
    assert gone() is None
