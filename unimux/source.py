"""Drawing one-time addresses: each is fresh for this node, for ever (UM-GEN-1, -2, -3, -6; UM-ADDR-9).

Model.  `AddressSource` joins a generator (a map without memory) to a state (a memory without map).  It draws
identifiers in batches, vectorised: lease counters, map them, pass over

* reserved identifiers (UM-GEN-2);
* identifiers that an older key epoch has issued, or may have issued: the old generator is inverted and its counter
  held against how far that epoch came, so no set of used values is needed;
* single addresses on record that no counter stands for (set by an agent, from a shared secret, or by a generator
  without an inverse).

One identifier is used in one prefix only: the same low 64 bits in two prefixes would link two sessions.

Invariant: an address returned by `draw` was never returned by it before and never `claim`ed, whatever prefix it was in,
in this process or an earlier one on the same state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tapstack.randomness import derive_key
from tapstack.types import address_text

from .errors import UnimuxError
from .generators import (
    BUILT_IN,
    IDENTIFIER_BITS,
    Generator,
    GeneratorError,
    is_reserved,
    load_generator,
    reserved_mask,
)
from .prp import Words
from .state import DEFAULT_BLOCK, Epoch, State

_BATCH = 256
_LOST_BITS = 12
"""At most this many bits' share of a narrow prefix is lost with a start, leased and never drawn: 16 addresses of a /112."""

_MOST_PASSED_OVER = 1 << 25
"""Candidates in a row; the longest run of reserved ones is half as long (`tapstack.ipv6.identifiers`)."""

_MOST_REPEATS = 1 << 18
"""Identifiers in a row that were issued before: four times as many as the narrowest ones are, so hardly any is left."""


class AddressUsed(UnimuxError):
    """An address was claimed that this node has issued or claimed before (UM-ADDR-9)."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an address came from: the answer of an audit (UM-GEN-3)."""

    epoch: int
    generator: str
    counter: int
    bits: int


class AddressSource:
    """Fresh one-time addresses for any prefix of this node.

    >>> from unimux.state import MemoryState
    >>> source = AddressSource(MemoryState())
    >>> prefix = bytes.fromhex("20010db8000000010000000000000000")
    >>> address = source.draw(prefix)
    >>> address[:8] == prefix[:8], source.locate(address).counter
    (True, 0)

    `block` is how many counters one write to disk leases; fewer in a prefix longer than /102.  Raises `GeneratorError` where
    the generator of an epoch that has issued addresses cannot be loaded: without it nothing could be held against them.
    """

    def __init__(self, state: State, *, block: int = DEFAULT_BLOCK) -> None:
        self.state = state
        self._block = block
        self._generators: dict[tuple[int, int], Generator] = {}
        self._epoch = state.epoch.number
        self._ready: dict[int, list[int]] = {}
        self._leased: dict[int, range] = {}
        self._classes: dict[str, type[Generator]] = {}
        for epoch in self._epochs():
            self._classes[epoch.generator] = load_generator(epoch.generator)
        self._invertible = self._classes[state.epoch.generator].invertible

    # -- drawing -----------------------------------------------------------------------------------

    def draw(self, prefix: bytes, length: int = IDENTIFIER_BITS) -> bytes:
        """A fresh address in a prefix (16 bytes, the first `length` bits count).

        The bits between a prefix shorter than /64 and the identifier are pseudo-random too.  Raises `GeneratorError`
        for a prefix longer than /112 or used up, or where the generator repeats itself without end; `StateError` where the
        draw cannot be made durable.
        """
        bits = min(128 - length, IDENTIFIER_BITS)
        self._begin()
        state = self.state
        for _ in range(_MOST_REPEATS):
            ready = self._ready.get(bits) or self._refill(bits)
            address = self._place(prefix, length, ready.pop())
            if address not in state.claimed:
                if not self._invertible:
                    state.claim(address)
                return address
        raise GeneratorError(
            f"the generator {state.epoch.generator} makes what this node has issued before, {_MOST_REPEATS:,} times in a "
            "row: let it give each counter an identifier of its own, or give the node a new prefix"
        )

    def draw_many(self, count: int, bits: int = IDENTIFIER_BITS) -> Words:
        """`count` fresh identifiers at once, for simulations and measurements.

        Raises `GeneratorError` where the generator has no inverse: its identifiers are remembered one by one.
        """
        self._begin()
        if not self._invertible:
            raise GeneratorError(f"{self.state.epoch.generator} has no inverse: draw its addresses one at a time")
        drawn: list[Words] = []
        missing = count
        while missing > 0:
            batch = self._some(bits, missing)
            drawn.append(batch)
            missing -= len(batch)
        return np.concatenate(drawn) if drawn else np.empty(0, dtype=np.uint64)

    def claim(self, address: bytes) -> None:
        """Take an address that comes from elsewhere (an agent, a shared secret): it will never be drawn or claimed again.

        Raises `AddressUsed` when this node has had it before.
        """
        self.state.guard()
        if self.issued(address):
            raise AddressUsed(f"{address_text(address)} has been used by this node before: choose another one")
        self.state.claim(address)

    # -- audit -------------------------------------------------------------------------------------

    def locate(self, address: bytes) -> Origin | None:
        """The epoch and counter of an address that this source has leased; None for any other.

        The prefix is not looked at.  Among addresses of prefixes longer than /64 an address that is not ours is taken
        for one that is with the odds of (counters leased) / 2**(128 - prefix length).
        """
        for epoch in reversed(self._epochs()):
            for bits in self._widths(epoch):
                counter = self._generator(epoch, bits).locate(address)
                if counter is not None and counter < epoch.reached(str(bits)):
                    return Origin(epoch.number, epoch.generator, counter, bits)
        return None

    def issued(self, address: bytes) -> bool:
        """Whether this node has issued or claimed the address before, or may have."""
        if address in self.state.claimed:
            return True
        for epoch in self._epochs():
            for bits in self._widths(epoch):
                counter = self._generator(epoch, bits).locate(address)
                if counter is not None and counter < self._horizon(epoch, bits):
                    return True
        return False

    # -- inside ------------------------------------------------------------------------------------

    def _epochs(self) -> list[Epoch]:
        """All epochs that matter: the present one, and those that have issued anything, or may have."""
        *past, present = self.state.epochs
        return [epoch for epoch in past if epoch.leased or epoch.generator == present.generator] + [present]

    def _begin(self) -> None:
        self.state.guard()
        if self._epoch != self.state.epoch.number:  # rekeyed: what was prepared belongs to the old epoch
            self._epoch = self.state.epoch.number
            generator = self._classes[self.state.epoch.generator] = load_generator(self.state.epoch.generator)
            self._invertible = generator.invertible
            self._ready.clear()
            self._leased.clear()

    @staticmethod
    def _widths(epoch: Epoch) -> list[int]:
        """The widths that addresses of an epoch may have, widest first: in the widest a chance hit is rarest."""
        return sorted({IDENTIFIER_BITS, *map(int, filter(str.isdigit, epoch.leased))}, reverse=True)

    def _generator(self, epoch: Epoch, bits: int) -> Generator:
        key = (epoch.number, bits)
        generator = self._generators.get(key)
        if generator is None:
            if epoch.generator not in self._classes:
                self._classes[epoch.generator] = load_generator(epoch.generator)
            # Each width has a key of its own: the low bits of a wide identifier say nothing of a narrow one.
            secret = derive_key(epoch.key, f"{epoch.generator}, {bits} bits")
            generator = self._generators[key] = self._classes[epoch.generator](secret, bits)
        return generator

    def _horizon(self, epoch: Epoch, bits: int) -> int:
        """The first counter that an epoch is taken not to have issued."""
        reached = epoch.reached(str(bits))
        return reached if epoch is self.state.epoch else reached + in_doubt(bits)

    def _refill(self, bits: int) -> list[int]:
        count = min(_BATCH, _most_lost(bits))
        ready = self._ready[bits] = [int(identifier) for identifier in self._some(bits, count)[::-1]]
        return ready

    def _some(self, bits: int, count: int) -> Words:
        """Up to `count` fresh identifiers, at least one."""
        passed_over = 0
        while not len(batch := self._batch(bits, count)):
            passed_over += count
            if passed_over > _MOST_PASSED_OVER:
                raise GeneratorError(
                    f"the generator {self.state.epoch.generator} makes what is reserved or may have been issued, {passed_over:,} "
                    "times in a row: let its map depend on its key"
                )
        return batch

    def _leap(self, bits: int) -> None:
        """Begin behind what an older epoch may have issued with the very same map.

        The map of a user's own generator need not depend on its key.  One by one its counters would be passed over for years.
        """
        present = self._generator(self.state.epoch, bits)
        if not present.invertible:
            return  # what such a one issued is remembered one by one
        for epoch in self._epochs()[:-1]:
            reached = self.state.epoch.reached(str(bits))
            beyond = min(self._horizon(epoch, bits), present.capacity)
            if reached < beyond and self._generator(epoch, bits).identifier(reached) == present.identifier(reached):
                self.state.lease(str(bits), beyond - reached)

    def _counters(self, bits: int, count: int, capacity: int) -> range:
        """Up to `count` leased counters, at least one."""
        leased = self._leased.get(bits, range(0))
        if not leased:
            self._leap(bits)
            reached = self.state.epoch.reached(str(bits))
            block = min(max(min(self._block, _most_lost(bits)), count), capacity - reached)
            if block <= 0:
                raise GeneratorError(f"all {capacity} addresses of {bits} bits have been used; a new prefix is needed")
            leased = self.state.lease(str(bits), block)
        self._leased[bits] = leased[count:]
        return leased[:count]

    def _batch(self, bits: int, count: int) -> Words:
        """Up to `count` fresh identifiers; fewer where some were passed over."""
        if bits < 1:
            raise GeneratorError("a prefix of /128 is one address; one-time addresses need at most a /112")
        generator = self._generator(self.state.epoch, bits)
        counters = self._counters(bits, count, generator.capacity)
        try:
            identifiers = generator.identifiers(counters.start, len(counters))
            self._probe(generator, counters, identifiers)
            passed_over = reserved_mask(identifiers, bits)
            for epoch in self._epochs()[:-1]:
                passed_over |= self._generator(epoch, bits).counters_below(identifiers, self._horizon(epoch, bits))
        except UnimuxError:
            raise
        except Exception as error:  # a user's own may raise anything
            name = self.state.epoch.generator
            raise GeneratorError(f"the generator {name} failed: {type(error).__name__}: {error}") from error
        return identifiers[~passed_over] if passed_over.any() else identifiers

    def _probe(self, generator: Generator, counters: range, identifiers: Words) -> None:
        """Refuse a generator that does not keep its word.

        Of one that says it is invertible every identifier is looked at: what has its counter for an inverse never had, and
        will never have, another one.  Those built in are known to keep their word.
        """
        name = self.state.epoch.generator
        largest = int(identifiers.max())
        if largest >> generator.bits:
            raise GeneratorError(
                f"the generator {name} makes identifiers of more than {generator.bits} bits: {largest:#x}"
            )
        if not generator.invertible or name in BUILT_IN:
            return
        for counter, identifier in zip(counters, map(int, identifiers), strict=True):
            if (said := generator.counter(identifier)) != counter:
                raise GeneratorError(
                    f"the generator {name} has no true inverse: it makes {identifier:#x} of counter {counter}, and of "
                    f"{identifier:#x} the counter {said}; mend `counter`, or say `invertible = False`"
                )

    def _place(self, prefix: bytes, length: int, identifier: int) -> bytes:
        if length == IDENTIFIER_BITS:
            return prefix[:8] + identifier.to_bytes(8, "big")
        if length > IDENTIFIER_BITS:
            host_bits = 128 - length
            network = int.from_bytes(prefix, "big") >> host_bits
            return (network << host_bits | identifier).to_bytes(16, "big")
        free = IDENTIFIER_BITS - length
        network = int.from_bytes(prefix[:8], "big") >> free
        subnet = derive_key(self.state.epoch.key, f"subnet of {identifier:x}")
        network = network << free | int.from_bytes(subnet[:8], "big") >> length
        return network.to_bytes(8, "big") + identifier.to_bytes(8, "big")


def in_doubt(bits: int) -> int:
    """How many counters an old epoch counts as having issued beyond its record (`unimux.state`).

    >>> in_doubt(64) == 2**48, in_doubt(40) == 2**24, in_doubt(16)
    (True, True, 64)
    """
    return 1 << max(bits - 16, min(24, bits - 10), 0)


def _most_lost(bits: int) -> int:
    """How many counters of a prefix may be leased or prepared at one time."""
    return 1 << max(bits - _LOST_BITS, 0)


def is_usable(address: bytes, length: int = IDENTIFIER_BITS) -> bool:
    """Whether the address may be given to an interface: its identifier is not reserved (UM-GEN-2)."""
    bits = min(128 - length, IDENTIFIER_BITS)
    return not is_reserved(int.from_bytes(address[8:], "big") & ((1 << bits) - 1), bits)
