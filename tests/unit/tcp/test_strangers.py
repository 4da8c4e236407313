"""What third parties get from a one-time address: nothing, though they knocked first (UM-EA-1, UM-LIS-6, UM-LIS-8)."""

from __future__ import annotations

import pytest

from tapstack.events import DropReason
from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp.connection import Connection
from tapstack.tcp.listener import Listener
from tapstack.tcp.options import PortMode, SocketOptions, TimeWait
from tapstack.types import address

from . import wire
from .handmade import ended, old_segment
from .pair import Pair, read_all

A, B, STRANGER = "2001:db8:a::1", "2001:db8:b::1", "2001:db8:f::bad"
PORT = 5000
PROBES = ("A", "FA", "SA", "PA", "F", "")
"""Flags of segments that a host which knows no such connection answers with a reset."""


def said(pair: Pair, to: str, since: int) -> list[str]:
    """The flags of what `b` has sent to somebody."""
    return [str(wire.read(each).flags) for each in pair.sent_by("b", since) if each[24:40] == address(to)]


def knock(pair: Pair, source: str = STRANGER, port: int = PORT) -> int:
    """A SYN, and no more, at the SSA of `b`; the number that the answer acknowledges it with."""
    before = len(pair.packets)
    pair.b.input(wire.segment(source, B, port, 80, "S", seq=1000), pair.now)
    pair.run(0.05)
    (syn_ack,) = (wire.read(each) for each in pair.sent_by("b", before))
    assert str(syn_ack.flags) == "SA"
    return int(syn_ack.seq)


def goes_on(pair: Pair, isn: int) -> list[str]:
    """Whoever knocked acknowledges and says something: what `b` answers."""
    before = len(pair.packets)
    for flags, text in (("A", b""), ("PA", b"let me in")):
        pair.b.input(wire.segment(STRANGER, B, PORT, 80, flags, seq=1001, ack=isn + 1, payload=text), pair.now)
    pair.run(10)
    return said(pair, STRANGER, before)


def armed(pair: Pair, lease: bool = False, expires: float | None = None) -> Listener:
    """A listener at L2 whose SSA is armed."""
    listener = pair.b.tcp.listen(SocketOptions(mode=PortMode.L2, time_wait=TimeWait.SHORT), pair.now)
    listener.arm(pair.b.entry(pair.now, AddressKind.SERVICE), pair.now, lease=lease, expires=expires)
    return listener


def client_of(pair: Pair, listener: Listener) -> tuple[Connection, Connection]:
    """A session of `a`: both ends."""
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, SocketOptions())
    pair.run(0.1)
    server = listener.accept()
    assert server is not None
    return client, server


@pytest.mark.proves("UM-LIS-6", "UM-LIS-8")
@pytest.mark.parametrize("lease", [False, True], ids=["consumed", "leased"])
def test_who_only_knocked_at_an_ssa_hears_nothing_once_another_has_it(lease: bool) -> None:
    """No reset when its handshake is given up, no SYN-ACK again, and nothing when it goes on with the handshake."""
    pair = Pair()
    listener = armed(pair, lease)
    isn = knock(pair)
    before = len(pair.packets)
    client, server = client_of(pair, listener)
    pair.run(10)
    assert said(pair, STRANGER, before) == []
    assert goes_on(pair, isn) == []
    assert listener.accept() is None
    client.write(b"mine")
    pair.run(1)
    assert read_all(server) == b"mine", "the session is served in the same capture"
    assert pair.b.tcp.demux.half_open_count == 0


@pytest.mark.proves("UM-LIS-8")
def test_of_handshakes_on_a_lease_those_of_its_client_stay() -> None:
    pair = Pair()
    listener = armed(pair, lease=True)
    theirs, own = knock(pair), knock(pair, A, 7777)
    client_of(pair, listener)
    pair.b.input(wire.segment(A, B, 7777, 80, "PA", seq=1001, ack=own + 1, payload=b"a second one"), pair.now)
    pair.run(0.1)
    second = listener.accept()
    assert second is not None and read_all(second) == b"a second one"
    assert goes_on(pair, theirs) == []
    assert listener.accept() is None


@pytest.mark.proves("UM-LIS-5", "UM-LIS-6")
@pytest.mark.parametrize("how", ["expires", "is withdrawn", "loses its listener", "loses its address"])
def test_who_only_knocked_at_an_ssa_hears_nothing_when_it_ends_unused(how: str) -> None:
    pair = Pair()
    listener = armed(pair, expires=pair.now + 2.5 if how == "expires" else None)
    isn = knock(pair)
    pair.run(1.5)
    assert said(pair, STRANGER, 0) == ["SA", "SA"], "as long as the SSA is armed the answer is repeated"
    before = len(pair.packets)
    if how == "is withdrawn":
        listener.disarm(pair.b.address, pair.now, "withdrawn")
    elif how == "loses its listener":
        listener.close(pair.now)
    elif how == "loses its address":
        pair.b.host.addresses.expire(pair.b.entry(pair.now), pair.now, "its valid lifetime is over")
    else:
        pair.run(1.1)
    assert pair.b.host.addresses.get(pair.b.address) is None
    pair.run(30)
    assert said(pair, STRANGER, before) == []
    assert goes_on(pair, isn) == []


@pytest.mark.proves("UM-EA-1", "UM-LIS-6")
def test_who_only_knocked_at_an_ssa_is_no_peer_of_it() -> None:
    """Until its handshake completes it gets the answer to its SYN, and nothing else: no reset, whatever it sends."""
    pair = Pair()
    listener = armed(pair)
    isn = knock(pair)
    before = len(pair.packets)
    for flags in PROBES:
        pair.b.input(wire.segment(STRANGER, B, PORT + 1, 80, flags, seq=1001, ack=isn + 7), pair.now)
    pair.b.input(wire.segment(STRANGER, B, PORT, 80, "A", seq=1001, ack=isn + 7), pair.now)  # of a number never sent
    pair.run(0.1)
    assert said(pair, STRANGER, before) == []
    assert pair.b.counters.drops[DropReason.ADDRESS_SILENT] >= 4
    assert goes_on(pair, isn) == ["A"], "and who completes it is the peer"
    assert listener.accept() is not None


@pytest.mark.proves("UM-EA-1", "UM-REL-2")
@pytest.mark.parametrize("mode", [PortMode.L0, PortMode.L1, PortMode.L2])
def test_strangers_to_an_address_in_time_wait_get_nothing(mode: PortMode) -> None:
    pair = Pair()
    client, _, _ = ended(pair, TimeWait.FULL, mode=mode)
    pair.run(1)
    before = len(pair.packets)
    for flags in ("S", *PROBES):
        seq = client.receiver.rcv_nxt
        pair.a.input(wire.segment(STRANGER, A, client.remote_port, client.local_port, flags, seq=seq), pair.now)
        pair.run(0.1)
    assert len(pair.packets) == before
    assert pair.a.counters.drops[DropReason.ADDRESS_SILENT] >= 4
    assert old_segment(pair, client) == ["A"], "the peer is answered in the same capture"
