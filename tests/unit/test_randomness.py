"""Draws from a key: what they are, that each secret and each purpose has its own, and that all values are as likely."""

from __future__ import annotations

import hashlib
import hmac
from itertools import pairwise
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapstack.randomness import KeyedRandom, derive_key
from tapstack.types import DYNAMIC_PORTS

SECRET = bytes(range(32))


def stream(secret: bytes, purpose: str, blocks: int) -> list[bytes]:
    """The first blocks of a stream, as its definition has them."""
    key = hmac.new(secret, purpose.encode() + b"\x01", hashlib.sha256).digest()
    return [hashlib.blake2b(number.to_bytes(8, "big"), key=key).digest() for number in range(blocks)]


def test_a_stream_is_a_keyed_hash_of_a_counter() -> None:
    random = KeyedRandom(SECRET, "this")
    assert [random.randbytes(64) for _ in range(3)] == stream(SECRET, "this", 3)


@given(st.lists(st.integers(0, 700), max_size=12))
def test_each_bit_is_drawn_once_whatever_the_widths(widths: list[int]) -> None:
    bits = sum(int.from_bytes(block, "big") << 512 * n for n, block in enumerate(stream(SECRET, "this", 17)))
    random = KeyedRandom(SECRET, "this")
    for width in widths:
        assert random.getrandbits(width) == bits & ((1 << width) - 1)
        bits >>= width


@pytest.mark.proves("UM-GEN-7", by="api")
def test_streams_of_other_secrets_and_purposes_are_others() -> None:
    names = [f"purpose {n}" for n in range(20)]
    secrets = [bytes(32), SECRET, SECRET * 4]
    drawn = {KeyedRandom(secret, name).randbytes(32) for secret in secrets for name in names}
    keys = {derive_key(secret, name) for secret in secrets for name in names}
    assert len(drawn) == len(keys) == len(secrets) * len(names)
    assert drawn.isdisjoint(keys), "no stream puts out a key"


def test_numbers_between_two_are_spread_evenly() -> None:
    random = KeyedRandom(SECRET, "this")
    drawn = [random.uniform(2.0, 6.0) for _ in range(20_000)]
    assert 2.0 <= min(drawn) < 2.01
    assert 5.99 < max(drawn) < 6.0
    assert abs(fmean(drawn) - 4.0) < 0.05  # six standard deviations
    assert len(set(drawn)) == len(drawn)
    assert abs(sum(later > earlier for earlier, later in pairwise(drawn)) - 10_000) < 300


def test_every_port_is_drawn_and_no_other() -> None:
    random = KeyedRandom(SECRET, "this")
    drawn = {random.port() for _ in range(20 * len(DYNAMIC_PORTS))}
    assert drawn == set(DYNAMIC_PORTS)
