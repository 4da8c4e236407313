"""SYN floods and challenge ACKs: bounded work, honest clients served, nothing to learn from the bounds."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tapstack.events import DropReason
from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp import cookies
from tapstack.tcp.challenge import BUDGET, SLOTS, ChallengeLimiter
from tapstack.tcp.connection import Connection
from tapstack.tcp.listener import Listener
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.wire.tcp import Options

from . import wire
from .handmade import remembered
from .pair import End, Pair, read_all
from .path import DATA, Path, lose, transfer
from .seen import ACK, SYN, acknowledged, data, flights, segments, stream

A, B = "2001:db8:a::1", "2001:db8:b::1"
MSS = 1428


def listening(pair: Pair, mode: PortMode = PortMode.L2, backlog: int = 8, sessions: int | None = 50) -> Listener:
    listener = pair.b.tcp.listen(SocketOptions(mode=mode, backlog=backlog), pair.now)
    listener.arm(pair.b.entry(pair.now, AddressKind.SERVICE), pair.now, sessions=sessions)
    return listener


def flood(pair: Pair, count: int, *, first: int = 0) -> None:
    """SYNs from as many sources, none of which will ever answer."""
    template = bytearray(wire.segment("2001:db8:f::", B, 7, 80, "S", seq=1, options=[("MSS", 1440)]))
    for n in range(first, first + count):
        packet = bytearray(template)
        packet[20:24] = n.to_bytes(4, "big")
        packet[56:58] = b"\0\0"
        pair.b.input(wire.fixed(packet), pair.now)
    for end in (pair.a, pair.b):
        end.tcp.flush(pair.now)
    pair.b.out.clear()


def connect(pair: Pair, port: int, listener: Listener, **options: Any) -> tuple[Connection, Connection]:
    asked = SocketOptions(mode=PortMode.AWARE, **options)
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, asked, local_port=port)
    pair.run(1)
    server = listener.accept()
    assert server is not None
    return client, server


@pytest.mark.proves("ST-TCP-10", "MUST-48", "MUST-49")
def test_a_cookie_has_the_hop_limit_and_the_code_point_of_its_listener() -> None:
    """A client that takes nothing but the hop limit 255 (RFC 5082) is served throughout a flood as well."""
    pair = Pair()
    listener = pair.b.tcp.listen(SocketOptions(backlog=1, hop_limit=255, dscp=46), pair.now)
    listener.arm(pair.b.entry(pair.now, AddressKind.SERVICE), pair.now)
    for port in (6000, 6001):
        pair.b.input(wire.segment(A, B, port, 80, "S", seq=1, options=[("MSS", 1440)]), pair.now)
        pair.flush()
    assert pair.b.counters.drops[DropReason.TCP_COOKIE_SENT] == 1
    answers = pair.sent_by("b")
    assert [str(wire.read(packet).flags) for packet in answers] == ["SA", "SA"]
    assert [packet[7] for packet in answers] == [255, 255]
    assert [(packet[0] << 4 | packet[1] >> 4) & 0xFF for packet in answers] == [46 << 2, 46 << 2]


@pytest.mark.proves("ST-TCP-10", "UM-LIS-3", by="api")
@pytest.mark.parametrize("mode", [PortMode.L2, PortMode.L1, PortMode.L0])
def test_honest_clients_connect_throughout_a_flood(mode: PortMode) -> None:
    pair = Pair()
    listener = listening(pair, mode)
    flood(pair, 500)
    assert pair.b.tcp.demux.half_open_count == 8
    users = len(pair.b.entry(pair.now).users)
    for n in range(5 if mode is PortMode.L2 else 1):
        flood(pair, 200, first=1000 * (n + 1))
        client, server = connect(pair, 5000 + n, listener)
        server.write(DATA[:100_000])
        client.write(b"hello")
        pair.run(3)
        assert read_all(server) == b"hello"
        assert read_all(client) == DATA[:100_000]
    assert pair.b.tcp.demux.half_open_count <= 8
    assert len(pair.b.entry(pair.now).users) <= users + 5, "a cookie holds nothing"
    assert pair.b.counters.drops[DropReason.TCP_COOKIE_SENT] > 490


@pytest.mark.proves("ST-TCP-10")
def test_a_cookie_carries_mss_scale_sack_and_timestamps() -> None:
    pair = Pair()
    pair.b.tcp.passive.limit = 0
    listener = listening(pair)
    client, server = connect(pair, 5000, listener)
    assert pair.b.counters.drops[DropReason.TCP_COOKIE_SENT] == 1
    syn, cookie = (dict(wire.read(packet).options) for _, _, packet in pair.packets[:2])
    for one, other, who in ((client, server, "a"), (server, client, "b")):
        path, before = Path(pair), len(pair.packets)
        if one is client:
            path.fate = lose(500)
        transfer(pair, one, other, 3_000_000, 20)
        assert all("Timestamp" in dict(wire.read(packet).options) for _, _, packet in pair.packets[before:])
        assert max(len(seen.payload) for seen in data(pair, who, before)) == MSS
        assert max(flying for _, flying in flights(pair, who, before)) > 1 << 16, "more than a window without its scale"
    assert any("SAck" in dict(wire.read(packet).options) for packet in pair.sent_by("b"))
    assert syn["WScale"] and cookie["WScale"]


@pytest.mark.proves("ST-TCP-10")
def test_without_timestamps_a_cookie_promises_only_what_it_remembers() -> None:
    pair = Pair()
    pair.b.tcp.passive.limit = 0
    listener = listening(pair)
    _, server = connect(pair, 5000, listener, timestamps=False)
    answer = wire.read(pair.sent_by("b")[0])
    assert {name for name, _ in answer.options} <= {"MSS", "NOP", "EOL"}
    assert (server.timestamps, server.sack_permitted, server.sender.scale, server.receiver.scale) == (
        False,
        False,
        0,
        0,
    )


@pytest.mark.proves("ST-TCP-10")
def test_the_first_data_stands_in_for_a_lost_acknowledgement() -> None:
    pair = Pair()
    pair.b.tcp.passive.limit = 0
    listener = listening(pair)
    path = Path(pair)
    lost: list[bytes] = []

    def lose_the_ack(end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        if end is pair.a and wire.read(packet).flags == "A" and not lost:
            lost.append(packet)
            return []
        return path(end, packet)

    pair.meddle = lose_the_ack
    client = pair.a.tcp.connect(
        pair.a.entry(pair.now), pair.b.address, 80, pair.now, SocketOptions(mode=PortMode.AWARE), local_port=5000
    )
    pair.run(0.5)
    assert lost and listener.accept() is None
    client.write(b"data")
    pair.run(0.5)
    server = listener.accept()
    assert server is not None
    assert read_all(server) == b"data"
    assert acknowledged(pair, "b") == 4


@pytest.mark.proves("ST-TCP-10")
@pytest.mark.parametrize("keep_alive", [None, 5.0])
def test_where_the_server_speaks_first_a_keep_alive_stands_in_for_a_lost_acknowledgement(
    keep_alive: float | None,
) -> None:
    """Without one the client waits: nobody remembers that there is something to repeat (docs/limits.md)."""
    pair = Pair()
    pair.b.tcp.passive.limit = 0
    listener = listening(pair)
    begun = pair.now
    pair.meddle = lambda end, packet: (
        [] if end is pair.a and pair.now < begun + 1 and wire.read(packet).flags == "A" else [packet]
    )
    options = SocketOptions(mode=PortMode.AWARE, keep_alive=keep_alive)
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, options, local_port=5000)
    pair.run(2)
    assert listener.accept() is None
    assert client.state.value == "ESTABLISHED"
    pair.run(20)
    server = listener.accept()
    assert (server is not None) == (keep_alive is not None)
    assert [seen.flags for seen in segments(pair, "b")].count(SYN | ACK) == 1, "a cookie is not sent again"
    if server is not None:
        server.write(b"220 ready")
        client.write(b"HELO")
        pair.run(1)
        assert (read_all(client), read_all(server)) == (b"220 ready", b"HELO")
        assert (stream(pair, "b"), acknowledged(pair, "b")) == (b"220 ready", 4)
        assert client.error is None


@pytest.mark.proves("ST-TCP-10")
def test_forged_and_stale_cookies_are_refused() -> None:
    pair = Pair()
    listener = listening(pair)
    flood(pair, 20)
    rng = Random(4)
    for _ in range(300):
        pair.b.input(wire.segment(A, B, 5000, 80, "A", seq=rng.getrandbits(32), ack=rng.getrandbits(32)), pair.now)
    pair.flush()
    assert not pair.packets and listener.accept() is None
    connect(pair, 5000, listener)[0].write(b"mine")
    pair.run(1)
    assert acknowledged(pair, "b") == 4, "the cookie that was sent is taken, in the same capture"


@pytest.mark.proves("ST-TCP-10", by="api")
def test_a_cookie_is_good_for_what_it_was_made_for_and_for_its_time() -> None:
    secret, key = bytes(32), b"key"
    options = Options(mss=1300, window_scale=9, sack_permitted=True)
    bits = cookies.option_bits(options, True)
    isn = cookies.make(secret, key, 77, options, bits, 1000.0)
    stamp = (5, cookies.mark(123456, bits))
    good = cookies.check(secret, key, isn, 77, stamp, 1000.0 + cookies.PERIOD)
    assert good is not None
    assert (good.options.mss, good.options.window_scale, good.options.sack_permitted, good.ecn) == (1220, 9, True, True)
    assert cookies.check(secret, key, isn, 77, stamp, 1000.0 + 2 * cookies.PERIOD) is None, "stale"
    assert cookies.check(secret, key, isn, 78, stamp, 1000.0) is None, "another peer ISN"
    assert cookies.check(secret, b"other", isn, 77, stamp, 1000.0) is None, "another connection"
    assert cookies.check(secret, key, isn ^ 1, 77, stamp, 1000.0) is None, "another MSS"
    assert cookies.check(secret, key, isn, 77, (5, stamp[1] ^ 1), 1000.0) is None, "another window scale"


@pytest.mark.proves("ST-TCP-10")
def test_the_node_has_a_bound_beside_the_listeners() -> None:
    pair = Pair()
    pair.b.tcp.passive.limit = 5
    listening(pair, backlog=100)
    assert remembered(pair) == 5


@pytest.mark.proves("ST-TCP-8")
def test_one_connection_sends_two_challenges_per_second_at_most() -> None:
    pair = Pair()
    _, server = pair.connect()
    before = len(pair.packets)
    for n in range(100):
        pair.b.input(wire.segment(A, B, server.remote_port, server.local_port, "S", seq=n), pair.now)
        pair.run(0.01)
    answers = pair.sent_by("b", before)
    assert 1 <= len(answers) <= 3
    assert pair.b.counters.drops[DropReason.TCP_CHALLENGE_LIMIT] >= 97


@pytest.mark.proves("ST-TCP-8", by="api")
def test_the_node_wide_bound_is_not_a_shared_counter() -> None:
    limiter = ChallengeLimiter(b"secret")
    pairs = [n.to_bytes(32, "big") for n in range(20_000)]
    allowed = sum(limiter.allow(pair, 5.0) for pair in pairs)
    assert SLOTS * BUDGET <= allowed <= SLOTS * 2 * BUDGET, "bounded for the node"
    limiter = ChallengeLimiter(b"secret")
    one = pairs[0]
    while limiter.allow(one, 6.0):
        pass
    others = [limiter.allow(pair, 6.0) for pair in pairs[1:200]]
    assert sum(others) >= 190, "exhausting one slot is seen by one in SLOTS others only"
    budgets = set()
    for second in range(20):
        count = 0
        while limiter.allow(one, 10.0 + second):
            count += 1
        budgets.add(count)
    assert len(budgets) > 5, "the budget cannot be known from outside"
