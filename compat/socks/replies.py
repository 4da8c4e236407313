"""How a failed request is told: one table from the cause to the reply of each protocol.

RFC 1928 has eight codes for everything that can go wrong.  The choices: a time-out is `TTL expired` (0x06), the one
code left that speaks of time, so that a client can tell it from `host unreachable`; a name without an address is `host
unreachable`; no one-time address ready or set, or the front end full, is `general failure`.  A destination that exists
only in IPv4 is `address type not supported` where the client named an IPv4 address and `host unreachable` where it named a
host.  SOCKS4 knows one failure.  HTTP gets a status, the `Proxy-Status` of RFC 9209 and the sentence.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus

from compat.socks.messages import AddressType, Dialect, Reply, Request, pack_reply
from unimux import errors
from unimux.das import AddressNotSet
from unimux.poolstate import NoPrefix

_SOCKS4_GRANTED = bytes([0, 90]) + bytes(6)
SOCKS4_REJECTED = bytes([0, 91]) + bytes(6)
"""The two whole replies of SOCKS4; they have no room for an IPv6 address."""


class Cause(StrEnum):
    """Why a request failed; the value is the name in counters."""

    REFUSED = "refused"
    HOST_UNREACHABLE = "host-unreachable"
    NETWORK_UNREACHABLE = "network-unreachable"
    TIMED_OUT = "timed-out"
    HOP_LIMIT = "hop-limit-exceeded"
    PROHIBITED = "prohibited"
    NAME = "name-not-resolved"
    NO_IPV6 = "no-ipv6-address"
    POOL = "pool-exhausted"
    FULL = "too-many-connections"
    COMMAND = "command-not-supported"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class _Answer:
    reply: Reply
    status: HTTPStatus
    proxy_error: str


_R, _H = Reply, HTTPStatus
ANSWERS: dict[Cause, _Answer] = {
    Cause.REFUSED: _Answer(_R.CONNECTION_REFUSED, _H.BAD_GATEWAY, "connection_refused"),
    Cause.HOST_UNREACHABLE: _Answer(_R.HOST_UNREACHABLE, _H.BAD_GATEWAY, "destination_unavailable"),
    Cause.NETWORK_UNREACHABLE: _Answer(_R.NETWORK_UNREACHABLE, _H.BAD_GATEWAY, "destination_ip_unroutable"),
    Cause.TIMED_OUT: _Answer(_R.TTL_EXPIRED, _H.GATEWAY_TIMEOUT, "connection_timeout"),
    Cause.HOP_LIMIT: _Answer(_R.TTL_EXPIRED, _H.BAD_GATEWAY, "destination_ip_unroutable"),
    Cause.PROHIBITED: _Answer(_R.NOT_ALLOWED, _H.FORBIDDEN, "destination_ip_prohibited"),
    Cause.NAME: _Answer(_R.HOST_UNREACHABLE, _H.BAD_GATEWAY, "dns_error"),
    Cause.NO_IPV6: _Answer(_R.HOST_UNREACHABLE, _H.BAD_GATEWAY, "destination_ip_unroutable"),
    Cause.POOL: _Answer(_R.GENERAL_FAILURE, _H.SERVICE_UNAVAILABLE, "connection_limit_reached"),
    Cause.FULL: _Answer(_R.GENERAL_FAILURE, _H.SERVICE_UNAVAILABLE, "connection_limit_reached"),
    Cause.COMMAND: _Answer(_R.COMMAND_NOT_SUPPORTED, _H.NOT_IMPLEMENTED, "proxy_internal_error"),
    Cause.FAILURE: _Answer(_R.GENERAL_FAILURE, _H.BAD_GATEWAY, "proxy_internal_error"),
}

_CAUSES_BY_TYPE: tuple[tuple[type[BaseException], Cause], ...] = (
    (errors.ConnectTimeout, Cause.TIMED_OUT),
    (errors.HopLimitExceeded, Cause.HOP_LIMIT),
    (errors.ConnectProhibited, Cause.PROHIBITED),
    (errors.NoIpv6Address, Cause.NO_IPV6),
    (errors.NameNotResolved, Cause.NAME),
    (errors.PoolExhausted, Cause.POOL),
    (AddressNotSet, Cause.POOL),
    (NoPrefix, Cause.NETWORK_UNREACHABLE),
    (ConnectionRefusedError, Cause.REFUSED),
    (TimeoutError, Cause.TIMED_OUT),
)
_CAUSES_BY_ERRNO = {
    errno.EHOSTUNREACH: Cause.HOST_UNREACHABLE,
    errno.EHOSTDOWN: Cause.HOST_UNREACHABLE,
    errno.ENETUNREACH: Cause.NETWORK_UNREACHABLE,
    errno.ENETDOWN: Cause.NETWORK_UNREACHABLE,
    errno.EADDRNOTAVAIL: Cause.NETWORK_UNREACHABLE,
    errno.ETIMEDOUT: Cause.TIMED_OUT,
    errno.ECONNREFUSED: Cause.REFUSED,
    errno.ECONNRESET: Cause.REFUSED,
    errno.EACCES: Cause.PROHIBITED,
    errno.EPERM: Cause.PROHIBITED,
}


def cause_of(error: BaseException) -> Cause:
    """The cause that an error of the dialler stands for."""
    for kind, cause in _CAUSES_BY_TYPE:
        if isinstance(error, kind):
            return cause
    if isinstance(error, OSError) and error.errno is not None:
        return _CAUSES_BY_ERRNO.get(error.errno, Cause.FAILURE)
    return Cause.FAILURE


def success(dialect: Dialect, host: str, port: int) -> bytes:
    """The request is granted; `host` and `port`: our side of the connection, its one-time address."""
    if dialect is Dialect.SOCKS5:
        return pack_reply(Reply.SUCCEEDED, host, port)
    if dialect is Dialect.SOCKS4:
        return _SOCKS4_GRANTED
    return b"HTTP/1.1 200 Connection established\r\n\r\n"


def failure(request: Request, cause: Cause, sentence: str) -> bytes:
    """The request failed for `cause`; `sentence` is told where the protocol has room for it."""
    answer = ANSWERS[cause]
    if request.dialect is Dialect.SOCKS5:
        if cause is Cause.NO_IPV6 and request.address_type is AddressType.IPV4:
            return pack_reply(Reply.ADDRESS_TYPE_NOT_SUPPORTED)
        return pack_reply(answer.reply)
    if request.dialect is Dialect.SOCKS4:
        return SOCKS4_REJECTED
    return http_response(answer.status, sentence, f"Proxy-Status: unimux; error={answer.proxy_error}")


def http_response(status: HTTPStatus, sentence: str, *headers: str) -> bytes:
    """A whole HTTP response that ends the connection, with a sentence for people as its body."""
    body = f"{sentence}\n".encode("utf-8", "replace")
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        *headers,
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode() + body
