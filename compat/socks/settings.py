"""Settings and limits of the front end, and what it has counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Annotated

import msgspec

from compat.relay import IDLE_TIMEOUT, EndReason, RelayResult
from compat.socks.handshake import Failure
from compat.socks.messages import Command, Dialect
from compat.socks.replies import Cause
from compat.socks.session import LoginError, parse_login
from unimux.cli.settings import SECRET, SettingsError

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 1080
"""IANA's port for SOCKS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SocksLimits:
    """Bounds; times in seconds.

    max_connections: requests being served at once; one more is told that the front end is full.
    max_handshakes: clients that have not yet said what they want; one more displaces the oldest, so that those who hold
    connections open and say nothing keep nobody out.
    handshake_timeout: from the first byte or none to the whole request.
    connect_timeout: for the name, the address and the handshake with the destination.
    bind_timeout: how long BIND waits for its peer.
    idle_timeout: after which a connection that moves nothing is ended; None for never.
    linger: how long a client that was refused may take to read the answer (RFC 1928 §6: no more than 10).
    early_data: bytes taken from a client before its connection stands.
    udp_flows: destinations of one UDP association at once; udp_idle: after which one is forgotten (RFC 4787 REQ-5: at least
    two minutes).
    """

    max_connections: int = 4096
    max_handshakes: int = 512
    handshake_timeout: float = 10.0
    connect_timeout: float = 30.0
    bind_timeout: float = 120.0
    idle_timeout: float | None = IDLE_TIMEOUT
    linger: float = 2.0
    early_data: int = 64 * 1024
    udp_flows: int = 64
    udp_idle: float = 120.0

    def __post_init__(self) -> None:
        for name in ("max_connections", "max_handshakes", "udp_flows", "early_data"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1")
        for name in ("handshake_timeout", "connect_timeout", "bind_timeout", "linger", "udp_idle"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is a time above 0")
        if self.idle_timeout is not None and not self.idle_timeout > 0:
            raise ValueError("idle_timeout is a time above 0, or None for never")


_DEFAULT = SocksLimits()


class SocksSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The table `[socks]`: see `unimux.cli.settings`.  Times in seconds."""

    host: Annotated[str, msgspec.Meta(description="address to listen on; others than loopback need users")] = (
        DEFAULT_HOST
    )
    port: Annotated[int, msgspec.Meta(description="port to listen on; 0 lets the kernel choose", ge=0, le=65535)] = (
        DEFAULT_PORT
    )
    users: Annotated[
        list[str], msgspec.Meta(description="who may use it, each as NAME:PASSWORD; empty: anybody", extra=SECRET)
    ] = []
    max_connections: Annotated[int, msgspec.Meta(description="requests served at once", ge=1)] = (
        _DEFAULT.max_connections
    )
    max_handshakes: Annotated[int, msgspec.Meta(description="clients that have not made their request", ge=1)] = (
        _DEFAULT.max_handshakes
    )
    handshake_timeout: Annotated[float, msgspec.Meta(description="seconds a client may take to make it", gt=0)] = (
        _DEFAULT.handshake_timeout
    )
    connect_timeout: Annotated[float, msgspec.Meta(description="seconds to reach a destination", gt=0)] = (
        _DEFAULT.connect_timeout
    )
    idle_timeout: Annotated[float, msgspec.Meta(description="seconds after which a still connection ends", gt=0)] = (
        IDLE_TIMEOUT
    )

    def limits(self) -> SocksLimits:
        """The bounds that follow from the settings."""
        return SocksLimits(
            max_connections=self.max_connections,
            max_handshakes=self.max_handshakes,
            handshake_timeout=self.handshake_timeout,
            connect_timeout=self.connect_timeout,
            idle_timeout=self.idle_timeout,
        )

    def passwords(self) -> dict[str, str] | None:
        """Password by user, None where anybody may.

        Raises `SettingsError` for an entry that is not NAME:PASSWORD, and for a user who could not log in.
        """
        if not self.users:
            return None
        table = {}
        for entry in self.users:
            user, colon, password = entry.partition(":")
            if not user or not colon:
                raise SettingsError("A user of the front end has no name or no password: write --user NAME:PASSWORD.")
            if not _can_log_in(user):
                raise SettingsError(
                    f"Nobody can log in as {user!r}: what follows -session- names a session, so choose another name."
                )
            if user in table:
                raise SettingsError(f"The user {user!r} of the front end is named twice: each has one password.")
            table[user] = password
        return table


def _can_log_in(user: str) -> bool:
    """Whether a login with this name is one of this user, and not of another one's session."""
    try:
        return parse_login(user).user == user
    except LoginError:
        return False


@dataclass(slots=True)
class SocksCounters:
    """What has happened since the start; `handshaking` and `active` are what there is now."""

    accepted: int = 0
    handshaking: int = 0
    active: int = 0
    evicted: int = 0
    handshake_timeouts: int = 0
    gone_early: int = 0
    """clients that left before they were answered"""
    bytes_up: int = 0
    bytes_down: int = 0
    datagrams_up: int = 0
    datagrams_down: int = 0
    datagrams_dropped: int = 0
    requests: Counter[tuple[Dialect, Command]] = field(default_factory=Counter)
    rejected: Counter[Failure] = field(default_factory=Counter)
    failed: Counter[Cause] = field(default_factory=Counter)
    ended: Counter[EndReason] = field(default_factory=Counter)

    def add_result(self, result: RelayResult) -> None:
        """Count a relay that has ended."""
        self.ended[result.reason] += 1
        self.bytes_up += result.bytes_to_far
        self.bytes_down += result.bytes_to_near

    def as_dict(self) -> dict[str, int]:
        """All counts by name.

        >>> counters = SocksCounters(accepted=1)
        >>> counters.failed[Cause.REFUSED] += 1
        >>> {name: n for name, n in counters.as_dict().items() if n}
        {'accepted': 1, 'failed.refused': 1}
        """
        counts = {each.name: n for each in fields(self) if isinstance(n := getattr(self, each.name), int)}
        for (dialect, command), n in sorted(self.requests.items()):
            counts[f"requests.{dialect}.{command.name.lower()}"] = n
        for group, table in (("rejected", self.rejected), ("failed", self.failed), ("ended", self.ended)):
            counts.update({f"{group}.{key}": n for key, n in sorted(table.items())})
        return counts
