"""The three protocols up to the request: every message, every split, every refusal, and bytes that are none of them."""

from __future__ import annotations

import base64
import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compat.socks.handshake import MAX_HTTP_HEAD, MAX_USER_ID, Failure, Handshake
from compat.socks.messages import (
    AddressType,
    Command,
    Dialect,
    MalformedError,
    Request,
    pack_address,
    pack_datagram,
    parse_datagram,
)
from compat.socks.session import Authenticator, LoginError, PasswordTable, Session, parse_login

USERS = PasswordTable({"alice": "wonder", "bob": "", "ümlaut": "pässword"})
IPV6 = bytes.fromhex("20010db8000000000000000000000001")


def socks5_request(command: int, kind: int, address: bytes, port: int) -> bytes:
    return bytes([5, command, 0, kind]) + address + struct.pack("!H", port)


def name(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def password(user: str, secret: str) -> bytes:
    u, p = user.encode(), secret.encode()
    return bytes([1, len(u)]) + u + bytes([len(p)]) + p


def basic(user: str, secret: str) -> str:
    return base64.b64encode(f"{user}:{secret}".encode()).decode()


GREETING = b"\x05\x01\x00"
GREETING_PASSWORD = b"\x05\x02\x00\x02"
CONNECT_NAME = socks5_request(1, 3, name("example.org"), 80)

GOOD: list[tuple[str, bytes, Authenticator | None, bytes, Request]] = [
    (
        "socks5 name",
        GREETING + CONNECT_NAME,
        None,
        b"\x05\x00",
        Request(Dialect.SOCKS5, Command.CONNECT, AddressType.NAME, "example.org", 80),
    ),
    (
        "socks5 IPv6",
        GREETING + socks5_request(1, 4, IPV6, 443),
        None,
        b"\x05\x00",
        Request(Dialect.SOCKS5, Command.CONNECT, AddressType.IPV6, "2001:db8::1", 443),
    ),
    (
        "socks5 IPv4",
        GREETING + socks5_request(2, 1, bytes([192, 0, 2, 7]), 65535),
        None,
        b"\x05\x00",
        Request(Dialect.SOCKS5, Command.BIND, AddressType.IPV4, "192.0.2.7", 65535),
    ),
    (
        "socks5 UDP",
        GREETING + socks5_request(3, 1, bytes(4), 0),
        None,
        b"\x05\x00",
        Request(Dialect.SOCKS5, Command.UDP_ASSOCIATE, AddressType.IPV4, "0.0.0.0", 0),
    ),
    (
        "socks5 password, required",
        GREETING_PASSWORD + password("alice", "wonder") + CONNECT_NAME,
        USERS,
        b"\x05\x02\x01\x00",
        Request(Dialect.SOCKS5, Command.CONNECT, AddressType.NAME, "example.org", 80, "alice"),
    ),
    (
        "socks5 password, empty one, UTF-8",
        b"\x05\x01\x02" + password("ümlaut", "pässword") + CONNECT_NAME,
        USERS,
        b"\x05\x02\x01\x00",
        Request(Dialect.SOCKS5, Command.CONNECT, AddressType.NAME, "example.org", 80, "ümlaut"),
    ),
    (
        "socks5 session, anybody may",
        GREETING_PASSWORD + password("me-session-7-ttl-2m", "") + CONNECT_NAME,
        None,
        b"\x05\x02\x01\x00",
        Request(Dialect.SOCKS5, Command.CONNECT, AddressType.NAME, "example.org", 80, "me", Session("me", "7", 120)),
    ),
    (
        "socks4a",
        b"\x04\x01\x00\x50\x00\x00\x00\x01me-session-x\x00example.org\x00",
        None,
        b"",
        Request(Dialect.SOCKS4, Command.CONNECT, AddressType.NAME, "example.org", 80, "me", Session("me", "x")),
    ),
    (
        "socks4a with an IPv6 address for a name",
        b"\x04\x01\x00\x50\x00\x00\x00\xff\x00[2001:db8::1]\x00",
        None,
        b"",
        Request(Dialect.SOCKS4, Command.CONNECT, AddressType.IPV6, "2001:db8::1", 80),
    ),
    (
        "socks4",
        b"\x04\x02\x00\x50\xc0\x00\x02\x01\x00",
        None,
        b"",
        Request(Dialect.SOCKS4, Command.BIND, AddressType.IPV4, "192.0.2.1", 80),
    ),
    (
        "http",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\nUser-Agent: x\r\n\r\n",
        None,
        b"",
        Request(Dialect.HTTP, Command.CONNECT, AddressType.NAME, "example.org", 443),
    ),
    (
        "http IPv6, old version, bare line feeds",
        b"CONNECT [2001:db8::1]:443 HTTP/1.0\n\n",
        None,
        b"",
        Request(Dialect.HTTP, Command.CONNECT, AddressType.IPV6, "2001:db8::1", 443),
    ),
    (
        "http with credentials and a session",
        (
            "CONNECT example.org:443 HTTP/1.1\r\nproxy-authorization:  basic "
            + basic("alice-session-a.b", "wonder")
            + "\r\n\r\n"
        ).encode(),
        USERS,
        b"",
        Request(Dialect.HTTP, Command.CONNECT, AddressType.NAME, "example.org", 443, "alice", Session("alice", "a.b")),
    ),
]


@pytest.mark.parametrize(
    ("transcript", "users", "answer", "request_"), [row[1:] for row in GOOD], ids=[r[0] for r in GOOD]
)
def test_request_at_once_and_byte_by_byte(
    transcript: bytes, users: Authenticator | None, answer: bytes, request_: Request
) -> None:
    for step in (len(transcript), 1):
        handshake = Handshake(users)
        for at in range(0, len(transcript), step):
            assert handshake.request is None, "not before the last byte"
            handshake.feed(transcript[at : at + step])
        assert handshake.request == request_
        if request_.session is not None and handshake.request.session is not None:
            assert handshake.request.session.ttl == request_.session.ttl
        assert handshake.take_output() == answer
        assert handshake.take_output() == b""
        assert handshake.early_data() == b""


@given(row=st.sampled_from(GOOD), cuts=st.lists(st.integers(0, 300)), early=st.binary(max_size=64))
def test_how_the_network_cuts_the_bytes_does_not_matter(
    row: tuple[str, bytes, Authenticator | None, bytes, Request], cuts: list[int], early: bytes
) -> None:
    _, transcript, users, answer, request = row
    data = transcript + early
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    handshake = Handshake(users)
    out = b""
    for start, end in itertools.pairwise(places):
        handshake.feed(data[start:end])
        out += handshake.take_output()
    assert (handshake.request, out, handshake.failure) == (request, answer, None)
    assert handshake.early_data() == early


BAD: list[tuple[str, bytes, Authenticator | None, Failure, bytes]] = [
    ("TLS", b"\x16\x03\x01", None, Failure.UNKNOWN_PROTOCOL, b""),
    ("zero", b"\x00", None, Failure.UNKNOWN_PROTOCOL, b""),
    ("lower case", b"get / HTTP/1.1\r\n\r\n", None, Failure.UNKNOWN_PROTOCOL, b""),
    ("no methods", b"\x05\x00", None, Failure.NO_METHOD, b"\x05\xff"),
    ("GSSAPI only", b"\x05\x01\x01", None, Failure.NO_METHOD, b"\x05\xff"),
    ("none where a password is required", GREETING, USERS, Failure.NO_METHOD, b"\x05\xff"),
    ("wrong version of RFC 1929", GREETING_PASSWORD + b"\x05\x01", USERS, Failure.MALFORMED, b"\x05\x02\x01\x01"),
    (
        "wrong password",
        GREETING_PASSWORD + password("alice", "wander"),
        USERS,
        Failure.CREDENTIALS,
        b"\x05\x02\x01\x01",
    ),
    ("unknown user", GREETING_PASSWORD + password("eve", ""), USERS, Failure.CREDENTIALS, b"\x05\x02\x01\x01"),
    (
        "session that is none",
        GREETING_PASSWORD + password("me-session-", ""),
        None,
        Failure.CREDENTIALS,
        b"\x05\x02\x01\x01",
    ),
    (
        "version in the request",
        GREETING + b"\x04\x01\x00\x01",
        None,
        Failure.MALFORMED,
        bytes.fromhex("050005010004000000000000000000000000000000000000"),
    ),
    (
        "address type 2",
        GREETING + b"\x05\x01\x00\x02",
        None,
        Failure.ADDRESS_TYPE,
        bytes.fromhex("050005080004000000000000000000000000000000000000"),
    ),
    (
        "command 9",
        GREETING + socks5_request(9, 4, IPV6, 1),
        None,
        Failure.COMMAND,
        bytes.fromhex("050005070004000000000000000000000000000000000000"),
    ),
    (
        "empty name",
        GREETING + socks5_request(1, 3, b"\x00", 1),
        None,
        Failure.MALFORMED,
        bytes.fromhex("050005010004000000000000000000000000000000000000"),
    ),
    (
        "name with a line feed",
        GREETING + socks5_request(1, 3, name("a\nb"), 1),
        None,
        Failure.MALFORMED,
        bytes.fromhex("050005010004000000000000000000000000000000000000"),
    ),
    (
        "socks4 user id",
        b"\x04\x01\x00\x50\x01\x02\x03\x04" + b"u" * (MAX_USER_ID + 2),
        None,
        Failure.TOO_LONG,
        b"\x00[" + bytes(6),
    ),
    ("socks4a name", b"\x04\x01\x00\x50\x00\x00\x00\x01\x00" + b"n" * 257, None, Failure.TOO_LONG, b"\x00[" + bytes(6)),
    (
        "socks4a without a name",
        b"\x04\x01\x00\x50\x00\x00\x00\x01\x00\x00",
        None,
        Failure.MALFORMED,
        b"\x00[" + bytes(6),
    ),
    ("socks4 command", b"\x04\x03\x00\x50\x01\x02\x03\x04\x00", None, Failure.COMMAND, b"\x00[" + bytes(6)),
    (
        "socks4 has no password",
        b"\x04\x01\x00\x50\x01\x02\x03\x04bob\x00",
        USERS,
        Failure.CREDENTIALS,
        b"\x00[" + bytes(6),
    ),
]


@pytest.mark.parametrize(
    ("transcript", "users", "failure", "answer"), [row[1:] for row in BAD], ids=[r[0] for r in BAD]
)
def test_refusal_and_its_answer(
    transcript: bytes, users: Authenticator | None, failure: Failure, answer: bytes
) -> None:
    for step in (len(transcript), 1):
        handshake = Handshake(users)
        for at in range(0, len(transcript), step):
            handshake.feed(transcript[at : at + step])
        assert (handshake.failure, handshake.request) == (failure, None)
        assert handshake.take_output() == answer
        handshake.feed(b"more")
        assert handshake.buffered == 0, "a refused client makes us keep nothing"


HTTP_BAD: list[tuple[str, str, Authenticator | None, Failure, str]] = [
    ("GET", "GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n", None, Failure.COMMAND, "405"),
    ("no version", "CONNECT example.org:80\r\n\r\n", None, Failure.MALFORMED, "400"),
    ("no port", "CONNECT example.org HTTP/1.1\r\n\r\n", None, Failure.MALFORMED, "400"),
    ("big port", "CONNECT example.org:65536 HTTP/1.1\r\n\r\n", None, Failure.MALFORMED, "400"),
    ("bare IPv6", "CONNECT 2001:db8::1:80 HTTP/1.1\r\n\r\n", None, Failure.MALFORMED, "400"),
    ("long name", f"CONNECT {'n' * 256}:80 HTTP/1.1\r\n\r\n", None, Failure.MALFORMED, "400"),
    ("letters", "HELLO\r\n\r\n", None, Failure.MALFORMED, "400"),
    ("no credentials", "CONNECT example.org:80 HTTP/1.1\r\n\r\n", USERS, Failure.CREDENTIALS, "407"),
    (
        "wrong password",
        f"CONNECT example.org:80 HTTP/1.1\r\nProxy-Authorization: Basic {basic('alice', 'x')}\r\n\r\n",
        USERS,
        Failure.CREDENTIALS,
        "407",
    ),
    (
        "not base64",
        "CONNECT example.org:80 HTTP/1.1\r\nProxy-Authorization: Basic !\r\n\r\n",
        None,
        Failure.CREDENTIALS,
        "407",
    ),
    (
        "another scheme",
        f"CONNECT example.org:80 HTTP/1.1\r\nProxy-Authorization: Digest {basic('a', 'b')}\r\n\r\n",
        None,
        Failure.CREDENTIALS,
        "407",
    ),
    ("long head", "CONNECT example.org:80 HTTP/1.1\r\nX: " + "x" * MAX_HTTP_HEAD, None, Failure.TOO_LONG, "431"),
]


@pytest.mark.parametrize(
    ("head", "users", "failure", "status"), [row[1:] for row in HTTP_BAD], ids=[r[0] for r in HTTP_BAD]
)
def test_http_refusals_are_whole_responses(
    head: str, users: Authenticator | None, failure: Failure, status: str
) -> None:
    handshake = Handshake(users)
    handshake.feed(head.encode())
    assert handshake.failure is failure
    response = handshake.take_output().decode()
    top, _, body = response.partition("\r\n\r\n")
    assert top.startswith(f"HTTP/1.1 {status} ")
    assert f"Content-Length: {len(body.encode())}" in top and "Connection: close" in top
    assert body.endswith(".\n")
    assert ("Proxy-Authenticate: Basic" in top) == (status == "407")
    assert ("Allow: CONNECT" in top) == (status == "405")


@given(st.lists(st.binary(max_size=200), max_size=12), st.booleans())
def test_garbage_never_raises_and_is_never_hoarded(pieces: list[bytes], closed: bool) -> None:
    handshake = Handshake(USERS if closed else None)
    for piece in pieces:
        handshake.feed(piece)
        if handshake.request is None:
            assert handshake.buffered <= MAX_HTTP_HEAD


@settings(max_examples=300)
@given(
    st.sampled_from([b"\x05", b"\x04", b"C", b"\x05\x01\x00\x05", b"\x05\x01\x02\x01", b"CONNECT "]),
    st.binary(max_size=300),
)
def test_garbage_that_begins_well_ends_somewhere(start: bytes, rest: bytes) -> None:
    one, each = Handshake(), Handshake()
    one.feed(start + rest)
    for byte in start + rest:
        each.feed(bytes([byte]))
    assert (one.request, one.failure) == (each.request, each.failure)
    assert one.take_output() == each.take_output()
    assert one.early_data() == each.early_data()


# -- user names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "user", "session", "ttl"),
    [
        ("alice", "alice", None, None),
        ("", "", None, None),
        ("alice-session-1", "alice", "1", None),
        ("alice-session-a-b-ttl-30", "alice", "a-b", 30),
        ("alice-session-a-ttl-30s", "alice", "a", 30),
        ("alice-session-a-ttl-1h", "alice", "a", 3600),
        ("alice-session-a-ttl-999999h", "alice", "a", 86_400),
        ("alice-session-a-ttl-0000000002h", "alice", "a", 7200),
        ("alice-session-a-ttl-86401", "alice", "a", 86_400),
        ("alice-session-a-ttl-12345678901234567890", "alice", "a", 86_400),
        ("alice-session-attl-5", "alice", "attl-5", None),
        ("alice-ttl-5-session-a", "alice-ttl-5", "a", None),
        ("alice-session-b-session-c", "alice", "b-session-c", None),
        ("-session-x", "", "x", None),
    ],
)
def test_user_names(text: str, user: str, session: str | None, ttl: float | None) -> None:
    login = parse_login(text)
    assert login.user == user
    assert (login.session.name if login.session else None) == session
    assert (login.session.ttl if login.session else None) == ttl


@pytest.mark.parametrize(
    "text", ["a-session-", "a-session", "a-session-" + "x" * 65, "a-session-b c", "a-session-b-ttl-0", "a-session-ü"]
)
def test_user_names_with_a_session_that_is_none(text: str) -> None:
    with pytest.raises(LoginError):
        parse_login(text)


@pytest.mark.parametrize(
    "ttl",
    ["2sec", "0.5h", "-5", "abc", "1e400", "5-", "", "2h-ttl-3", "2H", "9" * 21],
    ids=lambda ttl: ttl[:8] or "none",
)
@pytest.mark.parametrize("name", ["b-ttl-", "b-TTL-", "ttl-"], ids=["lower", "upper", "no ID"])
def test_a_time_that_is_none_becomes_no_part_of_the_session(name: str, ttl: str) -> None:
    """It would be kept for the default time, and be another session than the one with the time written well."""
    handshake = Handshake()
    handshake.feed(GREETING_PASSWORD + password(f"a-session-{name}{ttl}", ""))
    assert handshake.failure is Failure.CREDENTIALS and handshake.take_output() == b"\x05\x02\x01\x01"
    for text in (f"a-session-{name}{ttl}", "a-session-b-ttl", "a-session-ttl"):
        with pytest.raises(LoginError, match="user-session-ID-ttl-TIME"):
            parse_login(text)


def test_sessions_of_two_users_are_two_and_the_ttl_is_no_part_of_it() -> None:
    assert parse_login("a-session-1").session != parse_login("b-session-1").session
    assert parse_login("a-session-1").session == parse_login("a-session-1-ttl-9").session
    assert len({parse_login("a-session-1").session, parse_login("a-session-1-ttl-9").session}) == 1


# -- datagrams ---------------------------------------------------------------------------------------


@given(
    st.one_of(
        st.ip_addresses().map(str),
        st.from_regex(r"[a-z]{1,20}(\.[a-z]{1,20}){0,3}", fullmatch=True),
    ),
    st.integers(0, 65535),
    st.binary(max_size=100),
)
def test_datagram_header_round_trip(host: str, port: int, data: bytes) -> None:
    datagram = parse_datagram(pack_datagram(host, port, data))
    assert (datagram.fragment, datagram.host, datagram.port, bytes(datagram.data)) == (0, host, port, data)


@given(st.binary(max_size=40))
def test_any_datagram_parses_or_is_malformed(packet: bytes) -> None:
    try:
        datagram = parse_datagram(packet)
    except MalformedError:
        return
    assert packet.endswith(bytes(datagram.data))


def test_a_name_that_does_not_fit_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="255"):
        pack_address("n" * 256, 1)
