"""When a router advertises itself, and what it says (RFC 4861 §6.2, RFC 8106).

The first three advertisements come within 16 s of each other, later ones at random in the configured interval.  A
solicitation is answered to all nodes after a random time up to 0.5 s, but not within 3 s of the last advertisement.  When the
router stops, it says so with a lifetime of zero.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tapstack.timers import TimerQueue
from tapstack.types import address
from tapstack.wire import nd

from .config import InterfaceConfig

MAX_INITIAL_INTERVAL = 16.0
MAX_INITIAL = 3
MIN_DELAY_BETWEEN = 3.0
MAX_RESPONSE_DELAY = 0.5
"""RFC 4861 §10."""


class Advertiser:
    """Advertises one interface; `send` gets each RA and the time."""

    def __init__(
        self,
        config: InterfaceConfig,
        mac: bytes,
        mtu: int,
        timers: TimerQueue,
        random: Random,
        send: Callable[[nd.RouterAdvertisement, float], None],
    ) -> None:
        self.config = config
        """May be exchanged; `change` says so to the hosts."""
        self._mac = mac
        self._mtu = mtu
        self._random = random
        self._send = send
        self._timer = timers.timer(self._due)
        self._sent = 0
        self._last: float | None = None

    def start(self, now: float) -> None:
        """Begin to advertise, if the configuration wants it."""
        if self.config.advertise:
            self._due(now)

    def stop(self, now: float) -> None:
        """Say that this is a router no more."""
        if self._timer.armed:
            self._timer.cancel()
            self._send(self.message(final=True), now)

    def solicited(self, now: float) -> None:
        """A host asks: answer soon."""
        if self._timer.when is None:
            return
        due = now + self._random.uniform(0.0, MAX_RESPONSE_DELAY)
        if self._last is not None:
            due = max(due, self._last + MIN_DELAY_BETWEEN)
        self._timer.set(min(due, self._timer.when))

    def change(self, config: InterfaceConfig, now: float) -> None:
        """Advertise a new configuration at once, and as often in the beginning as a new router."""
        self.config = config
        self._timer.cancel()
        self._sent = 0
        self.start(now)

    def _due(self, now: float) -> None:
        self._send(self.message(), now)
        self._last = now
        self._sent += 1
        wait = self._random.uniform(*self.config.interval)
        self._timer.set(now + (min(wait, MAX_INITIAL_INTERVAL) if self._sent < MAX_INITIAL else wait))

    def message(self, *, final: bool = False) -> nd.RouterAdvertisement:
        """The RA; `final` is the last one."""
        config = self.config
        options: list[nd.NdOption] = [nd.SourceLinkLayer(self._mac)]
        if config.advertise_mtu:
            options.append(nd.Mtu(self._mtu))
        options += [
            nd.PrefixInformation(
                prefix=prefix.network.network_address.packed,
                prefix_length=prefix.network.prefixlen,
                on_link=prefix.on_link,
                autonomous=prefix.autonomous,
                valid_lifetime=prefix.valid,
                preferred_lifetime=prefix.preferred,
            )
            for prefix in config.prefixes
        ]
        if config.rdnss:
            lifetime = 0 if final else int(3 * config.interval[1])
            options.append(nd.Rdnss(lifetime, tuple(address(server) for server in config.rdnss)))
        return nd.RouterAdvertisement(
            hop_limit=config.hop_limit,
            router_lifetime=0 if final else config.router_lifetime,
            options=tuple(options),
        )
