"""Opening and closing from every side and in every order (RFC 9293 §3.5, §3.6)."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from tapstack.events import ConnectionChanged
from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import PortMode, SocketOptions, TimeWait

from . import wire
from .handmade import MSS, A, B, by_hand, plain, sent
from .pair import End, Pair, read_all
from .path import DATA, Path, collect, established, lose
from .seen import FIN, RST, data, ending, segments, stream

SHORT = SocketOptions(time_wait=TimeWait.SHORT)


def states(end: End, connection: Connection) -> list[str]:
    """The states that a connection went through."""
    return [e.new for e in end.log if isinstance(e, ConnectionChanged) and e.connection == connection.id]


def gone_from(end: End) -> bool:
    return not len(end.host.addresses)


def gone(pair: Pair) -> bool:
    return gone_from(pair.a) and gone_from(pair.b)


def wire_sacks(pair: Pair, origin: int) -> list[tuple[int, int]]:
    """The blocks that the last acknowledgement of `b` reports, from `origin` on."""
    blocks = next(value for name, value in wire.read(pair.sent_by("b")[-1]).options if name == "SAck")
    starts = [(edge - origin) & 0xFFFFFFFF for edge in blocks]
    return list(zip(starts[::2], starts[1::2], strict=True))


@pytest.mark.proves("ST-TCP-11")
def test_one_side_first() -> None:
    pair = Pair()
    client, server, _ = established(pair, time_wait=TimeWait.SHORT)
    before = len(pair.packets)
    client.shutdown(pair.now)
    pair.run(0.1)
    server.shutdown(pair.now)
    pair.run(10)
    assert ending(pair, before) == [("a", "FA"), ("b", "A"), ("b", "FA"), ("a", "A")]
    assert states(pair.a, client)[-4:] == ["FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "CLOSED"]
    assert states(pair.b, server)[-3:] == ["CLOSE-WAIT", "LAST-ACK", "CLOSED"]
    assert gone(pair)
    assert (client.error, server.error) == (None, None)


@pytest.mark.proves("ST-TCP-11")
def test_both_at_once() -> None:
    pair = Pair()
    client, server, _ = established(pair, time_wait=TimeWait.SHORT)
    before = len(pair.packets)
    client.shutdown(pair.now)
    server.shutdown(pair.now)
    pair.run(10)
    assert ending(pair, before) == [("a", "FA"), ("b", "FA"), ("a", "A"), ("b", "A")]
    for end, connection in ((pair.a, client), (pair.b, server)):
        assert states(end, connection)[-4:] == ["FIN-WAIT-1", "CLOSING", "TIME-WAIT", "CLOSED"]
    assert gone(pair)


@pytest.mark.parametrize("option", list(TimeWait))
def test_a_fin_and_the_acknowledgement_of_ours_in_one_reading(option: TimeWait) -> None:
    """CLOSING is over before anything was sent; the node may close next, and then the peer's FIN would never be acknowledged."""
    pair = Pair()
    client = plain(pair, time_wait=option)
    client.shutdown(pair.now)
    pair.flush()
    nxt, una = client.receiver.rcv_nxt, client.sender.snd_una
    before = len(pair.packets)
    ports = client.remote_port, client.local_port
    pair.a.input(wire.segment(B, A, *ports, "FA", seq=nxt, ack=una, window=60000, payload=b"last"), pair.now)
    assert client.state.value == "CLOSING"
    pair.a.input(wire.segment(B, A, *ports, "A", seq=nxt + 5, ack=una + 1, window=60000), pair.now)
    assert client.state.value == "CLOSED"
    pair.flush()
    (answer,) = sent(pair, "a", before)
    assert (str(answer.flags), answer.ack) == ("A", (nxt + 5) & 0xFFFFFFFF)


def test_the_answering_fin_carries_the_acknowledgement() -> None:
    pair = Pair()
    client, server, _ = established(pair, time_wait=TimeWait.SHORT)
    client.shutdown(pair.now)
    pair.run(0.0101)
    server.shutdown(pair.now)

    def lose_pure_acks(end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        return [] if end is pair.b and str(wire.read(packet).flags) == "A" else [packet]

    pair.meddle = lose_pure_acks
    pair.run(10)
    assert "TIME-WAIT" in states(pair.a, client)
    assert gone(pair)


@pytest.mark.parametrize("lost", range(1, 5))
def test_each_packet_of_the_ending_may_be_lost(lost: int) -> None:
    pair = Pair()
    client, server, _ = established(pair, time_wait=TimeWait.SHORT)
    count = 0

    def lose(end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        nonlocal count
        count += 1
        return [] if count == lost else [packet]

    pair.meddle = lose
    client.shutdown(pair.now)
    pair.run(0.005)
    server.shutdown(pair.now)
    pair.run(60)
    assert gone(pair)
    assert (client.error, server.error) == (None, None)


@pytest.mark.proves("ST-TCP-11")
def test_half_close_carries_data_the_other_way() -> None:
    pair = Pair()
    client, server, _ = established(pair, time_wait=TimeWait.SHORT)
    client.write(b"request")
    client.shutdown(pair.now)
    pair.run(1)
    assert (client.state.value, server.state.value) == ("FIN-WAIT-2", "CLOSE-WAIT")
    assert read_all(server) == b"request"
    server.write(DATA[:500_000])
    assert collect(pair, client, 500_000, 60) == DATA[:500_000]
    with pytest.raises(BrokenPipeError):
        client.write(b"more")
    server.shutdown(pair.now)
    pair.run(10)
    assert (stream(pair, "a"), stream(pair, "b")) == (b"request", DATA[:500_000])
    assert next(seen.when for seen in segments(pair, "a") if seen.flags & FIN) < data(pair, "b")[0].when
    assert gone(pair)


@pytest.mark.proves("ST-TCP-11")
def test_half_close_before_the_handshake_is_over() -> None:
    """CLOSE in SYN-RECEIVED is queued until ESTABLISHED (RFC 9293 §3.10.4)."""
    pair = Pair()
    options = SocketOptions(mode=PortMode.L1, time_wait=TimeWait.SHORT)
    one = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, options)
    other = pair.b.tcp.connect(pair.b.entry(pair.now), pair.a.address, 80, pair.now, options)
    one.write(b"first and last")
    pair.run(0.0101, until=lambda: one.state.value == "SYN-RECEIVED")
    assert one.state.value == "SYN-RECEIVED"
    one.shutdown(pair.now)
    pair.run(1)
    assert one.state.value == "FIN-WAIT-2"
    assert read_all(other) == b"first and last"
    other.write(b"still")
    other.shutdown(pair.now)
    pair.run(10)
    assert read_all(one) == b"still"
    assert (stream(pair, "a"), stream(pair, "b")) == (b"first and last", b"still")
    assert [sum(bool(seen.flags & FIN) for seen in segments(pair, who)) for who in "ab"] == [1, 1]
    assert gone(pair)


def test_close_in_syn_sent_ends_at_once() -> None:
    pair = Pair()
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, SHORT)
    pair.flush()
    client.shutdown(pair.now)
    assert client.state.value == "CLOSED"
    assert not len(pair.a.host.addresses)


def test_data_written_before_the_handshake_is_sent_after_it() -> None:
    pair = Pair()
    listener = pair.b.tcp.listen(SHORT, pair.now)
    listener.arm(pair.b.entry(pair.now), pair.now)
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, SHORT)
    client.write(b"eager")
    pair.run(1)
    server = listener.accept()
    assert server is not None
    assert read_all(server) == b"eager"


@pytest.mark.proves("MAY-1", "SHLD-3")
@pytest.mark.proves("MUST-12", by="api")
@pytest.mark.parametrize("read_first", [True, False])
def test_close_with_unread_data_resets(read_first: bool) -> None:
    pair = Pair()
    client, server, _ = established(pair, time_wait=TimeWait.SHORT)
    client.write(b"never read")
    pair.run(1)
    if read_first:
        read_all(server)
    before = len(pair.packets)
    server.close(pair.now)
    pair.run(1)
    flags = [str(wire.read(p).flags) for p in pair.sent_by("b", before)]
    assert flags[0] == ("FA" if read_first else "RA")
    assert isinstance(client.error, ConnectionResetError) is not read_first


@pytest.mark.proves("SHLD-3")
def test_data_after_close_resets() -> None:
    pair = Pair()
    client, server, _ = established(pair, time_wait=TimeWait.SHORT)
    server.close(pair.now)
    pair.run(1)
    before = len(pair.packets)
    client.write(b"too late")
    pair.run(1)
    assert [seen.flags & RST for seen in segments(pair, "b", before)] == [RST]
    assert isinstance(client.error, ConnectionResetError)


@pytest.mark.proves("SHLD-3")
def test_old_data_after_close_does_not() -> None:
    """A kernel whose text was acknowledged in vain repeats it with its FIN in one segment."""
    pair = Pair()
    client = plain(pair)
    by_hand(pair, client, "A", payload=b"d" * 100)
    assert read_all(client) == b"d" * 100
    client.write(DATA[:600])
    client.close(pair.now)
    pair.flush()
    una, nxt = client.sender.snd_una, client.receiver.rcv_nxt
    (answer,) = by_hand(pair, client, "FA", seq=nxt - 100, ack=una, payload=b"d" * 100)
    assert (str(answer.flags), answer.ack) == ("A", (nxt + 1) & 0xFFFFFFFF)
    assert client.sender.buffered, "what was written before close() is still to be delivered"
    assert client.state.value == "CLOSING"


@pytest.mark.parametrize("state", ["ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2", "CLOSE-WAIT", "CLOSING", "LAST-ACK"])
def test_abort_in_every_state_resets_and_lets_go(state: str) -> None:
    pair = Pair()
    client, server, path = established(pair, time_wait=TimeWait.SHORT)
    first, second = (server, client) if state in ("CLOSE-WAIT", "LAST-ACK") else (client, server)
    if state != "ESTABLISHED":
        first.shutdown(pair.now)
    if state == "CLOSING":
        second.shutdown(pair.now)
        pair.run(0.015)
    elif state in ("FIN-WAIT-2", "CLOSE-WAIT", "LAST-ACK"):
        pair.run(0.5)
    if state == "LAST-ACK":
        second.shutdown(pair.now)
    assert client.state.value == state
    before = len(pair.packets)
    client.abort(pair.now)
    assert client.state.value == "CLOSED"
    assert not len(pair.a.host.addresses)
    pair.run(10)
    assert any("R" in str(wire.read(p).flags) for p in pair.sent_by("a", before))
    assert gone(pair)
    assert path is pair.meddle


@pytest.mark.parametrize("order", list(permutations(("client writes", "server writes", "client ends", "server ends"))))
def test_any_order_of_last_words_arrives(order: tuple[str, ...]) -> None:
    pair = Pair()
    client, server, _ = established(pair, time_wait=TimeWait.SHORT)
    expected = {client: b"", server: b""}
    for step in order:
        me, peer = (client, server) if step.startswith("client") else (server, client)
        if step.endswith("ends"):
            me.shutdown(pair.now)
        elif not me.sender.fin_queued:
            me.write(DATA[:3000])
            expected[peer] = DATA[:3000]
        pair.run(0.004)
    pair.run(10)
    assert {c: read_all(c) for c in expected} == expected
    assert gone(pair)
    assert (client.error, server.error) == (None, None)


@pytest.mark.parametrize("size", [4999, 5000, 5001])
def test_a_fin_on_the_very_edge_of_the_window(size: int) -> None:
    pair = Pair()
    client, server, _ = established(pair, receive_buffer=5000, receive_buffer_maximum=5000, time_wait=TimeWait.SHORT)
    client.write(DATA[:size])
    client.shutdown(pair.now)
    pair.run(3)
    assert collect(pair, server, size, 10) == DATA[:size]
    server.shutdown(pair.now)
    pair.run(80)
    assert gone(pair)


@pytest.mark.parametrize("window", [0, 1])
def test_a_stream_whose_window_was_closed_ends_in_order(window: int) -> None:
    pair = Pair()
    client, server, _ = established(pair, receive_buffer=4000, receive_buffer_maximum=4000, time_wait=TimeWait.SHORT)
    client.write(DATA[: 4000 - window])
    pair.run(3)
    client.shutdown(pair.now)
    pair.run(3)
    assert collect(pair, server, 4000 - window, 10) == DATA[: 4000 - window]
    server.shutdown(pair.now)
    pair.run(80)
    assert gone(pair)


def test_options_that_change_do_not_begin_the_end_of_fin_wait_2_anew() -> None:
    pair = Pair()
    client, _, _ = established(pair)
    client.close(pair.now)
    pair.run(1)
    assert client.state.value == "FIN-WAIT-2"
    ends = client.timers.slow.when
    assert ends is not None
    pair.run(10)
    client.set_options(replace(client.options, keep_alive=5.0), pair.now)
    assert client.timers.slow.when == ends


@pytest.mark.proves("UM-REL-1")
@pytest.mark.parametrize("sack", [True, False])
@pytest.mark.parametrize("mode", [PortMode.L0, PortMode.L1, PortMode.L2])
@pytest.mark.parametrize("missing", [(1,), (3,), (5,), (2, 4), (1, 2, 3, 4, 5), ()])
def test_an_abort_ends_the_peer_whatever_it_missed(missing: tuple[int, ...], mode: PortMode, sack: bool) -> None:
    """A reset beside the number that the peer expects is answered by a question (RFC 5961 §3.2), and the address is gone."""
    pair = Pair()
    client, server, _ = established(pair, lose(*missing), sack=sack, mode=mode)
    client.write(DATA[: 5 * MSS])
    pair.run(0.015)
    before = len(pair.packets)
    client.abort(pair.now)
    assert gone_from(pair.a)
    pair.run(1)
    assert isinstance(server.error, ConnectionResetError)
    assert gone(pair)
    resets = segments(pair, "a", before)
    assert {seen.flags & RST for seen in resets} == {RST} and len(resets) == 6


def test_after_the_peers_report_resets_go_where_it_misses_something() -> None:
    pair = Pair()
    client, server, _ = established(pair, lose(2, 5, 11))
    client.write(DATA[: 8 * MSS])
    pair.run(0.03)  # what it holds is reported; nothing lost has arrived again
    una = client.sender.snd_una
    held = {start for first, last in wire_sacks(pair, una) for start in range(first, last)}
    before = len(pair.packets)
    client.abort(pair.now)
    pair.run(1)
    assert isinstance(server.error, ConnectionResetError)
    starts = [(seen.seq - una) & 0xFFFFFFFF for seen in segments(pair, "a", before)]
    assert len(starts) == len(set(starts)) and starts[1] == 0
    assert held and not held & set(starts)


def test_of_an_abort_with_much_in_flight_few_resets_tell() -> None:
    pair = Pair()
    client = plain(pair)
    client.sender.congestion.cwnd = 500 * MSS
    by_hand(pair, client, "A", window=60000)
    client.write(DATA[: 300 * MSS])
    pair.flush()
    assert len(client.sender.in_flight) > 100
    before = len(pair.packets)
    client.abort(pair.now)
    pair.flush()
    assert len(segments(pair, "a", before)) == 65


def test_an_ordinary_address_answers_what_the_peer_asks_after_one_reset() -> None:
    pair = Pair()
    listener = pair.b.tcp.listen(SocketOptions(mode=PortMode.AWARE), pair.now, 80)
    listener.arm(pair.b.entry(pair.now, AddressKind.STABLE), pair.now, sessions=None)
    entry = pair.a.entry(pair.now, AddressKind.STABLE)
    client = pair.a.tcp.connect(entry, pair.b.address, 80, pair.now, SocketOptions(mode=PortMode.AWARE))
    pair.run(1)
    server = listener.accept()
    assert server is not None
    Path(pair, lose(1))
    client.write(DATA[: 3 * MSS])
    pair.run(0.015)
    before = len(pair.packets)
    client.abort(pair.now)
    pair.flush()
    assert len(segments(pair, "a", before)) == 1
    pair.run(1)
    assert isinstance(server.error, ConnectionResetError)
    first, *rest = segments(pair, "a", before)
    assert first.flags & RST and rest and {seen.seq for seen in rest} == {first.seq - 3 * MSS & 0xFFFFFFFF}
