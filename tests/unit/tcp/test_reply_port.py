"""Where replies go when a NAPT forgets the peer's port in mid-connection (UM-PORT-3, UM-PORT-4; unified-multiplex §6)."""

from __future__ import annotations

from typing import Any

import pytest

from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import PortMode, SocketOptions

from . import wire
from .handmade import in_time_wait, sent
from .napt import Napt, translated
from .pair import Pair, read_all

A, B = "2001:db8:a::1", "2001:db8:b::1"
WRAP = 1 << 32
STAMPS = pytest.mark.parametrize("timestamps", [True, False])


def answered(pair: Pair, since: int) -> list[tuple[str, int]]:
    """Flags and destination port of what `b` has sent."""
    return [(str(tcp.flags), tcp.dport) for tcp in sent(pair, "b", since)]


# -- what ends, resets, repeats or asks ----------------------------------------------------------------


@pytest.mark.proves("UM-PORT-3", "UM-REL-2")
@STAMPS
@pytest.mark.parametrize("both", [False, True])
def test_the_last_acknowledgement_goes_to_the_port_that_the_last_segment_came_from(
    timestamps: bool, both: bool
) -> None:
    """FIN-WAIT-2, or FIN-WAIT-1 and CLOSING where both close at once; TIME-WAIT is at the server."""
    pair, napt, client, server = translated(timestamps=timestamps)
    server.shutdown(pair.now)
    if both:
        client.shutdown(pair.now)
    else:
        pair.run(1)
    before = napt.rebind()
    client.shutdown(pair.now)
    pair.run(2)
    assert (client.error, client.state.value, len(pair.b.tcp.time_waits)) == (None, "CLOSED", 1)
    assert ("A", napt.port) in answered(pair, before)


@pytest.mark.proves("UM-PORT-3")
@STAMPS
def test_what_a_closed_socket_does_not_take_is_reset_at_the_new_port(timestamps: bool) -> None:
    pair, napt, client, server = translated(timestamps=timestamps)
    server.close(pair.now)
    pair.run(1)
    before = napt.rebind()
    client.write(b"more")
    pair.run(1)
    assert answered(pair, before) == [("RA", napt.port)]
    assert isinstance(client.error, ConnectionResetError)


@pytest.mark.proves("UM-PORT-3")
def test_a_repetition_from_a_new_port_is_acknowledged_there() -> None:
    """The request had arrived, its acknowledgement had not."""
    pair, napt, client, server = translated()
    napt.deaf = True
    client.write(b"request")
    pair.run(0.1)
    assert read_all(server) == b"request"
    napt.deaf = False
    before = napt.rebind()
    pair.run(2)
    assert not client.sender.in_flight and not napt.lost
    assert {port for _, port in answered(pair, before)} == {napt.port}
    server.write(b"answer")
    pair.run(1)
    assert read_all(client) == b"answer"


@pytest.mark.proves("UM-PORT-3")
def test_a_fin_that_is_repeated_from_a_new_port_is_acknowledged_there() -> None:
    """CLOSE-WAIT at the server, whose program goes on."""
    pair, napt, client, server = translated()
    napt.deaf = True
    client.shutdown(pair.now)
    pair.run(0.05)
    assert server.state.value == "CLOSE-WAIT"
    napt.deaf = False
    napt.rebind()
    pair.run(2)
    assert client.state.value == "FIN-WAIT-2" and not napt.lost
    server.write(b"answer")
    pair.run(1)
    assert read_all(client) == b"answer"


@pytest.mark.proves("UM-PORT-3", "UM-REL-2")
def test_in_time_wait_a_fin_that_is_repeated_from_a_new_port_is_acknowledged_there() -> None:
    pair, napt, client, server = translated()
    server.shutdown(pair.now)
    pair.run(1)
    napt.deaf = True
    client.shutdown(pair.now)
    pair.run(0.05)
    assert len(pair.b.tcp.time_waits) == 1
    napt.deaf = False
    before = napt.rebind()
    pair.run(5, until=lambda: client.state.value == "CLOSED")
    assert client.error is None
    assert answered(pair, before)[-1] == ("A", napt.port)


@pytest.mark.proves("UM-PORT-3")
def test_a_keep_alive_from_a_new_port_is_answered_there() -> None:
    pair, napt, client, server = translated(client=SocketOptions(mode=PortMode.AWARE, keep_alive=7200.0))
    before = napt.rebind()
    pair.run(7300)
    assert answered(pair, before) == [("A", napt.port)]
    server.write(b"news")
    pair.run(1)
    assert read_all(client) == b"news"


@pytest.mark.proves("UM-PORT-3")
def test_a_probe_of_a_closed_window_from_a_new_port_is_answered_there() -> None:
    pair, napt, client, server = translated(receive_buffer=4000, receive_buffer_maximum=4000)
    client.write(b"x" * 9000)
    pair.run(10)
    assert server.receiver.window() == 0 and client.timers.persisting
    before = napt.rebind()
    pair.run(60)
    assert {port for _, port in answered(pair, before)} == {napt.port}
    text = b""
    for _ in range(3):
        text += read_all(server)
        pair.run(60)
    assert len(text) == 9000


@pytest.mark.proves("UM-PORT-3", "UM-PORT-4")
def test_a_syn_that_is_repeated_from_a_new_port_opens_there() -> None:
    """Two half-open handshakes of one client: the one that completes is the session."""
    pair = Pair()
    napt = Napt(pair)
    napt.deaf = True
    listener = pair.b.tcp.listen(SocketOptions(mode=PortMode.L1), pair.now)
    listener.arm(pair.b.entry(pair.now, AddressKind.SERVICE), pair.now)
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, SocketOptions())
    pair.run(0.5)
    napt.deaf = False
    napt.rebind()
    pair.run(5)
    assert client.state.value == "ESTABLISHED"
    server = listener.accept()
    assert server is not None and pair.b.tcp.demux.half_open_count == 0
    server.write(b"welcome")
    pair.run(1)
    assert read_all(client) == b"welcome"


@pytest.mark.proves("UM-PORT-3")
@pytest.mark.parametrize("mode", [PortMode.L1, PortMode.L2])
def test_who_calls_writes_the_port_that_the_answer_comes_from(mode: PortMode) -> None:
    """Slide 23: at L1 and at L2 the destination is the source port of received packets; a translator is at the server."""
    pair = Pair()
    port = 9999

    def translator(end: object, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        return [wire.changed(packet, sport=port) if end is pair.b else wire.changed(packet, dport=80)]

    pair.meddle = translator
    listener = pair.b.tcp.listen(SocketOptions(mode=PortMode.L1), pair.now)
    listener.arm(pair.b.entry(pair.now, AddressKind.SERVICE), pair.now)
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, SocketOptions(mode=mode))
    pair.run(1)
    server = listener.accept()
    assert server is not None
    client.write(b"question")
    pair.run(1)
    assert [tcp.dport for tcp in sent(pair, "a")] == [80, 9999, 9999]
    port, before = 9998, len(pair.packets)
    server.write(b"answer")
    pair.run(1)
    assert {tcp.dport for tcp in sent(pair, "a", before)} == {9998}


@pytest.mark.proves("UM-PORT-1", "UM-PORT-5")
@pytest.mark.parametrize(("mode", "heard"), [(PortMode.L0, b"second"), (PortMode.L2, b""), (PortMode.AWARE, b"")])
def test_no_other_mode_follows(mode: PortMode, heard: bytes) -> None:
    """L0 hears and answers where it did before; where the client's port is in the key, another is another connection's."""
    pair = Pair()
    napt = Napt(pair)
    aware = mode is PortMode.AWARE
    listener = pair.b.tcp.listen(SocketOptions(mode=mode), pair.now, 80 if aware else None)
    listener.arm(pair.b.entry(pair.now, AddressKind.SERVICE), pair.now)
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, SocketOptions())
    pair.run(1)
    server = listener.accept()
    assert server is not None
    old = napt.port
    before = napt.rebind()
    client.write(b"second")
    pair.run(2)
    assert read_all(server) == heard
    assert {port for flags, port in answered(pair, before) if flags != "R"} <= {old}


# -- what moves nothing --------------------------------------------------------------------------------


def handmade(server: Connection, stamp: int | None, port: int = 40_007, **changes: Any) -> bytes:
    """A repetition of the last octet that the server has had, as its peer would send it now but for the `changes`."""
    payload = changes.pop("payload", b"x")
    flags = changes.pop("flags", "A")
    seq = server.receiver.rcv_nxt - 1 + changes.pop("seq", 0)
    ack = server.sender.snd_nxt + changes.pop("ack", 0)
    options = [] if stamp is None else [("NOP", None), ("NOP", None), ("Timestamp", (stamp % WRAP, 0))]
    return wire.segment(A, B, port, server.local_port, flags, seq, ack, window=60000, options=options, payload=payload)


FORGED: dict[str, dict[str, Any]] = {
    "its timestamp is that of the last one": {"later": 0},
    "its timestamp is older": {"later": -1},
    "it acknowledges what was never sent": {"ack": 1},
    "it acknowledges less than was acknowledged": {"ack": -1},
    "its number is out of reach": {"seq": -(1 << 24)},
    "it has no timestamp": {"later": None},
    "it is a SYN": {"flags": "S", "payload": b"", "seq": -20},
    "it is a SYN-ACK": {"flags": "SA", "payload": b"", "seq": -20},
    "it acknowledges nothing": {"flags": ""},
}


@pytest.mark.proves("UM-PORT-3", "UM-PORT-10")
@pytest.mark.parametrize("what", FORGED)
def test_a_repetition_that_may_be_old_or_blind_moves_nothing(what: str) -> None:
    """Everything else about it is right: the control is the same segment without the flaw."""
    pair, napt, client, server = translated()
    napt.deaf = True
    changes = dict(FORGED[what])
    later = changes.pop("later", 1000)
    recent = server.receiver.ts_recent
    assert recent is not None
    pair.run(5)
    before = len(pair.packets)
    pair.b.input(handmade(server, None if later is None else recent + later, **changes), pair.now)
    pair.run(1)
    server.write(b"news")
    pair.run(0.01)
    assert {port for _, port in answered(pair, before)} == {napt.port}
    assert server.receiver.ts_recent == recent
    before = len(pair.packets)
    pair.b.input(handmade(server, recent + 1000), pair.now)
    pair.flush()
    assert answered(pair, before) == [("A", 40_007)], "the same without the flaw does"
    assert client.error is None


@pytest.mark.proves("UM-PORT-3")
@pytest.mark.parametrize(("later", "port"), [(1000, 40_007), (3000, 40_008)])
def test_a_segment_that_was_late_does_not_move_the_port_back(later: int, port: int) -> None:
    """What moved the port need not have moved TS.Recent; then text that was sent before it still passes PAWS, and is taken."""
    pair, _, _, server = translated()
    recent = server.receiver.ts_recent
    assert recent is not None
    pair.run(5)
    pair.b.input(handmade(server, recent + 2000), pair.now)
    pair.b.input(handmade(server, recent + later, 40_008, seq=1, payload=b"late"), pair.now)
    before = len(pair.packets)
    pair.run(0.1)
    assert read_all(server) == b"late"
    assert {port for _, port in answered(pair, before)} == {port}


@pytest.mark.proves("UM-PORT-3")
def test_without_timestamps_the_port_moves_with_the_next_new_octet() -> None:
    """A repetition cannot be told from what was late: it is answered where replies went before (`docs/limits.md`)."""
    pair, napt, client, server = translated(timestamps=False)
    pair.run(1)
    before = len(pair.packets)
    pair.b.input(handmade(server, None), pair.now)
    pair.flush()
    assert answered(pair, before) == [("A", napt.port)]
    before = napt.rebind()
    client.write(b"more")
    pair.run(1)
    assert read_all(server) == b"more"
    assert answered(pair, before) == [("A", napt.port)]


# -- TIME-WAIT -----------------------------------------------------------------------------------------


def fin_again(server: Connection, stamp: int | None, port: int, flags: str = "FA", ack: int = 0) -> bytes:
    """The last segment of the peer of `a` once more."""
    options = [] if stamp is None else [("Timestamp", (stamp % WRAP, 0))]
    seq, ack = server.receiver.rcv_nxt - 1, server.sender.snd_nxt + ack
    return wire.segment(B, A, port, 80, flags, seq, ack, options=options)


WAITING: dict[str, tuple[str, int | None, int]] = {
    "a SYN": ("S", 1000, 0),
    "a SYN-ACK": ("SA", 1000, 0),
    "its timestamp is that of the last one": ("FA", 0, 0),
    "its timestamp is older": ("FA", -1, 0),
    "it has no timestamp": ("FA", None, 0),
    "it acknowledges less": ("FA", 1000, -1),
}


@pytest.mark.proves("UM-PORT-3", "UM-PORT-4", "UM-REL-2")
@pytest.mark.parametrize("what", WAITING)
def test_time_wait_answers_at_the_port_of_the_connection_that_was(what: str) -> None:
    """A second SYN above all, which a program of the same host may send: at its port the answer would draw a reset."""
    pair, server = in_time_wait(PortMode.L1, timestamps=True)
    flags, later, ack = WAITING[what]
    recent = server.receiver.ts_recent
    assert recent is not None
    pair.meddle = lambda end, packet: []
    for port, segment in (
        (5000, fin_again(server, None if later is None else recent + later, 5001, flags, ack)),
        (5001, fin_again(server, recent + 2000, 5001)),
    ):
        before = len(pair.packets)
        pair.run(1)
        pair.a.input(segment, pair.now)
        pair.flush()
        assert [(str(tcp.flags), tcp.dport) for tcp in sent(pair, "a", before)] == [("A", port)]


@pytest.mark.proves("UM-PORT-1", "UM-REL-2")
def test_at_l0_time_wait_never_updates_its_port() -> None:
    pair, server = in_time_wait(PortMode.L0, timestamps=True)
    recent = server.receiver.ts_recent
    assert recent is not None
    pair.run(1)
    before = len(pair.packets)
    pair.a.input(fin_again(server, recent + 2000, 5001), pair.now)
    pair.flush()
    assert [(str(tcp.flags), tcp.dport) for tcp in sent(pair, "a", before)] == [("A", 5000)]
