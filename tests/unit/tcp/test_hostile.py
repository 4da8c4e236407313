"""What strangers who cannot see a connection, and peers who mean ill, can do to it and to the node (RFC 5961, RFC 7323)."""

from __future__ import annotations

import pytest

from tapstack.ipv6.addresses import AddressKind
from tapstack.ipv6.packet import Packet
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.tcp.receiver import Receiver
from tapstack.tcp.timewait import TimeWaitRecord

from . import wire
from .handmade import in_time_wait, reopen, sent
from .pair import Pair, read_all
from .path import DATA, established, transfer
from .seen import RST, SYN, data, segments

A, B = "2001:db8:a::1", "2001:db8:b::1"
WRAP = 1 << 32


def stamped(value: int, echo: int = 0) -> list[tuple[str, object]]:
    """The options of a segment with a timestamp."""
    return [("NOP", None), ("NOP", None), ("Timestamp", (value % WRAP, echo % WRAP))]


@pytest.mark.proves("ST-TCP-2", "ST-TCP-8")
@pytest.mark.parametrize("ahead", [1_000_000, -(1 << 30)])
def test_a_blind_segment_cannot_move_the_timestamp_that_paws_compares_with(ahead: int) -> None:
    """Its sequence number is a lucky guess, its acknowledgement is not: with it goes the timestamp."""
    pair = Pair()
    client, server, _ = established(pair)
    recent = server.receiver.ts_recent
    assert recent is not None
    blind = wire.segment(
        A, B, server.remote_port, server.local_port, "A", seq=server.receiver.rcv_nxt,
        ack=server.sender.snd_nxt + ahead, options=stamped(recent + (1 << 30)), payload=b"x",
    )  # fmt: skip
    pair.b.input(blind, pair.now)
    pair.run(1)
    transfer(pair, client, server, 20_000, limit=5)
    echoes = [stamps[1] for packet in pair.sent_by("b") if (stamps := wire.timestamps(packet))]
    assert (recent + (1 << 30)) % WRAP not in echoes
    assert (echoes[-1] - recent) % WRAP < 10_000, "what is echoed goes on as before"


@pytest.mark.proves("UM-PORT-12", "ST-TCP-2")
def test_a_spoofed_syn_without_window_scale_does_not_change_what_our_windows_mean() -> None:
    pair = Pair()
    listener = pair.b.tcp.listen(SocketOptions(), pair.now)
    listener.arm(pair.b.entry(pair.now, AddressKind.SERVICE), pair.now)
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, SocketOptions())
    pair.flush()
    offered = client.receiver.scale
    assert offered
    pair.a.input(wire.segment(B, A, 80, client.local_port, "S", seq=12345), pair.now)
    pair.run(5, until=lambda: bool(listener._accepted))
    server = listener.accept()
    assert server is not None
    pair.run(1)
    assert (client.state.value, client.receiver.scale, server.sender.scale) == ("ESTABLISHED", offered, offered)
    transfer(pair, client, server, 20_000, limit=5)
    promised = dict(wire.read(pair.packets[0][2]).options)["WScale"]
    windows = [seen.window << promised for seen in segments(pair, "a") if not seen.flags & SYN]
    assert max(windows) <= 2 * client.receiver.capacity, "the peer reads them as was promised"


@pytest.mark.proves("ST-TCP-13")
def test_a_blind_segment_cannot_keep_a_time_wait_from_being_reopened() -> None:
    pair, server = in_time_wait(PortMode.AWARE, timestamps=True)
    record = next(iter(pair.a.tcp.demux))
    assert isinstance(record, TimeWaitRecord)
    recent = record.ts_recent
    assert recent is not None
    pair.a.input(wire.segment(B, A, 5000, 80, "A", seq=77, ack=5, options=stamped(recent + (1 << 30))), pair.now)
    pair.run(1)
    assert reopen(pair, server.receiver.rcv_nxt - 5, recent + 2000) == "SA"


@pytest.mark.proves("UM-REL-1", by="api")
def test_a_closed_socket_does_not_wait_for_ever_for_a_window_that_stays_closed() -> None:
    """Whoever answers every probe and reads nothing must not keep an address that no program holds (RFC 6429)."""
    pair = Pair()
    client, server, _ = established(pair, receive_buffer=5000, receive_buffer_maximum=5000, user_timeout=100.0)
    client.write(DATA[:20_000])
    pair.run(1000)
    assert (client.sender.snd_wnd, client.error) == (0, None)
    closed = pair.now
    client.close(pair.now)
    pair.run(90)
    assert len(pair.a.host.addresses), "it has a user time-out to get rid of what was written"
    pair.run(300, until=lambda: client.state.value == "CLOSED")
    assert 100 <= pair.now - closed < 170
    assert not len(pair.a.host.addresses)
    pair.run(1)
    assert isinstance(server.error, ConnectionResetError), "and the peer is told"


@pytest.mark.proves("ST-TCP-11", "MUST-20")
def test_a_peer_that_talks_but_acknowledges_nothing_is_given_up() -> None:
    """RFC 9293 §3.8.3: R2 counts how often the same segment went, whatever else is heard."""
    pair = Pair()
    client, server, path = established(pair, user_timeout=30.0)
    path.fate = lambda n: None
    client.write(b"x")
    begun, before = pair.now, len(pair.packets)
    while client.state.value != "CLOSED" and pair.now < begun + 200:
        server.write(b"news")
        pair.run(5)
        read_all(client)
    assert isinstance(client.error, TimeoutError)
    last = segments(pair, "a", before)[-1]
    assert last.flags & RST and 30 <= last.when - begun <= 40
    assert data(pair, "b", before)[-1].when > begun + 20, "it was talking to the end"


def test_the_user_time_out_begins_anew_when_a_closed_window_opens() -> None:
    pair = Pair()
    client, server, path = established(pair, receive_buffer=5000, receive_buffer_maximum=5000, user_timeout=100.0)
    client.write(DATA[:20_000])
    pair.run(1000)
    path.fate = lambda n: None
    begun = pair.now
    read_all(server)
    server.read()
    pair.run(90)
    assert client.state.value == "ESTABLISHED"
    pair.run(200, until=lambda: client.state.value == "CLOSED")
    assert isinstance(client.error, TimeoutError)
    assert 99 <= pair.now - begun < 170


@pytest.mark.proves("ST-TCP-10", by="api")
def test_a_handshake_whose_place_is_taken_is_counted_once() -> None:
    """An L1 handshake beside an Aware connection of the same pair: it cannot complete, and the books stay right."""
    pair = Pair()
    entry = pair.b.entry(pair.now, AddressKind.STABLE)
    listener = pair.b.tcp.listen(SocketOptions(mode=PortMode.L1), pair.now)
    listener.arm(entry, pair.now, sessions=None)
    pair.b.tcp.connect(entry, pair.a.address, 443, pair.now, SocketOptions(mode=PortMode.AWARE))
    pair.b.input(wire.segment(A, B, 5000, 80, "S", seq=1), pair.now)
    (half_open,) = pair.b.tcp.demux.half_open()
    pair.b.input(wire.segment(A, B, 5000, 80, "A", seq=2, ack=half_open.sender.snd_nxt), pair.now)
    assert half_open.state.value == "CLOSED"
    assert pair.b.tcp.demux.half_open_count == 0
    pair.b.tcp.check()


@pytest.mark.proves("ST-TCP-10")
@pytest.mark.parametrize(("cookies", "answers"), [(True, ["SA"]), (False, [])])
def test_a_full_node_answers_with_a_cookie_only_where_the_listener_sends_them(
    cookies: bool, answers: list[str]
) -> None:
    pair = Pair()
    pair.b.tcp.passive.limit = 0
    listener = pair.b.tcp.listen(SocketOptions(cookies=cookies), pair.now)
    listener.arm(pair.b.entry(pair.now, AddressKind.SERVICE), pair.now)
    pair.b.input(wire.segment(A, B, 5000, 80, "S", seq=1), pair.now)
    pair.flush()
    assert [str(wire.read(packet).flags) for _, _, packet in pair.packets] == answers
    pair.b.tcp.passive.limit = 1
    pair.b.input(wire.segment(A, B, 5001, 80, "S", seq=1), pair.now)
    pair.flush()
    assert [seen.ports[1] for seen in segments(pair, "b")][-1] == 5001, (
        "where there is room it is answered in the same capture"
    )


def repeated(pair: Pair, client: Connection, echo: int) -> None:
    """A byte of `client` is acknowledged after its second transmission, with this echo."""
    pair.meddle = lambda end, packet: []
    client.write(b"x")
    pair.run(0.5)
    assert client.sender.in_flight[0].retransmitted
    answer = wire.segment(
        B, A, client.remote_port, client.local_port, "A", seq=client.receiver.rcv_nxt, ack=client.sender.snd_nxt,
        window=1000, options=stamped(client.receiver.ts_recent or 0, echo),
    )  # fmt: skip
    pair.a.input(answer, pair.now)


@pytest.mark.proves("ST-TCP-2")
@pytest.mark.parametrize("back", [1000 * 3600, (1 << 31) - 10_000])
def test_an_echo_from_before_the_connection_is_no_round_trip(back: int) -> None:
    pair = Pair()
    client, _, _ = established(pair)
    stamp = client.timestamp(pair.now)
    assert stamp is not None
    repeated(pair, client, stamp[0] - back)
    assert not client.sender.in_flight
    before = len(pair.packets)
    client.write(b"y")
    pair.run(1)
    assert len(data(pair, "a", before)) > 1, "what is lost now is sent again within a second"


@pytest.mark.proves("ST-TCP-1")
def test_what_lies_beyond_the_end_of_the_stream_is_not_read() -> None:
    pair = Pair()
    client, server, _ = established(pair, timestamps=False)
    at = server.receiver.rcv_nxt

    def tell(offset: int, flags: str, payload: bytes) -> None:
        segment = wire.segment(
            A,
            B,
            server.remote_port,
            server.local_port,
            flags,
            seq=at + offset,
            ack=server.sender.snd_una,
            payload=payload,
        )
        pair.b.input(segment, pair.now)

    tell(4, "FA", b"last")
    tell(8, "A", b"more")
    tell(0, "A", b"the ")
    pair.flush()
    assert read_all(server) == b"the last"
    assert segments(pair, "b")[-1].ack == (at + 9) % WRAP, "the FIN and nothing behind it"
    assert server.state.value == "CLOSE-WAIT"
    assert client.state.value == "ESTABLISHED"


@pytest.mark.proves("ST-TCP-13", by="api")
@pytest.mark.parametrize("aside", [False, True])
def test_time_waits_are_bounded_and_the_oldest_makes_room(aside: bool) -> None:
    """Whoever opens and is closed upon all day must not fill the memory."""
    pair = Pair()
    pair.a.tcp.time_waits.limit = 3
    listener = pair.a.tcp.listen(SocketOptions(mode=PortMode.AWARE), pair.now, 80)
    listener.arm(pair.a.entry(pair.now, AddressKind.STABLE), pair.now, sessions=None)
    options = SocketOptions(mode=PortMode.AWARE)
    for port in range(5000, 5006):
        client = pair.b.tcp.connect(
            pair.b.entry(pair.now, AddressKind.STABLE), pair.a.address, 80, pair.now, options, local_port=port
        )
        pair.run(1)
        server = listener.accept()
        assert server is not None
        last = server.receiver.rcv_nxt
        server.shutdown(pair.now)
        pair.run(0.1)
        client.shutdown(pair.now)
        pair.run(1)
        if aside:  # the FIN once more: the wait begins again, and the record leaves the line
            again = wire.segment(
                B,
                A,
                port,
                80,
                "FA",
                seq=last,
                ack=server.sender.snd_nxt,
                options=stamped(server.receiver.ts_recent or 0),
            )
            pair.meddle = lambda end, packet: []
            pair.a.input(again, pair.now)
            pair.flush()
            pair.meddle = None
        assert len(pair.a.tcp.time_waits) <= 3
        pair.a.tcp.check()
    kept = [pcb.remote_port for pcb in pair.a.tcp.demux if isinstance(pcb, TimeWaitRecord)]
    assert sorted(kept) == [5003, 5004, 5005]
    pair.run(70)
    assert not len(pair.a.tcp.time_waits)


@pytest.mark.proves("ST-TCP-1")
def test_a_segment_in_a_frame_for_a_group_is_nobodys() -> None:
    """RFC 1122 §3.3.6: the frames that every station gets, whoever sent them, open nothing and are answered by nobody."""
    pair = Pair()
    listener = pair.b.tcp.listen(SocketOptions(), pair.now)
    listener.arm(pair.b.entry(pair.now, AddressKind.SERVICE), pair.now)
    whole = memoryview(wire.segment(A, B, 5000, 80, "S", seq=1))
    packet = Packet(bytes(whole[8:24]), bytes(whole[24:40]), pair.b.entry(pair.now), whole)
    for packet.link_group, answers in ((True, []), (False, ["SA"])):
        pair.tap.arrived(pair.now, bytes(whole))
        pair.b.tcp.input(packet, pair.now)
        pair.flush()
        assert [str(tcp.flags) for tcp in sent(pair, "b")] == answers


@pytest.mark.proves("ST-TCP-12", by="api")
@pytest.mark.parametrize("in_order", [True, False])
def test_a_crumb_does_not_keep_the_large_frame_that_it_came_in(in_order: bool) -> None:
    """Super-segments that repeat nearly everything: what is new must not cost the memory of the whole."""
    receiver = Receiver(1 << 20, 1 << 20)
    receiver.start(0)
    receiver.advertise(1440)
    first = receiver.rcv_nxt + (0 if in_order else 10)
    for number in range(200):
        assert receiver.accept(first + 300 * number, memoryview(bytes(60_000)), False)
    kept = [*receiver._ready, *(piece for run in receiver._runs for piece in run.pieces)]
    held = sum(memoryview(piece.obj if isinstance(piece, memoryview) else piece).nbytes for piece in kept)
    assert sum(map(len, kept)) == 60_000 + 199 * 300
    assert held <= 4 * sum(map(len, kept))
    receiver.check()
