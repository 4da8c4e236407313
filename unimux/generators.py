"""Where one-time addresses come from (UM-GEN-1, -2, -3, -5, -6).

Model.  A generator is a keyed one-to-one map between counters 0, 1, 2 … and identifiers, the low bits of an address.
It holds no state: the counter is kept, and made durable before use, by `unimux.state`; drawing, skipping of reserved
identifiers and the check against everything issued before are done once, for every generator, by `unimux.source`.

To add one, write a class in a file of your own and name it `your.module:YourClass` wherever a generator is named
(docs/address-generator.md has a whole one).  Two things make it a good citizen: `identifier` never gives two counters one
identifier, and `counter` is its inverse (`invertible = False` where there is none: then each identifier issued is remembered one
by one).
"""

from __future__ import annotations

import hmac
from abc import ABC, abstractmethod
from operator import index
from typing import ClassVar

import numpy as np

from tapstack.ipv6 import identifiers as iana
from tapstack.randomness import derive_key
from tapstack.userclass import user_class

from .errors import UnimuxError
from .prp import KEY_LENGTH, FeistelPermutation, Mask, Words

IDENTIFIER_BITS = 64
"""Width of an interface identifier (RFC 4291 §2.5.1)."""

MIN_IDENTIFIER_BITS = 16
"""A prefix longer than /112 has too few addresses to give each to one connection only."""

MIN_SECRET = 16
"""Bytes of a secret that two hosts share: with fewer, an observer of one address could guess it offline."""

_ANYCAST = 0x7F
"""RFC 2526 §2: in a prefix that is not a /64 the highest 128 identifiers are reserved anycast addresses."""


class GeneratorError(UnimuxError, ValueError):
    """A generator cannot be had or cannot do what was asked; the message says why."""

    exit_code = 3  # `unimux.cli.exits`: a class or an address of its kind is what is missing


def is_reserved(identifier: int, bits: int = IDENTIFIER_BITS) -> bool:
    """Whether an identifier of `bits` bits must not be given to an interface (UM-GEN-2).

    >>> is_reserved(0), is_reserved(0xFDFFFFFFFFFFFF80), is_reserved(1)
    (True, True, False)
    """
    if bits == IDENTIFIER_BITS:
        return iana.is_reserved(identifier)
    return identifier == 0 or identifier >= (1 << bits) - 1 - _ANYCAST


def reserved_mask(identifiers: Words, bits: int = IDENTIFIER_BITS) -> Mask:
    """`is_reserved` for many identifiers at once."""
    if bits == IDENTIFIER_BITS:
        mask = np.zeros(len(identifiers), dtype=np.bool_)
        for first, last in iana.RESERVED_IDENTIFIERS:
            mask |= (identifiers >= np.uint64(first)) & (identifiers <= np.uint64(last))
        return mask
    mask = identifiers >= np.uint64((1 << bits) - 1 - _ANYCAST)
    mask |= identifiers == np.uint64(0)
    return mask


class Generator(ABC):
    """A keyed one-to-one map from counters to identifiers.

    `key` is 32 secret bytes, `bits` the width of the identifiers: 64, or less in a prefix longer than /64.
    """

    invertible: ClassVar[bool] = True
    """Whether `counter` finds the counter of any identifier; audit and the check against reissue rest on it."""

    def __init__(self, key: bytes, bits: int = IDENTIFIER_BITS) -> None:
        if len(key) != KEY_LENGTH:
            raise GeneratorError(f"a generator key has {KEY_LENGTH} bytes, not {len(key)}")
        if not MIN_IDENTIFIER_BITS <= bits <= IDENTIFIER_BITS:
            raise GeneratorError(
                f"identifiers have {MIN_IDENTIFIER_BITS} to {IDENTIFIER_BITS} bits, not {bits}: "
                f"one-time addresses need a prefix of at most /{128 - MIN_IDENTIFIER_BITS}"
            )
        self.key = key
        self.bits = bits

    @property
    def capacity(self) -> int:
        """How many counters there are; the last usable one is `capacity` - 1.  Override it where there are fewer."""
        return 1 << self.bits

    @abstractmethod
    def identifier(self, counter: int) -> int:
        """The identifier of a counter, below 2**bits; raises `ValueError` for a counter out of range."""

    @abstractmethod
    def counter(self, identifier: int) -> int | None:
        """The counter of an identifier; None where no counter has it, or where the generator cannot tell."""

    def identifiers(self, start: int, count: int) -> Words:
        """The identifiers of `count` counters from `start` on; override it where a vectorised way exists."""
        made = [self.identifier(n) for n in range(start, start + count)]
        try:
            return np.array([index(identifier) for identifier in made], dtype=np.uint64)
        except TypeError as error:
            raise GeneratorError(f"{type(self).__name__} makes what is no whole number: {error}") from error
        except OverflowError as error:
            raise GeneratorError(
                f"{type(self).__name__} makes identifiers that are no number of {self.bits} bits"
            ) from error

    def counters_below(self, identifiers: Words, limit: int) -> Mask:
        """Which of the identifiers have a counter below `limit`; override it where a vectorised way exists."""
        counters = (self.counter(int(identifier)) for identifier in identifiers)
        return np.array([n is not None and n < limit for n in counters], dtype=np.bool_)

    def locate(self, address: bytes) -> int | None:
        """The counter behind a 16-byte address, the first step of an audit (UM-GEN-3)."""
        return self.counter(int.from_bytes(address[8:], "big") & ((1 << self.bits) - 1))


class PermutationGenerator(Generator):
    """The default: a keyed pseudo-random permutation of the counter (UM-GEN-1).

    Identifiers never repeat under one key, because a permutation is one-to-one; without the key they are as
    unlinkable as random ones (UM-GEN-3; the argument and its limits are in `unimux.prp`).

    >>> generator = PermutationGenerator(bytes(32))
    >>> generator.counter(generator.identifier(12345))
    12345
    """

    def __init__(self, key: bytes, bits: int = IDENTIFIER_BITS) -> None:
        super().__init__(key, bits)
        self._permutation = FeistelPermutation(key, bits)

    def identifier(self, counter: int) -> int:
        return self._permutation.encrypt(counter)

    def counter(self, identifier: int) -> int | None:
        return self._permutation.decrypt(identifier)

    def identifiers(self, start: int, count: int) -> Words:
        if start + count > self.capacity:
            raise GeneratorError(f"there are only {self.capacity} counters")
        return self._permutation.encrypt_many(np.arange(count, dtype=np.uint64) + np.uint64(start))

    def counters_below(self, identifiers: Words, limit: int) -> Mask:
        if limit >= self.capacity:
            return np.ones(len(identifiers), dtype=np.bool_)
        return self._permutation.decrypt_many(identifiers) < np.uint64(limit)


class SecretSequence(Generator):
    """The addresses that a client and a server who share a secret both know (UM-GEN-5).

    Identifier `counter` is the first bits of PRF(secret, service, client, counter), HMAC-SHA-256 over a prefix-free
    encoding, so different services, clients and counters have unrelated sequences.  Both sides skip the counters
    whose identifier is reserved.  Which counters are armed, and when the window moves, is not decided here.

    The map has no inverse: `counter` searches `window` counters from `base` on.

    >>> server = SecretSequence(b"sixteen bytes or more", "ssh", "alice")
    >>> client = SecretSequence(b"sixteen bytes or more", "ssh", "alice")
    >>> server.identifier(3) == client.identifier(3)
    True
    >>> server.counter(client.identifier(3))
    3

    Raises `GeneratorError` for a secret shorter than 16 bytes: an observer of one address could guess it offline.
    """

    invertible = False

    def __init__(
        self,
        secret: bytes,
        service: str,
        client: str,
        bits: int = IDENTIFIER_BITS,
        *,
        base: int = 0,
        window: int = 1024,
    ) -> None:
        if len(secret) < MIN_SECRET:
            raise GeneratorError(
                f"a shared secret has at least {MIN_SECRET} bytes, not {len(secret)}: "
                "who has seen one address could find a shorter one by trial"
            )
        super().__init__(derive_key(secret, "shared-secret sequence"), bits)
        names = [name.encode() for name in (service, client)]
        self._label = b"".join(len(name).to_bytes(2, "big") + name for name in names)
        self.base = base
        self.window = window

    def identifier(self, counter: int) -> int:
        if not 0 <= counter < 1 << 64:
            raise GeneratorError("a counter has 64 bits")
        mac = hmac.digest(self.key, self._label + counter.to_bytes(8, "big"), "sha256")
        return int.from_bytes(mac[:8], "big") >> (IDENTIFIER_BITS - self.bits)

    def counter(self, identifier: int) -> int | None:
        numbers = range(self.base, self.base + self.window)
        return next((n for n in numbers if self.identifier(n) == identifier), None)

    def usable(self, counter: int) -> bool:
        """Whether both sides use this counter: its identifier is not reserved."""
        return not is_reserved(self.identifier(counter), self.bits)


BUILT_IN = {"permutation": "unimux.generators:PermutationGenerator"}
"""Short names for the configuration."""


def load_generator(name: str) -> type[Generator]:
    """The generator class that a configuration names: a built-in name, or `module:Class` (UM-GEN-6).

    >>> load_generator("permutation").__name__
    'PermutationGenerator'

    Raises `GeneratorError` with a sentence that says what to change.
    """
    try:
        found = user_class(name, "generator", Generator, BUILT_IN)  # type: ignore[type-abstract]
    except ValueError as error:
        raise GeneratorError(str(error)) from error
    try:
        capacity: object = found(bytes(KEY_LENGTH)).capacity
    except GeneratorError:  # it may be one for other sizes
        return found
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
        raise GeneratorError(f"the generator {name} cannot be made of a key and a number of bits: {fault}") from error
    if not isinstance(capacity, int):
        raise GeneratorError(f"the capacity of the generator {name} is a whole number, not {capacity!r}")
    return found
