"""From the first byte of a client to its request: SOCKS5, SOCKS4(a) and HTTP CONNECT, without I/O.

Model.  A parser is a generator.  It yields what it needs next, a number of bytes or a delimiter, and is sent exactly
that; so it reads like the specification, and how the network cut the bytes cannot matter.  What it has to say to the client
meanwhile it appends to an output.  It ends by returning the `Request` or by raising `_Rejected` with a last answer.

The first byte tells the protocol: 5 and 4 are SOCKS versions, an upper-case letter begins an HTTP method, anything else
is nobody we know.

Invariants: no input raises out of `feed`; before the request is complete at most the longest message plus
one `feed` is buffered; after it everything belongs to the stream and is given out untouched by `early_data`.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Generator
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import TypeAlias

from compat.socks.messages import (
    MAX_NAME,
    PASSWORD_VERSION,
    SOCKS4,
    SOCKS5,
    AddressType,
    Command,
    Dialect,
    MalformedError,
    Method,
    Reply,
    Request,
    address_type,
    host_text,
    pack_reply,
)
from compat.socks.replies import SOCKS4_REJECTED, http_response
from compat.socks.session import SESSION_FORM, Authenticator, Login, LoginError, parse_login

MAX_HTTP_HEAD = 8192
MAX_USER_ID = 512
_HTTP_REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) ([!-~]+) HTTP/1\.[01]")
_HTTP_AUTHORITY = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+):([0-9]{1,5})")


class Failure(StrEnum):
    """Why a client never got as far as a request; the value is the name in counters."""

    UNKNOWN_PROTOCOL = "unknown-protocol"
    MALFORMED = "malformed"
    TOO_LONG = "too-long"
    NO_METHOD = "no-acceptable-method"
    CREDENTIALS = "bad-credentials"
    COMMAND = "command-not-supported"
    ADDRESS_TYPE = "address-type-not-supported"


@dataclass(frozen=True, slots=True)
class _Until:
    """The parser needs everything up to and including `pattern`, which must end within `limit` bytes."""

    pattern: re.Pattern[bytes]
    limit: int


_NUL = re.compile(rb"\0")
_EMPTY_LINE = re.compile(rb"\r?\n\r?\n")
_Parser: TypeAlias = Generator["int | _Until", bytes, Request]


class _Rejected(Exception):
    def __init__(self, failure: Failure, answer: bytes = b"") -> None:
        self.failure = failure
        self.answer = answer


class _TooLong(Exception):
    """A delimiter did not come within its limit."""


class Handshake:
    """One client's way to its request.

    authenticator: who may; None lets everybody in, and takes any user name and password that a client
    offers, for the sake of the session that may stand in the name.

    >>> handshake = Handshake()
    >>> handshake.feed(bytes.fromhex("050100" "05010003") + b"\\x0bexample.org\\x00\\x50" + b"GET /")
    >>> handshake.request.host, handshake.request.port, handshake.take_output().hex(), handshake.early_data()
    ('example.org', 80, '0500', b'GET /')
    """

    __slots__ = ("_buffer", "_need", "_out", "_parser", "_searched", "failure", "request")

    def __init__(self, authenticator: Authenticator | None = None) -> None:
        self._buffer = bytearray()
        self._out = bytearray()
        self._parser = _detect(self._out, authenticator)
        self._need: int | _Until = next(self._parser)
        self._searched = 0
        self.request: Request | None = None
        self.failure: Failure | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes from the client; afterwards look at `take_output`, `request` and `failure`."""
        if self.failure is not None:
            return
        self._buffer += data
        if self.request is not None:
            return
        try:
            while (piece := self._take()) is not None:
                self._need = self._parser.send(piece)
        except StopIteration as done:
            self.request = done.value
        except _Rejected as rejected:
            self.failure = rejected.failure
            self._out += rejected.answer
            self._buffer.clear()

    def _take(self) -> bytes | None:
        """What the parser needs, if it is there."""
        need, buffer = self._need, self._buffer
        if isinstance(need, int):
            end = need
        else:
            found = need.pattern.search(buffer, self._searched)
            end = found.end() if found else len(buffer) + 1
            if min(end, len(buffer)) > need.limit:
                self._parser.throw(_TooLong())
            self._searched = max(0, len(buffer) - 3)  # a delimiter of four bytes may have begun
        if end > len(buffer):
            return None
        piece = bytes(buffer[:end])
        del buffer[:end]
        self._searched = 0
        return piece

    def take_output(self) -> bytes:
        """What is to be sent to the client now; each byte is given out once."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def early_data(self) -> bytes:
        """What the client sent after its request, given out once."""
        early = bytes(self._buffer)
        self._buffer.clear()
        return early

    @property
    def buffered(self) -> int:
        """Bytes held."""
        return len(self._buffer)


def _detect(out: bytearray, authenticator: Authenticator | None) -> _Parser:
    first = yield 1
    if first[0] == SOCKS5:
        return (yield from _socks5(out, authenticator))
    if first[0] == SOCKS4:
        return (yield from _socks4(authenticator))
    if first.isalpha() and first.isupper():
        return (yield from _http(first, authenticator))
    raise _Rejected(Failure.UNKNOWN_PROTOCOL)


def _log_in(name: bytes, password: bytes, authenticator: Authenticator | None) -> Login | None:
    """The login if these credentials may; None if not."""
    try:
        login = parse_login(name.decode("utf-8", "surrogateescape"))
    except LoginError:
        return None
    if authenticator is not None and not authenticator.verify(login.user, password.decode("utf-8", "surrogateescape")):
        return None
    return login


# -- SOCKS5 ---------------------------------------------------------------------------------------


def _socks5(out: bytearray, authenticator: Authenticator | None) -> _Parser:
    """RFC 1928 §3 and §4, from NMETHODS on."""
    count = (yield 1)[0]
    offered = yield count
    login = Login("", None)
    if Method.PASSWORD in offered:  # preferred also where it is not required: the name may say a session
        out += bytes([SOCKS5, Method.PASSWORD])
        login = yield from _password(out, authenticator)
    elif Method.NONE in offered and authenticator is None:
        out += bytes([SOCKS5, Method.NONE])
    else:
        raise _Rejected(Failure.NO_METHOD, bytes([SOCKS5, Method.NO_ACCEPTABLE]))
    version, code, _reserved, kind = yield 4
    if version != SOCKS5:
        raise _Rejected(Failure.MALFORMED, pack_reply(Reply.GENERAL_FAILURE))
    if kind not in AddressType.__members__.values():
        raise _Rejected(Failure.ADDRESS_TYPE, pack_reply(Reply.ADDRESS_TYPE_NOT_SUPPORTED))
    if kind == AddressType.NAME:
        length = (yield 1)[0]
        raw = yield length
        try:
            host = host_text(raw)
        except MalformedError:
            raise _Rejected(Failure.MALFORMED, pack_reply(Reply.GENERAL_FAILURE)) from None
    else:
        raw = yield 4 if kind == AddressType.IPV4 else 16
        host = str(ipaddress.ip_address(raw))
    port = int.from_bytes((yield 2))
    if code not in Command.__members__.values():
        raise _Rejected(Failure.COMMAND, pack_reply(Reply.COMMAND_NOT_SUPPORTED))
    return Request(Dialect.SOCKS5, Command(code), AddressType(kind), host, port, login.user, login.session)


def _password(out: bytearray, authenticator: Authenticator | None) -> Generator[int | _Until, bytes, Login]:
    """RFC 1929."""
    version, length = yield 2
    if version != PASSWORD_VERSION:
        raise _Rejected(Failure.MALFORMED, bytes([PASSWORD_VERSION, 1]))
    name = yield length
    password_length = (yield 1)[0]
    password = yield password_length
    login = _log_in(name, password, authenticator)
    if login is None:
        raise _Rejected(Failure.CREDENTIALS, bytes([PASSWORD_VERSION, 1]))
    out += bytes([PASSWORD_VERSION, 0])
    return login


# -- SOCKS4 and 4a --------------------------------------------------------------------------------


def _socks4(authenticator: Authenticator | None) -> _Parser:
    """CD, DSTPORT, DSTIP, USERID, NUL; in 4a a DSTIP of 0.0.0.x is followed by the name and a NUL."""
    head = yield 7
    code, port, address = head[0], int.from_bytes(head[1:3]), head[3:7]
    try:
        user = (yield _Until(_NUL, MAX_USER_ID + 1))[:-1]
        if address[:3] == b"\0\0\0" and address[3]:
            raw = (yield _Until(_NUL, MAX_NAME + 1))[:-1]
            host = host_text(raw)
        else:
            host = str(ipaddress.ip_address(address))
    except _TooLong:
        raise _Rejected(Failure.TOO_LONG, SOCKS4_REJECTED) from None
    except MalformedError:
        raise _Rejected(Failure.MALFORMED, SOCKS4_REJECTED) from None
    # SOCKS4 has no password: where one is required, nobody gets in this way.
    login = _log_in(user, b"", None) if authenticator is None else None
    if login is None:
        raise _Rejected(Failure.CREDENTIALS, SOCKS4_REJECTED)
    if code not in (Command.CONNECT, Command.BIND):
        raise _Rejected(Failure.COMMAND, SOCKS4_REJECTED)
    return Request(Dialect.SOCKS4, Command(code), address_type(host), host, port, login.user, login.session)


# -- HTTP CONNECT ---------------------------------------------------------------------------------


def _http(first: bytes, authenticator: Authenticator | None) -> _Parser:
    """RFC 9110 §9.3.6; of the header only Proxy-Authorization matters, the rest is for the next hop and not needed."""
    try:
        head = first + (yield _Until(_EMPTY_LINE, MAX_HTTP_HEAD))
    except _TooLong:
        status, sentence = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's head is too long."
        raise _Rejected(Failure.TOO_LONG, http_response(status, sentence)) from None
    request_line, *fields = re.split(rb"\r?\n", head.rstrip(b"\r\n"))
    line = _HTTP_REQUEST_LINE.fullmatch(request_line)
    if line is None:
        raise _bad_request("This port speaks SOCKS5, SOCKS4a and HTTP CONNECT, and the request is none of them.")
    method, target = line.groups()
    if method != b"CONNECT":
        text = "Only CONNECT is done here: let the client tunnel plain HTTP too (curl: --proxytunnel), or use SOCKS5."
        raise _Rejected(Failure.COMMAND, http_response(HTTPStatus.METHOD_NOT_ALLOWED, text, "Allow: CONNECT"))
    authority = _HTTP_AUTHORITY.fullmatch(target)
    if authority is None or int(authority[2]) > 0xFFFF:
        raise _bad_request("CONNECT names a host and a port, as in CONNECT example.org:443.")
    try:
        host = host_text(authority[1])
    except MalformedError as error:
        raise _bad_request(f"CONNECT with {error}.") from None
    login = _http_login(fields, authenticator)
    if login is None:
        challenge = 'Proxy-Authenticate: Basic realm="unimux", charset="UTF-8"'
        text = f"A user name and a password that this proxy knows are needed; a session is written {SESSION_FORM}."
        answer = http_response(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, text, challenge)
        raise _Rejected(Failure.CREDENTIALS, answer)
    kind = address_type(host)
    return Request(Dialect.HTTP, Command.CONNECT, kind, host, int(authority[2]), login.user, login.session)


def _bad_request(sentence: str) -> _Rejected:
    return _Rejected(Failure.MALFORMED, http_response(HTTPStatus.BAD_REQUEST, sentence))


def _http_login(fields: list[bytes], authenticator: Authenticator | None) -> Login | None:
    """The login of `Proxy-Authorization: Basic` (RFC 7617)."""
    for line in fields:
        name, _, value = line.partition(b":")
        if name.lower() != b"proxy-authorization":
            continue
        scheme, _, token = value.strip().partition(b" ")
        try:
            user, colon, password = base64.b64decode(token.strip(), validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return None
        if scheme.lower() != b"basic" or not colon:
            return None
        return _log_in(user, password, authenticator)
    return Login("", None) if authenticator is None else None
