"""What RFC 9293 numbers (Appendix B), each where no other test shows it already; judged from the packets, or marked by="api"."""

from __future__ import annotations

from typing import Any

import pytest

from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp.connection import Connection, Signal
from tapstack.tcp.isn import session_numbers
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.types import address
from tests.unit.tcp.handmade import PLAIN, A, B, by_hand, plain, sent

from . import wire
from .pair import Pair, read_all
from .path import DATA, Path, established, transfer
from .seen import RST, SYN, acknowledged, data, segments

# -- options -------------------------------------------------------------------------------------------


def raw(pair: Pair, connection: Connection, options: bytes, payload: bytes = b"", flags: int = 0x10) -> None:
    """A segment with exactly these option bytes, padded to 4 by the caller."""
    header = (
        connection.remote_port.to_bytes(2, "big")
        + connection.local_port.to_bytes(2, "big")
        + (connection.receiver.rcv_nxt & 0xFFFFFFFF).to_bytes(4, "big")
        + (connection.sender.snd_nxt & 0xFFFFFFFF).to_bytes(4, "big")
        + bytes([(20 + len(options)) << 2, flags])
        + b"\xff\xff\0\0\0\0"
    )
    body = header + options + payload
    packet = b"\x60\0\0\0" + len(body).to_bytes(2, "big") + b"\x06\x40" + address(B) + address(A) + body
    pair.a.input(wire.fixed(packet), pair.now)
    pair.flush()


@pytest.mark.proves("MUST-5", "MUST-6", "MUST-7", "MUST-64", "MUST-50")
@pytest.mark.parametrize(
    ("options", "taken"),
    [
        (b"\x01\x01\x01\x00", True),
        (b"\x02\x04\x05\xa0", True),  # MSS in a segment without SYN: ignored
        (b"\xfe\x04ab", True),  # unknown
        (b"\xfe\x03a\x01\x01\x1e\x02\x00", True),  # unknown ones, off word boundaries
        (b"\x01\x08\x0a" + bytes(8) + b"\x00", True),  # a timestamp off its place, not negotiated
        (b"\xfe\x00ab", False),  # a length that is none
        (b"\xfe\x01ab", False),
        (b"\x01\x01\x01\xfe", False),  # no room for its length
        (b"\xfe\x28ab", False),  # beyond the end
    ],
)
def test_options_in_any_segment(options: bytes, taken: bool) -> None:
    pair = Pair()
    client = plain(pair)
    for text, octets in ((b"text", 4 * taken), (b"more", 4 * taken + 4)):
        raw(pair, client, options if text == b"text" else b"", text)
        pair.run(0.1)
        assert acknowledged(pair, "a") == octets
    assert read_all(client) == b"textmore"[-4 - 4 * taken :], "the connection is unharmed"


@pytest.mark.proves("MUST-4", "MUST-14", "MUST-65", "MUST-67", "MUST-68", "MUST-69", "SHLD-5", "MAY-3")
def test_options_that_are_sent() -> None:
    pair = Pair()
    client, server, path = established(pair)
    path.fate = lambda n: None if n == 3 else 0.0
    transfer(pair, client, server, 30_000)
    client.close(pair.now)
    pair.run(1)
    for _, _, packet in pair.packets:
        tcp = wire.read(packet)
        raw_options = packet[60 : 40 + tcp.dataofs * 4]
        position, seen = 0, []
        while position < len(raw_options):
            kind = raw_options[position]
            seen.append(kind)
            if kind == 0:
                assert not any(raw_options[position:]), "padding is zero"
                break
            position += 1 if kind == 1 else raw_options[position + 1]
        assert position <= len(raw_options)
        assert (2 in seen) == ("S" in str(tcp.flags)), "MSS with each SYN and nowhere else"
        if 2 in seen:
            assert dict(tcp.options)["MSS"] == 1500 - 60


@pytest.mark.proves("MUST-15", "MUST-16", "SHLD-6")
@pytest.mark.parametrize(("announced", "used"), [(None, 1220), (536, 536), (1000, 1000), (1440, 1440), (9000, 1440)])
def test_the_effective_segment_size(announced: int | None, used: int) -> None:
    pair = Pair()
    pair.meddle = lambda end, packet: []
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, PLAIN)
    pair.flush()
    by_hand(pair, client, "SA", seq=5, options=[] if announced is None else [("MSS", announced)])
    assert client.state.value == "ESTABLISHED"
    client.write(DATA[:30_000])
    before = len(pair.packets)
    pair.flush()
    assert max(len(tcp.payload) for tcp in sent(pair, "a", before)) == used


@pytest.mark.proves("MUST-16", "SHLD-6")
def test_options_in_a_segment_make_its_text_shorter() -> None:
    pair = Pair()
    client, server, _ = established(pair, timestamps=True)
    transfer(pair, client, server, 50_000)
    assert max(map(len, pair.sent_by("a"))) == 1500


# -- checksum, initial sequence numbers ----------------------------------------------------------------


@pytest.mark.proves("MUST-2", "MUST-3")
def test_checksums() -> None:
    pair = Pair()
    client, server, _ = established(pair)
    transfer(pair, client, server, 5000)
    for _, _, packet in pair.packets:
        wire.read(packet)  # which verifies the checksum
    pair.run(1)
    intact = next(p for p in reversed(pair.sent_by("a")) if wire.read(p).payload)
    before = len(pair.packets)
    for bit in range(8 * 40, 8 * 80):
        broken = bytearray(intact)
        broken[bit >> 3] ^= 0x80 >> (bit & 7)
        pair.b.input(bytes(broken), pair.now)
        pair.run(0.1)
    assert not segments(pair, "b", before)
    pair.b.input(intact, pair.now)
    pair.run(0.1)
    assert segments(pair, "b", before), "the intact one, which is old, is answered in the same capture"


@pytest.mark.proves("MUST-8", "SHLD-1", "MUST-9", "ST-TCP-9", "UM-GEN-7", by="api")
def test_initial_sequence_numbers_are_a_clock_plus_a_keyed_hash() -> None:
    secret, key = bytes(range(32)), b"one connection"
    first = session_numbers(secret, key, 1000.0)
    assert (session_numbers(secret, key, 1000.5).isn - first.isn) & 0xFFFFFFFF == 125_000, "250,000 per second"
    assert session_numbers(secret, key, 1000.0) == first
    others = {session_numbers(secret, b"connection %d" % n, 1000.0).isn for n in range(500)}
    assert len(others) == 500
    assert max(others) - min(others) > 1 << 31, "spread over the whole space"
    assert session_numbers(bytes(32), key, 1000.0).isn != first.isn, "not computable without the secret"


# -- opening -------------------------------------------------------------------------------------------


@pytest.mark.proves("MUST-11")
def test_syn_received_remembers_where_it_came_from() -> None:
    pair = Pair()
    listener = pair.b.tcp.listen(SocketOptions(mode=PortMode.AWARE), pair.now, 80)
    listener.arm(pair.b.entry(pair.now, AddressKind.STABLE), pair.now, sessions=None)
    for flags, seq in (("S", 9), ("R", 10), ("S", 9)):
        pair.b.input(wire.segment(A, B, 5000, 80, flags, seq=seq), pair.now)
        pair.flush()
    assert [str(tcp.flags) for tcp in sent(pair, "b")] == ["SA", "SA"], "a passive open is back in LISTEN"
    pair = Pair()
    pair.meddle = lambda end, packet: []
    client = pair.a.tcp.connect(pair.a.entry(pair.now, AddressKind.STABLE), pair.b.address, 80, pair.now, PLAIN)
    pair.flush()
    for flags, seq, ack in (("S", 50, 0), ("RA", 51, client.sender.snd_nxt), ("S", 50, 0)):
        by_hand(pair, client, flags, seq=seq, ack=ack)
    assert [str(tcp.flags) for tcp in sent(pair, "a")] == ["S", "SA", "RA"], "an active one is over"
    assert isinstance(client.error, ConnectionRefusedError)


@pytest.mark.proves("ST-TCP-1")
@pytest.mark.parametrize("mode", [PortMode.AWARE, PortMode.L0])
@pytest.mark.parametrize("repeated", ["S", "SP", "SF"])
@pytest.mark.parametrize("data", [b"", b"GET /\r\n"])
def test_a_repeated_syn_is_answered_again_whatever_it_carries(mode: PortMode, repeated: str, data: bytes) -> None:
    """§3.10.7.2 lets data stand on a SYN: they reach into the window, and yet it is the SYN that was answered.

    The handshake goes on, and what was on the SYN, which nothing acknowledged, comes with what follows.
    """
    pair = Pair()
    aware = mode is PortMode.AWARE
    listener = pair.b.tcp.listen(SocketOptions(mode=mode), pair.now, 80 if aware else None)
    entry = pair.b.entry(pair.now, AddressKind.STABLE if aware else AddressKind.SERVICE)
    listener.arm(entry, pair.now)
    pair.b.input(wire.segment(A, B, 5000, 80, "S", seq=1000, payload=data), pair.now)
    pair.run(0.6)
    pair.b.input(wire.segment(A, B, 5000, 80, repeated, seq=1000, payload=data), pair.now)
    pair.run(0.1)
    first, second = sent(pair, "b")
    assert str(first.flags) == str(second.flags) == "SA"
    assert (first.seq, first.ack) == (second.seq, second.ack)
    assert second.ack == 1001
    pair.b.input(wire.segment(A, B, 5000, 80, "A", seq=1001, ack=first.seq + 1, payload=data), pair.now)
    pair.run(0.1)
    server = listener.accept()
    assert server is not None
    assert b"".join(server.read()) == data
    assert [str(tcp.flags) for tcp in sent(pair, "b")] == ["SA", "SA"] + ["A"] * bool(data)


@pytest.mark.proves("ST-TCP-1")
def test_another_syn_ends_a_half_open_handshake() -> None:
    """One whose number is not the first one's, but in the window: back to LISTEN (§3.10.7.4), with or without data."""
    for text in (b"", b"GET /\r\n"):
        pair = Pair()
        listener = pair.b.tcp.listen(SocketOptions(), pair.now)
        listener.arm(pair.b.entry(pair.now, AddressKind.SERVICE), pair.now)
        pair.b.input(wire.segment(A, B, 5000, 80, "S", seq=1000), pair.now)
        pair.b.input(wire.segment(A, B, 5000, 80, "S", seq=1001, payload=text), pair.now)
        pair.flush()
        assert pair.b.tcp.demux.half_open_count == 0
        pair.run(5)
        assert [str(tcp.flags) for tcp in sent(pair, "b")] == ["SA"]


@pytest.mark.proves("MUST-41", "MUST-42")
def test_listening_beside_connections_of_the_same_port() -> None:
    pair = Pair()
    options = SocketOptions(mode=PortMode.AWARE)
    entry = pair.b.entry(pair.now, AddressKind.STABLE)
    opening = pair.b.tcp.connect(entry, pair.a.address, 9, pair.now, options, local_port=80)
    pair.meddle = lambda end, packet: [] if end is pair.b and wire.read(packet).dport == 9 else [packet]
    assert opening.state.value == "SYN-SENT"
    listener = pair.b.tcp.listen(options, pair.now, 80)
    listener.arm(entry, pair.now, sessions=None)
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, options, local_port=5000)
    pair.run(0.1)
    server = listener.accept()
    assert server is not None and client.state.value == "ESTABLISHED"
    client.write(b"hello")
    pair.run(0.1)
    assert read_all(server) == b"hello"
    pair.run(1)
    by_port = [(tcp.dport, str(tcp.flags)) for tcp in sent(pair, "b")]
    assert by_port == [(9, "S"), (5000, "SA"), (5000, "A"), (9, "S")], "the one that is being opened goes on with it"


@pytest.mark.proves("MUST-43", "MUST-45")
def test_the_segments_of_a_connection_come_from_its_own_address() -> None:
    pair = Pair()
    other = pair.a.host.addresses.add(address("2001:db8:a::77"), AddressKind.STABLE, pair.now, trigger=wire.NO_DAD)
    pair.a.tcp.connect(other, pair.b.address, 80, pair.now, SocketOptions())
    pair.flush()
    assert [p[8:24] for p in pair.sent_by("a")] == [address("2001:db8:a::77")]


@pytest.mark.proves("MUST-46", by="api")
@pytest.mark.parametrize("remote", ["ff02::1", "ff1e::42", "::", "::1"])
def test_opening_to_an_address_that_cannot_be_a_peers_is_refused(remote: str) -> None:
    pair = Pair()
    entry = pair.a.entry(pair.now)
    with pytest.raises(OSError, match="cannot be the address of a peer"):
        pair.a.tcp.connect(entry, address(remote), 80, pair.now, SocketOptions())
    assert not entry.users


@pytest.mark.proves("MUST-63", "MUST-57")
@pytest.mark.parametrize(("src", "dst"), [("ff02::1", B), ("::", B), ("::1", B), (A, "ff02::1")])
def test_a_syn_from_or_to_an_address_that_cannot_be_is_silently_discarded(src: str, dst: str) -> None:
    pair = Pair()
    listener = pair.b.tcp.listen(SocketOptions(mode=PortMode.AWARE), pair.now, 80)
    listener.arm(pair.b.entry(pair.now, AddressKind.STABLE), pair.now, sessions=None)
    pair.b.input(wire.segment(src, dst, 5000, 80, "S", seq=9), pair.now)
    pair.flush()
    assert not pair.packets
    pair.b.input(wire.segment(A, B, 5000, 80, "S", seq=9), pair.now)
    pair.flush()
    assert str(sent(pair, "b")[0].flags) == "SA", "a permitted one is answered in the same capture"


# -- closing, retransmission ---------------------------------------------------------------------------


@pytest.mark.proves("MUST-12", by="api")
def test_the_program_is_told_of_an_abort() -> None:
    pair = Pair()
    client, server, _ = established(pair)
    server.abort(pair.now)
    pair.run(1)
    assert isinstance(client.error, ConnectionResetError)
    assert client.signals & Signal.CLOSED
    with pytest.raises(ConnectionResetError):
        client.write(b"x")


def waited(pair: Pair, client: Connection, path: Path, late: float | None = None) -> float:
    """How long a segment waits to be sent again whose first transmission is lost, or `late`."""
    before, number = len(pair.packets), path.sent + 1
    path.fate = lambda n: late if n == number else 0.0
    client.write(b"sent twice")
    pair.run(2)
    first, again = data(pair, "a", before)
    return again.when - first.when


@pytest.mark.proves("MUST-18")
@pytest.mark.parametrize("timestamps", [False, True])
def test_karns_rule(timestamps: bool) -> None:
    """Were the time from the first transmission to the acknowledgement a sample, the next time-out would be longer."""
    pair = Pair()
    client, _, path = established(pair, sack=False, timestamps=timestamps)
    time_out = waited(pair, client, path)
    client.write(b"acknowledged at once, which is a sample")
    pair.run(2)
    assert waited(pair, client, path) < time_out + 0.02


@pytest.mark.proves("MUST-18")
def test_nor_does_the_time_from_the_second_transmission_shorten_the_time_out() -> None:
    """The first is late and acknowledged just after the second has left: what has doubled stays so until there is a sample."""
    pair = Pair()
    client, _, path = established(pair, sack=False, timestamps=False)
    time_out = waited(pair, client, path, late=0.215)
    assert waited(pair, client, path) == pytest.approx(2 * time_out)


@pytest.mark.proves("SHLD-9", "MUST-47", "SHLD-20", by="api")
def test_after_three_time_outs_the_program_hears_of_it() -> None:
    """It need not listen: the connection goes on.  That the next hop is verified is in `test_network`."""
    pair = Pair()
    client, _, path = established(pair, sack=False)
    path.fate = lambda n: None
    client.write(b"x")
    client.signals = 0
    told = []
    for _ in range(4):
        timeouts = client.timers.timeouts
        pair.run(60, until=lambda: client.timers.timeouts > timeouts)  # noqa: B023 - used before it changes
        told.append(bool(client.signals & Signal.TROUBLE))
    assert told == [False, False, True, True]
    assert isinstance(client.soft_error, TimeoutError)
    assert client.error is None and client.state.value == "ESTABLISHED"


@pytest.mark.proves("MUST-20", "MUST-21", "SHLD-11")
@pytest.mark.parametrize("limit", [None, 10.0, 300.0])
def test_r2_can_be_set_for_each_connection(limit: float | None) -> None:
    pair = Pair()
    options: dict[str, Any] = {} if limit is None else {"user_timeout": limit}
    client, _, path = established(pair, **options)
    path.fate = lambda n: None
    begun, before = pair.now, len(pair.packets)
    client.write(b"x")
    pair.run(1000)
    *tries, last, missed = segments(pair, "a", before)
    assert {seen.payload for seen in tries} == {b"x"}
    assert last.flags & missed.flags & RST
    assert (last.when, last.seq) == (missed.when, (missed.seq + 1) & 0xFFFFFFFF), "whichever the peer expects"
    if limit is None:
        assert last.when - begun >= 100
    else:
        assert last.when - begun == pytest.approx(limit)
    assert isinstance(client.error, TimeoutError)


@pytest.mark.proves("MUST-22", "MUST-23")
@pytest.mark.parametrize("limit", [None, 10.0, 300.0])
def test_so_it_can_for_a_handshake(limit: float | None) -> None:
    """An answer that comes just before the end is taken; the last SYN has left long before."""
    options = SocketOptions(timestamps=False) if limit is None else SocketOptions(timestamps=False, syn_timeout=limit)
    for late in (-0.1, 0.1):
        pair = Pair()
        pair.meddle = lambda end, packet: []
        client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, options)
        pair.run((limit or 180.0) + late)
        assert {seen.flags for seen in segments(pair, "a")} == {SYN}
        answers = [str(tcp.flags) for tcp in by_hand(pair, client, "SA", seq=5)]
        if late < 0:
            assert answers == ["A"]
        else:
            assert answers == []
            assert isinstance(client.error, TimeoutError)
            pair.a.entry(pair.now, AddressKind.STABLE)
            assert [str(tcp.flags) for tcp in by_hand(pair, client, "SA", seq=5)] == ["R"], "the address itself answers"
