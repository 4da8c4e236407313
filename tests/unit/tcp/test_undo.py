"""What a peer's report of a duplicate proves, and what it does not (RFC 2883, RFC 3708)."""

from __future__ import annotations

from typing import Any

import pytest

from tapstack.tcp.congestion import create
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import Ecn
from tapstack.tcp.recovery import Phase
from tapstack.tcp.recovery.spurious import Undo

from .handmade import by_hand, plain, sent
from .pair import End, Pair
from .path import DATA, Path, established, lose, transfer

MSS = 1428


def doubling(pair: Pair, path: Path, twice: int, marked: int = 0, after: float = 0.001) -> None:
    """The network delivers the data packet of number `twice` once more, `after` so long, and marks that of number `marked`."""

    def meddle(end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        before = path.sent
        out = path(end, packet)
        if end is pair.a and path.sent > before and path.sent in (twice, marked):
            late, _ = out[0]
            assert isinstance(late, float)
            if path.sent == marked:
                return [(late, packet[:1] + bytes([packet[1] | 0x30]) + packet[2:])]
            return [*out, (late + after, packet)]
        return out

    pair.meddle = meddle


def reduced_by_a_loss(**options: Any) -> tuple[Pair, Connection, Connection, Path]:
    """A connection whose window a loss has reduced, which is repaired."""
    pair = Pair(delay=0.02)
    client, server, path = established(pair, **options)
    transfer(pair, client, server, 300_000)
    lost = path.sent + 3
    path.fate = lambda n: None if n == lost else 0.0
    transfer(pair, client, server, 300_000)
    assert client.sender.recovery.losses == 1
    assert client.sender.recovery.phase is Phase.OPEN
    assert client.sender.congestion.ssthresh < 1 << 40
    return pair, client, server, path


@pytest.mark.proves("ST-TCP-3", "ST-TCP-5", by="api")
@pytest.mark.parametrize("timestamps", [True, False])
@pytest.mark.parametrize("twice", [1, 6, 30])
def test_a_duplicate_that_the_network_made_does_not_make_a_loss_undone(timestamps: bool, twice: int) -> None:
    pair = Pair(delay=0.02)
    client, server, path = established(pair, timestamps=timestamps)
    transfer(pair, client, server, 200_000)
    pair.run(0.1)
    path.gap = 0.0002
    lost = path.sent + 2
    path.fate = lambda n: None if n == lost else 0.0
    doubling(pair, path, path.sent + twice)
    before = client.sender.congestion.cwnd
    client.write(DATA[: 60 * MSS])
    pair.run(1)
    recovery = client.sender.recovery
    assert (recovery.losses, recovery.undone) == (1, 0)
    assert client.sender.congestion.ssthresh < before
    assert server.receiver.queued == 60 * MSS


@pytest.mark.proves("ST-TCP-3", "ST-TCP-5", by="api")
@pytest.mark.parametrize("wait", [1.0, 600.0])
def test_nor_does_one_of_a_later_time(wait: float) -> None:
    pair, client, server, path = reduced_by_a_loss()
    ssthresh = client.sender.congestion.ssthresh
    pair.run(wait)
    path.fate = lambda n: 0.0
    doubling(pair, path, path.sent + 1)
    transfer(pair, client, server, 3000)
    pair.run(0.2)
    assert client.sender.recovery.undone == 0
    assert client.sender.congestion.ssthresh == ssthresh


@pytest.mark.proves("ST-TCP-3", "ST-TCP-5", by="api")
def test_nor_does_a_late_one_of_the_repetition_itself() -> None:
    """Only until what was sent after the recovery is acknowledged: then it is the network that made it."""
    pair = Pair(delay=0.02)
    client, server, path = established(pair, timestamps=False)
    transfer(pair, client, server, 200_000)
    pair.run(0.1)
    path.fate = lose(path.sent + 2)
    client.sender.congestion.cwnd = 60 * MSS
    doubling(pair, path, path.sent + 21, after=1.0)  # all twenty leave at once, then the repetition
    client.write(DATA[: 20 * client.sender.mss])
    pair.run(0.1)
    assert (client.sender.retransmissions, client.sender.recovery.phase) == (1, Phase.OPEN)
    ssthresh = client.sender.congestion.ssthresh
    client.write(DATA[:MSS])
    before = len(pair.packets)
    pair.run(2)
    assert any(dict(tcp.options).get("SAck") for tcp in sent(pair, "b", before)), "it is reported"
    assert client.sender.recovery.undone == 0
    assert client.sender.congestion.ssthresh == ssthresh < 1 << 40


@pytest.mark.proves("ST-TCP-3", "ST-TCP-4", "ST-TCP-6", by="api")
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("fate", ["late", "lost"])
def test_the_report_of_a_probes_segment_is_none_of_a_duplicate_of_the_network(count: int, fate: str) -> None:
    """No timestamps, nor new data for F-RTO: a time-out is taken back when all copies are reported, that of the probe, too."""
    pair = Pair(delay=0.05)
    client, server, path = established(pair, timestamps=False)
    transfer(pair, client, server, 600_000)
    pair.run(0.3)
    controller = client.sender.congestion
    controller.cwnd = controller.ssthresh = 60 * MSS
    first = path.sent + 1

    def late(n: int) -> float | None:
        if n < first + count:
            return 1.0
        return 0.6 if n > first + count or fate == "late" else None  # the probe comes first

    path.fate = late
    client.write(DATA[: count * MSS])
    pair.run(6)
    assert (client.sender.recovery.probes, client.timers.timeouts) == (1, 1)
    assert client.sender.recovery.undone == (fate == "late")
    assert (controller.ssthresh == 60 * MSS) is (fate == "late")


@pytest.mark.proves("ST-TCP-3", by="api")
@pytest.mark.parametrize("reported", [0, 1], ids=["without the FIN", "with the FIN"])
def test_some_peers_report_a_fin_twice_and_some_do_not(reported: int) -> None:
    pair = Pair()
    client = plain(pair, sack=True)
    client.write(DATA[:1000])
    client.shutdown(pair.now)
    pair.run(5, until=lambda: client.timers.timeouts > 0)
    sender, controller = client.sender, client.sender.congestion
    assert (sender.recovery.probes, sender.retransmissions) == (1, 2)
    assert controller.cwnd == sender.mss
    left, right = (number & 0xFFFFFFFF for number in (sender.snd_una, sender.snd_una + 1000 + reported))
    for _ in range(2):
        assert not sender.recovery.undone
        by_hand(pair, client, "A", ack=sender.snd_nxt, options=[("NOP", None), ("NOP", None), ("SAck", (left, right))])
    assert sender.recovery.undone == 1
    assert controller.cwnd > sender.mss


@pytest.mark.proves("ST-TCP-7", "ST-TCP-5", by="api")
def test_nor_takes_it_back_the_reduction_for_a_mark() -> None:
    pair, client, _, path = reduced_by_a_loss(ecn=Ecn.REQUEST)
    path.fate = lambda n: 0.0
    path.gap = 0.0003
    doubling(pair, path, path.sent + 60, marked=path.sent + 2)
    client.write(DATA[:150_000])
    pair.run(1, until=lambda: client.ecn.reductions > 0)
    ssthresh = client.sender.congestion.ssthresh
    pair.run(0.15)
    assert (client.ecn.reductions, client.sender.recovery.undone) == (1, 0)
    assert client.sender.congestion.ssthresh == ssthresh


@pytest.mark.proves("ST-TCP-7", "ST-TCP-5", by="api")
def test_a_reduction_for_a_mark_ends_the_wait_for_proofs_about_the_one_before() -> None:
    _, client, _, _ = reduced_by_a_loss(ecn=Ecn.REQUEST)
    recovery, una = client.sender.recovery, client.sender.snd_una
    recovery._undo.begin(client.sender.congestion, una, una)
    recovery._undo.retransmitted(1.0, una, una + MSS)
    recovery.reduce(10 * MSS, 1.0)
    assert not recovery._undo.duplicate_reported(una, una + MSS, una)


def undo() -> Undo:
    """A reduction at 1000, after which 1000 to 3000 and 5000 to 6000 were sent again."""
    made = Undo()
    made.begin(create("newreno", 1000), 1000, 700)
    for start, end in ((1000, 2000), (2000, 3000), (5000, 6000)):
        made.retransmitted(1.0, start, end)
    return made


@pytest.mark.proves("ST-TCP-3", by="api")
@pytest.mark.parametrize(
    "reports",
    [
        [(1000, 2000), (2000, 3000), (5000, 6000)],
        [(1000, 3000), (5000, 6000)],
        [(5500, 6000), (2500, 3000), (1000, 2500), (5000, 5500)],
    ],
    ids=["one by one", "two in one", "parts"],
)
def test_all_that_was_sent_again_must_be_reported_however_it_is_cut(reports: list[tuple[int, int]]) -> None:
    made = undo()
    assert [made.duplicate_reported(start, end, 1000) for start, end in reports] == [False] * (len(reports) - 1) + [
        True
    ]


@pytest.mark.proves("ST-TCP-3", by="api")
def test_what_was_sent_again_twice_must_be_reported_twice() -> None:
    made = undo()
    made.retransmitted(2.0, 5000, 6000)
    assert not made.duplicate_reported(1000, 3000, 1000)
    assert not made.duplicate_reported(5000, 6000, 1000), "the second copy, where the first filled the hole"
    assert made.duplicate_reported(5000, 6000, 1000)


@pytest.mark.proves("ST-TCP-3", by="api")
@pytest.mark.parametrize("stray", [(3000, 4000), (2500, 3500), (6000, 6001)])
def test_a_duplicate_of_what_was_not_sent_again_ends_the_belief_in_all_others(stray: tuple[int, int]) -> None:
    made = undo()
    assert not made.duplicate_reported(*stray, 1000)
    assert not any(made.duplicate_reported(*each, 1000) for each in ((1000, 3000), (5000, 6000)))


@pytest.mark.proves("ST-TCP-3", by="api")
def test_reports_come_until_what_was_sent_after_the_recovery_is_acknowledged() -> None:
    made = undo()
    made.over(8000)
    assert not made.duplicate_reported(1000, 3000, 8000)
    late, in_time = undo(), made
    late.over(8000)
    assert not late.duplicate_reported(1000, 3000, 8000)
    assert in_time.duplicate_reported(5000, 6000, 8000)
    assert not late.duplicate_reported(5000, 6000, 8001)


@pytest.mark.proves("ST-TCP-3", by="api")
def test_a_duplicate_of_an_earlier_repetition_says_nothing() -> None:
    made = undo()
    assert not made.duplicate_reported(400, 900, 1000)
    assert not made.duplicate_reported(1000, 3000, 1000)
    assert made.duplicate_reported(5000, 6000, 1000)


@pytest.mark.proves("ST-TCP-3", by="api")
def test_what_is_waited_for_is_bounded() -> None:
    made, few = undo(), undo()
    for number in range(10_000):
        made.retransmitted(2.0, 10_000 + 1000 * number, 11_000 + 1000 * number)
    for number in range(200):
        few.retransmitted(2.0, 10_000 + 1000 * number, 11_000 + 1000 * number)
    assert made._again is None, "no report proves anything any more, and nothing is kept"
    assert not few.duplicate_reported(1000, 3000, 1000) and not few.duplicate_reported(5000, 6000, 1000)
    assert few.duplicate_reported(10_000, 210_000, 1000)


@pytest.mark.proves("ST-TCP-3", by="api")
def test_what_is_taken_back_once_or_was_confirmed_is_not_taken_back_again() -> None:
    made, confirmed = undo(), undo()
    assert made.take_back(create("newreno", 1000)) == 700, "what was reduced before"
    confirmed.forget()
    for each in (made, confirmed):
        assert each.take_back(create("newreno", 1000)) is None
