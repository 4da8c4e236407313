"""Addresses that carry a claim which a firewall can check without any state: "magic numbers" (slide 7; UM-GEN-4).

Model.  The identifier is a keyed permutation of

    service | client | slot | serial | redundancy (all zero)

from the high bits to the low.  Who holds the key inverts the permutation and looks at the fields; who does not can
do no better than guess identifiers, since the permutation resists chosen plaintexts and ciphertexts (`unimux.prp`;
M. Bellare and P. Rogaway, "Encode-Then-Encipher Encryption", ASIACRYPT 2000: redundancy under such a permutation is
authenticity).  A random identifier decrypts to random fields, so one probe has redundancy zero with probability
2**-redundancy, and must then still name a slot, a service and a client that are admitted now.

`slot` is the time slot in which the address expires: slot n is the n-th `slot_length` seconds of the clock that issuer
and verifier share.  Its field holds n modulo the field's width; how often it has come round is the *cycle*, and each
cycle has a key of its own, so that an address never comes back with its slot.  `serial` tells apart the addresses of
one service, client and slot; when it is used up the slot is full.

The verifier proves that the key's holder made the address, not that it is fresh: within its slot an address that
was seen can be replayed from elsewhere.  The node's own rule (one session per SSA) is what stops that.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from tapstack.randomness import derive_key

from .generators import IDENTIFIER_BITS, GeneratorError
from .prp import FeistelPermutation, Mask, Words

_FIELDS = ("service", "client", "slot", "serial", "redundancy")


@dataclass(frozen=True, slots=True)
class TagLayout:
    """Widths of the fields in bits; they must add up to 64.

    `slot_length` is in seconds.

    >>> layout = TagLayout()
    >>> layout.forgery_odds == 2**-24
    True

    Raises `GeneratorError` where the widths cannot be used.
    """

    service: int = 6
    client: int = 12
    slot: int = 10
    serial: int = 12
    redundancy: int = 24
    slot_length: float = 60.0

    def __post_init__(self) -> None:
        widths = {name: getattr(self, name) for name in _FIELDS}
        if any(width < 0 for width in widths.values()) or sum(widths.values()) != IDENTIFIER_BITS:
            shown = " + ".join(f"{name} {width}" for name, width in widths.items())
            raise GeneratorError(f"the fields of a tagged identifier add up to {IDENTIFIER_BITS} bits, not {shown}")
        if self.redundancy < 8:
            raise GeneratorError(f"{self.redundancy} redundancy bits let one forged probe in {2**self.redundancy} pass")
        if self.slot_length <= 0:
            raise GeneratorError("a slot lasts more than 0 seconds")

    @property
    def forgery_odds(self) -> float:
        """The chance that one probe by somebody without the key passes the redundancy check: 2**-redundancy."""
        return 2.0**-self.redundancy

    def admission_odds(self, slots: int, services: int, clients: int) -> float:
        """The chance that one such probe is admitted by a verifier that admits that many slots, services and clients.

        >>> TagLayout().admission_odds(slots=2, services=1, clients=1) == 2**-24 * 2**-9 * 2**-6 * 2**-12
        True
        """
        shares = ((slots, self.slot), (services, self.service), (clients, self.client))
        odds = self.forgery_odds
        for admitted, width in shares:
            odds *= min(1.0, admitted / 2**width)
        return odds

    def slots_between(self, begin: float, end: float) -> dict[int, frozenset[int]]:
        """Every slot that touches the span from `begin` to `end`, by cycle: at most two cycles.

        Raises `GeneratorError` where the span is so long that slots come round again.
        """
        first, last = int(begin // self.slot_length), int(end // self.slot_length)
        width = 1 << self.slot
        if last - first >= width:
            raise GeneratorError(f"{width} slots of {self.slot_length:g} s do not span {end - begin:g} s")
        cycles: dict[int, list[int]] = {}
        for number in range(first, last + 1):
            cycles.setdefault(number // width, []).append(number % width)
        return {cycle: frozenset(slots) for cycle, slots in cycles.items()}


@dataclass(frozen=True, slots=True)
class Tag:
    """What a tagged identifier says."""

    service: int
    client: int
    slot: int
    serial: int


class TagCodec:
    """Tags to identifiers and back, for whoever holds the key, in one cycle of slots.

    >>> codec = TagCodec(bytes(32))
    >>> codec.open(codec.seal(Tag(service=3, client=77, slot=5, serial=1)))
    Tag(service=3, client=77, slot=5, serial=1)
    """

    def __init__(self, key: bytes, layout: TagLayout | None = None, cycle: int = 0) -> None:
        self.layout = layout = layout or TagLayout()
        self.key = derive_key(key, f"tagged identifiers, cycle {cycle}")
        self.cycle = cycle
        self._permutation = FeistelPermutation(self.key)
        widths = [getattr(layout, name) for name in _FIELDS]
        shifts = [sum(widths[n + 1 :]) for n in range(len(widths))]
        self._fields = list(zip(_FIELDS[:-1], shifts[:-1], ((1 << width) - 1 for width in widths[:-1]), strict=True))
        self._redundancy = (1 << layout.redundancy) - 1

    def seal(self, tag: Tag) -> int:
        """The identifier of a tag; raises `GeneratorError` for a field too large for its width."""
        value = 0
        for name, shift, mask in self._fields:
            number = getattr(tag, name)
            if not 0 <= number <= mask:
                raise GeneratorError(f"{name} {number} does not fit: the largest is {mask}")
            value |= number << shift
        return self._permutation.encrypt(value)

    def open(self, identifier: int) -> Tag | None:
        """The tag of an identifier; None where the redundancy is wrong, so the key's holder never made it."""
        value = self._permutation.decrypt(identifier)
        if value & self._redundancy:
            return None
        return Tag(*(value >> shift & mask for _, shift, mask in self._fields))

    def open_many(self, identifiers: Words) -> tuple[Mask, dict[str, Words]]:
        """For many identifiers at once: which are genuine, and the fields of all (of no meaning where not genuine)."""
        values = self._permutation.decrypt_many(identifiers)
        fields = {name: values >> np.uint64(shift) & np.uint64(mask) for name, shift, mask in self._fields}
        return (values & np.uint64(self._redundancy)) == 0, fields

    def seal_many(self, service: int, client: int, slot: int, serials: Words) -> Words:
        """The identifiers of many serials of one service, client and slot."""
        base = 0
        for (name, shift, mask), number in zip(self._fields, (service, client, slot), strict=False):
            if not 0 <= number <= mask:
                raise GeneratorError(f"{name} {number} does not fit: the largest is {mask}")
            base |= number << shift
        name, shift, mask = self._fields[3]
        if len(serials) and int(serials.max()) > mask:
            raise GeneratorError(f"{name} {int(serials.max())} does not fit: the largest is {mask}")
        return self._permutation.encrypt_many(np.uint64(base) | serials << np.uint64(shift))


class TagVerifier:
    """What a firewall asks of a destination address: admit or drop, with the key and the time as its only state.

    `services` and `clients` limit what is admitted; None admits every index.  `lifetime` is the longest time, in
    seconds, between the issue of an address and its expiry: a slot further in the future than that was never issued.
    """

    def __init__(
        self,
        key: bytes,
        lifetime: float,
        layout: TagLayout | None = None,
        services: Collection[int] | None = None,
        clients: Collection[int] | None = None,
    ) -> None:
        self.layout = layout or TagLayout()
        self.lifetime = lifetime
        self._key = key
        self._services = None if services is None else frozenset(services)
        self._clients = None if clients is None else frozenset(clients)
        self._slot_now = -1
        self._window: list[tuple[TagCodec, frozenset[int]]] = []
        self.layout.slots_between(0.0, lifetime + self.layout.slot_length)

    @property
    def admission_odds(self) -> float:
        """The chance that one probe by somebody without the key is admitted."""
        layout = self.layout
        services = 1 << layout.service if self._services is None else len(self._services)
        clients = 1 << layout.client if self._clients is None else len(self._clients)
        return layout.admission_odds(int(self.lifetime // layout.slot_length) + 2, services, clients)

    def _admitted(self, now: float) -> list[tuple[TagCodec, frozenset[int]]]:
        """The codecs and slots that count at `now`; two codecs only while the window straddles two cycles."""
        slot_now = int(now // self.layout.slot_length)
        if slot_now != self._slot_now:
            # One slot more than the lifetime spans, so that the window is good for the whole of this slot.
            begin = slot_now * self.layout.slot_length
            cycles = self.layout.slots_between(begin, begin + self.layout.slot_length + self.lifetime)
            self._window = [(TagCodec(self._key, self.layout, cycle), slots) for cycle, slots in cycles.items()]
            self._slot_now = slot_now
        return self._window

    def admit(self, address: bytes, now: float) -> Tag | None:
        """The tag of a 16-byte destination address that may pass at `now`; None for one to drop."""
        identifier = int.from_bytes(address[8:], "big")
        for codec, slots in self._admitted(now):
            tag = codec.open(identifier)
            if (
                tag is not None
                and tag.slot in slots
                and (self._services is None or tag.service in self._services)
                and (self._clients is None or tag.client in self._clients)
            ):
                return tag
        return None

    def admit_many(self, identifiers: Words, now: float) -> Mask:
        """Which of many identifiers (the low 64 bits of destination addresses) may pass at `now`."""
        admitted = np.zeros(len(identifiers), dtype=np.bool_)
        for codec, slots in self._admitted(now):
            passes, fields = codec.open_many(identifiers)
            for name, allowed in (("slot", slots), ("service", self._services), ("client", self._clients)):
                if allowed is not None:
                    passes &= np.isin(fields[name], np.array(sorted(allowed), dtype=np.uint64))
            admitted |= passes
        return admitted
