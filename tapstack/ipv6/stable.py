"""The addresses that a host forms and keeps: a link-local one, and one per autonomous prefix (RFC 7217, RFC 4862 §5.5.3).

They live as long as their prefix.  Where another node has one, the next takes its place (RFC 7217 §6).
"""

from __future__ import annotations

from ..timers import Timer
from ..types import address, is_link_local
from .addresses import AddressEntry, AddressKind
from .identifiers import stable_address
from .interface import Interface
from .prefixes import Prefix, PrefixList

LINK_LOCAL_PREFIX = address("fe80::")


class StableAddresses:
    """Forms the addresses of one host.  secret: from which they are derived."""

    def __init__(self, interface: Interface, prefixes: PrefixList, secret: bytes) -> None:
        self._interface = interface
        self._prefixes = prefixes
        self._secret = secret
        self._counters: dict[bytes, int] = {}
        """prefix → how many addresses in it others had (DAD_Counter)"""
        self._formed: dict[bytes, bytes] = {}
        """prefix → the address last formed in it"""
        self._due: set[Timer] = set()
        self._boot = interface.timers.timer(lambda now: self._form(LINK_LOCAL_PREFIX, AddressKind.LINK_LOCAL, now))

    def __contains__(self, entry: AddressEntry) -> bool:
        """Whether an address was formed here."""
        return self._formed.get(_prefix_of(entry.address)) == entry.address

    def start(self, now: float) -> None:
        """Form the link-local address, after a random delay (RFC 4862 §5.4.2)."""
        self._boot.set(now + self._delay())

    def stop(self) -> None:
        """Form none any more."""
        self._boot.cancel()
        for timer in self._due:
            timer.cancel()
        self._due.clear()

    def usable(self, prefix: Prefix, now: float) -> None:
        """Addresses may be formed in a prefix: form one, after a random delay."""

        def due(now: float) -> None:
            self._due.discard(timer)
            self._form_stable(prefix, now)

        timer = self._interface.timers.timer(due)
        self._due.add(timer)
        timer.set(now + self._delay())

    def expired(self, prefix: Prefix) -> None:
        """A prefix has had its time; the next with its name begins anew."""
        self._counters.pop(prefix.prefix, None)

    def taken(self, entry: AddressEntry, now: float) -> None:
        """Another node has an address: where it was formed here, the next one takes its place; DAD paces the attempts."""
        if entry not in self:
            return
        prefix = _prefix_of(entry.address)
        self._counters[prefix] = self._counters.get(prefix, 0) + 1
        if is_link_local(entry.address):
            self._form(prefix, AddressKind.LINK_LOCAL, now)
        else:
            found = self._prefixes.of(entry.address)
            if found is not None:
                self._form_stable(found, now)

    def _form_stable(self, prefix: Prefix, now: float) -> None:
        if prefix.autonomous:
            self._form(prefix.prefix, AddressKind.STABLE, now)

    def _form(self, prefix: bytes, kind: AddressKind, now: float) -> None:
        formed = stable_address(prefix, self._secret, self._counters.get(prefix, 0))
        if formed not in self._interface.addresses:
            self._formed[prefix] = formed
            self._interface.addresses.add(formed, kind, now)

    def _delay(self) -> float:
        return self._interface.random.uniform(0.0, self._interface.config.dad_initial_delay)


def _prefix_of(address: bytes) -> bytes:
    """The /64 that an address lies in."""
    return address[:8] + bytes(8)
