"""Errors that name an option say in parts what is wrong with it, so that every face can render them."""

import pickle
from typing import Any

import pytest

from batchflow.core.flow import FlowControl
from batchflow.errors import ConfigurationError, InputError, NotFoundError


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"problem": "the payload is not JSON"}, "the payload is not JSON"),
        ({"option": "rate", "got": "0", "want": "write 1 or more"}, "'rate' cannot be 0; write 1 or more"),
        ({"problem": "which is negative", "option": "delay", "got": "-5"}, "'delay' cannot be -5, which is negative"),
        ({"problem": "is empty", "option": "ids", "want": "list one"}, "'ids' is empty; list one"),
        (
            {"problem": "exclude each other", "option": "run_id", "other": "dedup_id", "want": "give one"},
            "'run_id' and 'dedup_id' exclude each other; give one",
        ),
    ],
)
@pytest.mark.parametrize("kind", [ConfigurationError, InputError, NotFoundError])
def test_sentence_is_made_of_the_parts(kind: type[InputError], parts: dict[str, Any], sentence: str) -> None:
    error = kind(**parts)
    assert str(error) == error.sentence() == sentence
    assert (error.option, error.got, error.want) == (parts.get("option"), parts.get("got"), parts.get("want"))


def test_sentence_names_options_as_another_face_does() -> None:
    error = InputError("exclude each other", option="run_id", other="dedup_id", want="give one")
    assert error.sentence(str.upper) == "'RUN_ID' and 'DEDUP_ID' exclude each other; give one"


def test_field_is_the_option_as_payloads_spell_it_unless_it_is_given() -> None:
    assert InputError("is empty", option="dedup_id").field == "dedupId"
    assert InputError("is empty", option="ids", field="userIds").field == "userIds"
    assert InputError("the payload is not JSON").field is None


def test_core_names_the_option_the_value_and_the_cure() -> None:
    with pytest.raises(ConfigurationError) as refused:
        FlowControl(rate=0)
    assert (refused.value.option, refused.value.got) == ("rate", "0")
    assert refused.value.want == "write a whole number of 1 or more, or None for no limit"


@pytest.mark.parametrize(
    "error", [ConfigurationError("is wrong", option="a"), InputError("is wrong", option="a", status=409)]
)
def test_pickled_error_keeps_its_parts(error: InputError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert vars(again) == vars(error)
