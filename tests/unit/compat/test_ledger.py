"""What the ledgers of others say, and what is no ledger's: a file in /run/unimux that nobody of ours wrote stops nobody."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from compat.kernel import KernelRefused, clean_leftovers, ledger, leftovers
from compat.kernel.ledger import Entry, all_ledgers

DEAD = "4194305-1"
"""A tag whose process there cannot be: ids end at 2**22."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ledgers of a machine, in place of its own."""
    monkeypatch.setattr(ledger, "RUN_DIR", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "row",
    [
        b"5",
        b"null",
        b"[]",
        b"{}",
        b'{"number": 1}',
        b'{"number": "1", "kind": "link", "inode": 2, "facts": {}}',
        b'{"number": 1, "kind": "link", "inode": 2, "facts": []}',
        b'{"struck": [1]}',
        b'{"number": 1, "kin',
        b"\xff\xfe",
    ],
)
def test_a_row_that_is_none_hides_no_other(folder: Path, row: bytes) -> None:
    good = {"number": 7, "kind": "link", "inode": 3, "facts": {"name": "um0"}}
    (folder / f"{DEAD}.jsonl").write_bytes(row + b"\n" + json.dumps(good).encode() + b"\n")
    ((_, _, entries),) = all_ledgers()
    assert entries == [Entry(7, "link", 3, {"name": "um0"})]


def test_a_ledger_of_rows_that_are_none_is_removed_and_stops_no_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "_end_processes", lambda: ())
    monkeypatch.setattr(leftovers, "_remove_namespaces", lambda: ())
    path = folder / f"{DEAD}.jsonl"
    here = Path("/proc/thread-self/ns/net").stat().st_ino
    none, other = ({"number": n, "kind": "link", "inode": here, "facts": f} for n, f in ((1, {}), (2, {"name": 5})))
    path.write_text(f"5\n{json.dumps(none)}\n{json.dumps(other)}\n")
    (folder / f"{DEAD.replace('-1', '-2')}.jsonl").mkdir()
    assert clean_leftovers().changes == ()
    assert not path.exists()


def test_nobody_else_can_open_the_lock_and_so_hold_it(folder: Path) -> None:
    (folder / "lock").touch(mode=0o644)  # as earlier versions left it
    with ledger.exclusive():
        assert (folder / "lock").stat().st_mode & 0o777 == 0o600


def test_a_lock_that_is_never_given_back_is_told_and_then_works_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "_PATIENCE", 0.05)
    held = subprocess.Popen(
        ["flock", folder / "lock", "sh", "-c", "echo held; read end"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert held.stdout is not None and held.stdout.readline() == b"held\n"
    with pytest.raises(KernelRefused, match=r"has held the lock .*/lock for 0 s: see which"), ledger.exclusive():
        pytest.fail("it is held")
    held.communicate(b"\n")
    with ledger.exclusive():
        pass


def test_who_waits_for_the_lock_gets_it(folder: Path) -> None:
    """Two of a hundred turns each: nobody is inside beside another."""
    inside: list[int] = []

    def turns(number: int) -> None:
        for _ in range(100):
            with ledger.exclusive():
                inside.append(number)
                assert inside == [number]
                inside.clear()

    with ThreadPoolExecutor(2) as both:
        list(both.map(turns, range(2)))
