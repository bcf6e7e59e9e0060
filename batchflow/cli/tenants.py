"""`batchflow tokens` and `batchflow keys`: the tokens and the signing keys of the tenants of a QStash server."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import typer

from batchflow.cli.groups import CommandGroup
from batchflow.cli.options import JsonOption, UrlOption, YesOption, confirm
from batchflow.cli.output import Output, print_table, time_column
from batchflow.cli.target import open_server
from batchflow.engine.engine import Engine
from batchflow.engine.signing_keys import KeyPair, SigningKeys
from batchflow.errors import InputError
from batchflow.http.schemas.base import ApiModel, required_datetime

# The modules of the server are imported when they are used: they bring FastAPI, which the help does not need.

DEFAULT_TENANT = "default"
"""The tenant that the first start of a server makes."""

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant.")]

tokens = typer.Typer(cls=CommandGroup, help="Make, list and revoke tokens of a QStash server.", rich_markup_mode=None)
keys = typer.Typer(
    cls=CommandGroup, help="Show and rotate the keys that sign what a QStash server delivers.", rich_markup_mode=None
)


class TokenDocument(ApiModel):
    """A token as it may be shown."""

    id: str
    tenant: str
    created_at: datetime


class TokenList(ApiModel):
    """The tokens of all tenants."""

    tokens: list[TokenDocument]


class KeysDocument(ApiModel):
    """The signing keys of a tenant."""

    tenant: str
    current: str
    next: str


class NewTokenDocument(KeysDocument):
    """A new token, which is not shown again, and the signing keys of its tenant."""

    id: str
    token: str


@tokens.command("add")
@dataclass(frozen=True, kw_only=True)
class AddToken:
    """Make a token of TENANT, which is new or has others, and print the environment variables for its apps.

    The token is not shown again.
    """

    tenant: TenantArgument
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Make the token and print it."""
        from batchflow.server.tokens import TokenStore, token_id

        async with open_server(self.url) as engine:
            token = await TokenStore(engine).create(self.tenant)
            pair = await signing_keys(engine).of(self.tenant)
        id = token_id(token)
        if self.as_json:
            document = NewTokenDocument(id=id, tenant=self.tenant, token=token, **pair._asdict())
            Output().print_json(document.document())
        else:
            print_variables(Output(), {"QSTASH_TOKEN": token, **key_variables(pair)})
            # A file of variables takes this line for a comment.
            Output().print(f"# Token {id} of the tenant {self.tenant}; it is not shown again")
        return 0


@tokens.command("list")
@dataclass(frozen=True, kw_only=True)
class ListTokens:
    """List the tokens of all tenants, by their ids.

    `batchflow tokens` without a command does the same.
    """

    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the list."""
        from batchflow.server.tokens import TokenStore

        async with open_server(self.url) as engine:
            found = await TokenStore(engine).list()
        if self.as_json:
            listed = [
                TokenDocument(id=it.id, tenant=it.tenant, created_at=required_datetime(it.created_at)) for it in found
            ]
            Output().print_json(TokenList(tokens=listed).document())
        elif not found:
            Output().print("No tokens")
        else:
            title, times = time_column("made", [it.created_at for it in found], "%Y-%m-%d %H:%M")
            rows = [(it.id, it.tenant, at) for it, at in zip(found, times, strict=True)]
            print_table(Output(), ["token", "tenant", title], rows, [""] * len(rows))
        return 0


@tokens.command("revoke")
@dataclass(frozen=True, kw_only=True)
class RevokeToken:
    """Revoke a token: servers refuse it after at most 5 seconds.

    Exit codes: 0 revoked, 2 there is no such token.
    """

    id: Annotated[str, typer.Argument(metavar="ID", help="The id of the token, as 'tokens list' shows it.")]
    yes: YesOption = False
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Ask, and revoke the token."""
        from batchflow.server.tokens import TokenStore

        async with open_server(self.url) as engine:
            store = TokenStore(engine)
            found = [it for it in await store.list() if it.id == self.id]
            if not found:
                raise InputError(f"there is no token '{self.id}'; 'batchflow tokens list' shows the ids of all")
            confirm(f"Revoke the token {self.id} of the tenant {found[0].tenant}", yes=self.yes)
            await store.revoke(self.id)
        if self.as_json:
            Output().print_json({"id": self.id, "tenant": found[0].tenant})
        else:
            Output().print(f"Revoked token {self.id} of the tenant {found[0].tenant}")
        return 0


@keys.command("show")
@dataclass(frozen=True, kw_only=True)
class ShowKeys:
    """Show the signing keys of TENANT (default) as environment variables for receivers.

    Exit codes: 0 shown, 2 there is no such tenant.
    """

    tenant: TenantArgument = DEFAULT_TENANT
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Print the keys."""
        async with open_server(self.url) as engine:
            await _check_tenant(engine, self.tenant)
            pair = await signing_keys(engine).of(self.tenant)
        _print_keys(self.tenant, pair, as_json=self.as_json)
        return 0


@keys.command("rotate")
@dataclass(frozen=True, kw_only=True)
class RotateKeys:
    """Rotate the signing keys of TENANT (default): the next key signs from now on, and a new one is the next.

    Receivers that know both old keys accept what is signed with the next one. Give them both new keys before you rotate
    again. Servers sign with the new key after at most 5 seconds.

    Exit codes: 0 rotated, 2 there is no such tenant.
    """

    tenant: TenantArgument = DEFAULT_TENANT
    url: UrlOption = None
    as_json: JsonOption = False

    async def execute(self) -> int:
        """Rotate the keys and print them."""
        async with open_server(self.url) as engine:
            await _check_tenant(engine, self.tenant)
            pair = await signing_keys(engine).rotate(self.tenant)
        _print_keys(self.tenant, pair, as_json=self.as_json)
        return 0


def signing_keys(engine: Engine) -> SigningKeys:
    """The signing keys in the store of an engine."""
    from batchflow.server.context import wire_store

    return SigningKeys(wire_store(engine), engine.entropy, engine.now)


async def has_keys(engine: Engine, tenant: str) -> bool:
    """True for a tenant that has had a token or a message; keys are made with the first of them."""
    from batchflow.server.context import wire_store

    return await wire_store(engine).document("keys", tenant) is not None


def key_variables(pair: KeyPair) -> Mapping[str, str]:
    """The environment variables in which receivers look for the keys."""
    return {"QSTASH_CURRENT_SIGNING_KEY": pair.current, "QSTASH_NEXT_SIGNING_KEY": pair.next}


def print_variables(output: Output, values: Mapping[str, str]) -> None:
    """Print environment variables, one a line."""
    for name, value in values.items():
        output.print(f"{name}={value}")


async def _check_tenant(engine: Engine, tenant: str) -> None:
    if not await has_keys(engine, tenant):
        raise InputError(f"there is no tenant '{tenant}'; 'batchflow tokens add {tenant}' makes one")


def _print_keys(tenant: str, pair: KeyPair, *, as_json: bool) -> None:
    if as_json:
        Output().print_json(KeysDocument(tenant=tenant, **pair._asdict()).document())
    else:
        print_variables(Output(), key_variables(pair))
