"""Reply codes follow the cause, in each of the three protocols."""

from __future__ import annotations

import errno

import pytest

from compat.socks.messages import AddressType, Command, Dialect, Reply, Request
from compat.socks.replies import ANSWERS, Cause, cause_of, failure, success
from unimux import errors
from unimux.das import AddressNotSet
from unimux.poolstate import NoPrefix

NAMED = {
    dialect: Request(dialect, Command.CONNECT, AddressType.NAME, "old.example", 80)
    for dialect in (Dialect.SOCKS5, Dialect.SOCKS4, Dialect.HTTP)
}
LITERAL_IPV4 = Request(Dialect.SOCKS5, Command.CONNECT, AddressType.IPV4, "192.0.2.1", 80)

ROWS = [
    (errors.ConnectRefused("h", 1), Reply.CONNECTION_REFUSED, 502, "connection_refused"),
    (errors.HostUnreachable("h", 1), Reply.HOST_UNREACHABLE, 502, "destination_unavailable"),
    (errors.NetworkUnreachable("h", 1), Reply.NETWORK_UNREACHABLE, 502, "destination_ip_unroutable"),
    (NoPrefix(1.0), Reply.NETWORK_UNREACHABLE, 502, "destination_ip_unroutable"),
    (errors.ConnectTimeout("h", 1), Reply.TTL_EXPIRED, 504, "connection_timeout"),
    (errors.HopLimitExceeded("h", 1), Reply.TTL_EXPIRED, 502, "destination_ip_unroutable"),
    (errors.ConnectProhibited("h", 1), Reply.NOT_ALLOWED, 403, "destination_ip_prohibited"),
    (AddressNotSet(1.0), Reply.GENERAL_FAILURE, 503, "connection_limit_reached"),
    (errors.NodeStopped(), Reply.NETWORK_UNREACHABLE, 502, "destination_ip_unroutable"),
    (errors.PoolExhausted(1.0), Reply.GENERAL_FAILURE, 503, "connection_limit_reached"),
    (errors.NameNotResolved("h", "no such name"), Reply.HOST_UNREACHABLE, 502, "dns_error"),
    (errors.NoIpv6Address("h"), Reply.HOST_UNREACHABLE, 502, "destination_ip_unroutable"),
    (errors.ConnectError("h", 1), Reply.GENERAL_FAILURE, 502, "proxy_internal_error"),
    (errors.UnimuxError("Something else."), Reply.GENERAL_FAILURE, 502, "proxy_internal_error"),
    (OSError(errno.EHOSTUNREACH, "x"), Reply.HOST_UNREACHABLE, 502, "destination_unavailable"),
    (OSError(errno.ENETUNREACH, "x"), Reply.NETWORK_UNREACHABLE, 502, "destination_ip_unroutable"),
    (ConnectionResetError(errno.ECONNRESET, "x"), Reply.CONNECTION_REFUSED, 502, "connection_refused"),
    (TimeoutError(), Reply.TTL_EXPIRED, 504, "connection_timeout"),
    (OSError("no number"), Reply.GENERAL_FAILURE, 502, "proxy_internal_error"),
]


@pytest.mark.parametrize(("error", "reply", "status", "proxy_error"), ROWS, ids=lambda v: type(v).__name__)
def test_reply_by_error(error: Exception, reply: Reply, status: int, proxy_error: str) -> None:
    cause = cause_of(error)
    socks5 = failure(NAMED[Dialect.SOCKS5], cause, str(error))
    assert socks5 == bytes([5, reply, 0, 4]) + bytes(18)
    assert failure(NAMED[Dialect.SOCKS4], cause, str(error)) == b"\x00\x5b" + bytes(6)
    head, _, body = failure(NAMED[Dialect.HTTP], cause, str(error)).decode().partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert f"Proxy-Status: unimux; error={proxy_error}" in head
    assert body == f"{error}\n"


def test_an_ipv4_address_gets_address_type_not_supported() -> None:
    assert failure(LITERAL_IPV4, Cause.NO_IPV6, "")[1] == Reply.ADDRESS_TYPE_NOT_SUPPORTED
    assert failure(LITERAL_IPV4, Cause.REFUSED, "")[1] == Reply.CONNECTION_REFUSED


def test_every_cause_has_its_answer() -> None:
    assert set(ANSWERS) == set(Cause)
    assert all(answer.reply is not Reply.SUCCEEDED and answer.status >= 400 for answer in ANSWERS.values())


def test_success_names_the_one_time_address_where_it_can() -> None:
    assert success(Dialect.SOCKS5, "2001:db8::1", 80).hex() == "05000004" + "20010db8000000000000000000000001" + "0050"
    assert success(Dialect.SOCKS4, "2001:db8::1", 80) == b"\x00\x5a" + bytes(6)
    assert success(Dialect.HTTP, "2001:db8::1", 80) == b"HTTP/1.1 200 Connection established\r\n\r\n"
