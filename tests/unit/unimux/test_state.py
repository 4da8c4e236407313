"""Durable state: leases before use, key epochs whenever the memory is in doubt."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unimux import diskstate
from unimux.diskstate import DiskState, Stamp, Stored, Surroundings, doubts
from unimux.generators import GeneratorError
from unimux.source import AddressSource
from unimux.state import MemoryState, State, StateError, StateLocked

HERE = Surroundings("machine-1/host", "boot-1")


class Machine:
    """A state directory and what surrounds it, which a test can copy, roll back and restart."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "state"
        self.witness = root / "witness"
        self.surroundings = HERE
        self.random = random.Random(1)

    def open(self, **options: object) -> DiskState:
        arguments: dict[str, object] = {
            "witness": self.witness,
            "surroundings": self.surroundings,
            "entropy": self.random.randbytes,
            "wall": lambda: 1000.0,
        }
        return DiskState(self.directory, **(arguments | options))  # type: ignore[arg-type]

    def restart(self) -> None:
        """Restart the machine: a new boot id, and what lay under /run is gone."""
        self.surroundings = Surroundings(self.surroundings.machine, self.surroundings.boot + "'")
        shutil.rmtree(self.witness, ignore_errors=True)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def abandon(state: DiskState) -> None:
    """What the kernel does when a process dies: nothing but closing what is open, so that the lock ends."""
    for handle in state._handles:
        os.close(handle)
    state._handles.clear()


def reopened_cause(machine: Machine, **options: object) -> str | None:
    """Open once more; why a new epoch began, None if it did not."""
    with machine.open(**options) as state:
        return state.epoch.cause if len(state.epochs) > 1 else None


# -- leases ------------------------------------------------------------------------------------------


@pytest.mark.proves("UM-GEN-6", by="api")
def test_leases_never_overlap_whatever_ends_the_process(machine: Machine) -> None:
    state = machine.open()
    assert state.lease("64", 100) == range(100)
    assert state.lease("64", 100) == range(100, 200)
    assert state.lease("48", 5) == range(5)
    # No close, no farewell: the process is gone in mid-use.  Only the lock ends with it.
    abandon(state)
    state = machine.open()
    assert state.lease("64", 10) == range(200, 210)
    assert len(state.epochs) == 1
    state.close()


@pytest.mark.proves("UM-GEN-6", by="api")
def test_a_lease_is_on_disk_before_it_is_handed_out(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fsync that fails before the counters are durable means that no counters come back."""
    state = machine.open()
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        real(handle)
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))

    monkeypatch.setattr(os, "fsync", fsync)
    state.lease("64", 10)
    directory, witness = str(machine.directory), str(machine.witness)
    assert [path for path in synced if path.startswith(directory)] == [f"{directory}/state.new", directory]
    assert synced[-1] == witness
    state.close()


@pytest.mark.proves("UM-GEN-6", by="api")
def test_a_full_disk_ends_issuing_and_loses_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    state = machine.open()
    state.lease("64", 10)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StateError, match="cannot be written: No space left"):
            state.lease("64", 10)
    with pytest.raises(StateError, match="cannot be used: writing it failed"):
        state.lease("64", 10)
    state.close()
    with machine.open() as again:
        assert again.lease("64", 1).start >= 10


CHILD = """
import os, sys
from pathlib import Path
from unimux.diskstate import DiskState, Surroundings
state = DiskState(Path(sys.argv[1]), witness=Path(sys.argv[2]), surroundings=Surroundings("machine-1/host", "boot-1"))
while True:
    leased = state.lease("64", 3)
    print(leased.start, leased.stop, flush=True)
"""


@pytest.mark.proves("UM-GEN-6", by="api")
def test_killed_at_any_moment_no_counter_comes_twice(machine: Machine) -> None:
    """A process that leases as fast as it can, killed five times in mid-write."""
    seen: list[range] = []
    for lines in range(1, 6):
        command = [sys.executable, "-c", CHILD, str(machine.directory), str(machine.witness)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            output = [child.stdout.readline() for _ in range(lines * 3)]
            child.send_signal(signal.SIGKILL)
            output += child.stdout.read().splitlines(keepends=True)
        seen += [range(*map(int, line.split())) for line in output if line.endswith("\n")]
    counters = [counter for leased in seen for counter in leased]
    assert len(counters) >= 135
    assert len(counters) == len(set(counters))
    with machine.open() as state:
        assert len(state.epochs) == 1, "a crash is no reason for a new key"


def test_a_second_process_is_refused_and_told_who_has_it(machine: Machine) -> None:
    with machine.open(), pytest.raises(StateLocked, match=rf"another node \(process {os.getpid()}\)"):
        machine.open()
    machine.open().close()


@pytest.mark.proves("UM-GEN-6", "UM-ADDR-9", by="api")
def test_a_forked_child_does_not_go_on_with_a_state_in_memory_either() -> None:
    """Parent and child would draw the same addresses from then on."""
    source = AddressSource(MemoryState())
    source.draw(bytes(16))
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            said = source.draw(bytes(16))
        except StateError as error:
            said = str(error).encode()
        os.write(writer, said)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert b"forked process" in pipe.read()
    os.waitpid(child, 0)
    source.draw(bytes(16))


@pytest.mark.proves("UM-GEN-6", by="api")
def test_a_forked_child_is_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with machine.open() as state:
        with monkeypatch.context() as patch:
            patch.setattr("unimux.state._process", -1)
            with pytest.raises(StateError, match="forked"):
                state.lease("64", 1)
            with pytest.raises(StateError, match="forked"):
                state.guard()
        state.lease("64", 1)


def test_a_closed_state_is_refused_and_closing_twice_is_harmless(machine: Machine) -> None:
    state = machine.open()
    state.close()
    state.close()
    with pytest.raises(StateError, match="it was closed"):
        state.lease("64", 1)


# -- epochs ------------------------------------------------------------------------------------------


def test_the_first_start_says_why_it_has_a_new_key(machine: Machine) -> None:
    with machine.open() as state:
        assert (len(state.epochs), state.epoch.cause, state.epoch.began) == (1, "there was no state", 1000.0)
    assert reopened_cause(machine) is None


@pytest.mark.proves("UM-GEN-6", by="api")
def test_state_put_back_in_place_starts_a_new_key(machine: Machine) -> None:
    with machine.open() as state:
        state.lease("64", 10)
    backup = (machine.directory / "state.json").read_bytes()
    with machine.open() as state:
        first = state.epoch.key
        state.lease("64", 10)
    (machine.directory / "state.json").write_bytes(backup)
    with machine.open() as state:
        assert "rolled back" in state.epoch.cause
        assert state.epoch.key != first
        assert state.epochs[0].key == first
        assert state.lease("64", 10) == range(10)


@pytest.mark.proves("UM-GEN-6", by="api")
def test_a_copied_directory_starts_a_new_key_and_the_original_goes_on(machine: Machine, tmp_path: Path) -> None:
    with machine.open() as state:
        state.lease("64", 10)
    shutil.copytree(machine.directory, tmp_path / "copy")
    original, machine.directory = machine.directory, tmp_path / "copy"
    with machine.open() as state:
        assert "copied or restored" in state.epoch.cause
        state.lease("64", 10)
    machine.directory = original
    assert reopened_cause(machine) is None


@pytest.mark.proves("UM-GEN-6", by="api")
def test_a_clone_on_another_machine_starts_a_new_key(machine: Machine) -> None:
    machine.open().close()
    machine.surroundings = Surroundings("machine-2/host", "boot-1")
    assert "another machine" in (reopened_cause(machine) or "")


@pytest.mark.proves("UM-GEN-6", by="api")
def test_a_restart_of_the_machine_starts_a_new_key(machine: Machine) -> None:
    machine.open().close()
    machine.restart()
    assert "restarted" in (reopened_cause(machine) or "")


@pytest.mark.proves("UM-GEN-6", by="api")
def test_a_witness_that_outlives_the_machine_vouches_for_the_key(machine: Machine, tmp_path: Path) -> None:
    def use(leases: int) -> str | None:
        with machine.open(witness=tmp_path / "vault", witness_lasts=True) as state:
            for _ in range(leases):
                state.lease("64", 1)
            return state.epoch.cause if len(state.epochs) > 1 else None

    use(1)
    old = (machine.directory / "state.json").read_bytes()
    machine.restart()
    assert use(3) is None
    (machine.directory / "state.json").write_bytes(old)
    machine.restart()
    assert "rolled back" in (use(1) or "")


@pytest.mark.proves("UM-GEN-6", by="api")
def test_without_a_second_place_every_start_begins_a_key(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diskstate, "_second_place", lambda: None)
    machine.open(witness=None).close()
    assert "second stamp is missing" in (reopened_cause(machine, witness=None) or "")


@pytest.mark.proves("UM-GEN-6", by="api")
@pytest.mark.parametrize(
    "damage", [b"", b"nonsense", b"0" * 64 + b"\n{}", None], ids=["empty", "garbage", "zeros", "flip"]
)
def test_damaged_state_is_kept_aside_and_a_new_key_begins(machine: Machine, damage: bytes | None) -> None:
    with machine.open() as state:
        key = state.epoch.key
    path = machine.directory / "state.json"
    whole = path.read_bytes()
    path.write_bytes(damage if damage is not None else whole[:-5] + b"x" + whole[-4:])
    with machine.open() as state:
        assert "damaged" in state.epoch.cause
        assert state.epoch.key != key
    assert len(list(machine.directory.glob("state.damaged-*.json"))) == 1


def test_state_of_a_later_version_is_left_alone(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(diskstate, "VERSION", 2)
        machine.open().close()
    before = (machine.directory / "state.json").read_bytes()
    with pytest.raises(StateError, match=r"another version of this program \(format 2\)"):
        machine.open()
    assert (machine.directory / "state.json").read_bytes() == before


def test_another_generator_starts_a_new_key(machine: Machine) -> None:
    machine.open().close()
    name = "unimux.generators:PermutationGenerator"
    with machine.open(generator=name) as state:
        assert (state.epoch.generator, state.epoch.cause) == (name, f"the generator is now {name}")


def test_a_generator_that_cannot_be_loaded_leaves_the_state_as_it_was(machine: Machine) -> None:
    machine.open().close()
    before = (machine.directory / "state.json").read_bytes()
    with pytest.raises(GeneratorError, match="cannot be imported"):
        machine.open(generator="no.such.module:Class")
    assert (machine.directory / "state.json").read_bytes() == before
    with machine.open() as state:
        with pytest.raises(GeneratorError, match="cannot be imported"):
            state.rekey("why not", "no.such.module:Class")
        assert len(state.epochs) == 1


@pytest.mark.proves("UM-GEN-6", by="api")
def test_rekey_is_durable(machine: Machine) -> None:
    with machine.open() as state:
        key = state.rekey("resumed from a snapshot").key
    with machine.open() as state:
        assert (state.epoch.key, state.epoch.cause) == (key, "resumed from a snapshot")


@pytest.mark.parametrize(
    ("machine_name", "identity", "boot", "stamp", "lasts", "expected"),
    [
        ("m", "i", "b", 7, False, None),
        ("m", "i", "b", 6, False, None),
        ("m", "i", "b", 5, False, "second stamp was rolled back"),
        ("m", "i", "b", 8, False, "1 leases behind"),
        ("m", "i", "b", None, False, "missing"),
        ("m", "i", "B", 7, False, "restarted"),
        ("m", "i", "B", 7, True, None),
        ("m", "i", "B", 9, True, "2 leases behind"),
        ("m", "I", "b", 7, True, "copied"),
        ("M", "i", "b", 7, True, "another machine"),
    ],
)
@pytest.mark.proves("UM-GEN-6", by="api")
def test_what_is_doubted(
    machine_name: str, identity: str, boot: str, stamp: int | None, lasts: bool, expected: str | None
) -> None:
    stored = Stored(1, "id", 7, Surroundings("m", "b"), "i", [])
    seen = None if stamp is None else Stamp(stamp, "b")
    doubt = doubts(stored, seen, Surroundings(machine_name, boot), identity, witness_lasts=lasts)
    assert doubt is None if expected is None else expected in (doubt or "")


# -- the folder ------------------------------------------------------------------------------------


def test_only_the_owner_can_read_the_keys(machine: Machine) -> None:
    with machine.open() as state:
        state.claim(bytes(16))
        state.lease("64", 1)
    modes = {path.name: path.stat().st_mode & 0o777 for path in machine.directory.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert machine.directory.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot hold the node's state"):
        DiskState(tmp_path / "file" / "state")


def test_the_real_surroundings_are_stable() -> None:
    assert Surroundings.here() == Surroundings.here()
    assert Surroundings.here().boot


# -- both kinds --------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "disk"])
def either(request: pytest.FixtureRequest, machine: Machine) -> Iterator[State]:
    state: State = MemoryState(random.Random(1).randbytes) if request.param == "memory" else machine.open()
    yield state
    state.close()


def test_both_kinds_of_state_behave_alike(either: State) -> None:
    assert either.lease("64", 3) == range(3)
    assert either.lease("64", 3) == range(3, 6)
    either.forget("64")
    assert either.epoch.reached("64") == 0
    first = either.epoch
    name = "unimux.generators:PermutationGenerator"
    either.rekey("why not", name)
    assert (either.epoch.generator, either.epoch.number, either.epoch.cause) == (name, 1, "why not")
    assert either.epoch.key != first.key
    assert either.lease("64", 3) == range(3)
    either.claim(bytes(16))
    assert either.claimed == {bytes(16)}
    either.guard()


@pytest.mark.parametrize("broken", ["state.json", "claimed"])
def test_a_folder_that_cannot_be_mended_is_one_sentence_and_gives_up_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    folder, second = tmp_path / "state", tmp_path / "witness"
    with DiskState(folder, witness=second) as state:
        state.lease("64", 5)
        state.claim(bytes(16))
    with (folder / broken).open("ab") as file:
        file.write(b"torn")

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        patch.setattr(Path, "rename", refuse)
        patch.setattr(os, "truncate", refuse)
        with pytest.raises(StateError, match="cannot be mended: Read-only file system"):
            DiskState(folder, witness=second)
    DiskState(folder, witness=second).close()


@pytest.mark.proves("UM-GEN-6", by="api")
def test_a_damaged_state_is_not_forgotten_by_a_start_that_is_refused(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full, which may be what damaged it: the next start knows of what was, too."""
    machine.open().close()
    (machine.directory / "state.json").write_bytes(b"")

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(diskstate, "replace_durably", full)
        with pytest.raises(StateError):
            machine.open()
    with machine.open() as state:
        assert state.doubt is not None
        assert state.epoch.number > 0
