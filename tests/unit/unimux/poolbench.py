"""A pool on a real host on the test bench of the host, with neighbours that claim addresses."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, IPv6
from scapy.packet import Packet as ScapyPacket

from tapstack.events import EventStream
from tapstack.ipv6.addresses import AddressEntry, AddressKind
from tapstack.ipv6.config import HostConfig
from tapstack.randomness import KeyedRandom
from tapstack.types import Frame, address, address_text
from tests.unit.ipv6.bench import Bench, User, neighbor_advertisement, records
from unimux.errors import UnimuxError
from unimux.pool import Pool, PoolChanged, PoolConfig, Ticket
from unimux.source import AddressSource
from unimux.state import MemoryState

EA = AddressKind.EPHEMERAL
PEER = address("2001:db8:99::1")


class PoolBench(Bench):
    """A host with a pool; `settle()` brings up the link-local address and the router's prefix, `run` fills.

    `claims(target)` says whether the neighbour claims an address when it is probed for; `probes` are the probes seen.
    """

    def __init__(
        self,
        config: PoolConfig | None = None,
        *,
        host: HostConfig | None = None,
        state: MemoryState | None = None,
        tun: bool = False,
        claims: Callable[[str], bool] = lambda target: False,
    ) -> None:
        self.claims = claims
        self.probes: list[tuple[float, str]] = []
        super().__init__(host or HostConfig(dad_initial_delay=0.0, stable_addresses=False), tun=tun)
        self.state = state or MemoryState(Random(2).randbytes)
        self.stream: EventStream = self.host.interface.events
        self.pool = Pool(
            self.host,
            AddressSource(self.state, block=256),
            self.timers,
            self.stream,
            KeyedRandom(bytes(32), "test"),
            config or PoolConfig(),
        )
        self.pool.start(self.now)

    def _transmit(self, frame: Frame) -> None:
        super()._transmit(frame)
        packet = self.out[-1][1]
        if ICMPv6ND_NS in packet and packet[IPv6].src == "::":
            target = packet[ICMPv6ND_NS].tgt
            self.probes.append((self.now, target))
            if not target.startswith("fe80") and self.claims(target):
                self._claim_at(target, self.now + 0.01)

    def _claim_at(self, target: str, when: float) -> None:
        def due(now: float) -> None:
            self.claim(target)

        self.timers.timer(due).set(when)

    def check(self) -> None:
        super().check()
        if hasattr(self, "pool"):
            self.pool.check()

    def claim(self, target: str | bytes) -> list[ScapyPacket]:
        """A neighbour advertises an address."""
        text = target if isinstance(target, str) else address_text(target)
        return self.feed(neighbor_advertisement(text, src="fe80::66"))

    # -- use ---------------------------------------------------------------------------------------

    def take(self, destination: bytes | None = PEER, kind: AddressKind = EA) -> AddressEntry | None:
        return self.pool.take(kind, destination, self.now)

    def session(self, seconds: float = 5.0) -> bool:
        """Start one session of that length from the pool; False when the pool is empty."""
        entry = self.take()
        if entry is None:
            return False
        self.hold(entry, seconds)
        return True

    def hold(self, entry: AddressEntry, seconds: float) -> None:
        """Use an entry for a while."""
        user = User(None)
        self.host.addresses.acquire(entry, user)
        self.timers.timer(lambda now: self.host.addresses.drop(entry, user, now, "closed")).set(self.now + seconds)

    def ask(self, wait: float = float("inf"), destination: bytes | None = PEER) -> Answer:
        """Request an address; the answer fills in later."""
        answer = Answer()
        answer.ticket = self.pool.request(EA, destination, self.now, answer, deadline=self.now + wait)
        return answer

    def causes(self) -> list[str]:
        """What the pool said, in order."""
        return [event.cause for event in self.events if isinstance(event, PoolChanged)]

    def announced(self) -> list[tuple[float, str]]:
        """Which addresses were announced to the routers when they were taken (UM-ADDR-8), and when."""
        return [(when, p[ICMPv6ND_NA].tgt) for when, p in self.out if ICMPv6ND_NA in p and p[IPv6].dst == "ff02::2"]

    def left(self) -> set[str]:
        """The groups that were left."""
        return {group for kind, group in records(self.sent) if kind == 3}

    def pool_figures(self) -> tuple[int, int, int]:
        """ready, pending, held."""
        return self.pool.ready, self.pool.pending, self.pool.held


class Answer:
    """Waits for what a request brings."""

    def __init__(self) -> None:
        self.ticket: Ticket | None = None
        self.outcome: AddressEntry | UnimuxError | None = None
        self.when: float | None = None

    def __call__(self, outcome: AddressEntry | UnimuxError, now: float) -> None:
        assert self.outcome is None, "a request is answered once"
        self.outcome = outcome
        self.when = now

    @property
    def entry(self) -> AddressEntry:
        assert isinstance(self.outcome, AddressEntry), self.outcome
        return self.outcome

    @property
    def error(self) -> UnimuxError:
        assert isinstance(self.outcome, UnimuxError), self.outcome
        return self.outcome


SMALL = PoolConfig(low=4, high=8, limit=20)
SECOND = "2001:db8:2::"


def filled(config: PoolConfig = SMALL, **options: Any) -> PoolBench:
    """A pool that has had time to fill."""
    bench = PoolBench(config, **options)
    bench.settle()
    bench.run(5.0)
    return bench
