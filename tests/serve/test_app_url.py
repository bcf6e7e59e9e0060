"""Under which URL a function is reached from outside."""

from typing import Any

import pytest

from batchflow.errors import ConfigurationError
from batchflow.serve.app_url import ROOT_HEADER, PublicUrl, RouterPath, router_url

SEEN = {ROOT_HEADER: "http://10.0.0.7:8000/api/workflows"}
AT = {"router": RouterPath("/api")}
ROOT = {"router": RouterPath("")}
CASES: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, str], str]] = {
    "the request": ({}, {}, SEEN, "http://10.0.0.7:8000/api/workflows"),
    "the request before APP_URL, which it holds": (
        AT,
        {"APP_URL": "https://y.example"},
        SEEN,
        "http://10.0.0.7:8000/api/workflows",
    ),
    "the function's own url": ({"url": "https://x.example/wf/pay"}, {}, SEEN, "https://x.example/wf"),
    "the app's base url, with the path of the request": (
        {"base_url": "https://x.example/", **AT},
        {"APP_URL": "https://y.example"},
        SEEN,
        "https://x.example/api/workflows",
    ),
    "a base url with a path of its own": ({"base_url": "https://x.example/a", **AT}, {}, SEEN, "https://x.example/a"),
    "a base url with the path of the router": (
        {"base_url": "https://x.example", **AT},
        {},
        {},
        "https://x.example/api",
    ),
    "a base url where no router is known": ({"base_url": "https://x.example"}, {}, {}, "https://x.example"),
    "UPSTASH_WORKFLOW_URL before APP_URL": (
        AT,
        {"APP_URL": "https://y.example", "UPSTASH_WORKFLOW_URL": "https://u.example"},
        {},
        "https://u.example/api",
    ),
    "an empty variable": (
        AT,
        {"APP_URL": "https://y.example", "UPSTASH_WORKFLOW_URL": ""},
        {},
        "https://y.example/api",
    ),
    "APP_URL in full where no router is known": ({}, {"APP_URL": "https://y.example/wf/"}, {}, "https://y.example/wf"),
    "APP_URL in full, without a prefix": ({}, {"APP_URL": "https://y.example/"}, {}, "https://y.example"),
    "APP_URL in full": (AT, {"APP_URL": "https://y.example/api"}, {}, "https://y.example/api"),
    "APP_URL as far as the prefix": (AT, {"APP_URL": "https://y.example"}, {}, "https://y.example/api"),
    "APP_URL with the root path of a proxy": (AT, {"APP_URL": "https://y.example/v/"}, {}, "https://y.example/v/api"),
    "APP_URL of a router without a prefix": (ROOT, {"APP_URL": "https://y.example"}, {}, "https://y.example"),
    "BATCHFLOW_APP_URL": (AT, {"BATCHFLOW_APP_URL": "https://y.example"}, {}, "https://y.example/api"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_public_url_is_taken_from_where_it_is_said_first(case: str) -> None:
    options, env, headers, url = CASES[case]
    assert PublicUrl(route="/pay", env=env, **options).resolve(headers) == url


def test_an_unknown_public_url_is_an_error_that_names_the_cure() -> None:
    with pytest.raises(ConfigurationError, match="set APP_URL, or base_url= at @flow.serve"):
        PublicUrl(env={}, router=RouterPath("/api")).resolve({})


def test_half_a_public_url_is_an_error_that_names_the_whole() -> None:
    """Nothing says whether the router has a prefix, and a URL that nobody answers would be given away."""
    with pytest.raises(ConfigurationError) as caught:
        PublicUrl(env={"APP_URL": "https://y.example"}).resolve({})
    assert str(caught.value) == (
        "APP_URL is 'https://y.example', and this process does not know the path of the router there; write it too: "
        "https://y.example/api for one that is included under /api, https://y.example/ for one without a prefix"
    )


@pytest.mark.parametrize("variable", ["UPSTASH_WORKFLOW_URL", "APP_URL", "BATCHFLOW_APP_URL"])
def test_a_variable_that_holds_no_url_is_refused_where_the_function_is_served(variable: str) -> None:
    """By its name."""
    with pytest.raises(ConfigurationError, match=f"^'{variable}' cannot be 'y.example'; write an absolute URL"):
        PublicUrl(route="/pay", env={variable: "y.example"})


@pytest.mark.parametrize(
    ("app_url", "path", "url"),
    [
        ("https://api", "/api", "https://api/api"),
        ("https://h/my/api", "/api", "https://h/my/api"),
        ("https://h/myapi", "/api", "https://h/myapi/api"),
        ("https://h/a/b", "/a", "https://h/a/b/a"),
        ("https://h/", "", "https://h"),
    ],
)
def test_a_router_url_has_the_path_once(app_url: str, path: str, url: str) -> None:
    """At the end of the URL's path, whatever the host is called."""
    assert router_url(app_url, path) == url
