"""The file of addresses that were claimed one by one: it outlives the process, and what is lost of it is missed (UM-GEN-6)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from tests.unit.unimux.test_state import Machine, abandon
from unimux.source import AddressSource, AddressUsed


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.proves("UM-ADDR-9", "UM-GEN-6", by="api")
def test_claims_outlive_the_process_and_a_torn_write(machine: Machine) -> None:
    with machine.open() as state:
        state.claim(bytes(range(16)))
        state.claim(bytes(range(16)))
        state.claim(bytes(16))
    path = machine.directory / "claimed"
    assert path.stat().st_size == 32
    with path.open("ab") as file:
        file.write(b"torn")
    with machine.open() as state:
        assert state.claimed == {bytes(range(16)), bytes(16)}
        state.claim(b"x" * 16)
    with machine.open() as state:
        assert b"x" * 16 in state.claimed


def lose(path: Path, how: str, before: bytes) -> None:
    """Do something to a file of three claims; `before` is what it was after the first."""
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(data[:-1])
    elif how == "put back":
        path.write_bytes(before)
    elif how == "damaged":
        path.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    else:
        path.write_bytes(data[16:] + data[:16])


@pytest.mark.proves("UM-GEN-6", "UM-ADDR-9", by="api")
@pytest.mark.parametrize("crashed", [False, True])
@pytest.mark.parametrize(
    ("how", "left"),
    [("missing", 0), ("empty", 0), ("cut", 2), ("put back", 1), ("damaged", 2), ("in another order", 3)],
)
def test_claims_that_are_lost_begin_an_epoch_and_are_told(machine: Machine, how: str, left: int, crashed: bool) -> None:
    """Also those of a run that ended in a crash, between which and the last lease there is no other write."""
    addresses = [bytes([n]) * 16 for n in range(3)]
    state = machine.open()
    state.lease("64", 1)
    key = state.epoch.key
    path = machine.directory / "claimed"
    before = b""
    for address in addresses:
        state.claim(address)
        before = before or path.read_bytes()
    if crashed:
        abandon(state)
    else:
        state.close()
    lose(path, how, before)
    with machine.open() as state:
        assert state.doubt == "addresses that were claimed are no longer on record in the file claimed"
        assert state.lost_claims
        assert (state.epoch.number, state.epoch.cause) == (1, state.doubt)
        assert state.epoch.key != key
        source = AddressSource(state)
        for address in state.claimed:
            with pytest.raises(AddressUsed):
                source.claim(address)
        assert len(state.claimed.intersection(addresses)) == left
        state.claim(b"y" * 16)
    with machine.open() as state:
        assert state.doubt is None and not state.lost_claims, "it is told once"
        assert b"y" * 16 in state.claimed


@pytest.mark.proves("UM-GEN-6", by="api")
def test_claims_that_the_witness_has_not_heard_of_are_no_loss(machine: Machine) -> None:
    """A crash in the moment between the two, or in the middle of the first."""
    with machine.open() as state:
        state.claim(bytes(16))
    with (machine.directory / "claimed").open("ab") as file:
        file.write(b"x" * 16 + b"torn")
    with machine.open() as state:
        assert state.doubt is None and not state.lost_claims
        assert state.claimed == {bytes(16), b"x" * 16}


@pytest.mark.proves("UM-GEN-6", by="api")
def test_claims_that_are_lost_are_missed_after_a_restart_of_the_machine_as_well(machine: Machine) -> None:
    with machine.open() as state:
        state.claim(bytes(16))
    (machine.directory / "claimed").unlink()
    machine.restart()
    with machine.open() as state:
        assert state.lost_claims
        assert state.doubt is not None and "restarted" in state.doubt
    machine.restart()
    with machine.open() as state:
        assert not state.lost_claims


@pytest.mark.proves("UM-GEN-6", by="api")
def test_a_folder_of_before_claims_were_counted_is_read_as_it_is(machine: Machine) -> None:
    with machine.open() as state:
        state.claim(bytes(16))
    path = machine.directory / "state.json"
    stored = msgspec.json.decode(path.read_bytes().partition(b"\n")[2])
    del stored["claims"]
    body = msgspec.json.encode(stored)
    path.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    for mark in machine.witness.glob("*.claims"):
        mark.write_bytes(b"short")
    with machine.open() as state:
        assert state.doubt is None and not state.lost_claims
        assert state.claimed == {bytes(16)}
