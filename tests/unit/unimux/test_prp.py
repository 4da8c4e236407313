"""The permutation under every generator: one-to-one, invertible, the same in bulk, and without visible structure.

Statistics.  All tests below run on fixed keys, so they give one answer for ever.  Thresholds are set at 6.5 standard
deviations of what a truly random permutation gives: for the largest family (4,096 bit pairs, two sides) the chance that a
random permutation were rejected is below 4,096 · 8e-11 = 3.3e-7.  Power: with N = 2**18 samples one standard deviation of
a correlation is 1/512, so a true correlation of 0.0188 (9.6 of them), or a bit that is set with probability 0.5094, is
found with 99.9 % certainty.  Each test also rejects a weakened network, so it is seen that it can reject.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from unimux.prp import FeistelPermutation, Words

KEY = hashlib.sha256(b"a fixed key").digest()
N = 1 << 18
SIGMAS = 6.5


def bits_of(words: Words) -> NDArray[np.float64]:
    """One row per word, one column per bit, values -1 and +1."""
    unpacked = np.unpackbits(words.astype(">u8").view(np.uint8)).reshape(-1, 64)
    return unpacked.astype(np.float64) * 2 - 1


def sequence(rounds: int) -> Words:
    return FeistelPermutation(KEY, rounds=rounds).encrypt_many(np.arange(N, dtype=np.uint64))


def worst_bit_balance(words: Words) -> float:
    """The largest deviation of any bit's frequency from one half, in standard deviations."""
    return float(np.abs(bits_of(words).mean(axis=0)).max() * np.sqrt(len(words)))


def worst_serial_correlation(words: Words, lag: int) -> float:
    """The largest correlation of any bit with any bit of the identifier `lag` later, in standard deviations."""
    bits = bits_of(words)
    return float(np.abs(bits[:-lag].T @ bits[lag:]).max() / np.sqrt(len(words) - lag))


def worst_bit_pair(words: Words) -> float:
    """The largest correlation of two different bits of one identifier, in standard deviations."""
    bits = bits_of(words)
    products = bits.T @ bits
    np.fill_diagonal(products, 0)
    return float(np.abs(products).max() / np.sqrt(len(words)))


def worst_avalanche(rounds: int) -> float:
    """How far any output bit is from changing half of the time when any one counter bit flips, in standard deviations."""
    permutation = FeistelPermutation(KEY, rounds=rounds)
    counters = np.arange(1 << 12, dtype=np.uint64)
    base = permutation.encrypt_many(counters)
    worst = 0.0
    for bit in range(64):
        changed = bits_of(base ^ permutation.encrypt_many(counters ^ np.uint64(1 << bit)))
        worst = max(worst, float(np.abs(changed.mean(axis=0)).max() * np.sqrt(len(counters))))
    return worst


@pytest.mark.proves("UM-GEN-1", "UM-GEN-3", by="api")
def test_every_bit_is_set_half_of_the_time() -> None:
    assert worst_bit_balance(sequence(10)) < SIGMAS
    assert worst_bit_balance(np.arange(N, dtype=np.uint64)) > SIGMAS


@pytest.mark.proves("UM-GEN-1", "UM-GEN-3", by="api")
@pytest.mark.parametrize("lag", [1, 2, 3, 4, 256])
def test_identifiers_of_neighbouring_counters_do_not_correlate(lag: int) -> None:
    assert worst_serial_correlation(sequence(10), lag) < SIGMAS
    assert worst_serial_correlation(sequence(1), lag) > SIGMAS


@pytest.mark.proves("UM-GEN-1", "UM-GEN-3", by="api")
def test_bits_of_one_identifier_do_not_correlate() -> None:
    assert worst_bit_pair(sequence(10)) < SIGMAS
    assert worst_bit_pair(np.arange(N, dtype=np.uint64)) > SIGMAS


@pytest.mark.proves("UM-GEN-1", "UM-GEN-3", by="api")
def test_one_counter_bit_changes_half_of_the_identifier() -> None:
    assert worst_avalanche(10) < SIGMAS
    assert worst_avalanche(2) > SIGMAS


@pytest.mark.proves("UM-GEN-3", by="api")
def test_two_nodes_share_nothing() -> None:
    """The same counters under two keys: no equal identifiers, no correlation of any bit pair."""
    other = FeistelPermutation(hashlib.sha256(b"another key").digest())
    here, there = sequence(10), other.encrypt_many(np.arange(N, dtype=np.uint64))
    assert not np.isin(here, there).any()
    assert float(np.abs(bits_of(here).T @ bits_of(there)).max() / np.sqrt(N)) < SIGMAS


def luby_rackoff_collisions(rounds: int, texts: int) -> int:
    """Chosen plaintexts that differ in the left half only: how often output-left ^ input-left collide.

    After two rounds the first output half is L ^ F(R), so with R fixed the difference is one constant (Luby and Rackoff).
    """
    permutation = FeistelPermutation(KEY, rounds=rounds)
    left = np.arange(texts, dtype=np.uint64)
    output = permutation.encrypt_many(left << np.uint64(32) | np.uint64(7))
    return texts - len(np.unique((output >> np.uint64(32)) ^ left))


@pytest.mark.proves("UM-GEN-1", by="api")
def test_the_distinguisher_that_breaks_two_rounds_finds_nothing() -> None:
    """2**16 chosen texts: a random permutation gives 2**31 / 2**32 = half a collision on average, two rounds give all.

    The chance of more than 8 collisions from a random permutation is below 1e-7 (Poisson with mean 0.5).
    """
    assert luby_rackoff_collisions(2, 1 << 16) == (1 << 16) - 1
    assert luby_rackoff_collisions(10, 1 << 16) <= 8


@pytest.mark.parametrize("bits", [8, 9, 16])
def test_a_small_permutation_is_onto(bits: int) -> None:
    values = FeistelPermutation(KEY, bits).encrypt_many(np.arange(1 << bits, dtype=np.uint64))
    assert sorted(values.tolist()) == list(range(1 << bits))


@given(bits=st.integers(8, 64), data=st.data())
def test_one_at_a_time_and_in_bulk_are_one_map(bits: int, data: st.DataObject) -> None:
    permutation = FeistelPermutation(KEY, bits)
    values = data.draw(st.lists(st.integers(0, (1 << bits) - 1), min_size=1, max_size=20))
    words = np.array(values, dtype=np.uint64)
    images = permutation.encrypt_many(words)
    assert images.tolist() == [permutation.encrypt(value) for value in values]
    assert permutation.decrypt_many(images).tolist() == values
    assert [permutation.decrypt(int(image)) for image in images] == values


def test_widths_and_keys_and_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        FeistelPermutation(b"short")
    for bits in (7, 65):
        with pytest.raises(ValueError, match="bits wide"):
            FeistelPermutation(KEY, bits)
    for value in (-1, 1 << 16):
        with pytest.raises(ValueError, match="16 bits"):
            FeistelPermutation(KEY, 16).encrypt(value)


def test_known_answers_do_not_change() -> None:
    """Addresses on file must stay traceable: another map would need another format version."""
    permutation = FeistelPermutation(bytes(range(32)))
    assert [f"{permutation.encrypt(n):016x}" for n in (0, 1, 2**64 - 1)] == KNOWN
    assert f"{FeistelPermutation(bytes(range(32)), 47).encrypt(5):x}" == KNOWN_47


KNOWN = ["ba9fc7bf50e03027", "0a0bf870130aee10", "f5f30786f187e523"]
KNOWN_47 = "40b97f69862c"
