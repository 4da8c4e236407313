"""The table `[publish]` of the settings, and the options that every command has which issues addresses for a server."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from compat.publisher import PublishLimits
from compat.relay import IDLE_TIMEOUT
from unimux.control import check_name
from unimux.errors import WrongUsage
from unimux.ssa.dnsresponder import DEFAULT_BURST, DEFAULT_RATE, DnsPolicy, NameFor, networks
from unimux.ssa.issue import DEFAULT_LIFETIME, check_terms, client_network
from unimux.ssa.secret import DEFAULT_ARMED
from unimux.ssa.secretfile import read_key, read_secret

SessionsOption = Annotated[
    int | None, typer.Option(help="Sessions that one address serves.", show_default="a lease for its first client")
]
LifetimeOption = Annotated[
    float | None,
    typer.Option(help="Seconds an address waits for its client.", show_default=f"{DEFAULT_LIFETIME:.0f}"),
]
CountOption = Annotated[
    int | None, typer.Option(help="Addresses to keep armed and print.", show_default="1, or 0 with DNS or a secret")
]
ClientOption = Annotated[
    str | None, typer.Option(help="Address or prefix of the only clients.", show_default="anybody")
]
SchemeOption = Annotated[
    str | None, typer.Option(help="Scheme of the URLs; `token` prints tokens.", show_default="from the port")
]
ProxyProtocolOption = Annotated[
    bool | None,
    typer.Option("--proxy-protocol", help="Tell the server who its client is (PROXY protocol v2).", show_default=False),
]
SecretFileOption = Annotated[
    str | None, typer.Option(help="Secret shared with the clients; see `unimux ssa keygen`.", show_default=False)
]
SecretClientOption = Annotated[
    list[str] | None,
    typer.Option(help="Name of a client that shares it; may be given several times.", show_default="client"),
]
DnsOption = Annotated[
    str | None, typer.Option(metavar="ZONE", help="Answer for this name with addresses.", show_default=False)
]
DnsAddressOption = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="The node's address that answers.", show_default=False)
]


_DEFAULT = PublishLimits()
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
"""RFC 3986 §3.1."""


class PublishSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a service is put behind one-time addresses; times in seconds.  See `unimux.cli.settings`."""

    count: Annotated[
        Annotated[int, msgspec.Meta(ge=0)] | None, msgspec.Meta(description="addresses to keep armed and print")
    ] = None
    sessions: Annotated[
        int | None, msgspec.Meta(description="sessions of one address; without, its first client leases it")
    ] = None
    client: Annotated[str | None, msgspec.Meta(description="address or prefix of the only clients")] = None
    lifetime: Annotated[float, msgspec.Meta(description="seconds an address waits for its client", gt=0)] = (
        DEFAULT_LIFETIME
    )
    scheme: Annotated[str | None, msgspec.Meta(description="scheme of the URLs; guessed from the server's port")] = None
    proxy_protocol: Annotated[bool, msgspec.Meta(description="tell the server who its client is (version 2)")] = False
    max_sessions: Annotated[int, msgspec.Meta(description="sessions at a time", ge=1)] = _DEFAULT.max_sessions
    connect_timeout: Annotated[float, msgspec.Meta(description="seconds to reach the server", gt=0)] = (
        _DEFAULT.connect_timeout
    )
    idle_timeout: Annotated[float, msgspec.Meta(description="seconds after which a still session ends", gt=0)] = (
        IDLE_TIMEOUT
    )
    secret_file: Annotated[str | None, msgspec.Meta(description="secret shared with the clients")] = None
    secret_clients: Annotated[list[str], msgspec.Meta(description="names of the clients that share it")] = (
        msgspec.field(default_factory=lambda: ["client"])
    )
    window: Annotated[int, msgspec.Meta(description="counters of each client that are armed", ge=1, le=64)] = (
        DEFAULT_ARMED
    )
    dns: Annotated[str | None, msgspec.Meta(description="zone that is answered with addresses")] = None
    dns_address: Annotated[str | None, msgspec.Meta(description="the node's address that answers for it")] = None
    dns_names: Annotated[list[str], msgspec.Meta(description="names in the zone that get addresses")] = msgspec.field(
        default_factory=lambda: ["@"]
    )
    dns_lifetime: Annotated[float, msgspec.Meta(description="seconds an address asked for by DNS waits", gt=0)] = 30.0
    dns_outstanding: Annotated[int, msgspec.Meta(description="such addresses that wait at a time", ge=1)] = 64
    dns_rate: Annotated[float, msgspec.Meta(description="addresses per second and source", gt=0)] = DEFAULT_RATE
    dns_burst: Annotated[int, msgspec.Meta(description="addresses at once and source", ge=1)] = DEFAULT_BURST
    dns_allow: Annotated[list[str], msgspec.Meta(description="clients that get addresses; empty for all")] = []
    dns_believe: Annotated[list[str], msgspec.Meta(description="resolvers whose client subnet is believed")] = []
    dns_name_for: Annotated[NameFor, msgspec.Meta(description="whom they are for: anybody, subnet or source")] = (
        NameFor.ANYBODY
    )
    dns_keys: Annotated[list[str], msgspec.Meta(description="TSIG keys, each as NAME:FILE")] = []
    dns_require_key: Annotated[bool, msgspec.Meta(description="answer only those who have one")] = False
    dns_stream_only: Annotated[bool, msgspec.Meta(description="give addresses over TCP only")] = False

    def limits(self) -> PublishLimits:
        """The bounds that follow from the settings."""
        return PublishLimits(
            max_sessions=self.max_sessions, connect_timeout=self.connect_timeout, idle_timeout=self.idle_timeout
        )

    def kept(self) -> int:
        """Addresses to keep armed and print: one, or none where another delivery tells clients."""
        if self.count is not None:
            return self.count
        return 0 if self.secret_file is not None or self.dns is not None else 1

    def check(self) -> None:
        """Raise what is wrong with them, before anything is set up: `WrongUsage`, `IssueError`, `SetupError`."""
        client_network(self.client)
        check_terms(1 if self.sessions is None else self.sessions, self.lifetime)
        if self.scheme is not None and not _SCHEME.fullmatch(self.scheme):
            raise WrongUsage(
                f"{self.scheme!r} is no scheme of a URL: write letters, digits, +, - and ., a letter first, as in http."
            )
        if self.secret_file is not None:
            read_secret(Path(self.secret_file))
            for name in self.secret_clients:
                check_name(name)
                if self.secret_clients.count(name) > 1:
                    raise WrongUsage(f"The client {name!r} is named twice: each has a sequence of its own.")
        if self.dns is not None:
            check_terms(1, self.dns_lifetime)
            self.dns_policy()

    def dns_policy(self) -> DnsPolicy:
        """What the responder answers; raises `SetupError`."""
        if self.dns is None or self.dns_address is None:
            raise WrongUsage("DNS delivery needs a zone and an address of the node: --dns ZONE --dns-address ADDRESS.")
        try:
            IPv6Address(self.dns_address)
        except ValueError:
            raise WrongUsage(f"--dns-address: {self.dns_address!r} is no IPv6 address.") from None
        keys = {}
        for entry in self.dns_keys:
            name, colon, file = entry.partition(":")
            if not (name and colon and file):
                raise WrongUsage(f"{entry!r} is not a TSIG key: write NAME:FILE.")
            keys[name] = read_key(file)
        return DnsPolicy(
            zone=self.dns,
            names=tuple(self.dns_names),
            server=self.dns_address,
            rate=self.dns_rate,
            burst=self.dns_burst,
            allow=networks(self.dns_allow),
            believe=networks(self.dns_believe),
            name_for=self.dns_name_for,
            keys=keys,
            require_key=self.dns_require_key,
            stream_only=self.dns_stream_only,
        )
