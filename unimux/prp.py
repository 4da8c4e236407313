"""A keyed pseudo-random permutation of short integers: addresses that never repeat and do not link (UM-GEN-1, -3).

A balanced Feistel network over AES-256.  The value is cut into two halves of n bits, `L` and `R`; each round sets
`L, R = R, L ^ F(i, R)` where `F(i, x)` is the first n bits of AES(key, label | bits | i | x).  A Feistel network is
a permutation whatever `F` is, so no two counters ever meet in one identifier; how well it hides is another
question, answered as follows.

* AES with a secret key is a pseudo-random permutation of 128-bit blocks; on the at most `rounds` · 2**32 inputs used
  here and truncated to n ≤ 32 bits it is as good as a random function (the switching lemma), and the round number
  inside the block makes the rounds' functions independent of one another.
* M. Luby and C. Rackoff (SIAM J. Computing 17, 1988): with random round functions 4 rounds resist chosen
  plaintexts and ciphertexts, but only up to 2**(n/2) = 65,536 known pairs, which a busy node passes in an hour.
* J. Patarin ("Luby-Rackoff: 7 Rounds Are Enough for 2**(n(1-ε)) Security", CRYPTO 2003): 7 rounds resist adaptive
  chosen plaintexts and 10 rounds adaptive chosen plaintexts and ciphertexts, for nearly 2**n pairs, the best that a
  Feistel network can do against an unbounded adversary; the same author later lowered this to 5 and 6 (CRYPTO 2004).
* NIST SP 800-38G, whose FF1 has the same shape, uses 10 rounds.

So 10 rounds (`ROUNDS`): secure for about 2**32 addresses of one key when bits = 64.  That is also where any permutation
of 64 bits can first be told from independent random draws, because random draws begin to repeat there.  Narrow widths
(prefixes longer than /64) hide less in proportion: n is half the width.

An odd width is walked inside the next even one: encrypt again until the value fits (cycle walking, two steps on
average).
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

ROUNDS = 10
"""Rounds of the Feistel network; see the argument above."""

KEY_LENGTH = 32
"""Bytes of a key (AES-256)."""

MIN_BITS = 8
MAX_BITS = 64

_LABEL = b"unimux"

Words = NDArray[np.uint64]
"""Many identifiers or counters at once."""

Mask = NDArray[np.bool_]
"""A yes or no for each of many identifiers."""


class FeistelPermutation:
    """A permutation of the integers 0 … 2**bits - 1 that nobody without `key` can tell from a random one.

    >>> permutation = FeistelPermutation(bytes(32))
    >>> permutation.decrypt(permutation.encrypt(7))
    7
    >>> [int(word) for word in permutation.decrypt_many(permutation.encrypt_many(np.arange(3, dtype=np.uint64)))]
    [0, 1, 2]

    Raises `ValueError` for a key that is not 32 bytes long or a width outside 8 … 64 bits.
    """

    __slots__ = ("_aes", "_half", "_headers", "_limit", "_mask", "_shift", "_words", "bits", "rounds")

    def __init__(self, key: bytes, bits: int = MAX_BITS, rounds: int = ROUNDS) -> None:
        if len(key) != KEY_LENGTH:
            raise ValueError(f"a permutation key has {KEY_LENGTH} bytes, not {len(key)}")
        if not MIN_BITS <= bits <= MAX_BITS:
            raise ValueError(f"a permutation is {MIN_BITS} to {MAX_BITS} bits wide, not {bits}")
        if rounds < 1:
            raise ValueError("a Feistel network has at least one round")
        self.bits = bits
        self.rounds = rounds
        self._half = (bits + 1) // 2
        self._mask = (1 << self._half) - 1
        self._shift = 32 - self._half
        self._limit = 1 << bits
        # ECB of single blocks is AES itself; each block is one evaluation of F, never a message.
        self._aes = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
        self._headers = [_LABEL + bytes((bits, i)) + bytes(4) for i in range(rounds)]
        self._words = [int.from_bytes(header[:8], "big") for header in self._headers]

    # -- one at a time -----------------------------------------------------------------------------

    def encrypt(self, value: int) -> int:
        """The image of `value`; raises `ValueError` when it is not below 2**bits."""
        self._check(value)
        value = self._forward(value)
        while value >= self._limit:
            value = self._forward(value)
        return value

    def decrypt(self, value: int) -> int:
        """The value whose image is `value`; raises `ValueError` when it is not below 2**bits."""
        self._check(value)
        value = self._backward(value)
        while value >= self._limit:
            value = self._backward(value)
        return value

    def _check(self, value: int) -> None:
        if not 0 <= value < self._limit:
            raise ValueError(f"{value} is not a number of {self.bits} bits")

    def _forward(self, value: int) -> int:
        update, from_bytes, shift = self._aes.update, int.from_bytes, self._shift
        left, right = value >> self._half, value & self._mask
        for header in self._headers:
            block = update(header + right.to_bytes(4, "big"))
            left, right = right, left ^ (from_bytes(block[:4], "big") >> shift)
        return left << self._half | right

    def _backward(self, value: int) -> int:
        update, from_bytes, shift = self._aes.update, int.from_bytes, self._shift
        left, right = value >> self._half, value & self._mask
        for header in reversed(self._headers):
            block = update(header + left.to_bytes(4, "big"))
            left, right = right ^ (from_bytes(block[:4], "big") >> shift), left
        return left << self._half | right

    # -- in bulk -----------------------------------------------------------------------------------

    def encrypt_many(self, values: Words) -> Words:
        """The images of many values: the same map as `encrypt`, vectorised."""
        return self._walk(values, range(self.rounds), forward=True)

    def decrypt_many(self, values: Words) -> Words:
        """The inverse of `encrypt_many`."""
        return self._walk(values, range(self.rounds - 1, -1, -1), forward=False)

    def _walk(self, values: Words, order: range, *, forward: bool) -> Words:
        result = self._network(values, order, forward=forward)
        if self._half * 2 != self.bits:
            outside = np.flatnonzero(result >= np.uint64(self._limit))
            while outside.size:
                result[outside] = self._network(result[outside], order, forward=forward)
                outside = outside[result[outside] >= np.uint64(self._limit)]
        return result

    def _network(self, values: Words, order: range, *, forward: bool) -> Words:
        half, mask, shift = np.uint64(self._half), np.uint64(self._mask), np.uint64(self._shift)
        left, right = values >> half, values & mask
        blocks = np.empty((len(values), 2), dtype=">u8")
        view = blocks.reshape(-1).view(np.uint8).data
        for i in order:
            blocks[:, 0] = self._words[i]
            blocks[:, 1] = right if forward else left
            output = np.frombuffer(self._aes.update(view), dtype=">u4")[::4].astype(np.uint64) >> shift
            left, right = (right, left ^ output) if forward else (right ^ output, left)
        return (left << half) | right
