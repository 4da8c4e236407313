"""The text form of an SSA, for a person or a program to carry (UM-SSA-1).

    unimux://[2001:db8:0:1:9ab8:51f2:77d0:3c05]:443/files?until=2026-03-01T12:00:00Z&sessions=1

It is a URL: the address in brackets; the port, which a legacy client needs and a unified one ignores at L0 to L2; the
service as path; and `until`, `sessions`, `mode` as parameters.  All but the address may be missing.  A parameter that a
reader does not know it passes over, so that later versions can say more.

A token is as secret as the address in it: whoever sees it first can use it, unless the SSA was issued for a named client.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from tapstack.tcp.options import PortMode

from ..errors import UnimuxError

SCHEME = "unimux"
MAX_LENGTH = 2048
"""Characters of a token; longer text is refused unread."""

_AUTHORITY = re.compile(r"\[(?P<address>[^\]]*)\](?::(?P<port>[0-9]+))?")


class TokenError(UnimuxError, ValueError):
    """A text is not a token; the message says what is wrong with it."""

    exit_code = 2  # wrong usage


class TokenExpired(TokenError):
    """A token's time is over."""

    exit_code = 4  # nothing is wrong with how it was written: the session does not come about


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says.

    >>> token = Token(IPv6Address("2001:db8::1"), 443, "files", datetime(2026, 3, 1, 12, tzinfo=UTC))
    >>> str(token)
    'unimux://[2001:db8::1]:443/files?until=2026-03-01T12:00:00Z'
    >>> Token.parse(str(token)) == token
    True

    until: end of its life in wall-clock time, None where the issuer did not say.
    """

    address: IPv6Address
    port: int | None = None
    service: str | None = None
    until: datetime | None = None
    sessions: int | None = None
    mode: PortMode | None = None

    def __post_init__(self) -> None:
        if self.address.is_multicast or self.address.is_unspecified or self.address.scope_id is not None:
            raise TokenError(f"{self.address} is not an address that a service can have.")
        if self.port is not None and not 0 < self.port < 1 << 16:
            raise TokenError(f"{self.port} is not a port: ports are 1 to 65535.")
        if self.sessions is not None and self.sessions < 1:
            raise TokenError(f"A token is for at least 1 session, not {self.sessions}.")
        if self.service is not None and not self.service:
            raise TokenError("A service has a name, or none is given.")
        if self.service is not None and any("\ud800" <= c <= "\udfff" for c in self.service):
            raise TokenError(f"{_shown(self.service)} is not the name of a service: it is not UTF-8.")
        if self.until is not None:
            if self.until.tzinfo is None:
                raise TokenError(f"{self.until.isoformat()} has no time zone.")
            try:  # seconds and UTC are what the text can say
                object.__setattr__(self, "until", self.until.astimezone(UTC).replace(microsecond=0))
            except OverflowError:
                raise TokenError(f"{self.until.isoformat()} is outside the years 1 to 9999 of UTC.") from None

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        path = "" if self.service is None else "/" + quote(self.service, safe="")
        parameters = []
        if self.until is not None:
            parameters.append(f"until={self.until.replace(tzinfo=None).isoformat()}Z")
        if self.sessions is not None:
            parameters.append(f"sessions={self.sessions}")
        if self.mode is not None:
            parameters.append(f"mode={self.mode.value}")
        query = "?" + "&".join(parameters) if parameters else ""
        return f"{SCHEME}://[{self.address}]{port}{path}{query}"

    def expired(self, wall: float) -> bool:
        """Whether its life is over at `wall`, in seconds since 1970."""
        return self.until is not None and wall >= self.until.timestamp()

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read a token; a bare address, with brackets and port or without, is one too.

        >>> Token.parse("2001:db8::1").address
        IPv6Address('2001:db8::1')
        >>> Token.parse("[2001:db8::1]:80").port
        80

        Raises `TokenError`.
        """
        text = text.strip()
        if len(text) > MAX_LENGTH:
            raise TokenError(f"A token has at most {MAX_LENGTH} characters, not {len(text)}.")
        if "://" not in text:
            return cls._parse_bare(text)
        try:
            parts = urlsplit(text)
        except ValueError as error:
            raise TokenError(f"{_shown(text)} is not a token: {error}.") from error
        if parts.scheme.lower() != SCHEME:
            raise TokenError(f"{_shown(text)} is not a token: it begins with {parts.scheme}://, not {SCHEME}://.")
        if parts.fragment:
            raise TokenError(f"{_shown(text)} is not a token: it has a part after #.")
        address, port = _authority(parts.netloc, text)
        if "/" in parts.path[1:]:
            raise TokenError(f"{_shown(text)} is not a token: its service has a / in its name.")
        try:
            service = unquote(parts.path[1:], errors="strict") or None
        except UnicodeDecodeError as error:
            raise TokenError(f"{_shown(text)} is not a token: the name of its service is not UTF-8.") from error
        return cls(address, port, service, *_parameters(parts.query, text))

    @classmethod
    def _parse_bare(cls, text: str) -> Token:
        if text.startswith("["):
            return cls(*_authority(text, text))
        return cls(_address(text, text))


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _address(text: str, whole: str) -> IPv6Address:
    try:
        return IPv6Address(text)
    except AddressValueError as error:
        raise TokenError(f"{_shown(whole)} is not a token: {_shown(text)} is no IPv6 address.") from error


def _authority(text: str, whole: str) -> tuple[IPv6Address, int | None]:
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        raise TokenError(
            f"{_shown(whole)} is not a token: it needs an IPv6 address in brackets, and nothing but a port after it."
        )
    port = found["port"]
    if port is not None and len(port) > 5:
        raise TokenError(f"{port[:20]} is not a port: ports are 1 to 65535.")
    return _address(found["address"], whole), None if port is None else int(port)


def _parameters(query: str, whole: str) -> tuple[datetime | None, int | None, PortMode | None]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError as error:
        raise TokenError(f"{_shown(whole)} is not a token: its parameters cannot be read ({error}).") from error
    values = dict(pairs)
    if len(values) != len(pairs):
        raise TokenError(f"{_shown(whole)} is not a token: it has a parameter twice.")
    until = values.get("until")
    sessions = values.get("sessions")
    mode = values.get("mode")
    return (
        None if until is None else _time(until, whole),
        None if sessions is None else _count(sessions, whole),
        None if mode is None else _mode(mode, whole),
    )


def _time(text: str, whole: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise TokenError(f"{_shown(whole)} is not a token: {_shown(text)} is not a time such as 2026-03-01T12:00:00Z.")


def _count(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise TokenError(f"{_shown(whole)} is not a token: {_shown(text)} is not a number of sessions.")
    return int(text)


def _mode(text: str, whole: str) -> PortMode:
    for mode in PortMode:
        if mode.value.lower() == text.lower():
            return mode
    known = ", ".join(mode.value for mode in PortMode)
    raise TokenError(f"{_shown(whole)} is not a token: {_shown(text)} is not a port mode ({known}).")
