"""Netcat for one-time addresses: standard input to a service address and back, or one session taken on a fresh one."""

from __future__ import annotations

import asyncio
import errno
import json as json_format
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated

import typer

from compat.standard import CHUNK, Standard
from compat.up import BridgeOption, EventsOption, NetnsOption, PrefixOption, StateOption, node_settings, run_node
from tapstack.types import valid_peer
from unimux.control import check_name
from unimux.endpoint import endpoint_text, parse_endpoint, parse_prefix
from unimux.errors import UnimuxError, WrongUsage
from unimux.node import CONNECT_TIMEOUT, Node
from unimux.purpose import Purpose
from unimux.server import Server
from unimux.ssa.counters import CounterFile, counter_file_name
from unimux.ssa.issue import DEFAULT_LIFETIME, check_terms, client_network
from unimux.ssa.secret import SharedSecret
from unimux.ssa.secretclient import SecretClient
from unimux.ssa.secretfile import read_secret
from unimux.ssa.token import Token, TokenError, TokenExpired


class Interrupted(UnimuxError):
    """The session ended before both streams did."""

    exit_code = 1


class NobodyCame(UnimuxError):
    """An SSA expired before its client connected."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect to: a host or address, a port (None: any will do), and the token, if it was one."""

    host: str
    port: int | None
    token: Token | None = None

    @classmethod
    def parse(cls, text: str, port: int | None, wall: float) -> Target:
        """Read a token, an address with or without port, HOST:PORT, or a host beside a port.

        >>> Target.parse("[2001:db8::1]:80", None, 0.0)
        Target(host='2001:db8::1', port=80, token=None)
        >>> Target.parse("www.example", 80, 0.0).host
        'www.example'

        Raises `TokenExpired` for a token that is over, `WrongUsage` where there is nothing to connect to.
        """
        target = cls._parse(text, port, wall)
        try:
            address = IPv6Address(target.host)
        except ValueError:  # a name
            return target
        if not valid_peer(address.packed):
            raise WrongUsage(f"{text!r} names no place to connect to: {address} cannot be the address of a peer.")
        return target

    @classmethod
    def _parse(cls, text: str, port: int | None, wall: float) -> Target:
        if "://" in text:
            token = Token.parse(text)
            if token.expired(wall):
                raise TokenExpired(f"The token's time was over at {token.until}: ask for a new one.")
            return cls(str(token.address), token.port if port is None else port, token)
        try:
            bare = Token.parse(text)
        except TokenError:
            found = parse_endpoint(text) if port is None else None
            if found is not None:
                return cls(*found)
            if port is None or not text or ":" in text:
                raise WrongUsage(
                    f"{text!r} names no place to connect to: give a token, [ADDRESS], [ADDRESS]:PORT, HOST:PORT or HOST PORT."
                ) from None
            return cls(text, port)
        return cls(str(bare.address), bare.port if port is None else port)


OUTPUT_CLOSED = "output closed"
"""How a session ended of which nobody reads any more what comes."""


@dataclass(slots=True)
class Report:
    """What a session was; times in seconds."""

    local: str = ""
    remote: str = ""
    sent: int = 0
    received: int = 0
    seconds: float = 0.0
    ended: str = "complete"


async def converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, standard: Standard, now: Callable[[], float]
) -> Report:
    """Carry standard input out and what comes back to standard output, until both are over.

    The end of one stream is not the end of the other; only a person at a terminal is not waited for when the peer has
    ended.  Raises `Interrupted` for a session that was reset.
    """
    report = Report()
    host, port = writer.get_extra_info("sockname")[:2]
    report.local = endpoint_text(host, port)
    host, port = writer.get_extra_info("peername")[:2]
    report.remote = endpoint_text(host, port)
    began = now()

    async def out() -> None:
        while data := await standard.read():
            writer.write(data)
            report.sent += len(data)
            await writer.drain()
        writer.write_eof()
        writer.transport.set_write_buffer_limits(high=0)
        await writer.drain()  # until the peer has all of it: what a node that is closed still holds would be lost

    sending = asyncio.get_running_loop().create_task(out())
    try:
        while data := await reader.read(CHUNK):
            report.received += len(data)
            await standard.write(data)
        if not sending.done() and standard.at_terminal:
            report.ended = "peer closed"
        else:
            await sending
    except BrokenPipeError:
        report.ended = OUTPUT_CLOSED
    except ConnectionError as error:
        report.ended = "reset"
        raise Interrupted(
            f"{report.remote} ended the session early ({str(error) or 'reset'}): {report.received} bytes came."
        ) from error
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        report.seconds = round(now() - began, 6)
        writer.close()
    return report


def _tell(report: Report, json: bool, verbose: bool) -> None:
    """Standard output belongs to the data; what we say goes to standard error.  Raises BrokenPipeError where nobody took all."""
    if json:
        typer.echo(json_format.dumps(asdict(report)), err=True)
    elif verbose:
        ways = f"{report.sent} bytes out, {report.received} in"
        text = f"{report.local} ↔ {report.remote}: {ways}, {report.seconds:.3f} s, {report.ended}"
        typer.echo(f"unimux: {text}.", err=True)
    if report.ended == OUTPUT_CLOSED:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


# -- commands --------------------------------------------------------------------------------------------

JsonOption = Annotated[bool, typer.Option("--json", help="Print one object about the session on standard error.")]


def _seconds(value: float) -> float:
    if not 0 < value < math.inf:
        raise typer.BadParameter(f"{value:g} is no time to wait: give seconds, more than 0.")
    return value


VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Say on standard error what happens.")]


def connect(
    target: Annotated[
        str,
        typer.Argument(
            help="A token, [ADDRESS] with :PORT or without (then 1024), HOST:PORT, or HOST before a port; "
            "with a secret, the service's name."
        ),
    ],
    port: Annotated[
        int | None, typer.Argument(min=1, max=65535, help="Port; an SSA does not look at it.", show_default=False)
    ] = None,
    timeout: Annotated[float, typer.Option(callback=_seconds, help="Seconds to connect.")] = CONNECT_TIMEOUT,
    secret_file: Annotated[
        Path | None,
        typer.Option(help="Secret shared with the server; needs --server-prefix and --state.", show_default=False),
    ] = None,
    secret_client: Annotated[str, typer.Option(help="Our name in the sequence of the secret.")] = "client",
    server_prefix: Annotated[
        str | None, typer.Option(help="Prefix of the server's addresses, for a shared secret.", show_default=False)
    ] = None,
    verbose: VerboseOption = False,
    bridge: BridgeOption = None,
    prefix: PrefixOption = None,
    netns: NetnsOption = None,
    state: StateOption = None,
    events: EventsOption = None,
    json: JsonOption = False,
) -> int:
    """Connect from a one-time address; standard input goes out, what comes back goes to standard output.

    Exit status: 0 both streams ended in order, 1 the session was reset or is not read, 4 it did not come about, 130 interrupted.
    """
    attachment = node_settings(bridge=bridge, prefix=prefix, netns=netns, state=state, events=events)
    shared = None
    if secret_file is not None:
        shared = _shared(secret_file, target, secret_client, server_prefix, attachment.state)
    where = None if shared is not None else Target.parse(target, port, time.time())

    async def work(node: Node) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        if shared is not None:
            transport = await _by_secret(node, *shared, protocol, port, timeout)
        else:
            assert where is not None
            transport = await _to_place(node, where, protocol, timeout)
        writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
        _tell(await converse(reader, writer, Standard(), node.now), json, verbose)

    return run_node(attachment, work)


async def _to_place(node: Node, where: Target, protocol: asyncio.BaseProtocol, timeout: float) -> asyncio.Transport:
    token = where.token
    transport, _ = await node.create_connection(
        lambda: protocol,
        where.host,
        where.port,
        mode=None if token is None else token.mode,
        timeout=timeout,
        purpose=Purpose(front_end="connect", service=None if token is None else token.service),
    )
    return transport


def _shared(
    file: Path, service: str, client: str, server_prefix: str | None, state: str | None
) -> tuple[SharedSecret, IPv6Network, Path]:
    """What a connect by shared secret needs; raises `SetupError`, `WrongUsage` for what is missing on the command line."""
    if server_prefix is None or state is None:
        raise WrongUsage(
            "A shared secret needs to know where the server is and where to keep count: --server-prefix, --state."
        )
    try:
        network = parse_prefix(server_prefix)
    except ValueError as error:
        raise WrongUsage(f"--server-prefix: {server_prefix!r} is not an IPv6 prefix: {error}.") from None
    secret = read_secret(file)
    shared = SharedSecret(secret, check_name(service), check_name(client))
    return shared, network, Path(state) / counter_file_name(secret, "client", service, client)


async def _by_secret(
    node: Node,
    shared: SharedSecret,
    network: IPv6Network,
    file: Path,
    protocol: asyncio.BaseProtocol,
    port: int | None,
    timeout: float,
) -> asyncio.Transport:
    with CounterFile(file) as counters:
        with suppress(TimeoutError):  # then the first try says what is missing
            await node.ready(1, timeout)
        client = SecretClient(node, shared, network, counters)
        transport, _ = await client.create_connection(lambda: protocol, port, timeout=timeout)
        return transport


def listen(
    service: Annotated[str, typer.Argument(help="Name of the service in the token.")] = "netcat",
    client: Annotated[
        str | None, typer.Option(help="Address or prefix of the only client.", show_default="anybody")
    ] = None,
    lifetime: Annotated[
        float, typer.Option(callback=_seconds, help="Seconds to wait for the client.")
    ] = DEFAULT_LIFETIME,
    verbose: VerboseOption = False,
    bridge: BridgeOption = None,
    prefix: PrefixOption = None,
    netns: NetnsOption = None,
    state: StateOption = None,
    events: EventsOption = None,
    json: JsonOption = False,
) -> int:
    """Take one session on a fresh SSA, whose token is printed on standard error, and carry it as `connect` does.

    Exit status: 0 both streams ended in order, 1 the session was reset or is not read, 4 nobody came, 130 interrupted.
    """
    attachment = node_settings(bridge=bridge, prefix=prefix, netns=netns, state=state, events=events)
    check_name(service)
    client_network(client)
    check_terms(1, lifetime)

    async def work(node: Node) -> None:
        came: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
            asyncio.get_running_loop().create_future()
        )

        def factory() -> asyncio.StreamReaderProtocol:
            reader = asyncio.StreamReader()
            return asyncio.StreamReaderProtocol(reader, lambda r, w: came.set_result((r, w)))

        server = Server(node, factory, node.config.socket, service, purpose=Purpose(front_end="listen"))
        ssa = await server.issue(client=client, lifetime=lifetime)
        token = str(Token(ssa.address, service=service, sessions=1))
        if json:
            facts = {"token": token, "address": str(ssa.address), "client": client, "seconds": lifetime}
            typer.echo(json_format.dumps(facts), err=True)
        else:
            typer.echo(token, err=True)
        try:
            async with asyncio.timeout(lifetime):
                reader, writer = await came
        except TimeoutError:
            raise NobodyCame(f"Nobody connected to {ssa.address} within {lifetime:g} s: issue another one.") from None
        finally:
            server.close()
        _tell(await converse(reader, writer, Standard(), node.now), json, verbose)

    return run_node(attachment, work)
