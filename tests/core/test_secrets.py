"""Secret values: stored and read as they are, and masked wherever their JSON is shown."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

import pydantic
import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    SecretBytes,
    SecretStr,
    SerializerFunctionWrapHandler,
    StringConstraints,
    field_serializer,
    model_serializer,
)
from typing_extensions import TypeAliasType, TypedDict

from batchflow import Secret
from batchflow.core.codec import Codec
from batchflow.core.secrets import (
    MASK,
    masked_text,
    masked_value,
    printable_text,
    revealed_value,
    secret_texts,
    without_secrets,
)
from batchflow.errors import ConfigurationError

T = TypeVar("T")
CANARY = "s3cr3t-canary"
HIDDEN = SecretStr(CANARY)
THEN = datetime(2031, 1, 1, tzinfo=UTC)


class Account(BaseModel):
    """A mark, beside a field that is no secret."""

    key: Annotated[str, Secret] = "preset"
    number: int = 1


class Either(BaseModel):
    """Marks on members of unions."""

    key: Annotated[str, Secret] | None
    either: Annotated[int, Secret] | str


class Login(TypedDict):
    """A dict with types."""

    key: Annotated[str, Secret]
    password: SecretStr


@dataclass
class Card:
    """A dataclass."""

    number: Annotated[int, Secret]
    code: SecretStr
    name: str = "Ada"


class Cat(BaseModel):
    """One member of a union."""

    kind: Literal["cat"] = "cat"
    token: SecretStr


class Dog(BaseModel):
    """Another member, with the same field."""

    kind: Literal["dog"] = "dog"
    token: Annotated[str, Secret]


class Revealing(BaseModel):
    """Its JSON reveals the fields, as applications write it that need it."""

    token: SecretStr
    other: SecretStr | None = None

    @field_serializer("token", "other", when_used="json")
    def _reveal(self, value: SecretStr | None) -> str | None:
        return None if value is None else value.get_secret_value()


class WholeRevealing(BaseModel):
    """Its JSON is code."""

    token: SecretStr

    @model_serializer
    def _reveal(self) -> dict[str, str]:
        return {"token": self.token.get_secret_value()}


class Wrapping(BaseModel):
    """Its JSON is code around pydantic's."""

    token: SecretStr

    @model_serializer(mode="wrap")
    def _as_it_is(self, write: SerializerFunctionWrapHandler) -> Any:
        return write(self)


class Box(BaseModel, Generic[T]):
    """A generic model."""

    value: T


class Tree(BaseModel):
    """It contains itself, and its fields have the names of a schema's parts."""

    type: SecretStr
    default: Annotated[str, Secret] = CANARY
    metadata: SecretStr = HIDDEN
    serialization: SecretStr = HIDDEN
    kids: list["Tree"] = []


class Aliased(BaseModel):
    """Its field has another name in JSON of others."""

    key: Annotated[str, Secret, Field(alias="X-Key")]


class Late(BaseModel):
    """Its schema is built when it is used."""

    model_config = ConfigDict(defer_build=True)

    token: SecretStr


class ApiKey(SecretStr):
    """A secret type of a user."""


Root = RootModel[SecretStr]
Key = TypeAliasType("Key", Annotated[str, Secret])
Keys = TypeAliasType("Keys", list[SecretStr])

VALUES: list[tuple[Any, Any, Any]] = [
    (Annotated[str, Secret], CANARY, MASK),
    (Annotated[str, Secret()], CANARY, MASK),
    (Annotated[str | None, Secret], CANARY, MASK),
    (Annotated[str | None, Secret], None, None),
    (Annotated[str, Secret, Field(min_length=3)], CANARY, MASK),
    (Annotated[str, StringConstraints(min_length=3), Secret], CANARY, MASK),
    (Annotated[datetime, Secret], THEN, MASK),
    (Annotated[float, Secret], 1e22, MASK),
    (Annotated[bytes, Secret], CANARY.encode(), MASK),
    (Annotated[Account, Secret], Account(key=CANARY), MASK),
    (Annotated[list[Account], Secret], [Account(key=CANARY)], MASK),
    (Annotated[dict[str, int], Secret], {CANARY: 1}, MASK),
    (Annotated[SecretStr, Secret], HIDDEN, MASK),
    (Annotated[SecretStr, PlainSerializer(SecretStr.get_secret_value)], HIDDEN, MASK),
    (SecretStr, HIDDEN, MASK),
    (SecretStr | None, None, None),
    (SecretBytes, SecretBytes(CANARY.encode()), MASK),
    (ApiKey, ApiKey(CANARY), MASK),
    (pydantic.Secret[datetime], pydantic.Secret[datetime](THEN), MASK),
    (pydantic.Secret[Account], pydantic.Secret[Account](Account(key=CANARY)), MASK),
    (list[SecretStr], [HIDDEN], [MASK]),
    (set[SecretStr], {HIDDEN}, [MASK]),
    (dict[str, SecretStr], {"a": HIDDEN}, {"a": MASK}),
    (tuple[int, SecretStr], (1, HIDDEN), [1, MASK]),
    (Account, Account(key=CANARY), {"key": MASK, "number": 1}),
    (Login, Login(key=CANARY, password=HIDDEN), {"key": MASK, "password": MASK}),
    (Card, Card(5, HIDDEN), {"number": MASK, "code": MASK, "name": "Ada"}),
    (Cat | Dog, Cat(token=HIDDEN), {"kind": "cat", "token": MASK}),
    (Cat | Dog, Dog(token=CANARY), {"kind": "dog", "token": MASK}),
    (Annotated[Cat | Dog, Field(discriminator="kind")], Cat(token=HIDDEN), {"kind": "cat", "token": MASK}),
    (Annotated[Cat | Dog, Field(discriminator="kind")], Dog(token=CANARY), {"kind": "dog", "token": MASK}),
    (SecretStr | str, HIDDEN, MASK),
    (SecretStr | int, 5, 5),
    (Either, Either(key=CANARY, either="plain"), {"key": MASK, "either": "plain"}),
    (Either, Either(key=None, either=5), {"key": None, "either": MASK}),
    (Revealing, Revealing(token=HIDDEN, other=HIDDEN), {"token": MASK, "other": MASK}),
    (WholeRevealing, WholeRevealing(token=HIDDEN), MASK),
    (list[Wrapping], [Wrapping(token=HIDDEN)], [MASK]),
    (Box[SecretStr], Box[SecretStr](value=HIDDEN), {"value": MASK}),
    (Box[Dog], Box[Dog](value=Dog(token=CANARY)), {"value": {"kind": "dog", "token": MASK}}),
    (
        Tree,
        Tree(type=HIDDEN, kids=[Tree(type=HIDDEN)]),
        {
            **(own := {"type": MASK, "default": MASK, "metadata": MASK, "serialization": MASK}),
            "kids": [{**own, "kids": []}],
        },
    ),
    (Aliased, Aliased.model_validate({"X-Key": CANARY}), {"key": MASK}),
    (Late, Late(token=HIDDEN), {"token": MASK}),
    (Root, Root(HIDDEN), MASK),
    (Key, CANARY, MASK),
    (Keys, [HIDDEN], [MASK]),
]


@pytest.mark.parametrize(("annotation", "value", "shown"), VALUES)
def test_secret_is_stored_as_it_is_and_shown_masked(annotation: Any, value: Any, shown: Any) -> None:
    """It comes back whole from its JSON text, and whoever shows that text masks it without knowing the type."""
    codec = Codec.of(annotation)
    text, received = codec.round_trip(value, where="here")
    assert codec.has_secrets
    assert received == value == codec.decode(codec.encode(value)) == codec.decode(text.encode())
    assert type(received) is type(value)
    assert masked_value(text) == json.loads(masked_text(text)) == shown


def test_secret_is_read_by_any_type_as_it_is() -> None:
    """Code that declares plain data, or has dropped the mark since, gets the value without a mark."""
    text = Codec.of(Account).encode(Account(key=CANARY))
    assert Codec.of(Any).decode(text) == Codec.of(dict[str, Any]).decode(text) == {"key": CANARY, "number": 1}
    assert revealed_value(text) == {"key": CANARY, "number": 1}


def test_secret_that_was_stored_before_it_was_marked_is_read() -> None:
    """A text of an older version of the type has no marks."""
    assert Codec.of(Account).decode(f'{{"key":"{CANARY}"}}') == Account(key=CANARY)


@pytest.mark.parametrize("annotation", [str, list[int], Any, dict[str, Any], Box[int]])
def test_type_without_secrets_is_written_as_before(annotation: Any) -> None:
    """It costs nothing that other types have secrets."""
    assert not Codec.of(annotation).has_secrets


def test_secret_as_a_key_is_refused() -> None:
    """JSON has no place for a mark there."""
    with pytest.raises(ConfigurationError, match="the key of a dict cannot be secret"):
        Codec.of(dict[SecretStr, int])


def test_secret_is_a_password_in_a_schema() -> None:
    """It is described as a value that is sent and never answered, beside its own constraints."""
    schema = Codec.of(Annotated[str, Secret, Field(min_length=3)]).json_schema()
    assert schema == {"type": "string", "minLength": 3, "format": "password", "writeOnly": True}


def test_secret_of_a_model_leaves_the_model_as_it_is() -> None:
    """A mark on one value of a model says nothing about others."""
    assert Codec.of(Annotated[Box[int], Secret]).has_secrets
    assert not Codec.of(Box[int]).has_secrets


def test_token_and_password_are_found_in_any_text() -> None:
    """A token in its URL or by itself, a password in a URL."""
    text = "see https://a.test/webhooks/run_1.whk_0a1b?x=1, or 'me@x.whk_0a1b'"
    assert printable_text(text) == f"see https://a.test/webhooks/{MASK}?x=1, or '{MASK}'"
    assert printable_text("at redis://ada:hush@one:1/0, (http://u:p@h)") == (
        f"at redis://ada:{MASK}@one:1/0, (http://u:{MASK}@h)"
    )
    assert printable_text("see https://a.test/x:y@z and me@a.test") == "see https://a.test/x:y@z and me@a.test"
    assert masked_text('{"a":"run_1.whk_0a1b"}') == f'{{"a":"{MASK}"}}'


def test_secret_of_a_stored_value_is_hidden_in_a_text() -> None:
    """As it is or as a repr shows it; a short one only as a word of its own, and not among all others."""
    stored = Codec.of(dict[str, SecretStr | Annotated[list[int], Secret] | str]).encode(
        {"a": SecretStr("line\nbreak"), "b": [123456, 7], "c": SecretStr("ada1"), "d": "plain"}
    )
    secrets = [*secret_texts(stored)]
    assert secrets == ["line\nbreak", "123456", "7", "ada1"]
    text = "no 'line\\nbreak' nor line\nbreak (123456, 7) of ada1 in /home/ada12/plain.py"
    assert without_secrets(text, secrets) == f"no '{MASK}' nor {MASK} ({MASK}, 7) of {MASK} in /home/ada12/plain.py"
    assert [*secret_texts('{"a":1}')] == []
