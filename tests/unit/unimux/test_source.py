"""Drawing addresses: fresh for ever, traceable by the key's holder."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimux.diskstate import DiskState, Surroundings
from unimux.generators import Generator, GeneratorError
from unimux.source import AddressSource, AddressUsed, is_usable
from unimux.state import MemoryState, StateError

PREFIX = bytes.fromhex("20010db8000000010000000000000000")


class Plain(Generator):
    """Counter n is identifier n: the reserved ones come up at once, and every epoch gives the same."""

    def identifier(self, counter: int) -> int:
        return counter

    def counter(self, identifier: int) -> int | None:
        return identifier


class Swapped(Plain):
    """The same identifiers in another order."""

    def identifier(self, counter: int) -> int:
        return counter ^ 1

    def counter(self, identifier: int) -> int | None:
        return identifier ^ 1


class OneWay(Generator):
    """No inverse, and the same identifier for two counters in a row."""

    invertible = False

    def identifier(self, counter: int) -> int:
        return 1000 + counter // 2

    def counter(self, identifier: int) -> int | None:
        return None


class Reserved(OneWay):
    """Nothing that may be used."""

    def identifier(self, counter: int) -> int:
        return 0


PLAIN = f"{__name__}:Plain"
ONE_WAY = f"{__name__}:OneWay"


def memory(generator: str = "permutation", seed: int = 1) -> MemoryState:
    return MemoryState(random.Random(seed).randbytes, generator)


def low(address: bytes) -> int:
    return int.from_bytes(address[8:], "big")


@pytest.mark.proves("UM-GEN-1", "UM-ADDR-9", by="api")
def test_addresses_are_in_the_prefix_and_never_repeat() -> None:
    source = AddressSource(memory(), block=300)
    drawn = [source.draw(PREFIX) for _ in range(2000)]
    assert len(set(drawn)) == 2000
    assert all(address[:8] == PREFIX[:8] for address in drawn)


@pytest.mark.proves("UM-GEN-1", by="api")
def test_one_identifier_is_used_in_one_prefix_only() -> None:
    source = AddressSource(memory())
    other = bytes.fromhex("20010db8000000020000000000000000")
    drawn = [source.draw(prefix) for _ in range(500) for prefix in (PREFIX, other)]
    assert len({low(address) for address in drawn}) == 1000


@pytest.mark.proves("UM-GEN-1", "UM-GEN-6", by="api")
def test_ten_million_addresses_over_restarts_crashes_and_a_rollback(tmp_path: Path) -> None:
    """Ten runs of a million each: half end by a crash, one starts on state that was put back."""
    directory, runs = tmp_path / "state", []
    entropy = random.Random(7)
    saved = b""
    for run in range(10):
        if run == 6:
            (directory / "state.json").write_bytes(saved)
        state = DiskState(
            directory,
            witness=tmp_path / "witness",
            surroundings=Surroundings("machine", "boot"),
            entropy=entropy.randbytes,
        )
        source = AddressSource(state)
        runs.append(source.draw_many(1_000_000))
        if run == 3:
            saved = (directory / "state.json").read_bytes()
        if run % 2:
            state.close()
        else:
            for handle in state._handles:  # the process is gone; what it leased and did not draw is lost
                os.close(handle)
            state._handles.clear()
    assert len(state.epochs) == 2
    everything = np.concatenate(runs)
    assert len(everything) == 10_000_000
    everything.sort()
    assert not (everything[1:] == everything[:-1]).any()


@pytest.mark.proves("UM-GEN-6", "UM-ADDR-9", by="api")
def test_a_new_epoch_passes_over_whatever_an_old_one_issued() -> None:
    """With generators that give the same identifiers nothing but the check keeps them apart."""
    state = memory(PLAIN)
    source = AddressSource(state, block=50)
    first = {low(source.draw(PREFIX)) for _ in range(120)}
    # The old epoch may have gone on for 2**48 counters in a history that was lost: none of those are fresh either.
    horizon = state.epoch.reached("64") + (1 << 48)
    state.rekey("test", f"{__name__}:Swapped")
    for start, fresh in [(0, 0), (100, 0), (horizon - 10, 15), (horizon, 25)]:
        state.epoch.leased["64"] = start
        source = AddressSource(state, block=25)
        batch = source._batch(64, 25)
        assert len(batch) == fresh
        assert first.isdisjoint(batch.tolist())
    state.epoch.leased["64"] = horizon - 10
    assert low(AddressSource(state).draw(PREFIX)) == horizon + 1


@pytest.mark.proves("UM-GEN-6", "UM-ADDR-9", by="api")
def test_a_map_that_does_not_depend_on_its_key_goes_on_behind_the_old_epoch() -> None:
    state = memory(PLAIN)
    source = AddressSource(state, block=50)
    drawn = [low(source.draw(PREFIX)) for _ in range(120)]
    horizon = state.epoch.reached("64") + (1 << 48)
    state.rekey("test")
    assert [low(source.draw(PREFIX)) for _ in range(2)] == [horizon, horizon + 1]
    assert max(drawn) < horizon
    reached = state.epoch.reached("64")
    assert low(AddressSource(state).draw(PREFIX)) == reached
    reached = state.epoch.reached("64")
    state.rekey("test")
    assert low(source.draw(PREFIX)) == reached + (1 << 48)


def test_a_generator_that_makes_reserved_identifiers_only_is_told_and_does_not_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unimux.source._MOST_PASSED_OVER", 1 << 12)
    source = AddressSource(memory(f"{__name__}:Reserved"))
    for _ in range(2):
        with pytest.raises(GeneratorError, match="in a row: let its map depend on its key"):
            source.draw(PREFIX)


@pytest.mark.proves("UM-GEN-2", by="api")
@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (0, [1, 2, 3]),
        (0x02005EFFFE000000 - 1, [0x02005EFFFDFFFFFF, 0x02005EFFFF000000]),
        (0xFDFFFFFFFFFFFF80 - 1, [0xFDFFFFFFFFFFFF7F, 0xFE00000000000000]),
    ],
)
def test_reserved_identifiers_are_passed_over_for_every_generator(start: int, expected: list[int]) -> None:
    state = memory(PLAIN)
    state.epoch.leased["64"] = start
    source = AddressSource(state, block=1 << 25)
    assert [low(source.draw(PREFIX)) for _ in expected] == expected


@pytest.mark.parametrize(("length", "usable"), [(64, False), (80, False), (63, False)])
def test_usable_addresses(length: int, usable: bool) -> None:
    assert is_usable(PREFIX, length) is usable
    assert is_usable(PREFIX[:15] + b"\x05", length)


@pytest.mark.proves("UM-GEN-3", by="api")
@given(count=st.integers(1, 400))
def test_an_address_leads_back_to_its_epoch_and_counter(count: int) -> None:
    state = memory(seed=count)
    source = AddressSource(state, block=100)
    drawn = [source.draw(PREFIX) for _ in range(count)]
    state.rekey("test")
    later = source.draw(PREFIX)
    origins = [source.locate(address) for address in drawn]
    assert [origin.counter for origin in origins if origin] == list(range(count))
    assert {origin.epoch for origin in origins if origin} == {0}
    found = source.locate(later)
    assert found is not None
    assert (found.epoch, found.counter, found.bits) == (1, 0, 64)


@pytest.mark.proves("UM-GEN-3", by="api")
def test_strangers_addresses_lead_nowhere() -> None:
    source = AddressSource(memory())
    source.draw(PREFIX)
    rng = random.Random(5)
    assert all(source.locate(PREFIX[:8] + rng.randbytes(8)) is None for _ in range(1000))


@pytest.mark.proves("UM-GEN-3", by="api")
def test_another_node_cannot_trace_it() -> None:
    mine, other = AddressSource(memory(seed=1)), AddressSource(memory(seed=2))
    other.draw(PREFIX)
    assert all(other.locate(mine.draw(PREFIX)) is None for _ in range(500))


@pytest.mark.parametrize("length", [48, 56, 60, 64, 72, 80, 96, 111, 112])
@pytest.mark.proves("UM-POOL-4", by="api")
def test_any_prefix_length_keeps_its_prefix_bits_and_fills_the_rest(length: int) -> None:
    source = AddressSource(memory())
    prefix = bytes.fromhex("20010db8aaaaaaaaaaaaaaaaaaaaaaaa")
    drawn = [source.draw(prefix, length) for _ in range(300)]
    assert len(set(drawn)) == 300
    shift = 128 - length
    network = int.from_bytes(prefix, "big") >> shift
    hosts = [int.from_bytes(address, "big") & ((1 << shift) - 1) for address in drawn]
    assert all(int.from_bytes(address, "big") >> shift == network for address in drawn)
    # Each of the host bits takes both values: 300 fair coins all equal have odds of 2**-299.
    assert all({host >> bit & 1 for host in hosts} == {0, 1} for bit in range(shift))
    origin = source.locate(drawn[7])
    assert origin is not None
    assert origin.counter == 7


@pytest.mark.parametrize("length", [113, 120, 127, 128])
def test_a_prefix_too_small_is_one_sentence(length: int) -> None:
    with pytest.raises(GeneratorError, match=r"at most a? ?/112"):
        AddressSource(memory()).draw(PREFIX, length)


def test_a_prefix_used_up_says_so() -> None:
    source = AddressSource(memory())
    drawn = source.draw_many((1 << 16) - 129, bits=16)
    assert len(np.unique(drawn)) == (1 << 16) - 129
    with pytest.raises(GeneratorError, match="all 65536 addresses"):
        source.draw_many(1, bits=16)


@pytest.mark.parametrize("bits", [16, 20, 24])
def test_a_start_costs_a_narrow_prefix_a_small_share_of_its_addresses(bits: int) -> None:
    state = memory()
    drawn = {AddressSource(state).draw(PREFIX, 128 - bits) for _ in range(40)}
    assert len(drawn) == 40
    assert state.epoch.reached(str(bits)) == 40 << (bits - 12)


@pytest.mark.proves("UM-GEN-6", "UM-ADDR-9", by="api")
@pytest.mark.parametrize("length", [112, 104, 96, 84])
def test_after_a_rollback_a_narrow_prefix_gives_nothing_that_the_lost_branch_issued(length: int) -> None:
    """The lost branch is as long as docs/limits.md allows: 1,024th of the prefix, or 10,000 addresses here."""
    state = memory()
    AddressSource(state).draw(PREFIX, length)
    reached = dict(state.epoch.leased)
    bits = 128 - length
    source = AddressSource(state)
    lost = {source.draw(PREFIX, length) for _ in range(min((1 << bits >> 10) - 16, 10_000))}
    state.epoch.leased = reached  # the directory is put back
    state.rekey("restored")
    source = AddressSource(state)
    assert lost.isdisjoint(source.draw(PREFIX, length) for _ in range(20_000))


@pytest.mark.proves("UM-ADDR-9", by="api")
def test_a_claimed_address_is_never_drawn_or_claimed_again() -> None:
    state = memory(PLAIN)
    source = AddressSource(state)
    source.claim(PREFIX[:15] + b"\x02")
    assert [low(source.draw(PREFIX)) for _ in range(3)] == [1, 3, 4]
    with pytest.raises(AddressUsed, match="used by this node before"):
        source.claim(PREFIX[:15] + b"\x02")


@pytest.mark.proves("UM-ADDR-9", by="api")
def test_an_issued_address_cannot_be_claimed() -> None:
    state = memory()
    source = AddressSource(state)
    address = source.draw(PREFIX)
    with pytest.raises(AddressUsed):
        source.claim(address)
    state.rekey("test")
    with pytest.raises(AddressUsed):
        source.claim(address)


@pytest.mark.proves("UM-GEN-6", by="api")
def test_a_generator_without_inverse_is_remembered_address_by_address() -> None:
    state = memory(ONE_WAY)
    source = AddressSource(state)
    drawn = [low(source.draw(PREFIX)) for _ in range(5)]
    assert drawn == [1000, 1001, 1002, 1003, 1004]
    state.rekey("test")
    assert low(AddressSource(state).draw(PREFIX)) == 1005
    with pytest.raises(GeneratorError, match="one at a time"):
        source.draw_many(10)


@pytest.mark.proves("UM-GEN-6", by="api")
def test_rekeying_drops_what_was_prepared_under_the_old_key() -> None:
    state = memory()
    source = AddressSource(state)
    source.draw(PREFIX)
    state.rekey("resumed from a snapshot")
    origins = [source.locate(source.draw(PREFIX)) for _ in range(3)]
    assert [(origin.epoch, origin.counter) for origin in origins if origin] == [(1, 0), (1, 1), (1, 2)]


def test_an_old_generator_that_is_gone_matters_only_if_it_issued_something() -> None:
    state = memory()
    state.rekey("test")
    state.epochs[0].generator = "no.such.module:Class"
    assert AddressSource(state).draw(PREFIX)[:8] == PREFIX[:8]
    state.epochs[0].leased["64"] = 100
    with pytest.raises(GeneratorError, match="cannot be imported"):
        AddressSource(state)


def test_a_closed_state_gives_no_addresses(tmp_path: Path) -> None:
    with DiskState(tmp_path / "state", witness=tmp_path / "witness") as state:
        source = AddressSource(state)
        source.draw(PREFIX)
    with pytest.raises(StateError, match="closed"):
        source.draw(PREFIX)


def test_many_epochs_stay_usable() -> None:
    """A laptop that restarts every day for two years: the check of each batch against 700 old keys."""
    state = memory()
    for n in range(700):
        state.epoch.leased["64"] = 1000
        state.rekey(f"restart {n}")
    source = AddressSource(state)
    drawn = {source.draw(PREFIX) for _ in range(300)}
    assert len(drawn) == 300


class Few(Generator):
    """100, 101, 102 …, fewer than 2**bits of them."""

    @property
    def capacity(self) -> int:
        return (1 << self.bits) - 100

    def identifier(self, counter: int) -> int:
        return 100 + counter

    def counter(self, identifier: int) -> int | None:
        return identifier - 100 if identifier >= 100 else None


class Wide(Few):
    """Too wide for any prefix longer than /64."""

    def identifier(self, counter: int) -> int:
        return 1 << 63 | counter


class Huge(Few):
    """Wider than any identifier."""

    def identifier(self, counter: int) -> int:
        return 1 << 64 | counter


class Halves(Few):
    """Not whole numbers."""

    def identifier(self, counter: int) -> int:
        return 100 + counter / 2  # type: ignore[return-value]


class Typed(Few):
    """Raises by itself."""

    def identifier(self, counter: int) -> int:
        return len(counter)  # type: ignore[arg-type]


class Wrong(Few):
    """An inverse that is off by one."""

    def counter(self, identifier: int) -> int | None:
        return identifier - 99


class Constant(Few):
    """One identifier for all counters, with the inverse that fits the first."""

    def identifier(self, counter: int) -> int:
        return 100


class Cycle(Few):
    """The same twenty identifiers over and over, which says itself that it has no inverse."""

    invertible = False

    def identifier(self, counter: int) -> int:
        return 100 + counter % 20

    def counter(self, identifier: int) -> int | None:
        return None


class Failing(Plain):
    """A mistake that shows after a while."""

    def identifier(self, counter: int) -> int:
        return counter + 0 // (300 - counter)


class FailingBack(Plain):
    """The same in its inverse."""

    def counter(self, identifier: int) -> int | None:
        raise KeyError(identifier)


@pytest.mark.proves("UM-GEN-6", by="api")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("Failing", "Failing failed: ZeroDivisionError: integer division"),
        ("FailingBack", "FailingBack failed: KeyError"),
    ],
)
def test_a_generator_that_fails_is_one_sentence(kind: str, message: str) -> None:
    source = AddressSource(memory(f"{__name__}:{kind}"))
    with pytest.raises(GeneratorError, match=message):
        source.draw_many(600)


@pytest.mark.proves("UM-GEN-6", "UM-GEN-3", by="api")
def test_a_generator_with_fewer_counters_is_found_by_audit_and_never_repeats() -> None:
    state = memory(f"{__name__}:Few")
    source = AddressSource(state)
    drawn = [source.draw(PREFIX) for _ in range(3)]
    assert [low(address) for address in drawn] == [100, 101, 102]
    assert [origin.counter for address in drawn if (origin := source.locate(address))] == [0, 1, 2]
    with pytest.raises(AddressUsed):
        source.claim(drawn[1])


@pytest.mark.proves("UM-GEN-6", by="api")
@pytest.mark.parametrize(
    ("kind", "length", "message"),
    [
        ("Wide", 80, "more than 48 bits"),
        ("Huge", 64, "no number of 64 bits"),
        ("Halves", 64, "Halves makes what is no whole number: .float. object cannot"),
        ("Wrong", 64, "has no true inverse"),
        ("Constant", 64, "makes 0x64 of counter 1, and of 0x64 the counter 0"),
    ],
)
def test_a_generator_that_does_not_keep_its_word_is_refused(kind: str, length: int, message: str) -> None:
    with pytest.raises(GeneratorError, match=message):
        AddressSource(memory(f"{__name__}:{kind}")).draw(PREFIX, length)


def test_what_a_generator_raises_is_not_taken_for_what_it_makes() -> None:
    with pytest.raises(GeneratorError, match=r"Typed failed: TypeError: object of type 'int' has no len"):
        AddressSource(memory(f"{__name__}:Typed")).draw(PREFIX)


@pytest.mark.proves("UM-GEN-6", "UM-GEN-1", by="api")
def test_a_generator_without_inverse_that_goes_in_circles_gives_each_address_once_and_then_a_sentence() -> None:
    source = AddressSource(memory(f"{__name__}:Cycle"))
    assert {low(source.draw(PREFIX)) for _ in range(20)} == set(range(100, 120))
    with pytest.raises(GeneratorError, match="Cycle makes what this node has issued before, 262,144 times in a row"):
        source.draw(PREFIX)
