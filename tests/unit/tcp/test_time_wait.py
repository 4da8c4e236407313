"""TIME-WAIT: to its last moment, and what it answers and opens again (RFC 9293 §3.6.1, RFC 6191, unified-multiplex §7)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp.connection import Connection
from tapstack.tcp.listener import Listener
from tapstack.tcp.options import PortMode, SocketOptions, TimeWait
from tapstack.tcp.sequence import MASK
from tapstack.tcp.timewait import TimeWaitRecord

from . import wire
from .handmade import A, B, by_hand, ended, in_time_wait, old_segment, reopen
from .pair import Pair
from .path import established
from .seen import ACK, segments


@pytest.mark.proves("ST-TCP-13", "UM-REL-2")
@pytest.mark.parametrize(("option", "seconds"), [(TimeWait.FULL, 60.0), (TimeWait.SHORT, 1.0), (TimeWait.SHARP, 0.0)])
def test_time_wait_ends_exactly(option: TimeWait, seconds: float) -> None:
    pair = Pair()
    client, _, entered = ended(pair, option)
    ends_at(pair, client, entered + seconds)


@pytest.mark.proves("ST-TCP-13", "UM-REL-2")
def test_after_an_outage_the_short_wait_is_no_longer_than_the_full_one() -> None:
    """Without timestamps a FIN that was repeated gives no sample: the time-out stays doubled."""
    pair = Pair()
    client, server, path = established(pair, timestamps=False, time_wait=TimeWait.SHORT)
    pair.meddle = lambda end, packet: [] if end is pair.a else [packet]
    client.shutdown(pair.now)
    pair.run(60)
    pair.meddle = path
    pair.run(100, until=server.receiver.fin_taken)
    assert client.rtt.rto > 15
    server.shutdown(pair.now)
    pair.run(5, until=lambda: segments(pair, "a")[-1].flags == ACK)
    ends_at(pair, client, segments(pair, "a")[-1].when + 60.0)


def ends_at(pair: Pair, connection: Connection, end: float) -> None:
    """TIME-WAIT at `a` answers an old segment until then and no longer; the address of the node itself does."""
    if end > pair.now:
        pair.run(end - 1e-3 - pair.now)
        assert old_segment(pair, connection) == ["A"]
        pair.run(2e-3)
    assert old_segment(pair, connection) == []
    pair.a.entry(pair.now, AddressKind.STABLE)
    assert old_segment(pair, connection) == ["R"]


@pytest.mark.proves("ST-TCP-13")
@pytest.mark.parametrize(
    ("mode", "timestamps", "sequence", "later", "answer"),
    [
        (PortMode.AWARE, False, 1, 0, "SA"),
        (PortMode.AWARE, False, -5, 0, "A"),
        (PortMode.AWARE, True, -5, 1000, "SA"),
        (PortMode.AWARE, True, 1, 0, "SA"),
        (PortMode.AWARE, True, -5, 0, "A"),
        (PortMode.AWARE, True, 1, -1000, "A"),
        (PortMode.L2, True, 1, 1000, "A"),
    ],
)
def test_a_newer_syn_reopens_in_aware_mode_only(
    mode: PortMode, timestamps: bool, sequence: int, later: int, answer: str
) -> None:
    pair, server = in_time_wait(mode, timestamps)
    record = next(iter(pair.a.tcp.demux))
    assert isinstance(record, TimeWaitRecord)
    stamp = (record.ts_recent or 0) + later if timestamps else None
    pair.run(1)
    assert reopen(pair, server.receiver.rcv_nxt + sequence, stamp) == answer


@pytest.mark.proves("ST-TCP-13")
@pytest.mark.parametrize("listening", ["nobody", "a full queue", "another port"])
def test_a_newer_syn_that_nobody_takes_ends_no_wait(listening: str) -> None:
    """Else a stranger could end it (TIME-WAIT assassination), and a peer whose last acknowledgement was lost would be reset."""
    pair, server = in_time_wait(PortMode.AWARE, True)
    (listener,) = {armed.listener for armed in pair.a.tcp._armed.values()}
    if listening == "a full queue":
        listener.options = replace(listener.options, backlog=1)
        other = pair.b.tcp.connect(
            pair.b.entry(pair.now), pair.a.address, 80, pair.now, SocketOptions(mode=PortMode.AWARE)
        )
        pair.run(1)
        assert other.state.value == "ESTABLISHED", "and nobody takes it"
        pair.meddle = lambda end, packet: [] if end is pair.b else [packet]
    else:
        listener.close(pair.now)
        if listening == "another port":
            elsewhere = pair.a.tcp.listen(SocketOptions(mode=PortMode.AWARE), pair.now, 81)
            elsewhere.arm(pair.a.entry(pair.now, AddressKind.STABLE), pair.now, sessions=None)
    pair.run(1)
    stamp = (server.receiver.ts_recent or 0) + 2000
    answer = reopen(pair, server.receiver.rcv_nxt + 1000, stamp)
    assert answer == (None if listening == "a full queue" else "A")
    assert len(pair.a.tcp.time_waits) == 1
    assert [str(tcp.flags) for tcp in by_hand(pair, server, "FA", seq=server.receiver.rcv_nxt - 1)] in ([], ["A"])
    pair.run(1)
    assert [str(tcp.flags) for tcp in by_hand(pair, server, "FA", seq=server.receiver.rcv_nxt - 1)] == ["A"]


@pytest.mark.proves("ST-TCP-13")
def test_a_peer_whose_last_acknowledgement_was_lost_is_not_reset_by_a_strangers_syn() -> None:
    """The side that called has no listener: what it knows of the connection is all that there is."""
    pair = Pair()
    options = SocketOptions(mode=PortMode.AWARE)
    listener = pair.b.tcp.listen(options, pair.now, 80)
    listener.arm(pair.b.entry(pair.now, AddressKind.STABLE), pair.now, sessions=None)
    entry = pair.a.entry(pair.now, AddressKind.STABLE)
    client = pair.a.tcp.connect(entry, pair.b.address, 80, pair.now, options, local_port=5000)
    pair.run(1)
    server = listener.accept()
    assert server is not None
    client.shutdown(pair.now)
    pair.run(0.1)
    pair.meddle = lambda end, packet: [] if end is pair.a else [packet]
    server.shutdown(pair.now)
    pair.run(0.05)
    pair.meddle = None
    stamp = ((client.receiver.ts_recent or 0) + 12345) & MASK
    wanted = [("MSS", 1440), ("Timestamp", (stamp, 0))]
    pair.a.input(wire.segment(B, A, 80, 5000, "S", seq=0x12345678, options=wanted), pair.now)
    pair.run(5)
    assert server.state.value == "CLOSED" and server.error is None


@pytest.mark.proves("UM-REL-2")
@pytest.mark.parametrize("mode", list(PortMode))
@pytest.mark.parametrize("timestamps", [True, False])
def test_at_an_ssa_no_mode_reopens(mode: PortMode, timestamps: bool) -> None:
    """The SYN is certainly newer, and the listener would take it; at an ordinary address it is, in Aware mode."""
    pair, server = in_time_wait(mode, timestamps, AddressKind.SERVICE)
    assert pair.a.tcp._armed
    pair.run(1)
    stamp = (server.receiver.ts_recent or 0) + 2000 if timestamps else None
    assert reopen(pair, server.receiver.rcv_nxt + 1000, stamp) == "A"
    pair.run(61)
    assert reopen(pair, server.receiver.rcv_nxt + 1000, stamp) == "SA", "after TIME-WAIT it is"


@pytest.mark.proves("ST-TCP-13", "MAY-2")
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("ahead", [0, 3_000_000, 1 << 31])
def test_what_is_reopened_begins_above_the_last_number_of_the_old_connection(ahead: int, full: bool) -> None:
    """RFC 9293 §3.6.1: also where that was faster than the clock of the ISN, and where a stranger would get a cookie."""
    pair, server = in_time_wait(PortMode.AWARE, False)
    record = next(iter(pair.a.tcp.demux))
    assert isinstance(record, TimeWaitRecord)
    used = (record.facts().snd_nxt + ahead) & 0xFFFFFFFF
    record.change(record.facts()._replace(snd_nxt=used))
    if full:
        pair.a.tcp.passive.limit = 0
    assert reopen(pair, server.receiver.rcv_nxt + 1, None) == "SA"
    isn = wire.read(pair.sent_by("a")[-1]).seq
    assert 0 < (isn - used) % (1 << 32) < 1 << 31
    assert pair.a.tcp.demux.half_open_count == 1


@pytest.mark.proves("UM-REL-2", by="api")
def test_waits_of_different_lengths_end_in_their_order_and_leave_nothing() -> None:
    pair = Pair()
    waits = [TimeWait.FULL, TimeWait.SHORT, TimeWait.FULL, TimeWait.SHORT]
    users = len(pair.a.entry(pair.now).users)
    for option in waits:
        client, server = pair.connect(SocketOptions(time_wait=option, mode=PortMode.L2))
        client.shutdown(pair.now)
        pair.run(0.1)
        server.shutdown(pair.now)
        pair.run(0.1)
    table = pair.a.tcp.time_waits
    assert len(table) == 4
    pair.run(2.0)
    assert len(table) == 2, "the short ones do not wait behind the long ones"
    pair.run(61.0)
    assert len(table) == 0
    assert not table._line and not table._heap and not table._aside
    assert len(pair.a.entry(pair.now).users) == users


def _reopened_and_ended(pair: Pair, server: Connection, listener: Listener, times: int) -> int:
    """A stranger reopens the pair from TIME-WAIT and brings the new connection there, so often, in no time at all.

    How many records the table held at most, ended or not.
    """
    table = pair.a.tcp.time_waits
    most = 0
    pair.meddle = lambda end, packet: []
    isn = server.receiver.rcv_nxt + 1000
    for _ in range(times):
        assert reopen(pair, isn & MASK, None) == "SA"
        ours = wire.read(pair.sent_by("a")[-1]).seq + 1
        for flags, seq, ack in (("A", isn + 1, ours), ("FA", isn + 1, ours + 1)):
            if flags == "FA":
                accepted = listener.accept()
                assert accepted is not None
                accepted.shutdown(pair.now)
                pair.flush()
            pair.a.input(wire.segment(B, A, 5000, 80, flags, seq=seq & MASK, ack=ack & MASK), pair.now)
            pair.flush()
        isn += 100_000
        most = max(most, len(table._line) + len(table._heap))
        del pair.packets[:]
    return most


@pytest.mark.proves("ST-TCP-13", by="api")
@pytest.mark.parametrize("aside", [False, True])
def test_what_ended_early_does_not_pile_up(aside: bool) -> None:
    """A pair that is reopened again and again leaves one record; those that made way stay neither in the line nor aside.

    aside: its wait is short, and a longer one began before, so that its records do not stand in line.
    """
    pair, server = in_time_wait(PortMode.AWARE, False, time_wait=TimeWait.SHORT if aside else TimeWait.FULL)
    table = pair.a.tcp.time_waits
    others = 0
    if aside:
        ended(pair, TimeWait.FULL, mode=PortMode.L2)
        others = 1
    assert len(table) == 1 + others
    listener = next(iter(pair.a.tcp.listeners))
    assert _reopened_and_ended(pair, server, listener, 500) < 150
    assert len(table) == 1 + others
    assert bool(table._aside) is aside
    pair.run(61)
    assert len(table) == 0
    assert not table._line and not table._heap and not table._aside
