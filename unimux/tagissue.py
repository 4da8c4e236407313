"""Fresh tagged addresses, across restarts: the issuer's side of `unimux.tagged` (UM-GEN-4, UM-GEN-6, UM-ADDR-9).

Model.  A tag's serial tells apart the addresses of one service, client and slot, and nobody may get one twice.  Serials are
therefore leased from the node's state, a few at a time, and a lease is on disk before the first of them is used: what a crash
leaves unused is lost, never issued again.  A sequence whose slot is over is forgotten, so what is kept is bounded by the
slots that lie ahead, and by a mark: up to which slot sequences were forgotten.  Nothing is issued below it, since a clock that
goes back comes to slots whose serials nobody remembers.

The key of tags is shared with a firewall and does not change with the node's key epochs.  When an epoch began because the
state could not be trusted, the leases of the slots before it cannot be trusted either: nothing is issued into a slot that an
earlier epoch may have used, which is over after the longest lifetime.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from .generators import IDENTIFIER_BITS, GeneratorError, is_reserved
from .state import Epoch, State
from .tagged import Tag, TagCodec, TagLayout

BLOCK = 16
"""Serials leased with one write to disk; a restart loses fewer than that of each slot."""


@dataclass(frozen=True, slots=True)
class TaggedAddress:
    """An address that says what it is for; `until`: when a verifier stops admitting it, wall-clock seconds since 1970."""

    address: IPv6Address
    tag: Tag
    until: float


class TagIssuer:
    """Makes tagged addresses that this node has never made before.

    state: where serials are leased.  key, layout: as the verifier has them.  longest: seconds, the longest lifetime that is
    ever asked for, as the verifier has it.  wall: the clock that both share.

    >>> from unimux.state import MemoryState
    >>> issuer = TagIssuer(MemoryState(), bytes(32), longest=600.0, wall=lambda: 0.0)
    >>> one, other = (issuer.draw(IPv6Network("2001:db8::/64"), service=1, client=2, lifetime=60.0) for _ in range(2))
    >>> one.address != other.address, one.until
    (True, 120.0)
    """

    def __init__(
        self,
        state: State,
        key: bytes,
        longest: float,
        layout: TagLayout | None = None,
        *,
        wall: Callable[[], float] = time.time,
        block: int = BLOCK,
    ) -> None:
        self.layout = layout or TagLayout()
        self.longest = longest
        self._state = state
        self._key = key
        self._wall = wall
        self._block = block
        self._name = "tags " + hmac.digest(key, b"name of the sequences of tags", "sha256")[:6].hex()
        self._mark = f"{self._name} over"
        self._leased: dict[str, range] = {}
        self._codec = TagCodec(key, self.layout)
        self._looked = -1
        self._earlier = (-1, 0)
        """of which epoch, and the first slot that no epoch before it has on record"""
        self.layout.slots_between(0.0, longest + self.layout.slot_length)

    def draw(self, prefix: IPv6Network, service: int, client: int, lifetime: float) -> TaggedAddress:
        """An address in a /64 for a service and a client, by their indices, to expire in `lifetime` seconds at the earliest.

        Raises `GeneratorError` where the lifetime or an index does not fit, the slot is full, or an earlier key epoch, or the
        time before the clock was set back, may have used it; `StateError` where the serial cannot be made durable.
        """
        self._state.guard()
        if not 0 < lifetime <= self.longest:
            raise GeneratorError(f"a tagged address lives up to {self.longest:g} s, not {lifetime:g}")
        if prefix.prefixlen != 128 - IDENTIFIER_BITS:
            raise GeneratorError(f"a tag fills the identifier of a /64; {prefix} is none")
        now = self._wall()
        slot_length = self.layout.slot_length
        slot = int((now + lifetime) // slot_length)
        self._check_epochs(slot)
        self._forget_before(int(now // slot_length))
        if slot < (over := self._over()):
            raise GeneratorError(
                "the clock was set back to a time for which tagged addresses may have been issued before: "
                f"set it right, or wait {over * slot_length - now - lifetime:.0f} s"
            )
        cycle, within = divmod(slot, 1 << self.layout.slot)
        if cycle != self._codec.cycle:
            self._codec = TagCodec(self._key, self.layout, cycle)
        while True:
            tag = Tag(service, client, within, self._serial(f"{self._name} {slot} {service} {client}"))
            identifier = self._codec.seal(tag)
            if not is_reserved(identifier):
                address = IPv6Address(int(prefix.network_address) | identifier)
                return TaggedAddress(address, tag, (slot + 1) * slot_length)

    def _check_epochs(self, slot: int) -> None:
        if self._state.epoch.number > 0:
            trusted = int((self._state.epoch.began + self.longest) // self.layout.slot_length) + 1
            if slot < trusted:
                seconds = trusted * self.layout.slot_length - self._wall()
                raise GeneratorError(
                    f"tagged addresses for this time may have been issued before the node's state was lost "
                    f"({self._state.epoch.cause}): wait {seconds:.0f} s"
                )

    def _over(self) -> int:
        """The first slot that is not over and forgotten, nor on record of an earlier epoch, whose clock may have been ahead."""
        present = self._state.epoch
        if self._earlier[0] != present.number:
            slots = [0]
            for epoch in self._state.epochs[:-1]:
                slots += [epoch.reached(self._mark), *(slot + 1 for _, slot in self._sequences(epoch))]
            self._earlier = present.number, max(slots)
        return max(present.reached(self._mark), self._earlier[1])

    def _sequences(self, epoch: Epoch) -> list[tuple[str, int]]:
        """Of the sequences of serials on record those of this key, each with its slot."""
        ours = (name for name in epoch.leased if name.startswith(self._name) and name != self._mark)
        return [(name, int(name.split(" ")[2])) for name in ours]

    def _serial(self, sequence: str) -> int:
        """The next serial of a sequence, durable."""
        leased = self._leased.get(sequence, range(0))
        if not leased:
            left = (1 << self.layout.serial) - self._state.epoch.reached(sequence)
            if left <= 0:
                raise GeneratorError(f"all {1 << self.layout.serial} serials of this service, client and slot are used")
            leased = self._state.lease(sequence, min(self._block, left))
        self._leased[sequence] = leased[1:]
        return leased[0]

    def _forget_before(self, slot: int) -> None:
        """Sequences of slots that are over will never be drawn from again; the mark that sees to it is on disk first."""
        if slot == self._looked:
            return
        self._looked = slot
        if not (over := [name for name, its in self._sequences(self._state.epoch) if its < slot]):
            return
        if (marked := self._state.epoch.reached(self._mark)) < slot:
            self._state.lease(self._mark, slot - marked)
        for sequence in over:
            self._state.forget(sequence)
            self._leased.pop(sequence, None)
