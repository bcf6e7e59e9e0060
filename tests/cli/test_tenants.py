"""`batchflow tokens` and `batchflow keys`, on the store alone."""

import re

import pytest

from tests.cli.command_line import CommandLine


@pytest.fixture
def store(command: CommandLine) -> CommandLine:
    """The command in a folder that has a store."""
    command("run", command.target, "--limit", "1", "--json")
    return command


def test_a_token_is_shown_once(store: CommandLine) -> None:
    """With the keys of its tenant, as a file of variables; the list has its id alone."""
    assert store("tokens").out == "No tokens\n"
    lines = store("tokens", "add", "shop").out.splitlines()
    names = [it.partition("=")[0] for it in lines[:3]]
    assert names == ["QSTASH_TOKEN", "QSTASH_CURRENT_SIGNING_KEY", "QSTASH_NEXT_SIGNING_KEY"]
    assert re.fullmatch("# Token [0-9a-f]{16} of the tenant shop; it is not shown again", lines[3])
    added = store("tokens", "add", "shop", "--json").document
    assert added["current"] == lines[1].partition("=")[2]
    listed = store("tokens", "list").out
    assert (listed.count(" shop "), added["id"] in listed, added["token"] in listed) == (2, True, False)
    document = store("tokens", "list", "--json").document["tokens"][1]
    assert {name: document[name] for name in ("id", "tenant")} == {"id": added["id"], "tenant": "shop"}
    assert store("tokens", "add", "my shop").is_usage_error("'tenant' cannot be 'my shop'")


def test_a_revoked_token_is_gone(store: CommandLine) -> None:
    """Whoever revokes it names it in full, and is asked."""
    id = store("tokens", "add", "shop", "--json").document["id"]
    assert store("tokens", "revoke", id).is_usage_error("there is no terminal to confirm it")
    assert store("tokens", "revoke", id[:8], "--yes").is_usage_error(f"there is no token '{id[:8]}'")
    assert store("tokens", "revoke", id, "--yes").out == f"Revoked token {id} of the tenant shop\n"
    assert store("tokens", "revoke", id, "--yes").code == 2
    assert store("tokens", "list", "--json").document == {"tokens": []}


def test_keys_are_shown_and_rotated(store: CommandLine) -> None:
    """The next key becomes the current one; a tenant that nobody has made has none."""
    assert store("keys", "show").is_usage_error("there is no tenant 'default'")
    store("tokens", "add", "shop")
    before = store("keys", "show", "shop", "--json").document
    lines = store("keys", "rotate", "shop").out.splitlines()
    after = store("keys", "show", "shop", "--json").document
    assert lines == [f"QSTASH_CURRENT_SIGNING_KEY={after['current']}", f"QSTASH_NEXT_SIGNING_KEY={after['next']}"]
    assert (after["current"], after["next"] in before.values(), after["tenant"]) == (before["next"], False, "shop")
