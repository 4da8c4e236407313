"""From a packet to its PCB: the same few look-ups whatever the number of PCBs (UM-PORT-7)."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from tapstack.tcp.demux import Demux, key_for
from tapstack.tcp.options import PortMode


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


@pytest.mark.proves("UM-PORT-7")
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
