"""What strangers can do to a connection that is being opened, where ports add no entropy (UM-PORT-12, UM-PORT-10)."""

from __future__ import annotations

from typing import Any

import pytest

from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp.connection import Connection
from tapstack.tcp.listener import Listener
from tapstack.tcp.options import Ecn, PortMode, SocketOptions

from . import wire
from .handmade import sent
from .pair import End, Pair, read_all

A, B = "2001:db8:a::1", "2001:db8:b::1"
WRAP = 1 << 32
FOREIGN = 666_000
MODES = pytest.mark.parametrize("mode", list(PortMode))


def opening(mode: PortMode = PortMode.L1, **options: Any) -> tuple[Pair, Connection]:
    """`a` has sent its SYN."""
    pair = Pair(delay=0.1)
    opened = SocketOptions(mode=mode, **options)
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, opened)
    pair.flush()
    return pair, client


def serving(pair: Pair, mode: PortMode = PortMode.L1, kind: AddressKind = AddressKind.SERVICE) -> Listener:
    """`b` listens."""
    listener = pair.b.tcp.listen(SocketOptions(mode=mode), pair.now, 80 if mode is PortMode.AWARE else None)
    listener.arm(pair.b.entry(pair.now, kind), pair.now)
    return listener


def tell(pair: Pair, client: Connection, flags: str, seq: int, ack: int = 0, **fields: Any) -> None:
    """A segment in the peer's name; whoever sends it knows the ports only where they are read."""
    blind = client.mode in (PortMode.L0, PortMode.L1)
    ports = (1, 2) if blind else (80, client.local_port)
    pair.a.input(wire.segment(B, A, *ports, flags, seq=seq, ack=ack, **fields), pair.now)
    pair.flush()


def lose_the_first(pair: Pair) -> None:
    """The next packet of `a` does not arrive."""

    def meddle(end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        if end is pair.b:
            return [packet]
        pair.meddle = None
        return []

    pair.meddle = meddle


def talk(pair: Pair, client: Connection, listener: Listener) -> None:
    """What the client writes is heard by a server that accepted it."""
    server = listener.accept()
    assert server is not None
    client.write(b"through")
    pair.run(2)
    assert read_all(server) == b"through"


@pytest.mark.proves("UM-PORT-12", "UM-PORT-10")
@MODES
def test_a_syn_and_a_reset_in_the_peers_name_refuse_nothing(mode: PortMode) -> None:
    pair, client = opening(mode)
    listener = serving(pair, mode)
    tell(pair, client, "S", FOREIGN)
    for number in (FOREIGN + 1, FOREIGN + 2, FOREIGN):
        tell(pair, client, "R", number)
        tell(pair, client, "RA", number, ack=client.sender.snd_nxt + 1)
    pair.run(5)
    assert (client.state.value, client.error) == ("ESTABLISHED", None)
    talk(pair, client, listener)
    assert [str(tcp.flags) for tcp in sent(pair, "a")[:3]] == ["S", "SA", "A"]


@pytest.mark.proves("UM-PORT-12", "UM-PORT-10")
@MODES
@pytest.mark.parametrize("kind", [AddressKind.STABLE, AddressKind.SERVICE])
def test_with_a_syn_in_the_peers_name_a_lost_syn_is_repeated_as_it_was(mode: PortMode, kind: AddressKind) -> None:
    """An ordinary server resets our answer to what it never sent, an SSA is silent about it; both wait for the SYN."""
    pair = Pair(delay=0.1)
    lose_the_first(pair)
    options = SocketOptions(mode=mode, ecn=Ecn.OFF)
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, options)
    pair.flush()
    listener = serving(pair, mode, kind)
    tell(pair, client, "S", FOREIGN)
    pair.run(3)
    assert (client.state.value, client.error) == ("ESTABLISHED", None)
    first, *_, again = [tcp for tcp in sent(pair, "a") if str(tcp.flags) == "S"]
    stamps = [dict(tcp.options).pop("Timestamp") for tcp in (first, again)]
    assert [stamp[1] for stamp in stamps] == [0, 0]
    for tcp in (first, again):
        tcp.options = [option for option in tcp.options if option[0] != "Timestamp"]
        tcp.chksum = 0
    assert bytes(first) == bytes(again), "the same numbers, port, window and options"
    talk(pair, client, listener)
    resets = [tcp for tcp in sent(pair, "b") if str(tcp.flags) == "R"]
    assert bool(resets) == (kind is AddressKind.STABLE)


@pytest.mark.proves("UM-PORT-12")
@MODES
@pytest.mark.parametrize("spoofed", [False, True])
def test_who_acknowledges_our_syn_refuses_at_once(mode: PortMode, spoofed: bool) -> None:
    """A closed port, whether or not a stranger's SYN came first."""
    pair, client = opening(mode)
    if spoofed:
        tell(pair, client, "S", FOREIGN)
    tell(pair, client, "RA", 0, ack=client.sender.snd_nxt)
    assert isinstance(client.error, ConnectionRefusedError)
    assert [str(tcp.flags) for tcp in sent(pair, "a")] == (["S", "SA"] if spoofed else ["S"])


@pytest.mark.proves("UM-PORT-12", "MUST-10")
@pytest.mark.parametrize("mode", [PortMode.L0, PortMode.L1])
def test_both_open_at_once_although_a_stranger_was_first(mode: PortMode) -> None:
    pair, one = opening(mode)
    tell(pair, one, "S", FOREIGN)
    options = SocketOptions(mode=mode)
    other = pair.b.tcp.connect(pair.b.entry(pair.now), pair.a.address, 80, pair.now, options)
    pair.run(5)
    assert (one.state.value, other.state.value) == ("ESTABLISHED", "ESTABLISHED")
    one.write(b"ping")
    other.write(b"pong")
    pair.run(1)
    assert (read_all(other), read_all(one)) == (b"ping", b"pong")


@pytest.mark.proves("UM-PORT-10")
@pytest.mark.parametrize("step", [0, 1000])
def test_a_stranger_draws_few_answers_and_the_time_out_stands(step: int) -> None:
    """SYN and reset by turns, 200 a second, with the same number or with others: the peer must not be flooded in our name."""
    pair, client = opening(syn_timeout=8.0)
    pair.meddle = lambda end, packet: []
    begun = pair.now
    while client.state.value != "CLOSED" and pair.now < begun + 20:
        number = FOREIGN + step * int(1000 * (pair.now - begun))
        tell(pair, client, "S", number)
        tell(pair, client, "R", number + 1)
        pair.run(0.01)
    assert pair.now - begun == pytest.approx(8.0, abs=0.1)
    assert isinstance(client.error, TimeoutError)
    times = [when for when, who, _ in pair.packets if who == "a"]
    assert len(times) <= 2 * 8 + 8, "one every half second, and the SYN four times"
