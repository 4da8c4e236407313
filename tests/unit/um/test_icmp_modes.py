"""ICMPv6 errors reach the session that they are about, at the end that called and at the end that was called (UM-PORT-9)."""

from __future__ import annotations

import pytest

from tapstack.ipv6.addresses import AddressKind
from tapstack.ipv6.packet import IcmpError
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.wire.icmpv6 import Type
from tests.unit.tcp.pair import Pair

HOST_UNREACHABLE = 3
READ = {
    (PortMode.L0, "caller"): set(),
    (PortMode.L0, "called"): set(),
    (PortMode.L1, "caller"): set(),
    (PortMode.L1, "called"): set(),
    (PortMode.L2, "caller"): {"local"},
    (PortMode.L2, "called"): {"remote"},
    (PortMode.AWARE, "caller"): {"local", "remote"},
    (PortMode.AWARE, "called"): {"local", "remote"},
}
"""Which of the quoted ports, seen from the end that reads the error, tell its sessions apart."""


def established(pair: Pair, mode: PortMode) -> tuple[list[Connection], list[Connection]]:
    """As many sessions of the two addresses as the mode can tell apart, with data in flight both ways; callers and called."""
    options = SocketOptions(mode=mode)
    listener = pair.b.tcp.listen(options, pair.now, 80 if mode is PortMode.AWARE else None)
    listener.arm(pair.b.entry(pair.now, AddressKind.SERVICE), pair.now, sessions=None)
    entry = pair.a.entry(pair.now)
    count = 3 if READ[mode, "called"] else 1
    callers = [
        pair.a.tcp.connect(entry, pair.b.address, 80, pair.now, options, local_port=5000 + n) for n in range(count)
    ]
    pair.run(1)
    called = sorted((c for c in iter(listener.accept, None)), key=lambda c: c.remote_port)
    assert [c.remote_port for c in called] == [c.local_port for c in callers]
    pair.meddle = lambda end, packet: []
    for connection in (*callers, *called):
        connection.write(b"in flight")
    pair.flush()
    return callers, called


def report(pair: Pair, about: Connection, *, local: int = 0, remote: int = 0, sequence: int = 0) -> None:
    """An error about a segment of a connection, with ports and sequence number that far beside the true ones."""
    quoted = (
        (about.local_port ^ local).to_bytes(2, "big")
        + (about.remote_port ^ remote).to_bytes(2, "big")
        + ((about.sender.snd_una + sequence) & 0xFFFFFFFF).to_bytes(4, "big")
    )
    kind = Type.DESTINATION_UNREACHABLE
    about.tcp.error(
        IcmpError(kind, HOST_UNREACHABLE, 0, about.remote, about.local, about.remote, 6, memoryview(quoted)), pair.now
    )


def troubled(connections: list[Connection]) -> list[int]:
    """Which of them have heard of an error; they forget it."""
    found = [n for n, connection in enumerate(connections) if connection.soft_error is not None]
    for connection in connections:
        connection.soft_error = None
    return found


@pytest.mark.proves("UM-PORT-9", "UM-PORT-13", by="api")
@pytest.mark.parametrize("end", ["caller", "called"])
@pytest.mark.parametrize("mode", list(PortMode))
def test_an_error_reaches_its_session_and_no_other(mode: PortMode, end: str) -> None:
    pair = Pair()
    callers, called = established(pair, mode)
    ours, others = (callers, called) if end == "caller" else (called, callers)
    for n, connection in enumerate(ours):
        report(pair, connection)
        assert troubled(ours) == [n]
        for wrong in (-1, 9, 70_000, 1 << 31):
            report(pair, connection, sequence=wrong)
        assert troubled(ours) == [], "a sequence number that is not in flight does not count"
        for which in ("local", "remote"):
            report(pair, connection, **{which: 0x4000})
            reads = which in READ[mode, end]
            assert troubled(ours) == ([] if reads else [n]), (
                f"the quoted {which} port {'is' if reads else 'is not'} read"
            )
    assert troubled(others) == []
    assert {c.state.value for c in (*callers, *called)} == {"ESTABLISHED"}


@pytest.mark.proves("UM-PORT-9", "UM-PORT-13", "UM-LIS-3", by="api")
@pytest.mark.parametrize("mode", list(PortMode))
def test_an_error_about_a_syn_ack_ends_that_handshake_alone(mode: PortMode) -> None:
    """Half-open handshakes have all four values in every mode; the SSA stays armed for its client."""
    pair = Pair()
    options = SocketOptions(mode=mode)
    listener = pair.b.tcp.listen(options, pair.now, 80 if mode is PortMode.AWARE else None)
    listener.arm(pair.b.entry(pair.now, AddressKind.SERVICE), pair.now)
    pair.meddle = lambda sender, packet: [packet] if sender is pair.a else []
    aware = SocketOptions(mode=PortMode.AWARE)
    for n in range(3):
        pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, aware, local_port=5000 + n)
    pair.run(0.1)
    half_open = sorted(pair.b.tcp.demux.half_open(), key=lambda c: c.remote_port)
    assert len(half_open) == 3
    report(pair, half_open[1], remote=0x4000)
    assert len(pair.b.tcp.demux.half_open()) == 3
    report(pair, half_open[1])
    assert {c.remote_port for c in pair.b.tcp.demux.half_open()} == {5000, 5002}
    assert len(listener.armed) == 1
    pair.meddle = None
    pair.run(3)
    assert listener.accept() is not None
