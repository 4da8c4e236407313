"""Tagged addresses: what a firewall with the key can tell, and what it costs to forge one (UM-GEN-4)."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimux.generators import GeneratorError
from unimux.tagged import Tag, TagCodec, TagLayout, TagVerifier

KEY = hashlib.sha256(b"tags").digest()
OTHER = hashlib.sha256(b"not the key").digest()
PREFIX = bytes.fromhex("20010db800000001")


def address(identifier: int) -> bytes:
    return PREFIX + identifier.to_bytes(8, "big")


@pytest.mark.proves("UM-GEN-4", by="api")
@given(
    service=st.integers(0, 63),
    client=st.integers(0, 4095),
    slot=st.integers(0, 1023),
    serial=st.integers(0, 4095),
)
def test_a_tag_comes_back_as_it_was_sealed(service: int, client: int, slot: int, serial: int) -> None:
    tag = Tag(service, client, slot, serial)
    assert TagCodec(KEY).open(TagCodec(KEY).seal(tag)) == tag


@pytest.mark.proves("UM-GEN-4", by="api")
@pytest.mark.parametrize("name", ["service", "client", "slot", "serial"])
def test_a_field_that_does_not_fit_is_refused_by_name(name: str) -> None:
    fields = {"service": 1, "client": 1, "slot": 1, "serial": 1, name: 1 << 12}
    with pytest.raises(GeneratorError, match=f"{name} 4096 does not fit"):
        TagCodec(KEY).seal(Tag(**fields))


def test_fields_that_do_not_fit_are_refused_in_bulk_too() -> None:
    serials = np.array([0, 4096], dtype=np.uint64)
    with pytest.raises(GeneratorError, match="serial 4096"):
        TagCodec(KEY).seal_many(0, 0, 0, serials)
    with pytest.raises(GeneratorError, match="client 4096"):
        TagCodec(KEY).seal_many(0, 4096, 0, serials[:1])


@pytest.mark.proves("UM-GEN-4", by="api")
def test_widths_are_parameters_and_must_add_up() -> None:
    layout = TagLayout(service=4, client=8, slot=12, serial=8, redundancy=32)
    assert layout.forgery_odds == 2**-32
    assert TagCodec(KEY, layout).open(TagCodec(KEY, layout).seal(Tag(15, 255, 4095, 255))) == Tag(15, 255, 4095, 255)
    with pytest.raises(GeneratorError, match="add up to 64 bits, not service 7"):
        TagLayout(service=7)
    with pytest.raises(GeneratorError, match="one forged probe in 16"):
        TagLayout(redundancy=4, serial=32)
    with pytest.raises(GeneratorError, match="more than 0"):
        TagLayout(slot_length=0)


@pytest.mark.proves("UM-GEN-4", by="api")
def test_forgery_succeeds_as_often_as_the_api_says() -> None:
    """2**20 random probes against 10 redundancy bits: 1,024 expected, standard deviation 32, accepted within 6.5 of them."""
    layout = TagLayout(redundancy=10, serial=26)
    probes = np.random.default_rng(1).integers(0, 2**64, size=1 << 20, dtype=np.uint64)
    genuine, fields = TagCodec(KEY, layout).open_many(probes)
    expected = (1 << 20) * layout.forgery_odds
    assert abs(int(genuine.sum()) - expected) < 6.5 * expected**0.5
    # What decrypts by chance names a random slot, so a verifier's further conditions multiply.
    early = genuine & (fields["slot"] < 512)
    assert abs(int(early.sum()) - expected / 2) < 6.5 * (expected / 2) ** 0.5


@pytest.mark.proves("UM-GEN-4", by="api")
def test_admission_odds_of_a_verifier_are_what_it_says() -> None:
    layout = TagLayout(service=4, client=4, slot=6, serial=42, redundancy=8)
    verifier = TagVerifier(KEY, lifetime=240.0, layout=layout, services=range(8), clients=range(4))
    probes = np.random.default_rng(2).integers(0, 2**64, size=1 << 22, dtype=np.uint64)
    expected = len(probes) * verifier.admission_odds
    assert 100 < expected < 1000
    assert abs(int(verifier.admit_many(probes, now=60.0 * 1000).sum()) - expected) < 6.5 * expected**0.5


@pytest.mark.proves("UM-GEN-4", by="api")
def test_the_wrong_key_admits_nothing() -> None:
    identifiers = TagCodec(OTHER).seal_many(1, 1, 0, np.arange(4096, dtype=np.uint64))
    genuine, _ = TagCodec(KEY).open_many(identifiers)
    assert not genuine.any()


@pytest.mark.proves("UM-GEN-4", by="api")
def test_a_verifier_admits_from_issue_to_expiry_only() -> None:
    """Slots of 60 s, a lifetime of 120 s: an address that expires in slot 10 passes from 120 s before until the slot ends."""
    verifier = TagVerifier(KEY, lifetime=120.0)
    expires_in_slot_10 = address(TagCodec(KEY).seal(Tag(1, 2, 10, 3)))
    assert verifier.admit(expires_in_slot_10, now=10 * 60 - 120) == Tag(1, 2, 10, 3)
    assert verifier.admit(expires_in_slot_10, now=10 * 60 + 59) == Tag(1, 2, 10, 3)
    assert verifier.admit(expires_in_slot_10, now=11 * 60) is None
    assert verifier.admit(expires_in_slot_10, now=10 * 60 - 240) is None


@pytest.mark.proves("UM-GEN-4", by="api")
def test_a_verifier_admits_its_services_and_clients_only() -> None:
    verifier = TagVerifier(KEY, 60.0, services={1}, clients={2, 3})
    verdicts = [
        verifier.admit(address(TagCodec(KEY).seal(Tag(service, client, 0, 0))), now=0.0) is not None
        for service, client in [(1, 2), (1, 3), (1, 4), (2, 2)]
    ]
    assert verdicts == [True, True, False, False]


@pytest.mark.proves("UM-GEN-4", by="api")
def test_when_slots_come_round_again_old_addresses_do_not() -> None:
    layout = TagLayout()
    cycle = 1024 * 60.0
    old = address(TagCodec(KEY, layout, cycle=0).seal(Tag(1, 1, 0, 0)))
    new = address(TagCodec(KEY, layout, cycle=1).seal(Tag(1, 1, 0, 0)))
    verifier = TagVerifier(KEY, 120.0)
    assert (verifier.admit(old, 0.0), verifier.admit(old, cycle)) == (Tag(1, 1, 0, 0), None)
    assert (verifier.admit(new, 0.0), verifier.admit(new, cycle)) == (None, Tag(1, 1, 0, 0))
    # In the last slots of a cycle addresses of the next one are admitted already.
    assert verifier.admit(new, cycle - 60.0) == Tag(1, 1, 0, 0)


def test_a_lifetime_longer_than_all_slots_is_refused() -> None:
    with pytest.raises(GeneratorError, match="do not span"):
        TagVerifier(KEY, lifetime=1024 * 60.0)


@given(now=st.floats(0, 1e9), seed=st.integers(0, 2**32))
def test_one_at_a_time_and_in_bulk_admit_the_same(now: float, seed: int) -> None:
    layout = TagLayout(service=2, client=2, slot=4, serial=48, redundancy=8)
    verifier = TagVerifier(KEY, 300.0, layout, services={0, 1})
    rng = np.random.default_rng(seed)
    [(cycle, [slot])] = layout.slots_between(now, now).items()
    made = TagCodec(KEY, layout, cycle).seal_many(seed % 4, 1, slot, np.arange(10, dtype=np.uint64))
    identifiers = np.concatenate([made, rng.integers(0, 2**64, size=10, dtype=np.uint64)])
    one_by_one = [verifier.admit(address(int(identifier)), now) is not None for identifier in identifiers]
    assert verifier.admit_many(identifiers, now).tolist() == one_by_one
    assert all(one_by_one[:10]) == (seed % 4 < 2)
