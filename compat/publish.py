"""An unmodified server behind one-time addresses, printed, served by DNS, or known to who shares a secret."""

from __future__ import annotations

import json as json_format
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Any

import typer

from compat.attachment import NodeSettings, complain
from compat.publisher import SCHEMES, Backend, Publisher, published
from compat.publishsettings import LifetimeOption, PublishSettings, SessionsOption
from compat.up import BridgeOption, EventsOption, NetnsOption, PrefixOption, StateOption, node_settings, run_node
from tapstack.tcp.options import PortMode
from unimux.cli.settings import Configuration
from unimux.control import check_name, control_server
from unimux.errors import SetupError, UnimuxError
from unimux.node import Node
from unimux.ssa.counters import CounterFile, counter_file_name
from unimux.ssa.dnsresponder import Asker, Responder
from unimux.ssa.dnsserver import DnsServer
from unimux.ssa.issue import ServiceAddress, client_network
from unimux.ssa.secret import SecretWindow, SharedSecret
from unimux.ssa.secretfile import read_secret
from unimux.state import DiskState

Tell = Callable[[str, Mapping[str, Any], str | None], None]
"""`tell(event, facts, text)`: one object for programs, or the text, where there is one, for people."""


class Outstanding(UnimuxError):
    """So many SSAs that were asked for by DNS wait for their clients that none is added."""


async def serve_publication(
    node: Node, publisher: Publisher, settings: PublishSettings, attachment: NodeSettings, tell: Tell
) -> None:
    """Deliver the SSAs of a service in every way that the settings name, until cancelled."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(control_server(publisher))
        if settings.secret_file is not None:
            for window in _windows(node, publisher, settings, attachment):
                window.start(node.now())
                stack.push(_closing(window, node))
            node.driver.kick()
            names = ", ".join(settings.secret_clients)
            tell("secret", {"clients": settings.secret_clients}, f"shared secret: addresses for {names}.")
        if settings.dns is not None:
            await stack.enter_async_context(_dns(node, publisher, settings))
            where = f"[{settings.dns_address}]:53"
            tell("dns", {"zone": settings.dns, "address": settings.dns_address}, f"DNS: {settings.dns} at {where}.")

        def announce(ssa: ServiceAddress) -> None:
            facts = publisher.describe(ssa)
            tell("issued", facts, facts["url"])

        tell("ready", {"service": publisher.name, "to": str(publisher.backend)}, None)
        await publisher.keep(settings.kept(), announce)


def _closing(window: SecretWindow, node: Node) -> Callable[..., None]:
    return lambda *_: window.close(node.now())


def _windows(
    node: Node, publisher: Publisher, settings: PublishSettings, attachment: NodeSettings
) -> list[SecretWindow]:
    """A window for each client that shares the secret."""
    assert settings.secret_file is not None
    secret = read_secret(Path(settings.secret_file))
    if attachment.state is None:
        raise SetupError("With a shared secret the counters must last: name a folder for them with --state DIR.")
    only = client_network(settings.client)
    state = node.source.state
    made = []
    for name in settings.secret_clients:
        shared = SharedSecret(secret, publisher.name, check_name(name))
        file = Path(attachment.state) / counter_file_name(secret, "server", publisher.name, name)
        made.append(
            SecretWindow(
                shared,
                publisher.server(PortMode.L1).listener,
                node.pool,
                node.events,
                CounterFile(file),
                armed=settings.window,
                reserved=settings.window,
                client=None if only is None else (only.network_address.packed, only.prefixlen),
                renew=isinstance(state, DiskState) and state.doubt is None,
            )
        )
    return made


def _dns(node: Node, publisher: Publisher, settings: PublishSettings) -> DnsServer:
    policy = settings.dns_policy()
    waiting: list[ServiceAddress] = []

    async def mint(asker: Asker) -> IPv6Address:
        waiting[:] = [ssa for ssa in waiting if publisher.is_armed(ssa)]
        if len(waiting) >= settings.dns_outstanding:
            raise Outstanding(f"{len(waiting)} addresses wait for their clients: ask later.")
        ssa = await publisher.issue(client=asker.client, lifetime=settings.dns_lifetime, front_end="dns", who=asker.key)
        waiting.append(ssa)
        return ssa.address

    def free(address: IPv6Address) -> bool:
        return any(ssa.address == address and publisher.is_free(ssa) for ssa in waiting)

    try:
        where = IPv6Address(str(settings.dns_address))
    except ValueError:
        raise SetupError(f"--dns-address: {settings.dns_address!r} is no IPv6 address.") from None
    return DnsServer(node, Responder(policy, mint, node.now, free), where)


def publish(
    service: Annotated[str, typer.Argument(help="Name of the service, for `unimux ssa new` and for shared secrets.")],
    to: Annotated[str, typer.Option("--to", metavar="HOST:PORT", help="Where the unmodified server listens.")],
    count: Annotated[
        int | None, typer.Option(help="Addresses to keep armed and print.", show_default="1, or 0 with DNS or a secret")
    ] = None,
    sessions: SessionsOption = None,
    client: Annotated[
        str | None, typer.Option(help="Address or prefix of the only clients.", show_default="anybody")
    ] = None,
    lifetime: LifetimeOption = None,
    scheme: Annotated[
        str | None, typer.Option(help="Scheme of the URLs; `token` prints tokens.", show_default="from the port")
    ] = None,
    proxy_protocol: Annotated[
        bool | None,
        typer.Option(
            "--proxy-protocol", help="Tell the server who its client is (PROXY protocol v2).", show_default=False
        ),
    ] = None,
    secret_file: Annotated[
        str | None, typer.Option(help="Secret shared with the clients; see `unimux ssa keygen`.", show_default=False)
    ] = None,
    secret_client: Annotated[
        list[str] | None,
        typer.Option(help="Name of a client that shares it; may be given several times.", show_default="client"),
    ] = None,
    dns: Annotated[
        str | None, typer.Option(metavar="ZONE", help="Answer for this name with addresses.", show_default=False)
    ] = None,
    dns_address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="The node's address that answers.", show_default=False)
    ] = None,
    bridge: BridgeOption = None,
    prefix: PrefixOption = None,
    netns: NetnsOption = None,
    state: StateOption = None,
    events: EventsOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one object per line.")] = False,
) -> None:
    """Put an unmodified server behind one-time addresses, until stopped; print the addresses as URLs.

    Each address is armed when it is printed, and replaced when it has been used or its time is over.
    """
    flags = {
        "count": count,
        "sessions": sessions,
        "client": client,
        "lifetime": lifetime,
        "scheme": scheme,
        "proxy_protocol": proxy_protocol,
        "secret_file": secret_file,
        "secret_clients": secret_client,
        "dns": dns,
        "dns_address": dns_address,
    }
    settings = Configuration.here().table("publish", PublishSettings, flags).value
    attachment = node_settings(bridge=bridge, prefix=prefix, netns=netns, state=state, events=events)
    backend = Backend.parse(to)
    named = settings.scheme or SCHEMES.get(backend.port)
    if settings.dns is not None:
        settings.dns_policy()  # what is wrong with it is told before anything is set up
    check_name(service)

    def tell(event: str, facts: Mapping[str, Any], text: str | None) -> None:
        if json:
            typer.echo(json_format.dumps({"event": event, **facts}))
        elif event == "issued":
            typer.echo(text)
        elif text is not None:
            typer.echo(f"unimux: {text}", err=True)

    async def work(node: Node) -> None:
        async with published(
            node,
            service,
            backend,
            limits=settings.limits(),
            scheme=None if named == "token" else named,
            proxy_protocol=settings.proxy_protocol,
            sessions=settings.sessions,
            client=settings.client,
            lifetime=settings.lifetime,
            complain=complain,
        ) as publisher:
            each = "one client" if settings.sessions is None else f"{settings.sessions} session(s)"
            tell("begin", {"service": service}, f"{service} at {backend}; each address serves {each}; Ctrl-C ends it.")
            try:
                await serve_publication(node, publisher, settings, attachment, tell)
            finally:
                counts = publisher.counters
                moved = f"{counts.bytes_in} bytes in, {counts.bytes_out} out"
                text = f"{counts.issued} addresses issued, {counts.sessions} sessions, {moved}."
                tell("end", counts.as_dict(), text)

    run_node(attachment, work)
