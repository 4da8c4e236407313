"""A host with a peer on its link, for the tests of the neighbour cache."""

from __future__ import annotations

from scapy.layers.inet6 import (
    ICMPv6ND_NS,
    IPv6,
)
from scapy.packet import Packet as ScapyPacket

from tapstack.ipv6.config import HostConfig
from tapstack.ipv6.host import Path
from tapstack.ipv6.neighbors import NeighborState
from tapstack.ipv6.packet import IcmpError
from tapstack.types import address, address_text
from tests.unit.ipv6.bench import (
    PREFIX,
    Bench,
    neighbor_advertisement,
)

PEER = PREFIX + "77"
PEER_MAC = "02:00:00:00:00:77"
OTHER_MAC = "02:00:00:00:00:78"
PAYLOAD = b"\xfd" * 8
EXPERIMENT = 253


class Cache(Bench):
    """A bench with a stable address and an undelivered-packet recorder."""

    def __init__(self, config: HostConfig | None = None) -> None:
        super().__init__(config or HostConfig(dad_initial_delay=0.0))
        self.settle()
        self.failed: list[IcmpError] = []
        self.host.errors[EXPERIMENT] = lambda error, now: self.failed.append(error)

    def send(self, dst: str = PEER, data: bytes = PAYLOAD) -> list[ScapyPacket]:
        before = len(self.out)
        self.host.send(self.stable.address, address(dst), EXPERIMENT, [data], self.now)
        return [packet for _, packet in self.out[before:]]

    def state(self, text: str = PEER) -> NeighborState | None:
        neighbor = self.host.neighbors.get(address(text))
        return neighbor.state if neighbor else None

    def mac(self, text: str = PEER) -> str | None:
        neighbor = self.host.neighbors.get(address(text))
        return neighbor.mac.hex(":") if neighbor and neighbor.mac else None

    def path(self, dst: str = PEER) -> Path:
        return self.host.path(address(dst), self.now)

    def solicited(self) -> list[tuple[float, str]]:
        """Times and destinations of the solicitations sent."""
        return [(when, p[IPv6].dst) for when, p in self.out if ICMPv6ND_NS in p and p[IPv6].src != "::"]

    def enter(self, state: NeighborState) -> None:
        """Bring the peer's entry into a state, as traffic would."""
        self.host.neighbors.remove(address(PEER))
        if state is NeighborState.INCOMPLETE:
            self.send()
            return
        self.teach(PEER, PEER_MAC)
        if state is NeighborState.STALE:
            return
        self.send()
        if state is NeighborState.REACHABLE:
            self.feed(to_stable(self))
        elif state is NeighborState.PROBE:
            self.run(5.5)
        elif state is NeighborState.UNREACHABLE:
            self.run(8.5)


def peer_says(mac: str | None = PEER_MAC, **flags: int) -> ScapyPacket:
    """The peer's advertisement, to our stable address when solicited."""
    return neighbor_advertisement(PEER, mac, dst="ff02::1", src=PEER, **{"O": 0, **flags})


def to_stable(cache: Cache, mac: str | None = PEER_MAC, override: int = 0) -> ScapyPacket:
    """The peer's solicited advertisement."""
    return neighbor_advertisement(PEER, mac, dst=address_text(cache.stable.address), S=1, O=override)
