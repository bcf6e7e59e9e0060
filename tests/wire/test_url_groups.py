"""The endpoints of URL groups: unique by URL and by name."""

import pytest

from batchflow.wire.url_groups import GroupEndpoint, endpoints_text, read_endpoints, with_endpoints

A, B = GroupEndpoint("https://a.example", "a"), GroupEndpoint("https://b.example")


@pytest.mark.parametrize(
    ("added", "becomes"),
    [
        (GroupEndpoint("https://c.example"), [A, B, GroupEndpoint("https://c.example")]),
        (GroupEndpoint("https://a.example"), [A, B]),
        (GroupEndpoint("https://a.example", "x"), [GroupEndpoint("https://a.example", "x"), B]),
        (GroupEndpoint("https://x.example", "a"), [GroupEndpoint("https://x.example", "a"), B]),
        (GroupEndpoint("https://b.example", "a"), [GroupEndpoint("https://b.example", "a")]),
    ],
    ids=["new", "known", "renamed", "moved", "both"],
)
def test_an_endpoint_replaces_those_with_its_url_or_name(added: GroupEndpoint, becomes: list[GroupEndpoint]) -> None:
    """It takes the place of the first of them."""
    assert with_endpoints([A, B], [added]) == becomes


def test_endpoints_survive_their_text() -> None:
    """With and without a name."""
    assert read_endpoints(endpoints_text([A, B])) == [A, B]
