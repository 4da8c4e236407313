"""What a user name says besides the user: the sticky session.

Users of rotating proxies know the form: `alice-session-42` keeps one address for all connections of that session,
`alice-session-42-ttl-30m` gives it up after half an hour, and without a time it is the node's default
(`unimux.sticky.DEFAULT_TTL`).  Plain `alice` gets a new address for each connection.
Sessions of two users never share an address, whatever they are called.  An ID has no part `ttl`: a time that is written
wrongly would be one, and be meant by nobody.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

_LOGIN = re.compile(
    r"(?P<user>.*?)-session-(?P<name>[A-Za-z0-9._~-]{1,64}?)(?:-ttl-(?P<ttl>[0-9]{1,20})(?P<unit>[smh]?))?",
    re.DOTALL,
)
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
MAX_TTL = 86_400
"""Longest `ttl` in seconds; a longer one is cut to it."""
SESSION_FORM = "user-session-ID or user-session-ID-ttl-TIME, TIME in seconds or as in 30m or 2h"
"""How a session is written, for who wrote it otherwise."""


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
    """Take a user name apart; raises `LoginError`.

    >>> parse_login("alice-session-42-ttl-30m")
    Login(user='alice', session=Session(user='alice', name='42', ttl=1800))
    >>> parse_login("alice").session is None
    True
    """
    match = _LOGIN.fullmatch(text)
    if match is None:
        if "-session-" in text or text.endswith("-session"):
            raise LoginError(f"a session is written {SESSION_FORM}")
        return Login(text, None)
    if "ttl" in match["name"].lower().split("-"):
        raise LoginError(f"a session is written {SESSION_FORM}; {match['name']} has a ttl that is none")
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
