"""What an app is made of is checked when it is made."""

from typing import Any

import pytest

from batchflow import Batchflow, QStash
from batchflow.errors import ConfigurationError
from batchflow.testing import ManualClock

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"store": 5}, "'store' cannot be 5; write a URL such as redis://HOST:PORT, a store, or QStash()"),
    (
        {"store": QStash},
        "'store' cannot be the class 'QStash'; write a URL such as redis://HOST:PORT, a store, or QStash()",
    ),
    (
        {"store": {"url": "redis://:s3cr3t@one"}},
        "'store' cannot be a dict; write a URL such as redis://HOST:PORT, a store, or QStash()",
    ),
    ({"ledger": True}, "'ledger' cannot be True; write a URL such as redis://HOST:PORT, or a ledger"),
    ({"worker": "no"}, "'worker' cannot be 'no'; write True or False"),
    (
        {"clock": ManualClock},
        "'clock' cannot be the class 'ManualClock'; write a clock, such as ManualClock() in tests",
    ),
    ({"entropy": 7}, "'entropy' cannot be 7; write what yields random bytes, such as FixedEntropy() in tests"),
]


@pytest.mark.parametrize(("options", "sentence"), WRONG)
def test_a_wrong_option_of_an_app_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Batchflow(**options)
    assert str(caught.value) == sentence
