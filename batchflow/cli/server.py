"""`batchflow server`: answers and delivers as QStash does, for the unmodified SDKs of Upstash."""

import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import typer

from batchflow.app import Batchflow
from batchflow.cli.options import UrlOption, option_names, url_option
from batchflow.cli.output import LogWriter, Output, print_pairs, program_name
from batchflow.cli.process import SignalHandler
from batchflow.cli.target import check_server_settings, location_text
from batchflow.cli.tenants import DEFAULT_TENANT, has_keys, key_variables, print_variables, signing_keys
from batchflow.cli.worker import print_stopping, run_unless_stopped
from batchflow.engine.engine import Engine
from batchflow.engine.push_settings import PushSettings
from batchflow.errors import InputError
from batchflow.settings import Settings

_ALLOW_VARIABLE = "BATCHFLOW_PUSH_ALLOW"


@dataclass(frozen=True, kw_only=True)
class RunServer:
    """Serve the REST API of QStash and deliver its messages, until SIGTERM or Ctrl-C.

    The unmodified SDKs of Upstash use it with the environment variables that the first start prints. Any number of
    servers can share a store.

    At the stop, deliveries under way have the grace period (BATCHFLOW_GRACE, 10 seconds) to end; the rest is released.

    Exit codes: 0 stopped, 2 usage, configuration or incompatible store, 130 and 143 stopped at once.
    """

    host: Annotated[str, typer.Option(metavar="HOST", help="The address to listen on.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65_535, metavar="N", help="The port; 0 takes a free one.")] = 8080
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NETWORK",
            help="Deliver to addresses that are not public, too: loopback, private, or such as 10.1.0.0/16; can be "
            "repeated. By default loopback while HOST is loopback.",
        ),
    ] = None
    url: UrlOption = None

    async def execute(self) -> int:
        """Serve until a signal comes."""
        # Imported by this command alone, and not by the help.
        from batchflow.cli.http_server import serve_http

        output = Output()
        with _listen(self.host, self.port) as listener:
            flow = self._make_app()
            app, grace = flow.server, flow.settings.grace.total_seconds()
            with SignalHandler(grace) as signals, LogWriter(flow.settings.log_level, output):
                try:
                    if await run_unless_stopped(signals, self._start(flow, listener, output)):
                        await serve_http(
                            app, listener, signals, grace_seconds=grace, on_stop=lambda: print_stopping(flow, output)
                        )
                finally:
                    await flow.stop()
                output.print("Stopped")
        return 0

    def _make_app(self) -> Batchflow:
        check_server_settings(Settings.load(url=self.url))
        # The app reads its settings when it is made.
        if self.allow:
            allow = ",".join(self.allow)
            with option_names():
                PushSettings.of(allow=allow)
            os.environ[_ALLOW_VARIABLE] = allow
        elif _is_loopback(self.host):
            os.environ.setdefault(_ALLOW_VARIABLE, "loopback")
        return Batchflow(self.url)

    async def _start(self, flow: Batchflow, listener: socket.socket, output: Output) -> None:
        await flow.engine.open(wait=True)
        token = await _first_token(flow.engine)
        pair = await signing_keys(flow.engine).of(DEFAULT_TENANT)
        await flow.start()
        url = _url_of(listener)
        if token is None:
            _print_later_start(output, url, flow.settings)
        else:
            variables = {"QSTASH_URL": url, "QSTASH_TOKEN": token, **key_variables(pair)}
            _print_first_start(output, variables, reaches_loopback=flow.settings.push.allows("127.0.0.1"))
        if not _is_loopback(self.host):
            warning = "tokens and messages can be read on their way to this server; put a proxy with TLS in front of it"
            output.stderr.print(f"warning: {warning}", style="yellow", soft_wrap=True)
        where = location_text(flow.engine.store)
        output.print(f"Serving QStash at {url} from {where}; Ctrl-C stops it", flush=True)


def _print_first_start(output: Output, variables: Mapping[str, str], *, reaches_loopback: bool) -> None:
    target = "http://localhost:3000/" if reaches_loopback else "https://example.com/"
    print_variables(output, variables)
    output.print()
    output.print("The token is not shown again. A first message, to an app of yours:")
    output.print()
    output.print(f"curl -H 'Authorization: Bearer {variables['QSTASH_TOKEN']}' -d hello \\")
    output.print(f"  {variables['QSTASH_URL']}/v2/publish/{target}")
    output.print()


def _print_later_start(output: Output, url: str, settings: Settings) -> None:
    print_variables(output, {"QSTASH_URL": url})
    program, option = program_name(), url_option(settings)
    rows = {
        "another token:": f"{program} tokens add {DEFAULT_TENANT}{option}",
        "the keys:": f"{program} keys show{option}",
    }
    print_pairs(output, rows)


async def _first_token(engine: Engine) -> str | None:
    """The first token of the default tenant; None after the first start."""
    from batchflow.server.tokens import TokenStore

    return None if await has_keys(engine, DEFAULT_TENANT) else await TokenStore(engine).create(DEFAULT_TENANT)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens, before anything is opened.

    Raises:
        InputError: the address cannot be used.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        what = (error.strerror or str(error)).partition(" (")[0]
        raise InputError(f"cannot listen on {host} port {port}: {what}; choose others with --host and --port") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _url_of(listener: socket.socket) -> str:
    """The URL of the server, as a program on this machine or, if it listens on all addresses, on others has it."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
