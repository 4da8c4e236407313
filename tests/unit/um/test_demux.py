"""From a packet to its PCB: the same few look-ups whatever the number of PCBs (UM-PORT-7)."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp import demux as demux_room
from tapstack.tcp.demux import Demux, key_for
from tapstack.tcp.errors import ConflictingSocket
from tapstack.tcp.listener import Listener
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.types import address
from tests.unit.tcp.pair import Pair
from tests.unit.tcp.wire import NO_DAD


class Counting(dict[Any, Any]):
    """A dict that counts how often it is looked into."""

    looked = 0

    def get(self, key: Any, default: Any = None) -> Any:
        Counting.looked += 1
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        Counting.looked += 1
        return super().__contains__(key)

    def __iter__(self) -> Any:
        raise AssertionError("a look-up walks a table")

    def values(self) -> Any:
        raise AssertionError("a look-up walks a table")

    def items(self) -> Any:
        raise AssertionError("a look-up walks a table")


@dataclass(eq=False)
class Pcb:
    """As much of a PCB as its key needs."""

    local: bytes
    remote: bytes
    local_port: int
    remote_port: int


def filled(count: int, random: Random) -> tuple[Demux, list[tuple[bytes, bytes, bytes, Pcb]]]:
    """Tables with `count` PCBs of every mode, many of them on one shared address, and a packet for each."""
    demux = Demux()
    packets = []
    shared, host = random.randbytes(16), random.randbytes(16)
    for number in range(count):
        mode = random.choice(list(PortMode))
        calling = random.random() < 0.5
        if mode in (PortMode.L0, PortMode.L1):
            pcb = Pcb(random.randbytes(16), random.randbytes(16), random.randrange(65536), random.randrange(65536))
        elif mode is PortMode.AWARE:
            pcb = Pcb(shared, host, 80, number % 65536) if count < 60_000 else Pcb(random.randbytes(16), host, 80, 81)
        else:
            pcb = Pcb(random.randbytes(16), host, number % 65536, number % 60_000)
        key = key_for(mode, pcb, calling=calling)
        demux.add(key, pcb)  # type: ignore[arg-type]
        ports = pcb.remote_port.to_bytes(2, "big"), pcb.local_port.to_bytes(2, "big")
        packets.append((pcb.remote + pcb.local, *ports, pcb))
    return demux, packets


@pytest.mark.proves("UM-PORT-7", by="api")
@pytest.mark.parametrize("count", [10, 1000, 30_000])
def test_a_look_up_is_a_fixed_sequence(count: int, rng: Random) -> None:
    demux, packets = filled(count, rng)
    for name in ("pairs", "fours", "_partial", "_by_pair"):
        setattr(demux, name, Counting(getattr(demux, name).items()))
    most = 0
    for pair, source, destination, pcb in rng.sample(packets, 10):
        Counting.looked = 0
        found: object = demux.find(pair, source, destination)
        assert found is pcb
        most = max(most, Counting.looked)
    Counting.looked = 0
    assert demux.find(rng.randbytes(32), b"\0\1", b"\0\2") is None
    assert Counting.looked <= 2, "a packet for nobody"
    assert most <= 5


def listener(pair: Pair, mode: PortMode, service: str, port: int = 80) -> Listener:
    """A listener of the pair's second end, by name."""
    return pair.b.tcp.listen(SocketOptions(mode=mode), pair.now, port if mode is PortMode.AWARE else None, service)


@pytest.mark.proves("UM-PORT-7", "UM-LIS-7", by="api")
@pytest.mark.parametrize("first", list(PortMode))
@pytest.mark.parametrize("second", list(PortMode))
def test_two_listeners_where_one_could_take_the_others_clients(first: PortMode, second: PortMode) -> None:
    """The second is refused, by the names of both; the first serves on, and the second at another address."""
    pair = Pair()
    entry = pair.b.entry(pair.now, AddressKind.STABLE)
    one, other = listener(pair, first, "shop"), listener(pair, second, "files")
    one.arm(entry, pair.now, sessions=None)
    users = list(entry.users)
    with pytest.raises(ConflictingSocket) as caught:
        other.arm(entry, pair.now, sessions=None)
    message = str(caught.value)
    assert f"listener {one.id} of shop {first}" in message
    assert f"listener {other.id} of files {second}" in message
    assert message.count("2001:db8:b::1") == 2
    assert list(entry.users) == users, "the refused listener holds nothing"
    assert (one.state.value, other.state.value) == ("LISTEN", "LISTEN_o")
    options = SocketOptions(mode=first)
    pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, options)
    pair.run(1)
    assert one.accept() is not None
    assert other.accept() is None
    pair.b.tcp.check()


@pytest.mark.proves("UM-PORT-7", by="api")
def test_aware_listeners_share_an_address_by_their_ports_and_every_address_by_name() -> None:
    pair = Pair()
    entry = pair.b.entry(pair.now, AddressKind.STABLE)
    both = [listener(pair, PortMode.AWARE, f"service {port}", port) for port in (80, 81)]
    for each in both:
        each.arm(entry, pair.now, sessions=None)
    options = SocketOptions(mode=PortMode.AWARE)
    for port in (80, 81):
        pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, port, pair.now, options)
    pair.run(1)
    assert [each.accept() is not None for each in both] == [True, True]
    wild = [listener(pair, PortMode.AWARE, f"anywhere {n}", 90) for n in range(2)]
    wild[0].listen_on_ordinary()
    with pytest.raises(
        ConflictingSocket, match=r"of anywhere 1 Aware port 90 .*conflicts with .* of anywhere 0 Aware port 90"
    ):
        wild[1].listen_on_ordinary()


@pytest.mark.proves("UM-PORT-7", by="api")
@pytest.mark.parametrize("found", [False, True], ids=["before a SYN", "after a SYN"])
@pytest.mark.parametrize("wild_first", [True, False], ids=["the wildcard first", "the other first"])
@pytest.mark.parametrize("mode", list(PortMode))
def test_a_wildcard_listener_and_one_at_an_ordinary_address(mode: PortMode, wild_first: bool, found: bool) -> None:
    """Whichever comes second is refused, by the names of both, whether a SYN has come to the first or not."""
    pair = Pair()
    entry = pair.b.entry(pair.now, AddressKind.STABLE)
    wild, specific = listener(pair, PortMode.AWARE, "anywhere"), listener(pair, mode, "shop")
    one_time = pair.b.host.addresses.add(address("2001:db8:b::2"), AddressKind.SERVICE, pair.now, trigger=NO_DAD)
    specific.arm(one_time, pair.now)  # no wildcard listener accepts there
    first, second = (wild, specific) if wild_first else (specific, wild)
    options = SocketOptions(mode=PortMode.AWARE)

    def enter(each: Listener) -> None:
        if each is wild:
            wild.listen_on_ordinary()
        else:
            specific.arm(entry, pair.now, sessions=None)

    enter(first)
    if found:
        client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, options)
        pair.run(1)
        assert first.accept() is not None
        client.abort(pair.now)
        pair.run(1)
    with pytest.raises(ConflictingSocket) as caught:
        enter(second)
    message = str(caught.value)
    assert f"listener {wild.id} of anywhere Aware port 80 on every ordinary address" in message
    assert f"listener {specific.id} of shop {mode}" in message
    assert f"] listener {second.id} of" in message, "who is refused is named first"
    pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, options, local_port=777)
    pair.run(1)
    assert first.accept() is not None and second.accept() is None, "the first serves on"
    first.close(pair.now)
    enter(second)
    pair.b.tcp.check()


@pytest.mark.proves("UM-PORT-7", by="api")
def test_a_wildcard_listener_leaves_other_ports_to_others() -> None:
    pair = Pair()
    entry = pair.b.entry(pair.now, AddressKind.STABLE)
    wild, other = listener(pair, PortMode.AWARE, "anywhere", 80), listener(pair, PortMode.AWARE, "shop", 81)
    wild.listen_on_ordinary()
    other.arm(entry, pair.now, sessions=None)
    for port in (81, 80):
        pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, port, pair.now, SocketOptions(mode=PortMode.AWARE))
    pair.run(1)
    assert wild.accept() is not None and other.accept() is not None


def test_a_pcb_is_refused_exactly_where_a_packet_could_match_it_and_another() -> None:
    """All pairs of keys between two addresses, of every mode and side, with ports of two values."""
    local, remote, far = bytes(16), bytes(15) + b"\x01", bytes(15) + b"\x02"
    ends = [Pcb(local, where, mine, theirs) for where in (remote, far) for mine in (1, 2) for theirs in (1, 2)]
    keyed = [
        (key_for(mode, pcb, calling=calling), pcb) for mode in PortMode for calling in (True, False) for pcb in ends
    ]
    packets = [(pcb.remote + pcb.local, bytes([0, pcb.remote_port]), bytes([0, pcb.local_port])) for pcb in ends]

    def takes(key: bytes, pcb: Pcb) -> set[int]:
        demux = Demux()
        demux.add(key, pcb)  # type: ignore[arg-type]
        return {number for number, packet in enumerate(packets) if demux.find(*packet) is not None}

    refused = 0
    for key, pcb in keyed:
        for other_key, other in keyed:
            demux = Demux()
            demux.add(key, pcb)  # type: ignore[arg-type]
            if takes(key, pcb) & takes(other_key, other):
                refused += 1
                with pytest.raises(ConflictingSocket):
                    demux.add(other_key, other)  # type: ignore[arg-type]
            else:
                demux.add(other_key, other)  # type: ignore[arg-type]
                demux.check()
    assert 0 < refused < len(keyed) ** 2


@pytest.mark.proves("UM-PORT-7", by="api")
@pytest.mark.parametrize("mode", [PortMode.L2, PortMode.AWARE])
@pytest.mark.parametrize("calling", [False, True])
def test_a_session_more_between_two_addresses_goes_through_no_other(
    mode: PortMode, calling: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leased address may have thousands, those in TIME-WAIT included, of one client."""

    def held_against(one: bytes, other: bytes) -> bool:
        raise AssertionError("goes through the others")

    monkeypatch.setattr(demux_room, "_overlap", held_against)
    demux = Demux()
    here, there = bytes(16), bytes([1]) * 16
    for port in range(1024, 3000):
        pcb: Any = Pcb(here, there, port if calling else 80, 80 if calling else port)
        demux.add(key_for(mode, pcb, calling=calling), pcb)
    assert len(demux) == 3000 - 1024
    demux.check()


@pytest.mark.proves("UM-PORT-7", by="api")
@pytest.mark.parametrize("seed", range(20))
def test_no_two_stand_where_one_could_take_the_others_packets(seed: int) -> None:
    """Against every packet that there can be: each finds one PCB at most, whatever came and went."""
    random = Random(seed)
    demux = Demux()
    here, there = bytes(16), bytes([1]) * 16
    ports = [1, 2, 3]
    standing: dict[bytes, Any] = {}
    for _ in range(300):
        if standing and random.random() < 0.4:
            key = random.choice(list(standing))
            del standing[key]
            demux.remove(key)
        pcb: Any = Pcb(here, there, random.choice(ports), random.choice(ports))
        mode, calling = random.choice(list(PortMode)), random.random() < 0.5
        key = key_for(mode, pcb, calling=calling)
        packets = {(r.to_bytes(2, "big"), p.to_bytes(2, "big")) for r in ports for p in ports}
        mine = {packet for packet in packets if _takes(key, packet)}
        free = not any(_takes(other, packet) for other in standing for packet in mine)
        try:
            demux.add(key, pcb)
        except ConflictingSocket:
            assert not free
        else:
            assert free
            standing[key] = pcb
        demux.check()
        for packet in packets:
            expected = [pcb for key, pcb in standing.items() if _takes(key, packet)]
            found = demux.find(there + here, *packet)
            assert expected == ([] if found is None else [found])


def _takes(key: bytes, packet: tuple[bytes, bytes]) -> bool:
    """Whether a packet from and to these ports is one for the PCB of a key."""
    remote, local = packet
    return {32: True, 34: key[32:] == remote, 35: key[32:34] == local, 36: key[32:] == remote + local}[len(key)]
