"""Explicit congestion notification on the wire (RFC 3168)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tapstack.tcp.congestion import CongestionControl
from tapstack.tcp.congestion.cubic import Cubic
from tapstack.tcp.congestion.newreno import NewReno
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import Ecn, PortMode, SocketOptions
from tapstack.tcp.recovery import Phase

from . import wire
from .handmade import by_hand, plain
from .pair import End, Pair
from .path import DATA, Path, established, lose, transfer


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


@pytest.mark.proves("ST-TCP-7")
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


@pytest.mark.proves("ST-TCP-7", by="api")
@pytest.mark.parametrize(("answer", "agrees"), [("SAE", True), ("SAEC", False), ("SAC", False), ("SA", False)])
def test_only_ece_alone_in_the_answer_agrees(answer: str, agrees: bool) -> None:
    """RFC 3168 §6.1.1: both flags in a SYN-ACK were reflected by a host that knows nothing of them."""
    pair = Pair()
    pair.meddle = lambda end, packet: []
    options = SocketOptions(ecn=Ecn.REQUEST, mode=PortMode.L1)
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, options)
    pair.flush()
    by_hand(pair, client, answer, seq=5)
    assert (client.state.value, client.ecn.usable) == ("ESTABLISHED", agrees)


@pytest.mark.proves("ST-TCP-7")
def test_a_repeated_syn_does_not_ask_again() -> None:
    pair = Pair()
    pair.meddle = lambda end, packet: []
    pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, SocketOptions(ecn=Ecn.REQUEST))
    pair.run(4)
    assert [flags(p) for _, _, p in pair.packets] == ["SEC", "S", "S"]


@pytest.mark.proves("ST-TCP-7")
@pytest.mark.parametrize("lost", ["SYN", "SYN-ACK"])
def test_after_a_syn_that_does_not_ask_nothing_is_marked_and_marks_are_echoed(lost: str) -> None:
    """RFC 3168 §6.1.1: such a SYN forbids ECT to its sender and its receiver; marks are processed if they agreed."""
    pair = Pair()
    options = SocketOptions(ecn=Ecn.REQUEST, mode=PortMode.L1)
    listener = pair.b.tcp.listen(options, pair.now)
    listener.arm(pair.b.entry(pair.now), pair.now)
    fate = iter([False] if lost == "SYN" else [True, False])

    def meddle(end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        return [packet] if next(fate, True) else []

    pair.meddle = meddle
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, options)
    pair.run(5, until=lambda: bool(listener._accepted))
    server = listener.accept()
    assert isinstance(server, Connection)
    opening = [flags(p) for _, _, p in pair.packets]
    assert opening[:3] == (["SEC", "S", "SA"] if lost == "SYN" else ["SEC", "SAE", "S"])
    agreed = lost == "SYN-ACK"
    assert (client.ecn.usable, server.ecn.usable) == (agreed, agreed)
    for one, other in ((client, server), (server, client)):
        transfer(pair, one, other, 100_000)
    assert not any(codepoint(p) for _, _, p in pair.packets)
    pair.meddle = lambda end, packet: [packet[:1] + bytes([packet[1] | 0x30]) + packet[2:]]
    for one, other in ((client, server), (server, client)):
        one.write(DATA[:10])
        pair.run(1)
        assert other.ecn.echo is agreed
        assert one.ecn.reductions == 0, "an echo means nothing to one who does not mark"


@pytest.mark.proves("ST-TCP-7")
def test_in_a_simultaneous_open_nothing_is_marked_where_one_did_not_ask() -> None:
    pair = Pair()
    asks, accepts = (SocketOptions(ecn=ecn, mode=PortMode.L1) for ecn in (Ecn.REQUEST, Ecn.ACCEPT))
    one = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, asks)
    other = pair.b.tcp.connect(pair.b.entry(pair.now), pair.a.address, 80, pair.now, accepts)
    pair.run(1)
    transfer(pair, other, one, 50_000)
    transfer(pair, one, other, 50_000)
    assert [flags(p) for _, _, p in pair.packets[:4]] == ["SEC", "S", "SA", "SAE"]
    assert not any(codepoint(p) for _, _, p in pair.packets)


@pytest.mark.proves("ST-TCP-7")
@pytest.mark.parametrize(("wait", "marked"), [(0.5, 2), (1.5, 0)])
def test_in_a_simultaneous_open_the_own_syn_is_repeated_without_asking(wait: float, marked: int) -> None:
    """Then nothing is marked, although the answer beside it agrees (RFC 3168 §6.1.1)."""
    pair = Pair()
    pair.meddle = lambda end, packet: []
    options = SocketOptions(ecn=Ecn.REQUEST, mode=PortMode.L1, timestamps=False)
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, options)
    pair.flush()
    by_hand(pair, client, "SEC", seq=70_000, ack=0)
    pair.run(wait)
    asked = [flags(packet) for packet in pair.sent_by("a")]
    assert asked == (["SEC", "SAE"] if marked else ["SEC", "SAE", "SAE", "S"])
    client.write(b"text")
    by_hand(pair, client, "A", seq=70_001)
    assert client.state.value == "ESTABLISHED"
    assert [codepoint(packet) for packet in pair.sent_by("a") if wire.read(packet).payload] == [marked]


@pytest.mark.proves("ST-TCP-7")
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
    data = [p for p in pair.sent_by("a", before) if wire.read(p).payload]
    assert sum("C" in flags(p) for p in data) == 1, "CWR goes with one segment"
    echoes = ["E" in flags(p) for p in pair.sent_by("b", before)]
    assert any(echoes)
    last = len(echoes) - echoes[::-1].index(True)
    assert not any(echoes[last:]) and len(echoes) > last, "and stops after CWR"


@pytest.mark.proves("ST-TCP-7", by="api")
@pytest.mark.parametrize("acked", [1, 5, 10])
@pytest.mark.parametrize(("congestion", "left"), [("newreno", 5), ("cubic", 7)])
def test_a_mark_reduces_by_the_flight_that_met_it(congestion: str, left: int, acked: int) -> None:
    """RFC 5681 equation 4: however much of it the acknowledgement with the echo takes away."""
    pair = Pair()
    client = plain(pair, ecn=Ecn.REQUEST, congestion=congestion)
    sender = client.sender
    client.write(DATA[: 10 * sender.mss])
    pair.flush()
    assert sender.snd_nxt - sender.snd_una == 10 * sender.mss
    by_hand(pair, client, "AE", ack=sender.snd_una + acked * sender.mss)
    assert client.ecn.reductions == 1
    assert sender.congestion.cwnd == sender.congestion.ssthresh == left * sender.mss


@pytest.mark.proves("ST-TCP-7")
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


@pytest.mark.proves("ST-TCP-7")
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


def sixty(pair: Pair, **options: Any) -> tuple[Connection, Connection]:
    """A connection with a window of sixty segments, none of which is in use."""
    client, server, _ = established(pair, ecn=Ecn.REQUEST, **options)
    transfer(pair, client, server, 600_000)
    pair.run(0.15)
    controller = client.sender.congestion
    controller.cwnd = controller.ssthresh = 60 * client.sender.mss
    return client, server


def spike(pair: Pair) -> Callable[[int], float]:
    """For a second nothing arrives, then one after the other."""
    end = pair.now + 1.0
    return lambda n: max(0.0, end + 0.0003 * n - pair.now)


@pytest.fixture
def reductions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of the window, by any controller but the rate-based: what was in flight each time."""
    noted: list[int] = []
    for controller in (Cubic, NewReno):

        def counted(
            self: CongestionControl, in_flight: int, now: float, reduce: Any = controller.on_congestion
        ) -> None:
            noted.append(in_flight)
            reduce(self, in_flight, now)

        monkeypatch.setattr(controller, "on_congestion", counted)
    return noted


@pytest.mark.proves("ST-TCP-7")
@pytest.mark.parametrize("congestion", ["newreno", "cubic"])
@pytest.mark.parametrize("sack", [True, False])
@pytest.mark.parametrize(("mark", "lost"), [(5, 20), (20, 5)], ids=["mark first", "loss first"])
def test_a_mark_and_a_loss_in_one_window_reduce_it_once(
    reductions: list[int], mark: int, lost: int, sack: bool, congestion: str
) -> None:
    """RFC 3168 §6.1.2: once per window of data, and CWR says so after a reduction for any reason."""
    pair = Pair(delay=0.05)
    client, server = sixty(pair, congestion=congestion, sack=sack)
    path = marking(pair, {mark})
    path.gap = 0.0003
    path.fate = lose(lost)
    reductions.clear()
    before = len(pair.packets)
    client.write(DATA[: 60 * client.sender.mss])
    pair.run(0.2)
    client.write(DATA[: 60 * client.sender.mss])
    pair.run(2)
    assert len(reductions) == 1
    sent = [wire.read(p) for p in pair.sent_by("a", before)]
    assert ["C" in str(tcp.flags) for tcp in sent if tcp.payload].count(True) == 1
    assert not server.ecn.echo, "the peer has heard of it"
    assert client.sender.retransmissions == 1


@pytest.mark.proves("ST-TCP-7")
@pytest.mark.parametrize("mark", [0, 5])
def test_a_mark_and_a_tail_that_a_probe_repairs_reduce_the_window_once(reductions: list[int], mark: int) -> None:
    """The loss alone does it as well, and CWR says so."""
    pair = Pair(delay=0.05)
    client, _ = sixty(pair)
    path = marking(pair, {mark})
    path.fate = lose(60)
    reductions.clear()
    before = len(pair.packets)
    client.write(DATA[: 60 * client.sender.mss])
    pair.run(1)
    assert client.sender.recovery.probes == client.sender.retransmissions == 1
    client.write(DATA[: 60 * client.sender.mss])
    pair.run(1)
    assert client.ecn.reductions == bool(mark)
    sent = [wire.read(p) for p in pair.sent_by("a", before)]
    assert ["C" in str(tcp.flags) for tcp in sent if tcp.payload].count(True) == 1
    assert len(reductions) == 1


@pytest.mark.proves("ST-TCP-7", by="api")
@pytest.mark.parametrize("congestion", ["newreno", "cubic"])
@pytest.mark.parametrize("sack", [True, False])
@pytest.mark.parametrize("lost", [(75,), (55, 75)])
def test_a_loss_of_the_next_window_reduces_it_again(
    reductions: list[int], lost: tuple[int, ...], sack: bool, congestion: str
) -> None:
    """RFC 5681 §4.3; also where it is noticed while a loss of the window with the mark is still being repaired."""
    pair = Pair(delay=0.05)
    client, _ = sixty(pair, congestion=congestion, sack=sack)
    path = marking(pair, {3})  # 61 and what follows are sent when its reduction is done
    path.gap = 0.0003
    path.fate = lose(*lost)
    reductions.clear()
    client.write(DATA[: 120 * client.sender.mss])
    pair.run(2)
    assert (client.ecn.reductions, client.sender.retransmissions, client.timers.timeouts) == (1, len(lost), 0)
    assert len(reductions) == 2
    controller = client.sender.congestion
    assert controller.ssthresh <= reductions[0] * controller.decrease**2 + 2 * client.sender.mss


@pytest.mark.proves("ST-TCP-7", by="api")
def test_losses_of_both_windows_that_one_acknowledgement_shows_reduce_it_again(reductions: list[int]) -> None:
    pair = Pair(delay=0.05)
    client, _ = sixty(pair)
    path = marking(pair, {3})
    path.gap = 0.0003
    path.fate = lose(55, 75)
    begun = pair.now
    path.ack_fate = lambda n: None if 0.0665 < pair.now - begun < 0.164 else 0.0  # none of the first loss alone
    reductions.clear()
    client.write(DATA[: 120 * client.sender.mss])
    pair.run(2)
    assert (client.ecn.reductions, client.sender.retransmissions, client.timers.timeouts) == (1, 2, 0)
    assert len(reductions) == 2


@pytest.mark.proves("ST-TCP-7", by="api")
def test_so_does_one_that_is_noticed_while_a_loss_is_repaired(reductions: list[int]) -> None:
    """Without marks: a repetition is lost as well, so that recovery lasts until the next window shows a loss of its own."""
    pair = Pair(delay=0.05)
    client, _ = sixty(pair)
    path = marking(pair, set())
    path.gap = 0.0003
    again = [0]

    def fate(n: int) -> float | None:
        if client.sender.retransmissions > again[0]:
            again[0] = client.sender.retransmissions
            return None if again[0] == 1 else 0.0
        return None if n in (5, 75) else 0.0

    path.fate = fate
    reductions.clear()
    client.write(DATA[: 160 * client.sender.mss])
    pair.run(2, until=lambda: len(reductions) == 2)
    pipe = 0
    while client.sender.recovery.phase is Phase.RECOVERY:
        pipe = client.sender.pipe
        assert pair.step(pair.now + 1)
    assert 0 < pipe < 1.2 * client.sender.congestion.ssthresh, "it glides to the new threshold"
    pair.run(2)
    assert (client.sender.recovery.losses, client.sender.retransmissions, client.timers.timeouts) == (3, 3, 0)
    assert len(reductions) == 2


@pytest.mark.proves("ST-TCP-7", by="api")
@pytest.mark.parametrize("sack", [True, False])
@pytest.mark.parametrize("spurious", ["loss", "time-out"])
def test_a_mark_counts_where_the_reduction_of_its_window_was_a_mistake(sack: bool, spurious: str) -> None:
    pair = Pair(delay=0.05)
    client, server = sixty(pair, sack=sack)
    path = marking(pair, {40})
    if spurious == "loss":
        path.gap = 0.0003
        path.fate = lambda n: 0.002 * (n == 5)
    else:
        path.fate = spike(pair)
    client.write(DATA[: 120 * client.sender.mss])
    pair.run(2)
    assert client.sender.recovery.undone == 1
    assert client.ecn.reductions == 1
    assert client.sender.congestion.ssthresh < 60 * client.sender.mss
    assert not server.ecn.echo


@pytest.mark.proves("ST-TCP-7", by="api")
def test_a_reduction_that_a_mark_confirms_is_not_taken_back(reductions: list[int]) -> None:
    pair = Pair(delay=0.05)
    client, _ = sixty(pair)
    path = marking(pair, {20})
    path.gap = 0.0003
    path.fate = lambda n: 0.01 * (n == 5)  # it is taken for lost; the echo comes before the proof that it was late
    reductions.clear()
    client.write(DATA[: 60 * client.sender.mss])
    pair.run(2)
    recovery = client.sender.recovery
    assert (recovery.losses, recovery.undone, len(reductions)) == (1, 0, 1)
    assert client.sender.congestion.ssthresh < 60 * client.sender.mss


@pytest.mark.proves("ST-TCP-7", by="api")
def test_nor_is_a_confirmed_one_counted_when_f_rto_finds_the_time_out_spurious(reductions: list[int]) -> None:
    pair = Pair(delay=0.05)
    client, _ = sixty(pair, timestamps=False)
    path = marking(pair, {1})
    path.fate = spike(pair)
    reductions.clear()
    client.write(DATA[: 120 * client.sender.mss])
    pair.run(2)
    assert client.timers.timeouts == 1
    assert client.sender.retransmissions <= 2, "the first and a probe: what else was in flight has arrived"
    assert (client.sender.recovery.undone, len(reductions)) == (0, 1)
    assert client.sender.congestion.ssthresh < 60 * client.sender.mss


@pytest.mark.proves("ST-TCP-7")
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
    data = [wire.read(p) for p in pair.sent_by("a", before)]
    assert ["C" in str(tcp.flags) for tcp in data if tcp.payload] == [True] + [False] * (len(data) - 1)


@pytest.mark.proves("ST-TCP-7")
def test_cwr_goes_in_a_segment_of_its_own_where_the_link_cuts() -> None:
    """RFC 3168 §6.1.2 asks for one packet; a device may write it into all that it makes of a super-segment."""
    pair = Pair(delay=0.05, offload="whole")
    client, _ = sixty(pair)
    client.sender.recovery.reduce(60 * client.sender.mss, pair.now)
    before = len(pair.packets)
    for _ in range(2):
        client.write(DATA[: 30 * client.sender.mss])
        pair.run(1)
    sent = [wire.read(p) for p in pair.sent_by("a", before)]
    assert [len(tcp.payload) for tcp in sent if "C" in str(tcp.flags)] == [client.sender.mss]
    assert max(len(tcp.payload) for tcp in sent) > 10 * client.sender.mss, "super-segments go on"


@pytest.mark.proves("ST-TCP-7")
def test_what_fits_into_a_small_window_is_ect() -> None:
    """The time-out of SWS avoidance sends it like a probe, but the window is open."""
    pair = Pair()
    client = plain(pair, ecn=Ecn.REQUEST)
    by_hand(pair, client, "A", window=200 >> client.sender.scale or 1)
    room = client.sender.snd_wnd
    client.write(DATA[:1000])
    before = len(pair.packets)
    pair.run(client.rtt.rto * 1.5)
    packet = pair.sent_by("a", before)[0]
    assert (len(wire.read(packet).payload), codepoint(packet)) == (room, 2)


@pytest.mark.proves("ST-TCP-7")
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
    probes = pair.sent_by("a", before)
    assert len(probes) > 1
    assert [codepoint(p) for p in probes] == [0] * len(probes)
    assert {len(wire.read(p).payload) for p in probes} == {0}
    server.read()
