"""What a user name says besides the user: the sticky session.

Users of rotating proxies know the form: `alice-session-42` keeps one address for all connections of that session,
`alice-session-42-ttl-10m` gives it up after ten minutes.  Plain `alice` gets a new address for each connection.
Sessions of two users never share an address, whatever they are called.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

_LOGIN = re.compile(
    r"(?P<user>.*?)-session-(?P<name>[A-Za-z0-9._~-]{1,64}?)(?:-ttl-(?P<ttl>[0-9]{1,6})(?P<unit>[smh]?))?",
    re.DOTALL,
)
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
MAX_TTL = 86_400
"""Longest `ttl` in seconds; a longer one is cut to it."""


class LoginError(ValueError):
    """A user name with a session part that is not one."""


@dataclass(frozen=True, slots=True)
class Session:
    """A sticky session.  Equal ones share an address; `ttl` (seconds, None for the node's default) is no part of that."""

    user: str
    name: str
    ttl: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Login:
    """A user name taken apart."""

    user: str
    session: Session | None


def parse_login(text: str) -> Login:
    """Take a user name apart.

    >>> parse_login("alice-session-42-ttl-10m")
    Login(user='alice', session=Session(user='alice', name='42', ttl=600))
    >>> parse_login("alice").session is None
    True
    """
    match = _LOGIN.fullmatch(text)
    if match is None:
        if "-session-" in text or text.endswith("-session"):
            raise LoginError("a session is written user-session-ID or user-session-ID-ttl-SECONDS")
        return Login(text, None)
    ttl = None
    if match["ttl"] is not None:
        ttl = min(int(match["ttl"]) * _UNITS[match["unit"]], MAX_TTL)
        if not ttl:
            raise LoginError("a session's ttl is at least one second")
    return Login(match["user"], Session(match["user"], match["name"], ttl))


class Authenticator(Protocol):
    """Who may use the front end."""

    def verify(self, user: str, password: str) -> bool:
        """Whether this user with this password may."""


class PasswordTable:
    """Users and their passwords.

    >>> table = PasswordTable({"alice": "wonder"})
    >>> table.verify("alice", "wonder"), table.verify("alice", ""), table.verify("bob", "wonder")
    (True, False, False)
    """

    def __init__(self, users: Mapping[str, str]) -> None:
        self._users = {user: password.encode("utf-8", "surrogateescape") for user, password in users.items()}

    def verify(self, user: str, password: str) -> bool:
        """Compare in a time that does not depend on where a password differs."""
        known = self._users.get(user)
        same = hmac.compare_digest(known or b"", password.encode("utf-8", "surrogateescape"))
        return same and known is not None
