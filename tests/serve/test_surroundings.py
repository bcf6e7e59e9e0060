"""Under which URL a function is reached from outside."""

from typing import Any

import pytest

from batchflow.errors import ConfigurationError
from batchflow.serve.surroundings import ROOT_HEADER, Surroundings

SEEN = {ROOT_HEADER: "http://10.0.0.7:8000/api/workflows"}
CASES: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, str], str]] = {
    "the request": ({}, {}, SEEN, "http://10.0.0.7:8000/api/workflows"),
    "the function's own url": ({"url": "https://x.example/wf/pay"}, {}, SEEN, "https://x.example/wf"),
    "the app's base url, with the path of the request": (
        {"base_url": "https://x.example/"},
        {"APP_URL": "https://y.example"},
        SEEN,
        "https://x.example/api/workflows",
    ),
    "a base url with a path of its own": ({"base_url": "https://x.example/a"}, {}, SEEN, "https://x.example/a"),
    "a base url where no request is known": ({"base_url": "https://x.example"}, {}, {}, "https://x.example"),
    "UPSTASH_WORKFLOW_URL before APP_URL": (
        {},
        {"APP_URL": "https://y.example", "UPSTASH_WORKFLOW_URL": "https://u.example"},
        {},
        "https://u.example",
    ),
    "APP_URL": ({}, {"APP_URL": "https://y.example/wf/"}, {}, "https://y.example/wf"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_public_url_is_taken_from_where_it_is_said_first(case: str) -> None:
    options, env, headers, url = CASES[case]
    assert Surroundings(route="/pay", env=env, **options).public_url(headers) == url


def test_an_unknown_public_url_is_an_error_that_names_the_cure() -> None:
    with pytest.raises(ConfigurationError, match="set APP_URL, or base_url= at @flow.serve"):
        Surroundings(env={}).public_url({})
