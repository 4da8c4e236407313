"""Generators: the interface, the default, the shared-secret sequence."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapstack.ipv6.identifiers import RESERVED_IDENTIFIERS
from unimux.generators import (
    Generator,
    GeneratorError,
    PermutationGenerator,
    SecretSequence,
    is_reserved,
    load_generator,
    reserved_mask,
)

KEY = hashlib.sha256(b"generators").digest()
SECRET = b"a secret of 16 bytes"


@pytest.mark.proves("UM-GEN-2", by="api")
def test_the_registry_of_rfc_5453_and_nothing_else() -> None:
    reserved = [0, 0x02005EFFFE000000, 0x02005EFFFEFFFFFF, 0xFDFFFFFFFFFFFF80, 0xFDFFFFFFFFFFFFFF]
    free = [1, 0x02005EFFFDFFFFFF, 0x02005EFFFF000000, 0xFDFFFFFFFFFFFF7F, 0xFE00000000000000, 2**64 - 1]
    assert all(map(is_reserved, reserved))
    assert not any(map(is_reserved, free))
    assert reserved_mask(np.array(reserved + free, dtype=np.uint64)).tolist() == [True] * 5 + [False] * 6


@pytest.mark.proves("UM-GEN-2", by="api")
def test_other_widths_reserve_the_router_and_the_subnet_anycast_block() -> None:
    """RFC 2526 §2: outside a /64 the reserved block is the last 128 identifiers."""
    values = [0, 1, 2**48 - 129, 2**48 - 128, 2**48 - 1]
    expected = [True, False, False, True, True]
    assert [is_reserved(value, 48) for value in values] == expected
    assert reserved_mask(np.array(values, dtype=np.uint64), 48).tolist() == expected


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_one_and_many_agree_on_what_is_reserved(identifiers: list[int]) -> None:
    edges = [edge + step for first, last in RESERVED_IDENTIFIERS for edge in (first, last) for step in (-1, 0, 1)]
    values = identifiers + [value for value in edges if 0 <= value < 2**64]
    assert reserved_mask(np.array(values, dtype=np.uint64)).tolist() == [is_reserved(value) for value in values]


@pytest.mark.proves("UM-GEN-3", by="api")
@given(counter=st.integers(0, 2**64 - 1), prefix=st.binary(min_size=8, max_size=8))
def test_the_key_maps_an_address_back_to_its_counter(counter: int, prefix: bytes) -> None:
    generator = PermutationGenerator(KEY)
    address = prefix + generator.identifier(counter).to_bytes(8, "big")
    assert generator.locate(address) == counter
    assert PermutationGenerator(hashlib.sha256(b"other").digest()).locate(address) != counter


def test_bulk_and_single_draws_are_the_same_addresses() -> None:
    generator = PermutationGenerator(KEY, 48)
    assert generator.identifiers(1000, 50).tolist() == [generator.identifier(n) for n in range(1000, 1050)]
    below = generator.counters_below(generator.identifiers(990, 20), 1000)
    assert below.tolist() == [True] * 10 + [False] * 10


def test_counters_end() -> None:
    generator = PermutationGenerator(KEY, 16)
    assert len(set(generator.identifiers(0, 1 << 16).tolist())) == 1 << 16
    with pytest.raises(GeneratorError, match="65536 counters"):
        generator.identifiers(1 << 16, 1)


@pytest.mark.parametrize("bits", [15, 65])
def test_a_width_that_makes_no_sense_is_refused_with_the_prefix_length(bits: int) -> None:
    with pytest.raises(GeneratorError, match="at most /112"):
        PermutationGenerator(KEY, bits)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(GeneratorError, match="32 bytes"):
        PermutationGenerator(b"short")


# -- one of the researcher's own ---------------------------------------------------------------------

OWN = '''
from unimux.generators import Generator

class Odd(Generator):
    """Odd identifiers only."""

    def identifier(self, counter):
        return 2 * counter + 1

    def counter(self, identifier):
        return identifier // 2 if identifier % 2 else None
'''


@pytest.mark.proves("UM-GEN-6", by="api")
def test_a_generator_in_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lecture_generator.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    generator = load_generator("lecture_generator:Odd")(KEY)
    assert generator.identifiers(0, 3).tolist() == [1, 3, 5]
    assert generator.counters_below(np.array([1, 2, 3, 5], dtype=np.uint64), 2).tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "module:Class"),
        ("nosuch", "one of permutation"),
        ("no.such.module:Class", "cannot be imported"),
        ("unimux.generators:Nothing", "has no class Nothing"),
        ("unimux.generators:is_reserved", "not a complete subclass"),
        ("unimux.generators:Generator", "not a complete subclass"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_sentence(name: str, message: str) -> None:
    with pytest.raises(GeneratorError, match=message):
        load_generator(name)


# -- shared secret -----------------------------------------------------------------------------------


@pytest.mark.proves("UM-GEN-5", by="api")
def test_both_sides_compute_the_same_sequence_without_a_message() -> None:
    server, client = SecretSequence(SECRET, "ssh", "alice"), SecretSequence(SECRET, "ssh", "alice")
    assert server.identifiers(0, 50).tolist() == client.identifiers(0, 50).tolist()
    assert len(set(server.identifiers(0, 50).tolist())) == 50


@pytest.mark.proves("UM-GEN-5", by="api")
@pytest.mark.parametrize(
    "other",
    [(b"another secret 16 bytes", "ssh", "alice"), (SECRET, "http", "alice"), (SECRET, "ssh", "bob"),
     (SECRET, "sshal", "ice"), (SECRET, "", "sshalice")],
)  # fmt: skip
def test_secret_service_and_client_each_make_another_sequence(other: tuple[bytes, str, str]) -> None:
    mine = set(SecretSequence(SECRET, "ssh", "alice").identifiers(0, 50).tolist())
    assert mine.isdisjoint(SecretSequence(*other).identifiers(0, 50).tolist())


def test_the_sequence_is_searched_in_its_window_only() -> None:
    sequence = SecretSequence(SECRET, "ssh", "alice", base=100, window=10)
    assert sequence.counter(sequence.identifier(105)) == 105
    assert sequence.counter(sequence.identifier(99)) is None
    assert sequence.counter(sequence.identifier(110)) is None


def test_reserved_counters_are_skipped_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    sequence = SecretSequence(SECRET, "ssh", "alice")
    assert sequence.usable(3)
    monkeypatch.setattr(SecretSequence, "identifier", lambda self, counter: 0)
    assert not sequence.usable(3)


def test_a_secret_that_could_be_guessed_is_refused() -> None:
    with pytest.raises(GeneratorError, match="at least 16 bytes"):
        SecretSequence(b"password", "ssh", "alice")


def test_known_answers_of_the_sequence_do_not_change() -> None:
    """A client and a server of different versions must still meet."""
    sequence = SecretSequence(bytes(range(32)), "service", "client")
    assert [f"{sequence.identifier(n):016x}" for n in range(2)] == ["0891780b37ce49e1", "5d5008b863f0fb61"]
    assert f"{SecretSequence(bytes(range(32)), 'service', 'client', 48).identifier(0):012x}" == "0891780b37ce"


def test_abstract_methods_are_required() -> None:
    class Half(Generator):
        def identifier(self, counter: int) -> int:
            return counter

    with pytest.raises(TypeError):
        Half(KEY)  # type: ignore[abstract]


@pytest.mark.proves("UM-GEN-1", by="api")
def test_a_million_identifiers_without_a_repeat() -> None:
    identifiers = PermutationGenerator(KEY).identifiers(0, 1_000_000)
    assert len(np.unique(identifiers)) == 1_000_000
