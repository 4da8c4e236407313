"""RFC 9293 on windows, acknowledgements and small segments, rule by rule."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp.connection import Connection, Signal
from tapstack.tcp.options import PortMode, SocketOptions
from tests.unit.tcp.handmade import MSS, A, B, by_hand, old_segment, plain, sent

from . import wire
from .pair import End, Pair, read_all
from .path import DATA, collect, established, transfer
from .seen import FIN, RST, acknowledged, again, data, segments, stream

# -- PUSH ----------------------------------------------------------------------------------------------


@pytest.mark.proves("MUST-61", "MUST-60", "SHLD-27", "SHLD-28", "MAY-16")
def test_the_last_segment_of_what_was_written_carries_push() -> None:
    pair = Pair()
    client, _, _ = established(pair)
    before = len(pair.packets)
    for _ in range(5):
        client.write(DATA[:1000])  # five writes, each of which would be pushed alone
    pair.run(1)
    segments = [tcp for tcp in sent(pair, "a", before) if tcp.payload]
    assert [len(tcp.payload) for tcp in segments] == [MSS, MSS, MSS, 5000 - 3 * MSS], "largest segments first"
    assert ["P" in str(tcp.flags) for tcp in segments] == [False, False, False, True]


# -- window --------------------------------------------------------------------------------------------


@pytest.mark.proves("MUST-1", "REC-1")
def test_the_window_is_unsigned_and_may_exceed_sixteen_bits() -> None:
    pair = Pair()
    client = plain(pair)
    client.sender.congestion.cwnd = 300 * MSS
    by_hand(pair, client, "A", window=65535)
    before = len(pair.packets)
    client.write(DATA[:200_000])
    pair.flush()
    assert sum(len(seen.payload) for seen in data(pair, "a", before)) > 200_000 - MSS


@pytest.mark.proves("ST-TCP-11")
@pytest.mark.parametrize(
    ("buffer", "maximum"), [(100, 8 << 20), (8192, 1000 << 20), (4096, 1 << 29), (16384, 1000 << 20)]
)
def test_a_window_below_one_unit_of_its_scale_is_not_written_as_closed(buffer: int, maximum: int) -> None:
    pair = Pair()
    client, server, _ = established(pair, receive_buffer=buffer, receive_buffer_maximum=maximum)
    assert transfer(pair, client, server, 200_000) < 10


def shrunk(pair: Pair, window: int) -> Connection:
    """Ten segments in flight when the peer takes most of its window back."""
    client = plain(pair, receive_buffer=60_000, receive_buffer_maximum=60_000)
    client.write(DATA[: 30 * MSS])
    pair.flush()
    by_hand(pair, client, "A", ack=client.sender.snd_una, window=window)
    return client


@pytest.mark.proves("MUST-34", "SHLD-15", "SHLD-16", "MAY-7")
def test_a_window_that_shrinks_stops_new_data_and_the_old_is_repeated() -> None:
    pair = Pair()
    client = shrunk(pair, MSS)
    before, una = len(pair.packets), client.sender.snd_una
    pair.run(20)
    again = sent(pair, "a", before)
    assert again and all(tcp.seq < (una + 10 * MSS) & 0xFFFFFFFF for tcp in again), "nothing new"
    assert any(tcp.seq == una & 0xFFFFFFFF for tcp in again), "the oldest is repeated, it lies in the window"


@pytest.mark.proves("ST-TCP-1", by="api")
def test_data_that_a_newer_acknowledgement_overtook_brings_no_old_window() -> None:
    pair = Pair()
    client = plain(pair)
    nxt = client.receiver.rcv_nxt
    by_hand(pair, client, "A", seq=nxt + 100, window=50_000)
    window = client.sender.snd_wnd
    by_hand(pair, client, "A", seq=nxt, payload=b"x" * 100, window=500)  # was sent before
    assert client.receiver.rcv_nxt == nxt + 100
    assert client.sender.snd_wnd == window
    by_hand(pair, client, "A", seq=nxt + 100, payload=b"x", window=600)
    assert client.sender.snd_wnd == 600 << client.sender.scale, "what is newer counts"


@pytest.mark.proves("ST-TCP-1")
@pytest.mark.parametrize("beyond", [b"", b"text beyond the hole"], ids=["fast path", "slow path"])
def test_a_repetition_that_acknowledges_something_new_brings_its_window(beyond: bytes) -> None:
    """Its sequence number is old, and what it says of our data is new: the right edge stays where the peer put it."""
    pair = Pair()
    client = plain(pair)
    sender, nxt, una, room = client.sender, client.receiver.rcv_nxt, client.sender.snd_una, 20_480
    # The 3000 bytes before it are lost on the way.
    by_hand(pair, client, "A", seq=nxt + 3000, payload=beyond, window=room >> sender.scale)
    before = len(pair.packets)
    client.write(DATA[:60_000])
    pair.flush()

    def reached() -> int:
        """How far the sender has gone on the wire."""
        return max((seen.seq + len(seen.payload) - una) % (1 << 32) for seen in data(pair, "a", before))

    for at in range(0, 3000, 1000):
        taken = min(reached(), room)
        window = (room - taken) >> sender.scale
        by_hand(pair, client, "A", seq=nxt + at, ack=una + taken, payload=b"x" * 1000, window=window)
        assert sender.snd_una + sender.snd_wnd == una + taken + (window << sender.scale)
        assert reached() <= room
    assert reached() > room - MSS, "what was granted is used"


@pytest.mark.proves("SHLD-17")
def test_data_beyond_a_window_that_shrank_to_nothing_does_not_end_the_connection() -> None:
    pair = Pair()
    client = shrunk(pair, 0)

    def answer(end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        return []

    pair.meddle = answer
    for _ in range(40):  # the peer answers every probe with its closed window, for ten minutes
        pair.run(15)
        by_hand(pair, client, "A", ack=client.sender.snd_una, window=0)
    assert client.error is None
    assert not any(seen.flags & RST for seen in segments(pair, "a"))
    assert [tcp for tcp in by_hand(pair, client, "A", window=3000) if tcp.payload], "and when it opens it goes on"


@pytest.mark.proves("MAY-8", "MUST-36", "MUST-35", "SHLD-29")
def test_the_first_probe_of_a_closed_window_comes_after_one_time_out() -> None:
    pair = Pair()
    client = plain(pair)
    by_hand(pair, client, "A", window=0)
    client.write(b"waits")
    before, begun = len(pair.packets), pair.now
    pair.run(client.rtt.rto * 1.5)
    (when, _, probe), *_ = pair.packets[before:]
    assert when - begun == pytest.approx(client.rtt.rto)
    assert not wire.read(probe).payload, "SND.NXT stays within the window"


@pytest.mark.proves("ST-TCP-11", "MUST-36")
@pytest.mark.parametrize("mode", [PortMode.L1, PortMode.L2])
def test_a_closed_window_does_not_stop_the_other_direction(mode: PortMode) -> None:
    """Acknowledgements come from SND.NXT: were it past the edge by a probe's byte, the peer would take none of them."""
    pair = Pair()
    client, server, _ = established(pair, mode=mode)
    client.write(DATA[:4_000_000])
    pair.run(30)
    closed, before = segments(pair, "b")[-1], len(pair.packets)
    assert closed.window == 0
    assert transfer(pair, server, client, 1_000_000) < 2
    assert {seen.seq for seen in segments(pair, "a", before)} == {closed.ack}
    assert not again(pair, "b")


@pytest.mark.proves("ST-TCP-11", "MUST-36")
def test_of_two_closed_windows_the_one_that_opens_is_heard() -> None:
    pair = Pair()
    client, server, _ = established(pair, receive_buffer=5000, receive_buffer_maximum=5000)
    for end in (client, server):
        end.write(DATA[:20_000])
    pair.run(100)
    assert [segments(pair, who)[-1].window for who in "ab"] == [0, 0]
    for end, other, who in ((server, "a", "b"), (client, "b", "a")):
        before = len(pair.packets)
        assert collect(pair, end, 20_000, 2) == DATA[:20_000]
        opened = next(seen.when for seen in segments(pair, who, before) if seen.window)
        assert data(pair, other, before)[0].when == pytest.approx(opened + pair.delay), "the update itself, no probe"


@pytest.mark.proves("ST-TCP-11")
@pytest.mark.parametrize("size", [4999, 5000, 5001])
def test_a_fin_waits_for_the_window(size: int) -> None:
    pair = Pair()
    client, server, _ = established(pair, receive_buffer=5000, receive_buffer_maximum=5000)
    client.write(DATA[:size])
    client.shutdown(pair.now)
    pair.run(20)
    assert stream(pair, "a") == DATA[: min(size, 5000)]
    assert any(seen.flags & FIN for seen in segments(pair, "a")) is (size < 5000), "it has a number of its own"
    assert transfer(pair, server, client, 1_000_000) < 20, "what comes is acknowledged all the while"
    assert collect(pair, server, size, 60) == DATA[:size]
    pair.run(60, until=server.receiver.fin_taken)
    pair.run(1)
    assert acknowledged(pair, "b") == size + 1


@pytest.mark.proves("ST-TCP-11")
@pytest.mark.parametrize("mode", [PortMode.L1, PortMode.L2])
def test_a_fin_into_a_closed_window_is_taken(mode: PortMode) -> None:
    """Some peers let it exceed the window by one, and all their acknowledgements come from beyond it then."""
    pair = Pair()
    client = plain(pair, mode=mode, receive_buffer=5000, receive_buffer_maximum=5000)
    by_hand(pair, client, "A", payload=DATA[:5000])
    assert client.receiver.window() == 0
    (answer,) = by_hand(pair, client, "FA")
    assert acknowledged(pair, "a") == 5001 and answer.window == 0
    client.write(b"goes on")
    pair.flush()
    by_hand(pair, client, "A")
    assert client.sender.everything_acknowledged
    assert read_all(client) == DATA[:5000]


@pytest.mark.proves("MUST-30")
@pytest.mark.proves("MUST-66", by="api")
def test_urgent_data_is_announced_though_the_window_is_closed() -> None:
    pair = Pair()
    client, server, _ = established(pair, receive_buffer=5000, receive_buffer_maximum=5000)
    client.write(DATA[:5000])
    pair.run(1)
    client.write(b"waits")
    before = len(pair.packets)
    client.write_urgent(b"!")
    pair.run(5)
    (told, *_) = sent(pair, "a", before)
    assert (str(told.flags), told.urgptr, len(told.payload)) == ("AU", 6, 0)
    assert {seen.window for seen in segments(pair, "b", before)} == {0} and server.receiver.queued == 5000
    assert server.signals & Signal.URGENT
    assert server.urgent_pending() == 5006


@pytest.mark.proves("ST-TCP-11")
def test_each_probe_of_a_closed_window_is_answered() -> None:
    """However soon after the one before: who probes may have missed the answer."""
    pair = Pair()
    client = plain(pair, receive_buffer=5000, receive_buffer_maximum=5000)
    by_hand(pair, client, "A", payload=DATA[:5000])
    for _ in range(3):
        (answer,) = by_hand(pair, client, "A", seq=client.receiver.rcv_nxt - 1)
        assert (answer.ack, answer.window) == (client.receiver.rcv_nxt & 0xFFFFFFFF, 0)


@pytest.mark.proves("ST-TCP-4", "ST-TCP-11")
def test_what_a_window_that_opens_lets_go_is_not_probed_before_its_time() -> None:
    """The timer of the closed window was nearly due; it says nothing of the data that leaves now."""
    pair = Pair(delay=0.05)
    client, server, _ = established(pair, receive_buffer=5000, receive_buffer_maximum=5000)
    client.write(DATA[:5000])
    pair.run(3)
    client.write(DATA[:990])
    pair.run(3)
    due = client.timers.retransmit.when
    assert due is not None and client.timers.persisting
    pair.run(due - 0.005 - pair.delay - pair.now)
    assert len(read_all(server)) == 5000
    pair.run(0.4)
    assert len(read_all(server)) == 990
    assert not again(pair, "a")


@pytest.mark.proves("MUST-66")
def test_reset_and_urgent_count_while_the_window_is_closed() -> None:
    pair = Pair()
    client, server, _ = established(pair, receive_buffer=3000, receive_buffer_maximum=3000, timestamps=False)
    server.write(DATA[:9000])
    pair.run(2)
    assert client.receiver.window() == 0
    client.signals = 0
    by_hand(pair, client, "AU", urgptr=5, payload=b"xxxxx")
    assert client.signals & Signal.URGENT
    assert client.receiver.queued == 3000, "the text itself is kept out"
    assert old_segment(pair, client) == ["A"]
    by_hand(pair, client, "R", payload=b"")
    assert client.state.value == "CLOSED"
    pair.a.entry(pair.now, AddressKind.STABLE)
    assert old_segment(pair, client) == ["R"], "there is no connection any more"


# -- acknowledgements, silly windows, Nagle --------------------------------------------------------------


@pytest.mark.proves("MUST-58", "MUST-59", "SHLD-18", "SHLD-19", "MUST-40")
def test_acknowledgements_are_aggregated_over_what_has_arrived() -> None:
    pair = Pair()
    client, server, path = established(pair)
    before = len(pair.packets)
    transfer(pair, client, server, 10 * MSS)
    acks = [tcp for tcp in sent(pair, "b", before) if not tcp.payload]
    assert len(acks) == 1, "ten segments of one instant, one acknowledgement"
    path.gap = 0.001
    before = len(pair.packets)
    transfer(pair, client, server, 10 * MSS)
    acks = [tcp for tcp in sent(pair, "b", before) if not tcp.payload]
    assert len(acks) == 5, "of ten that come apart every second is acknowledged"


@pytest.mark.proves("SHLD-19")
def test_every_second_segment_of_a_peer_on_a_narrower_link_is_acknowledged() -> None:
    """What is a full segment there is none here; by our measure only every seventh was acknowledged."""
    pair = Pair()
    pair.b.host.link_mtu = 9000
    client, server, path = established(pair)
    path.gap = 0.001
    before = len(pair.packets)
    transfer(pair, client, server, 10 * MSS)
    assert len([tcp for tcp in sent(pair, "b", before) if not tcp.payload]) == 5


@pytest.mark.proves("SHLD-31", "MAY-13")
def test_segments_out_of_order_are_kept_and_answered() -> None:
    pair = Pair()
    client = plain(pair)
    rcv = client.receiver.rcv_nxt
    (answer,) = by_hand(pair, client, "A", seq=rcv + 4, payload=b"late")
    assert answer.ack == rcv & 0xFFFFFFFF
    by_hand(pair, client, "A", seq=rcv, payload=b"soon")
    assert read_all(client) == b"soonlate"


@pytest.mark.proves("MUST-39")
def test_the_receiver_offers_no_silly_window() -> None:
    pair = Pair()
    client, server, _ = established(pair, receive_buffer=20_000, receive_buffer_maximum=20_000)
    client.write(DATA[:60_000])
    pair.run(2)
    offered: list[int] = []
    for _ in range(150):
        before = len(pair.packets)
        taken = 0
        ready = server.receiver._ready
        while ready and taken < 500:  # a program that reads a little at a time
            piece = ready.pop(0)
            taken += len(piece)
        server.receiver.queued -= taken
        if server.receiver.window_update_due(server.advertised_mss()):
            server.receiver.ack_now = True
            server.tcp.mark_dirty(server)
        pair.run(0.021)
        offered += [tcp.window << server.receiver.scale for tcp in sent(pair, "b", before)]
    opened = [window for before, window in pairwise(offered) if window > before]
    assert opened
    assert min(opened) >= MSS


@pytest.mark.proves("ST-TCP-12", by="api")
def test_a_peer_that_does_not_scale_windows_has_every_second_segment_acknowledged() -> None:
    """The field says no more than 64 KiB: that the buffer is larger is no news for it, and takes nothing of the node's budget."""
    pair = Pair()
    listener = pair.a.tcp.listen(SocketOptions(receive_buffer=200_000), pair.now)
    listener.arm(pair.a.entry(pair.now, AddressKind.SERVICE), pair.now)
    pair.meddle = lambda end, packet: []
    pair.a.input(wire.segment(B, A, 6000, 80, "S", seq=1, options=[("MSS", 1440)]), pair.now)
    pair.flush()
    (answer,) = sent(pair, "a")
    pair.a.input(wire.segment(B, A, 6000, 80, "A", seq=2, ack=answer.seq + 1), pair.now)
    server = listener.accept()
    assert server is not None
    before = len(pair.packets)
    for _ in range(400):
        by_hand(pair, server, "A", payload=DATA[:1440])
        assert read_all(server) == DATA[:1440]
        pair.flush()
    assert len(sent(pair, "a", before)) == 200
    assert pair.a.tcp.budget.used == 0
    before = len(pair.packets)
    while room := server.receiver.window():
        by_hand(pair, server, "A", payload=DATA[: min(room, 1440)])
        pair.run(0.1)
    assert sent(pair, "a", before)[-1].window == 0
    read_all(server)
    pair.flush()
    assert sent(pair, "a", before)[-1].window == 65535, "a window that opens is told"


@pytest.mark.proves("MUST-38", "SHLD-7", "MUST-17")
@pytest.mark.parametrize("nodelay", [False, True])
def test_nagle_and_its_switch(nodelay: bool) -> None:
    pair = Pair()
    client, server, _ = established(pair, nodelay=nodelay)
    before = len(pair.packets)
    for _ in range(20):
        client.write(b"ten bytes.")
        pair.run(0.001)
    pair.run(1)
    segments = [tcp for tcp in sent(pair, "a", before) if tcp.payload]
    assert read_all(server) == b"ten bytes." * 20
    assert len(segments) == 20 if nodelay else len(segments) <= 3


@pytest.mark.proves("MUST-38")
def test_the_sender_does_not_fill_a_window_by_crumbs() -> None:
    pair = Pair()
    client = plain(pair)
    by_hand(pair, client, "A", window=0)
    client.write(DATA[:5000])
    pair.flush()
    before = len(pair.packets)
    for crumb in (100 >> client.sender.scale or 1, 2):
        by_hand(pair, client, "A", window=crumb)
        assert not [tcp for tcp in sent(pair, "a", before) if tcp.payload]
    by_hand(pair, client, "A", window=(MSS >> client.sender.scale) + 1)
    assert [len(tcp.payload) for tcp in sent(pair, "a", before) if tcp.payload] == [client.sender.mss]


@pytest.mark.proves("MUST-49", "MUST-48", "SHLD-21", "SHLD-22")
def test_hop_limit_and_diffserv_are_the_programs() -> None:
    pair = Pair()
    client, server, _ = established(pair, hop_limit=33, dscp=46)
    before = len(pair.packets)
    transfer(pair, client, server, 3000)
    assert {p[7] for _, _, p in pair.packets[before:]} == {33}
    assert {(p[0] << 4 | p[1] >> 4) & 0xFC for _, _, p in pair.packets[before:]} == {46 << 2}
    client.set_dscp(8)
    before = len(pair.packets)
    transfer(pair, client, server, 3000)
    assert {(p[0] << 4 | p[1] >> 4) & 0xFF for p in pair.sent_by("a", before)} == {8 << 2}
    with pytest.raises(ValueError, match="code point"):
        client.set_dscp(64)
