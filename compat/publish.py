"""An unmodified server behind one-time addresses, printed, served by DNS, or known to who shares a secret."""

from __future__ import annotations

import asyncio
import json as json_format
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any

import typer

from compat.attachment import NodeSettings
from compat.openfiles import allow_files
from compat.publisher import SCHEMES, Backend, Publisher, published
from compat.publishsettings import (
    ClientOption,
    CountOption,
    DnsAddressOption,
    DnsOption,
    LifetimeOption,
    ProxyProtocolOption,
    PublishSettings,
    SchemeOption,
    SecretClientOption,
    SecretFileOption,
    SessionsOption,
)
from compat.speaker import Speaker, counted
from compat.up import BridgeOption, EventsOption, NetnsOption, PrefixOption, StateOption, node_settings, run_service
from tapstack.tcp.options import PortMode
from unimux.cli.settings import Configuration
from unimux.control import check_name, control_server
from unimux.errors import UnimuxError, WrongUsage
from unimux.node import Node
from unimux.ssa.counters import CounterFile, counter_file_name
from unimux.ssa.dnsresponder import Asker, Responder
from unimux.ssa.dnsserver import DnsServer
from unimux.ssa.issue import ServiceAddress, client_network
from unimux.ssa.secret import SecretWindow, SharedSecret
from unimux.ssa.secretfile import read_secret
from unimux.state import StateError

Tell = Callable[[str, Mapping[str, Any], str | None], None]
"""`tell(event, facts, text)`: one object for programs, or the text, where there is one, for people."""


class Outstanding(UnimuxError):
    """So many SSAs that were asked for by DNS wait for their clients that none is added."""


async def serve_publication(
    node: Node, publisher: Publisher, settings: PublishSettings, attachment: NodeSettings, tell: Tell
) -> None:
    """Deliver the SSAs of a service in every way that the settings name, until cancelled.

    That it begins is told when nothing can be in its way any more, and how it ended only after that.
    """
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(control_server(publisher))
        if settings.dns is not None:
            await stack.enter_async_context(_dns(node, publisher, settings, tell))
        each = "one client" if settings.sessions is None else counted(settings.sessions, "session")
        where = f"{publisher.name} at {publisher.backend}"
        tell("begin", {"service": publisher.name}, f"{where}; each address serves {each}; Ctrl-C ends it.")
        stack.callback(_tell_end, publisher, tell)
        if settings.secret_file is not None:
            for window in _windows(node, publisher, settings, attachment, tell):
                window.start(node.now())
                stack.push(_closing(window, node))
            node.driver.kick()
            names = ", ".join(settings.secret_clients)
            tell("secret", {"clients": settings.secret_clients}, f"shared secret: addresses for {names}.")
        if settings.dns is not None:
            _tell_dns(settings, tell)

        def announce(ssa: ServiceAddress) -> None:
            facts = publisher.describe(ssa)
            tell("issued", facts, facts["url"])

        tell("ready", {"service": publisher.name, "to": str(publisher.backend)}, None)
        await publisher.keep(settings.kept(), announce)


def _tell_end(publisher: Publisher, tell: Tell) -> None:
    counts = publisher.counters
    done = f"{counted(counts.issued, 'address', 'addresses')} issued, {counted(counts.sessions, 'session')}"
    with suppress(OSError):  # the terminal may be gone
        tell("end", counts.as_dict(), f"{done}, {counts.bytes_in} bytes in, {counts.bytes_out} out.")


def _closing(window: SecretWindow, node: Node) -> Callable[..., None]:
    return lambda *_: window.close(node.now())


def _window_failed(tell: Tell, client: str, error: StateError) -> None:
    with suppress(OSError):  # nobody reads, which ends everything with the next address
        tell("failed", {"client": client, "cause": str(error)}, f"no more addresses for {client}: {error}")


def _windows(
    node: Node, publisher: Publisher, settings: PublishSettings, attachment: NodeSettings, tell: Tell
) -> list[SecretWindow]:
    """A window for each client that shares the secret."""
    assert settings.secret_file is not None
    secret = read_secret(Path(settings.secret_file))
    assert attachment.state is not None
    only = client_network(settings.client)
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
                failed=partial(_window_failed, tell, name),
            )
        )
    return made


class _Minter:
    """Issues the SSAs that are asked for by DNS, `dns_outstanding` of them at a time that wait for their clients."""

    def __init__(self, publisher: Publisher, settings: PublishSettings) -> None:
        self._publisher = publisher
        self._settings = settings
        self._waiting: list[ServiceAddress] = []
        self._under_way = 0

    async def mint(self, asker: Asker) -> IPv6Address:
        """An SSA for who asks; raises `Outstanding`, and what `Publisher.issue` raises."""
        publisher = self._publisher
        self._waiting = [ssa for ssa in self._waiting if publisher.is_armed(ssa)]
        outstanding = sum(not publisher.rests(ssa) for ssa in self._waiting) + self._under_way
        if outstanding >= self._settings.dns_outstanding:
            raise Outstanding(f"{outstanding} addresses wait for their clients: ask later.")
        self._under_way += 1
        try:
            ssa = await publisher.issue(
                client=asker.client, lifetime=self._settings.dns_lifetime, front_end="dns", who=asker.key
            )
        finally:
            self._under_way -= 1
        self._waiting.append(ssa)
        return ssa.address

    def free(self, address: IPv6Address) -> bool:
        """Whether a new client could still connect to an SSA that was minted."""
        return any(ssa.address == address and self._publisher.is_free(ssa) for ssa in self._waiting)


def _dns(node: Node, publisher: Publisher, settings: PublishSettings, tell: Tell) -> DnsServer:
    minter = _Minter(publisher, settings)
    responder = Responder(settings.dns_policy(), minter.mint, node.now, minter.free)

    def changed(why: UnimuxError | None) -> None:
        with suppress(OSError):  # nobody reads, which ends everything with the next address
            _tell_dns(settings, tell, why)

    return DnsServer(node, responder, IPv6Address(str(settings.dns_address)), changed=changed)


def _tell_dns(settings: PublishSettings, tell: Tell, why: UnimuxError | None = None) -> None:
    facts = {"zone": settings.dns, "address": settings.dns_address}
    if why is None:
        tell("dns", facts, f"DNS: {settings.dns} at [{settings.dns_address}]:53.")
    else:
        tell("dns-away", facts | {"cause": str(why)}, f"no DNS at {settings.dns_address} for now: {why}")


def publish(
    service: Annotated[str, typer.Argument(help="Name of the service, for `unimux ssa new` and for shared secrets.")],
    to: Annotated[str, typer.Option("--to", metavar="HOST:PORT", help="Where the unmodified server listens.")],
    count: CountOption = None,
    sessions: SessionsOption = None,
    client: ClientOption = None,
    lifetime: LifetimeOption = None,
    scheme: SchemeOption = None,
    proxy_protocol: ProxyProtocolOption = None,
    secret_file: SecretFileOption = None,
    secret_client: SecretClientOption = None,
    dns: DnsOption = None,
    dns_address: DnsAddressOption = None,
    bridge: BridgeOption = None,
    prefix: PrefixOption = None,
    netns: NetnsOption = None,
    state: StateOption = None,
    events: EventsOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one object per line.")] = False,
) -> int:
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
    settings.check()
    if secret_client is not None and settings.secret_file is None:
        raise WrongUsage("A client that shares a secret needs the secret: --secret-file FILE.")
    if settings.secret_file is not None and attachment.state is None:
        raise WrongUsage("With a shared secret the counters must last: name a folder for them with --state DIR.")
    if dns_address is not None and settings.dns is None:
        raise WrongUsage("An address for DNS needs a zone that is answered there: --dns ZONE.")
    check_name(service)
    attachment.check()
    _refuse_elsewhere(settings.dns_address, attachment.prefix)
    return _publish(service, backend, settings, attachment, json)


def _refuse_elsewhere(dns_address: str | None, prefix: str | None) -> None:
    """An address outside the prefix that is routed to the node is known to be wrong before there is a node."""
    if dns_address is not None and prefix is not None and IPv6Address(dns_address) not in IPv6Network(prefix):
        raise WrongUsage(
            f"--dns-address: {dns_address} does not lie in {prefix}: choose an address of the node's prefix."
        )


def _teller(speaker: Speaker, json: bool) -> Tell:
    """Objects for programs; for people addresses go to standard output, what is said about them to standard error."""

    def to_programs(event: str, facts: Mapping[str, Any], text: str | None) -> None:
        speaker.say(json_format.dumps({"event": event, **facts}))

    def to_people(event: str, facts: Mapping[str, Any], text: str | None) -> None:
        if text is not None:
            speaker.say(text if event == "issued" else f"unimux: {text}", err=event != "issued")

    return to_programs if json else to_people


def _publish(service: str, backend: Backend, settings: PublishSettings, attachment: NodeSettings, json: bool) -> int:
    """Attach a node and publish, until stopped; the exit status."""
    scheme = settings.scheme or SCHEMES.get(backend.port)
    allow_files()

    async def work(node: Node, begin: Callable[[], None]) -> None:
        async with (
            Speaker() as speaker,
            published(
                node,
                service,
                backend,
                limits=settings.limits(),
                scheme=None if scheme == "token" else scheme,
                proxy_protocol=settings.proxy_protocol,
                sessions=settings.sessions,
                client=settings.client,
                lifetime=settings.lifetime,
                complain=speaker.complain,
            ) as publisher,
        ):
            tell = _teller(speaker, json)

            def begun(event: str, facts: Mapping[str, Any], text: str | None) -> None:
                tell(event, facts, text)
                if event == "begin":
                    begin()

            async with asyncio.TaskGroup() as group:
                group.create_task(speaker.failed())  # addresses that nobody can read are none
                group.create_task(serve_publication(node, publisher, settings, attachment, begun))

    return run_service(attachment, work)
