"""Passive opens: LISTEN_o, armed addresses, the handshakes that stand on them (unified-multiplex §5).

A listener without an address is in LISTEN_o and in no table.  Arming an address for it enters that address, and
the listener is in LISTEN as long as one is armed.  Handshakes stand beside each other until one completes; the
completion, not the SYN, uses up a session (UM-LIS-3), and the last session takes the address off the tables and drops
the other handshakes in silence (UM-LIS-6).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from operator import attrgetter
from typing import TYPE_CHECKING

from ..events import DropReason, ListenerChanged
from ..ipv6.addresses import AddressEntry, AddressState
from ..signals import Signal
from ..types import address_text
from .connection import Connection
from .options import SocketOptions
from .states import TRANSITIONS, TcpState, TcpTrigger

if TYPE_CHECKING:
    from .layer import Tcp
    from .segment import Segment


def in_order(members: set[Connection]) -> list[Connection]:
    """Oldest first: a set's own order is that of memory addresses, and equal runs have to end alike."""
    return sorted(members, key=attrgetter("id"))


class Admission(Enum):
    """What a SYN may cost."""

    REFUSED = auto()
    TABLE = auto()
    COOKIE = auto()


class ArmedAddress:
    """One address on which a listener accepts; an `AddressUser` while it is armed.

    sessions: how many more may be established; None for no limit (an ordinary address).
    client: (prefix bytes, length) of the only clients that are answered, or None (UM-LIS-4).
    lease: the first client to complete a handshake is the only one from then on (UM-LIS-8); leased: it has come.
    cookies_until: when the last cookie that was sent for it is void: all that is remembered of them.
    """

    __slots__ = (
        "client",
        "cookies_until",
        "entry",
        "expiry",
        "half_open",
        "key",
        "lease",
        "leased",
        "listener",
        "sessions",
    )

    remote = None

    def __init__(
        self,
        listener: Listener,
        entry: AddressEntry,
        sessions: int | None,
        client: tuple[bytes, int] | None,
        lease: bool,
    ) -> None:
        self.listener = listener
        self.entry = entry
        self.sessions = sessions
        self.client = client
        self.lease = lease
        self.leased = False
        self.half_open: set[Connection] = set()
        self.cookies_until = -1.0
        self.expiry = listener.tcp.timers.timer(self._expire)
        self.key = listener.key_of(entry.address)

    def __repr__(self) -> str:
        return f"{self.listener!r} on {address_text(self.entry.address)}"

    @property
    def client_text(self) -> str | None:
        """The only clients as a prefix, or as an address where it is one host; None for anybody."""
        if self.client is None:
            return None
        prefix, length = self.client
        return address_text(prefix) + ("" if length == 128 else f"/{length}")

    def serves(self, remote: bytes) -> bool:
        """An armed address has no peer yet: nothing is sent on its behalf but to a handshake's other end."""
        return False

    @property
    def resting(self) -> bool:
        """Whether nothing new starts on it: a one-time address whose preferred lifetime is over (UM-ADDR-11).

        Handshakes that have begun go on, and it is as before when its prefix is preferred again.  An ordinary address
        accepts still (RFC 4862 §5.5.4).
        """
        return self.entry.state is AddressState.DEPRECATED and self.entry.kind.one_time

    @property
    def heard(self) -> bool:
        """Whether a SYN has come."""
        return bool(self.half_open) or self.cookies_until >= 0

    def admits(self, remote: bytes) -> bool:
        """Whether a SYN from `remote` is for the named client."""
        if self.client is None:
            return True
        prefix, length = self.client
        shift = 128 - length
        return int.from_bytes(remote, "big") >> shift == int.from_bytes(prefix, "big") >> shift

    def bind(self, remote: bytes, now: float) -> None:
        """A lease is taken by `remote`: it is the only client now, and handshakes of others are dropped in silence."""
        self.lease = False
        self.leased = True
        self.client = remote, 128
        for connection in in_order(self.half_open):
            if connection.remote != remote:
                connection.delete(TcpTrigger.DELETE, now, "another client has the lease")
        self.listener.tcp.host.withdraw(self.entry)
        self.listener.tell(self.listener.state, now, self, "leased")

    def _expire(self, now: float) -> None:
        unused = self.lease or self.sessions is not None
        self.listener.disarm(self.entry.address, now, "expired unused" if unused else "the lease is over")


class Listener:
    """A listening socket.  Made by `Tcp.listen`; `state` is LISTEN_o or LISTEN, CLOSED after `close`.

    port: the local port in Aware mode, None elsewhere.  service: a name for people.  `accept` gives completed connections.
    """

    def __init__(
        self, tcp: Tcp, options: SocketOptions, port: int | None, now: float, service: str | None = None
    ) -> None:
        self.tcp = tcp
        self.service = service
        self.id = tcp.next_id()
        self.options = options
        self.port = port
        self.state = TcpState.CLOSED
        self.armed: dict[bytes, ArmedAddress] = {}
        self.owner: Callable[[int], None] | None = None
        self.signals = 0
        self._accepted: deque[Connection] = deque()
        self._wildcard = False
        self._move(TcpTrigger.LISTEN_UNBOUND, now, None, "listen")

    def __repr__(self) -> str:
        name = "" if self.service is None else f" of {self.service}"
        return f"listener {self.id}{name} {self.options.mode}{'' if self.port is None else f' port {self.port}'}"

    @property
    def everywhere(self) -> str:
        """A wildcard listener for people, as `ArmedAddress` has a name for one address."""
        return f"{self!r} on every ordinary address"

    def shadows(self, armed: ArmedAddress) -> bool:
        """Whether it would take packets of an armed address, or lose its own to that, if it accepted at every ordinary one."""
        return not armed.entry.kind.one_time and armed.listener.port in (None, self.port)

    def key_of(self, address: bytes) -> bytes:
        """The listener's key: the local address, with the port in Aware (UM-LIS-7)."""
        return address if self.port is None else address + self.port.to_bytes(2, "big")

    # -- arming ----------------------------------------------------------------------------------

    @property
    def accepting(self) -> list[bytes]:
        """The addresses that can be connected to now: those that are armed and do not rest."""
        return [address for address, armed in self.armed.items() if not armed.resting]

    def arm(
        self,
        entry: AddressEntry,
        now: float,
        *,
        sessions: int | None = 1,
        client: tuple[bytes, int] | None = None,
        expires: float | None = None,
        lease: bool = False,
    ) -> ArmedAddress:
        """Accept on a PREFERRED address from now on (UM-LIS-2); `expires` is a time of the stack's clock.

        lease: for as many sessions as the first client wants that completes one, for nobody else afterwards (UM-LIS-8).

        Raises `ConflictingSocket` when another listener could take its packets, `AddressError` when the address is not usable.
        """
        if self.state is TcpState.CLOSED:
            raise ValueError("the listener is closed")
        armed = ArmedAddress(self, entry, None if lease else sessions, client, lease)
        self.tcp.refuse_wildcards(armed)
        self._enter(armed, now, expires)
        return armed

    def arm_where_found(self, entry: AddressEntry, now: float) -> ArmedAddress:
        """A segment for a wildcard listener has come to an ordinary address: accept there, as was said before."""
        armed = ArmedAddress(self, entry, None, None, False)
        self._enter(armed, now, None)
        return armed

    def _enter(self, armed: ArmedAddress, now: float, expires: float | None) -> None:
        self.tcp.enter_listener(armed)
        try:
            self.tcp.host.addresses.acquire(armed.entry, armed)
        except BaseException:
            self.tcp.leave_listener(armed)
            raise
        self.armed[armed.entry.address] = armed
        if expires is not None:
            armed.expiry.set(expires)
        self._move(TcpTrigger.ADDRESS_SET, now, armed, "address set")

    def listen_on_ordinary(self) -> None:
        """Aware mode: accept on the port at every address that is not a one-time one (UM-EA-1: never at an EA).

        Raises `ConflictingSocket` where a listener accepts on the port of one of them already, or on all its ports.
        """
        if self.port is None:
            raise ValueError("only a listener in Aware mode has a port to share between addresses")
        self.tcp.enter_wildcard(self)
        self._wildcard = True

    def disarm(self, address: bytes, now: float, cause: str) -> None:
        """Stop accepting on an address; its handshakes are dropped in silence.  Harmless when it is not armed."""
        armed = self.armed.pop(address, None)
        if armed is None:
            return
        armed.expiry.retire()
        self.tcp.leave_listener(armed)
        for connection in in_order(armed.half_open):
            connection.delete(TcpTrigger.DELETE, now, cause)
        self.tcp.host.withdraw(armed.entry)
        self._move(TcpTrigger.ADDRESS_SET if self.armed else TcpTrigger.LAST_ADDRESS_GONE, now, armed, cause)
        self.tcp.host.addresses.drop(armed.entry, armed, now, cause)

    def close(self, now: float) -> None:
        """Disarm everything, reset connections nobody accepted, and be gone."""
        if self.state is TcpState.CLOSED:
            return
        for address in list(self.armed):
            self.disarm(address, now, "listener closed")
        if self._wildcard:
            self.tcp.leave_wildcard(self)
        while self._accepted:
            self._accepted.popleft().abort(now, "listener closed")
        self._move(TcpTrigger.DELETE, now, None, "close")
        self.tcp.listeners.discard(self)

    # -- handshakes ------------------------------------------------------------------------------

    def may_open(self, armed: ArmedAddress, segment: Segment) -> Admission:
        """How a SYN is to be answered; counts why not at all."""
        if not armed.admits(segment.remote):
            self.tcp.counters.drop(DropReason.TCP_NOT_NAMED_CLIENT)
            return Admission.REFUSED
        if len(self._accepted) >= self.options.backlog:
            self.tcp.counters.drop(DropReason.TCP_ACCEPT_QUEUE)
            return Admission.REFUSED
        if len(armed.half_open) >= self.options.backlog or self.tcp.passive.full:
            self.tcp.counters.drop(DropReason.TCP_HALF_OPEN_LIMIT)
            return Admission.COOKIE if self.options.cookies else Admission.REFUSED
        return Admission.TABLE

    def completed(self, connection: Connection, now: float) -> None:
        """A handshake completed: hand the connection over, and use up a session of its address."""
        armed = connection.armed
        assert armed is not None
        armed.half_open.discard(connection)
        self._accepted.append(connection)
        self.signal(Signal.ACCEPTABLE)
        if armed.lease:
            armed.bind(connection.remote, now)
        if armed.sessions is not None:
            armed.sessions -= 1
            if armed.sessions == 0:
                self.disarm(armed.entry.address, now, "consumed")
            else:
                self.tell(self.state, now, armed, "a session of several")

    def accept(self) -> Connection | None:
        """The oldest completed connection that was not taken yet."""
        return self._accepted.popleft() if self._accepted else None

    def signal(self, bits: int) -> None:
        """Collect news for the owner."""
        if not self.signals:
            self.tcp.signalled.append(self)
        self.signals |= bits

    def _move(self, trigger: TcpTrigger, now: float, armed: ArmedAddress | None, cause: str) -> None:
        old = self.state
        self.state = TRANSITIONS[old, trigger]
        self.tell(old, now, armed, cause)

    def tell(self, old: TcpState, now: float, armed: ArmedAddress | None, cause: str) -> None:
        """Say what has changed, at one of its addresses or altogether."""
        if not self.tcp.events.active:
            return
        self.tcp.events.emit(
            ListenerChanged(
                time=now,
                listener=self.id,
                service=self.service,
                old=old.value,
                new=self.state.value,
                address=None if armed is None else address_text(armed.entry.address),
                armed=len(self.armed),
                cause=cause,
                client=None if armed is None else armed.client_text,
                sessions=None if armed is None else armed.sessions,
                until=None if armed is None else armed.expiry.when,
            )
        )
