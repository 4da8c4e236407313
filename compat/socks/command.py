"""SOCKS5, SOCKS4a and HTTP CONNECT for unmodified programs, each connection from its own one-time address."""

from __future__ import annotations

import asyncio
import json as json_format
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated

import typer

from compat.openfiles import allow_files
from compat.socks.node import NodeBinder
from compat.socks.server import SocksServer
from compat.socks.services import Services
from compat.socks.session import PasswordTable
from compat.socks.settings import DEFAULT_HOST, DEFAULT_PORT, SocksLimits, SocksSettings
from compat.speaker import counted
from compat.up import BridgeOption, EventsOption, NetnsOption, PrefixOption, StateOption, node_settings, run_service
from tapstack.tcp.options import PortMode
from unimux.cli.settings import Configuration
from unimux.endpoint import endpoint_text
from unimux.node import Node


async def serve_socks(
    node: Node,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    *,
    users: Mapping[str, str] | None = None,
    limits: SocksLimits | None = None,
    mode: PortMode | None = None,
    sock: socket.socket | None = None,
) -> SocksServer:
    """A running front end of `node`; the caller closes it.

    users: passwords by user, None for everybody (loopback only).  mode: of its connections, None for the node's default.
    sock: a bound socket in place of host and port.  Raises `SetupError` where it cannot listen.
    """
    services = Services(
        dialler=node,
        binder=NodeBinder(node),
        datagrams=node.datagrams,
        authenticator=None if users is None else PasswordTable(users),
        limits=limits or SocksLimits(),
        mode=mode,
    )
    server = SocksServer(services)
    await server.start(host, port, sock=sock)
    return server


def socks(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default=DEFAULT_HOST)] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default=str(DEFAULT_PORT))] = None,
    user: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:PASSWORD", help="Who may use it; may be given several times.", show_default=False),
    ] = None,
    bridge: BridgeOption = None,
    prefix: PrefixOption = None,
    netns: NetnsOption = None,
    state: StateOption = None,
    events: EventsOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one object when it listens and one at the end.")] = False,
) -> int:
    """Attach a node and serve SOCKS5, SOCKS4a and HTTP CONNECT with it until stopped.

    A user name of the form NAME-session-ID keeps one address for that session, for 10 minutes.

    NAME-session-ID-ttl-TIME says how long: in seconds, or as in 30m or 2h, at most 24 hours.
    """
    settings = Configuration.here().table("socks", SocksSettings, {"host": host, "port": port, "users": user}).value
    users = settings.passwords()
    attachment = node_settings(bridge=bridge, prefix=prefix, netns=netns, state=state, events=events)
    allow_files()

    async def serve(node: Node, begin: Callable[[], None]) -> None:
        async with await serve_socks(
            node, settings.host, settings.port, users=users, limits=settings.limits()
        ) as server:
            _tell_begin(server, json)
            begin()
            try:
                await asyncio.Event().wait()
            finally:
                with suppress(OSError):  # the terminal may be gone
                    _tell_end(server, json)

    return run_service(attachment, serve)


def _tell_begin(server: SocksServer, json: bool) -> None:
    if json:
        typer.echo(json_format.dumps({"listening": [{"host": host, "port": port} for host, port in server.addresses]}))
        return
    for host, port in server.addresses:
        where = endpoint_text(host, port)
        text = f"SOCKS5, SOCKS4a and HTTP CONNECT on {where}; try: curl --socks5-hostname {where} URL"
        typer.echo(f"unimux: {text}", err=True)


def _tell_end(server: SocksServer, json: bool) -> None:
    counts = server.counters.as_dict()
    if json:
        typer.echo(json_format.dumps(counts))
    else:
        served = f"{counted(counts['accepted'], 'client')}, {counted(server.counters.requests.total(), 'request')}"
        moved = f"{counts['bytes_up']} bytes up, {counts['bytes_down']} down"
        typer.echo(f"unimux: {served}, {server.counters.failed.total()} failed, {moved}.", err=True)
