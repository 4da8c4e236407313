"""Issuing specific service addresses: set, armed, and only then disclosed (unified-multiplex §5; UM-LIS-2, -4, -5, -8).

Model.  An `Issuer` belongs to one listener.  Issuing asks the DAS policy for a SERVICE address, arms the listener on it, and
returns the `ServiceAddress`: whoever has one to tell can be connected to already.  From there on the listener rules: it
disarms the address when its last session is established, or when it expires, and disarming releases it.  It has been
disclosed, so it never goes back to the pool (UM-LIS-5); no path leads from SERVICE to RESERVED.

Whether an SSA still lives is asked of the address table, so `outstanding` is right whatever ended it.  Further ways to
deliver an SSA (shared secret, DNS, signalling) are rooms beside this one that call `Issuer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network
from typing import Any, Protocol

from tapstack.events import EventStream
from tapstack.ipv6.addresses import AddressEntry, AddressKind, AddressTable
from tapstack.types import address_text

from ..das import Pending, Policy, Want
from ..endpoint import parse_prefix
from ..errors import UnimuxError
from ..pool import Outcome
from ..purpose import UNNAMED, Purpose, tell_purpose

Client = str | IPv6Network | IPv6Address
Issued = Callable[["ServiceAddress | UnimuxError", float], None]

DEFAULT_LIFETIME = 300.0
"""Seconds an SSA waits for its client."""
MAX_LIFETIME = 10 * 365 * 86_400.0
"""The longest lifetime; what is to live longer has none."""


class IssueError(UnimuxError):
    """An SSA cannot be issued as asked; the message says what to change."""

    exit_code = 2  # wrong usage


class Arming(Protocol):
    """What an issuer needs of a listener; `tapstack.tcp.listener.Listener` is one."""

    def arm(
        self,
        entry: AddressEntry,
        now: float,
        *,
        sessions: int | None = 1,
        client: tuple[bytes, int] | None = None,
        expires: float | None = None,
        lease: bool = False,
    ) -> Any:
        """Accept on the address from now on, and hold it."""

    def disarm(self, address: bytes, now: float, cause: str) -> None:
        """Stop accepting on the address and give it up; harmless when it is not armed."""


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """An SSA that was issued: `sessions` sessions until `expires` (the node's clock, seconds), None for no end.

    sessions: None for a lease, which its first client uses as often as it wants (UM-LIS-8).
    client: who may use it, None for anybody.  service: the name it was issued under.
    """

    address: IPv6Address
    sessions: int | None
    expires: float | None
    client: IPv6Network | None
    service: str | None = None

    def __str__(self) -> str:
        return address_text(self.address.packed)

    def text(self, now: float) -> str:
        """One line for people: where, for what, for whom, for how long."""
        parts = [str(self.address)]
        if self.service is not None:
            parts.append(f"for {self.service}")
        if self.sessions is None:
            parts.append("lease")
        else:
            parts.append("1 session" if self.sessions == 1 else f"{self.sessions} sessions")
        if self.client is not None:
            whole = self.client.prefixlen == self.client.max_prefixlen
            parts.append(f"of {self.client.network_address if whole else self.client}")
        if self.expires is not None:
            parts.append(f"for {max(0.0, self.expires - now):.0f} s more")
        return ", ".join(parts)


def client_network(client: Client | None) -> IPv6Network | None:
    """The clients that an SSA is for: an address, a prefix, or None for anybody.

    >>> client_network("2001:db8::/32"), client_network("2001:db8::1"), client_network(None)
    (IPv6Network('2001:db8::/32'), IPv6Network('2001:db8::1/128'), None)

    Raises `IssueError` for anything else.
    """
    if client is None or isinstance(client, IPv6Network):
        return client
    try:
        return parse_prefix(str(client))
    except ValueError as error:
        raise IssueError(f"{client} is no client that an address can be issued for: {error}.") from error


def check_terms(sessions: int, lifetime: float | None, lease: bool = False) -> None:
    """Raise `IssueError` for terms that no SSA can be issued on."""
    if sessions < 1:
        raise IssueError(f"An address is issued for at least 1 session, not {sessions}.")
    if lease and lifetime is None:
        raise IssueError("A lease has an end: give it a lifetime.")
    if lifetime is not None and not 0 < lifetime <= MAX_LIFETIME:  # which is no number neither
        raise IssueError(f"An address lives more than 0 s and at most {MAX_LIFETIME:.0f} s, not {lifetime:g} s.")


class Issuer:
    """Issues SSAs for one listener.

    policy: where their addresses come from.  addresses: the node's table.  purpose: what they are for, the service's name
    included, which also stands in tokens.  events: the stream that is told so.
    """

    def __init__(
        self,
        listener: Arming,
        policy: Policy,
        addresses: AddressTable,
        purpose: Purpose = UNNAMED,
        events: EventStream | None = None,
    ) -> None:
        self.purpose = purpose
        self._events = events or EventStream()
        self._listener = listener
        self._policy = policy
        self._addresses = addresses
        self._issued: dict[bytes, tuple[AddressEntry, ServiceAddress]] = {}
        self._prune_at = 64

    @property
    def outstanding(self) -> list[ServiceAddress]:
        """The SSAs whose addresses live: armed, or in use by their last session; in order of issue."""
        self._prune()
        return [ssa for _, ssa in self._issued.values()]

    def issue(
        self,
        now: float,
        issued: Issued,
        *,
        deadline: float,
        sessions: int = 1,
        client: Client | None = None,
        lifetime: float | None = DEFAULT_LIFETIME,
        lease: bool = False,
        front_end: str | None = None,
        who: str | None = None,
    ) -> ServiceAddress | Pending:
        """An SSA at once, or what to cancel; then `issued(ssa or error, now)` comes later, by `deadline`.

        lifetime: seconds until it expires unused, None for never.  lease: for any number of sessions of the first client
        that completes one, until `lifetime` is over (UM-LIS-8); `sessions` does not count then.
        front_end, who: of this SSA's purpose, where it differs from the issuer's.
        The listener is armed when the SSA is returned or told.
        Raises `IssueError` for parameters that make no sense, and what the policy raises.
        """
        only = client_network(client)
        check_terms(sessions, lifetime, lease)
        purpose = self.purpose
        if front_end or who:
            purpose = replace(purpose, front_end=front_end or purpose.front_end, who=who or purpose.who)

        def arm(entry: AddressEntry, at: float) -> ServiceAddress:
            tell_purpose(self._events, at, entry.address, purpose)
            return self._arm(entry, at, None if lease else sessions, only, lifetime)

        def done(outcome: Outcome, at: float) -> None:
            if isinstance(outcome, UnimuxError):
                issued(outcome, at)
                return
            try:
                ssa = arm(outcome, at)
            except UnimuxError as error:
                issued(error, at)
            else:
                issued(ssa, at)

        # A client that is one host tells which prefix suits it (RFC 6724).
        destination = only.network_address.packed if only is not None and only.prefixlen == 128 else None
        cause = "issued" if purpose.service is None else f"issued for {purpose.service}"
        want = Want(AddressKind.SERVICE, destination, deadline, cause, purpose)
        begun = self._policy.ask(want, now, done)
        return arm(begun, now) if isinstance(begun, AddressEntry) else begun

    def withdraw(self, ssa: ServiceAddress, now: float) -> None:
        """Disarm an SSA that is no longer wanted; sessions that stand on it go on.  Harmless when it was used up."""
        self._listener.disarm(ssa.address.packed, now, "withdrawn")

    def _arm(
        self, entry: AddressEntry, now: float, sessions: int | None, client: IPv6Network | None, lifetime: float | None
    ) -> ServiceAddress:
        expires = None if lifetime is None else now + lifetime
        named = None if client is None else (client.network_address.packed, client.prefixlen)
        try:
            self._listener.arm(entry, now, sessions=sessions, client=named, expires=expires, lease=sessions is None)
        except Exception as error:
            self._addresses.give_back(entry, now, "could not be armed")
            if isinstance(error, UnimuxError):
                raise
            raise IssueError(f"The listener cannot be armed on {IPv6Address(entry.address)}: {error}") from error
        ssa = ServiceAddress(IPv6Address(entry.address), sessions, expires, client, self.purpose.service)
        self._issued[entry.address] = entry, ssa
        if len(self._issued) >= self._prune_at:
            self._prune()
            self._prune_at = max(64, 2 * len(self._issued))
        return ssa

    def _prune(self) -> None:
        """Forget the SSAs whose addresses are gone, whatever ended them: the table knows."""
        get = self._addresses.get
        self._issued = {key: pair for key, pair in self._issued.items() if get(key) is pair[0]}
