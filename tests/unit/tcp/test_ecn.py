"""Explicit congestion notification on the wire (RFC 3168)."""

from __future__ import annotations

import pytest

from tapstack.tcp.congestion import CongestionControl
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import Ecn, PortMode, SocketOptions

from . import wire
from .pair import End, Pair
from .path import DATA, Path, established, transfer

pytestmark = pytest.mark.proves("ST-TCP-7")


def codepoint(packet: bytes) -> int:
    return packet[1] >> 4 & 3


def flags(packet: bytes) -> str:
    return str(wire.read(packet).flags)


def marking(pair: Pair, numbers: set[int]) -> Path:
    """A router that marks the data packets of these numbers instead of dropping them."""
    path = Path(pair)

    def meddle(end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        data = end is pair.a and len(packet) > 40 + (packet[52] >> 4) * 4
        out = path(end, packet)
        if data and path.sent in numbers:
            assert codepoint(packet) == 2, "only ECT packets may be marked"
            marked = packet[:1] + bytes([packet[1] | 0x30]) + packet[2:]
            return [(item[0] if isinstance(item, tuple) else 0.0, marked) for item in out]
        return out

    pair.meddle = meddle
    return path


@pytest.mark.parametrize(
    ("client", "server", "used"),
    [
        (Ecn.REQUEST, Ecn.ACCEPT, True),
        (Ecn.REQUEST, Ecn.REQUEST, True),
        (Ecn.REQUEST, Ecn.OFF, False),
        (Ecn.ACCEPT, Ecn.REQUEST, False),
        (Ecn.OFF, Ecn.ACCEPT, False),
    ],
)
def test_negotiation(client: Ecn, server: Ecn, used: bool) -> None:
    pair = Pair()
    listener = pair.b.tcp.listen(SocketOptions(ecn=server, mode=PortMode.L1), pair.now)
    listener.arm(pair.b.entry(pair.now), pair.now)
    one = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, SocketOptions(ecn=client))
    pair.run(1)
    other = listener.accept()
    assert isinstance(other, Connection)
    assert (one.ecn.usable, other.ecn.usable) == (used, used)
    syn, syn_ack = (p for _, _, p in pair.packets[:2])
    assert flags(syn) == ("SEC" if client is Ecn.REQUEST else "S")
    assert flags(syn_ack) == ("SAE" if used else "SA")
    assert codepoint(syn) == codepoint(syn_ack) == 0, "neither SYN nor SYN-ACK is ECT"


def test_a_repeated_syn_does_not_ask_again() -> None:
    pair = Pair()
    pair.meddle = lambda end, packet: []
    pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, SocketOptions(ecn=Ecn.REQUEST))
    pair.run(4)
    assert [flags(p) for _, _, p in pair.packets] == ["SEC", "S", "S"]


def test_a_mark_is_echoed_until_the_sender_says_that_it_has_reduced() -> None:
    pair = Pair()
    client, server, _ = established(pair, ecn=Ecn.REQUEST)
    transfer(pair, client, server, 300_000)
    before, cwnd = len(pair.packets), client.sender.congestion.cwnd
    marking(pair, {5})
    transfer(pair, client, server, 400_000)
    pair.run(1)
    assert client.ecn.reductions == 1, "once per window, whatever the number of echoes"
    assert client.sender.congestion.ssthresh < cwnd
    assert client.sender.retransmissions == 0
    data = [p for _, who, p in pair.packets[before:] if who == "a" and wire.read(p).payload]
    assert sum("C" in flags(p) for p in data) == 1, "CWR goes with one segment"
    echoes = ["E" in flags(p) for _, who, p in pair.packets[before:] if who == "b"]
    assert any(echoes)
    last = len(echoes) - echoes[::-1].index(True)
    assert not any(echoes[last:]) and len(echoes) > last, "and stops after CWR"


def test_only_new_data_is_ect() -> None:
    pair = Pair()
    client, server, path = established(pair, ecn=Ecn.REQUEST)
    path.fate = lambda n: None if n == 3 else 0.0
    before = len(pair.packets)
    transfer(pair, client, server, 30_000)
    seen: set[int] = set()
    for _, who, packet in pair.packets[before:]:
        tcp = wire.read(packet)
        if who == "b" or not tcp.payload:
            assert codepoint(packet) == 0, "pure acknowledgements are not ECT"
        elif tcp.seq in seen:
            assert codepoint(packet) == 0, "repetitions are not ECT"
        else:
            assert codepoint(packet) == 2
        seen.add(tcp.seq)
    assert client.sender.retransmissions == 1


def test_without_agreement_nothing_is_ect_and_marks_mean_nothing() -> None:
    pair = Pair()
    client, server, _ = established(pair)
    transfer(pair, client, server, 30_000)
    assert not any(codepoint(p) for _, _, p in pair.packets)
    segment = wire.segment(
        "2001:db8:b::1", "2001:db8:a::1", client.remote_port, client.local_port, "AE",
        seq=client.receiver.rcv_nxt, ack=client.sender.snd_una, window=1000,
        options=[("NOP", None), ("NOP", None), ("Timestamp", ((server.timestamp(pair.now) or (0, 0))[0], 0))],
    )  # fmt: skip
    cwnd = client.sender.congestion.cwnd
    pair.a.input(segment, pair.now)
    assert client.sender.congestion.cwnd == cwnd
    client.write(DATA[:10])
    pair.run(1)
    assert not server.ecn.echo


@pytest.mark.parametrize("congestion", ["newreno", "cubic"])
@pytest.mark.parametrize("sack", [True, False])
@pytest.mark.parametrize(("mark", "lost"), [(5, 20), (20, 5)], ids=["mark first", "loss first"])
def test_a_mark_and_a_loss_in_one_window_reduce_it_once(
    monkeypatch: pytest.MonkeyPatch, mark: int, lost: int, sack: bool, congestion: str
) -> None:
    """RFC 3168 §6.1.2: once per window of data, and CWR says so after a reduction for any reason."""
    pair = Pair(delay=0.05)
    client, server, _ = established(pair, ecn=Ecn.REQUEST, congestion=congestion, sack=sack)
    transfer(pair, client, server, 600_000)
    pair.run(0.15)
    controller = client.sender.congestion
    controller.cwnd = controller.ssthresh = 60 * client.sender.mss
    reductions: list[float] = []
    reduce = type(controller).on_congestion

    def counted(self: CongestionControl, in_flight: int, now: float) -> None:
        reductions.append(now)
        reduce(self, in_flight, now)

    monkeypatch.setattr(type(controller), "on_congestion", counted)
    path = marking(pair, {mark})
    path.gap = 0.0003
    path.fate = lambda n: None if n == lost else 0.0
    before = len(pair.packets)
    client.write(DATA[: 60 * client.sender.mss])
    pair.run(0.2)
    client.write(DATA[: 60 * client.sender.mss])
    pair.run(2)
    assert len(reductions) == 1
    sent = [wire.read(p) for _, who, p in pair.packets[before:] if who == "a"]
    assert ["C" in str(tcp.flags) for tcp in sent if tcp.payload].count(True) == 1
    assert not server.ecn.echo, "the peer has heard of it"
    assert client.sender.retransmissions == 1


@pytest.mark.parametrize("sack", [True, False])
def test_after_a_time_out_new_data_says_cwr(sack: bool) -> None:
    pair = Pair()
    client, server, path = established(pair, ecn=Ecn.REQUEST, sack=sack)
    transfer(pair, client, server, 100_000)
    path.fate = lambda n: None
    client.write(DATA[:1000])
    pair.run(5, until=lambda: client.timers.timeouts > 0)
    path.fate = lambda n: 0.0
    pair.run(5)
    before = len(pair.packets)
    client.write(DATA[:10_000])
    pair.run(1)
    data = [wire.read(p) for _, who, p in pair.packets[before:] if who == "a"]
    assert ["C" in str(tcp.flags) for tcp in data if tcp.payload] == [True] + [False] * (len(data) - 1)


def test_a_probe_of_a_closed_window_is_not_ect() -> None:
    """RFC 3168 §6.1.6, the first of them as well."""
    pair = Pair()
    client, server, _ = established(pair, ecn=Ecn.REQUEST, receive_buffer=5000, receive_buffer_maximum=5000)
    client.write(DATA[:5000])
    pair.run(1)
    if client.sender.snd_wnd:
        client.write(DATA[: client.sender.snd_wnd])
        pair.run(1)
    assert not client.sender.snd_wnd and not client.sender.in_flight
    before = len(pair.packets)
    client.write(DATA[:1000])
    pair.run(1)
    probes = [p for _, who, p in pair.packets[before:] if who == "a"]
    assert len(probes) > 1
    assert [codepoint(p) for p in probes] == [0] * len(probes)
    assert {len(wire.read(p).payload) for p in probes} == {1}
    server.read()
