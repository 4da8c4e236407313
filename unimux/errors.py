"""The base of every error that unimux raises on purpose, and those that a connection meets; others stand with what raises them.

`str(error)` is one sentence that says what happened and what to do about it, fit to be shown to a user as it is; the
facts stand in attributes.  What a program already knows from the socket API keeps its type: a refused
connection is a `ConnectionRefusedError`, a time-out a `TimeoutError`, each with its `errno`, and all of them are
`UnimuxError` too.
"""

from __future__ import annotations

import errno as _errno
from typing import Any, ClassVar

from .endpoint import endpoint_text


class UnimuxError(Exception):
    """The base of all of them; `except UnimuxError` around a call catches whatever unimux has to say."""


class SetupError(UnimuxError):
    """The configuration or the machine is not as it has to be; the message says what is missing and how to get it."""

    exit_code = 3  # this and those below: see `unimux.cli.exits`


class WrongUsage(SetupError):
    """What the caller wrote is no name, place or number of the kind that is wanted."""

    exit_code = 2


class ConnectError(UnimuxError, OSError):
    """A connection to `host` and `port` did not come about.  Subclasses name the cause."""

    exit_code = 4
    ERRNO: ClassVar[int] = _errno.EIO
    SENTENCE: ClassVar[str] = "{where} could not be reached: try again."

    def __init__(self, host: str, port: int, detail: str = "") -> None:
        """`detail`: what is known beyond the cause, for instance who reported it; a clause without a full stop."""
        self.host = host
        self.port = port
        self.detail = detail
        said = f" ({detail})" if detail else ""
        self.message = self.SENTENCE.format(where=endpoint_text(host, port), detail=said)
        OSError.__init__(self, self.ERRNO, self.message)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.host, self.port, self.detail)


class UnusablePeer(ConnectError):
    """The host has no address that a peer can have: groups, the unspecified and the loopback one are none (RFC 9293 MUST-46).

    >>> str(UnusablePeer("localhost", 80))
    'localhost:80 cannot be the address of a peer: name another host, since a node knows no group, no :: and no loopback.'
    """

    ERRNO = _errno.EADDRNOTAVAIL
    SENTENCE = (
        "{where} cannot be the address of a peer{detail}: "
        "name another host, since a node knows no group, no :: and no loopback."
    )


class ConnectRefused(ConnectError, ConnectionRefusedError):
    """The peer answered the SYN with a RST, or its host said that the port is unreachable.

    >>> str(ConnectRefused("2001:db8::1", 80))
    '[2001:db8::1]:80 refused the connection: check that the server runs and listens there.'
    """

    ERRNO = _errno.ECONNREFUSED
    SENTENCE = "{where} refused the connection{detail}: check that the server runs and listens there."


class HostUnreachable(ConnectError):
    """Somebody on the path, or our own neighbour discovery, says that the host cannot be reached (RFC 4443 §3.1)."""

    ERRNO = _errno.EHOSTUNREACH
    SENTENCE = "{where} is unreachable{detail}: check that the host is up and the address right."


class NetworkUnreachable(ConnectError):
    """There is no route, or no prefix of ours to reach it from."""

    ERRNO = _errno.ENETUNREACH
    SENTENCE = (
        "There is no route to {where}{detail}: check that a router announces a prefix on the node's link, "
        "or, where a prefix is routed to the node, that this machine has a route there (`ip -6 route`)."
    )


class HopLimitExceeded(ConnectError):
    """A router reports that the hop limit ran out on the way (RFC 4443 §3.3)."""

    ERRNO = _errno.EHOSTUNREACH
    SENTENCE = "The hop limit ran out on the way to {where}{detail}: look for a routing loop on the path."


class ConnectProhibited(ConnectError, PermissionError):
    """A filter on the path says that this traffic is not allowed (RFC 4443 §3.1 codes 1, 5 and 6)."""

    ERRNO = _errno.EACCES
    SENTENCE = "A filter on the path prohibits the connection to {where}{detail}: ask its operator to let it through."


class ConnectTimeout(ConnectError, TimeoutError):
    """Nothing came back within the connect time-out.

    `seconds`: that time-out, None where it is not known.

    >>> str(ConnectTimeout("example.org", 443, seconds=30.0))
    'example.org:443 did not answer within 30 s: check that it is up and that no filter drops the packets.'
    """

    ERRNO = _errno.ETIMEDOUT
    SENTENCE = "{where} did not answer{detail}: check that it is up and that no filter drops the packets."

    def __init__(self, host: str, port: int, detail: str = "", *, seconds: float | None = None) -> None:
        super().__init__(host, port, detail)
        self.seconds = seconds
        if seconds is not None:
            self.message = self.message.replace(" did not answer", f" did not answer within {seconds:g} s", 1)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_timeout, (self.host, self.port, self.detail, self.seconds)


def _rebuild_timeout(host: str, port: int, detail: str, seconds: float | None) -> ConnectTimeout:
    return ConnectTimeout(host, port, detail, seconds=seconds)


class AddressNotCarried(ConnectError):
    """The link lets nothing from, or nothing to, the address that the connection was to have (UM-ADDR-12).

    >>> str(AddressNotCarried("example.org", 443))
    'The link refuses the addresses that example.org:443 was tried from: have its limit of addresses per port raised.'
    """

    ERRNO = _errno.EADDRNOTAVAIL
    SENTENCE = (
        "The link refuses the addresses that {where} was tried from{detail}: "
        "have its limit of addresses per port raised."
    )


def connect_error(error: Exception | None, host: str, port: int, timeout: float) -> ConnectError:
    """The error of the public API for one of the stack's."""
    if isinstance(error, ConnectionRefusedError):
        return ConnectRefused(host, port)
    if isinstance(error, TimeoutError):
        return ConnectTimeout(host, port, seconds=timeout)
    number = getattr(error, "errno", None)
    if number == _errno.EADDRNOTAVAIL:
        return AddressNotCarried(host, port)
    if number == _errno.ENETUNREACH:
        return NetworkUnreachable(host, port, "a router reports no route")
    if number == _errno.EACCES:
        return ConnectProhibited(host, port)
    if number == _errno.ETIME:
        return HopLimitExceeded(host, port)
    if number == _errno.EHOSTUNREACH:
        return HostUnreachable(host, port)
    return ConnectError(host, port, str(error) if error else "")


class PoolExhausted(UnimuxError):
    """No reserved address became free within the time that the caller would wait (UM-POOL-3, UM-POOL-5).

    `waited`: seconds that were waited; `ceiling`: connections per second that this pool sustains, None if unknown;
    `refusal`: why the link takes fewer addresses than the pool is meant to have, if it does (UM-ADDR-12).

    >>> str(PoolExhausted(2.0, ceiling=1.5)).partition(": ")[0]
    'No one-time address was ready within 2 s (this pool sustains 1.5 connections/s)'
    """

    exit_code = 4

    def __init__(self, waited: float, ceiling: float | None = None, refusal: str | None = None) -> None:
        super().__init__(waited, ceiling, refusal)
        self.waited = waited
        self.ceiling = ceiling
        self.refusal = refusal

    def __str__(self) -> str:
        rate = "" if self.ceiling is None else f" (this pool sustains {self.ceiling:.3g} connections/s)"
        if self.refusal is not None:
            return (
                f"No one-time address was ready within {self.waited:g} s{rate}, since the link refuses more ({self.refusal}): "
                "have its limit of addresses per port raised or give the node a prefix of its own."
            )
        return (
            f"No one-time address was ready within {self.waited:g} s{rate}: "
            "enlarge the pool or give the node a prefix of its own."
        )


class NodeStopped(UnimuxError, OSError):
    """The node was closed, or lost its link: it has no addresses to give any more."""

    def __init__(self) -> None:
        OSError.__init__(self, _errno.ENETDOWN, "The node has stopped: start it again.")

    def __str__(self) -> str:
        return str(self.strerror)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class NameNotResolved(UnimuxError):
    """A name has no address, or no name server would say.

    `name`: as it was asked for; `reason`: a clause such as "no such name".

    >>> str(NameNotResolved("nowhere.example", "no such name"))
    'nowhere.example could not be resolved (no such name): check the spelling and the name server.'
    """

    exit_code = 4
    REMEDY: ClassVar[str] = "check the spelling and the name server"

    def __init__(self, name: str, reason: str, remedy: str | None = None) -> None:
        super().__init__(name, reason, remedy)
        self.name = name
        self.reason = reason
        self.remedy = remedy or self.REMEDY

    def __str__(self) -> str:
        return f"{self.name} could not be resolved ({self.reason}): {self.remedy}."


class NoIpv6Address(NameNotResolved):
    """The destination exists, but only in IPv4.

    `ipv4`: its addresses there, 4 bytes each, where they are known.

    >>> str(NoIpv6Address("old.example"))
    'old.example has no IPv6 address (IPv4 only): choose a server that has one, or reach it through a NAT64 gateway.'
    """

    REMEDY = "choose a server that has one, or reach it through a NAT64 gateway"

    def __init__(
        self, name: str, reason: str = "IPv4 only", remedy: str | None = None, ipv4: tuple[bytes, ...] = ()
    ) -> None:
        super().__init__(name, reason, remedy)
        self.args = (name, reason, remedy, ipv4)
        self.ipv4 = ipv4

    def __str__(self) -> str:
        return f"{self.name} has no IPv6 address ({self.reason}): {self.remedy}."
