"""What this process has changed in namespaces that it shares with others, written down before it is done.

A namespace of our own takes everything inside it along when it goes.  A link, route or sysctl in a namespace that
others live in does not, so each is recorded, then made; and undone, then struck out.  The record is a file of JSON
lines named after its owner (owner.py); it is unlinked when nothing is open, so a file whose owner is dead is exactly
the list of what that owner left behind, and `clean_leftovers` (leftovers.py) undoes it with the same functions.

Making and undoing shared state happens under one lock of the machine (`exclusive`), so that two owners that end at
the same moment agree who is the last.

Invariant: for every change there is an open entry from before it begins until after it is undone.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from .errors import KernelRefused, refusal
from .owner import Owner

RUN_DIR = Path("/run/unimux")
_PRIVATE = 0o600
_PATIENCE = 30.0
"""Seconds that one waits for the others: a change takes milliseconds, undoing what a killed owner left takes little more."""
_PAUSE = 0.005
Facts: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One change: what kind, in which namespace (`inode`), and the facts that its undoing needs."""

    number: int
    kind: str
    inode: int
    facts: Facts


class Ledger:
    """The open entries of one owner.  Threads of that owner may share it."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.path = RUN_DIR / f"{owner.tag}.jsonl"
        self._numbers = itertools.count(1)
        self._open: set[int] = set()
        self._lock = threading.Lock()

    def record(self, kind: str, inode: int, facts: Facts) -> int:
        """Write an entry down, durable against the death of this process; returns its number."""
        with self._lock:
            number = next(self._numbers)
            self._append({"number": number, "kind": kind, "inode": inode, "facts": facts})
            self._open.add(number)
            return number

    def strike(self, number: int) -> None:
        """The change is undone.  The last one takes the file with it."""
        with self._lock:
            self._open.discard(number)
            if self._open:
                self._append({"struck": number})
            else:
                self.path.unlink(missing_ok=True)

    def _append(self, row: Facts) -> None:
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise refusal(f"write {self.path}", error.errno or 0) from error


@contextmanager
def exclusive() -> Iterator[None]:
    """One process of the machine at a time; not reentrant.  Raises `KernelError` where another one has it for too long."""
    path = RUN_DIR / "lock"
    try:
        RUN_DIR.mkdir(mode=0o755, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
        os.fchmod(lock, _PRIVATE)  # who can open a file can lock it
    except OSError as error:
        raise refusal(f"write below {RUN_DIR}", error.errno or 0) from error
    try:
        _wait_for(lock, path)
        yield
    finally:
        os.close(lock)


def _wait_for(lock: int, path: Path) -> None:
    pause = threading.Event()
    for _ in range(round(_PATIENCE / _PAUSE)):
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        pause.wait(_PAUSE)
    raise KernelRefused(
        f"Another process has held the lock {path} for {_PATIENCE:.0f} s: see which (`fuser {path}`), and end it.",
        errno.EBUSY,
    )


_ledgers: dict[int, Ledger] = {}


def ledger() -> Ledger:
    """The ledger of this process; a forked child gets its own."""
    pid = os.getpid()
    if pid not in _ledgers:
        _ledgers.clear()
        _ledgers[pid] = Ledger(Owner.current())
    return _ledgers[pid]


def all_ledgers() -> Iterator[tuple[Owner, Path, list[Entry]]]:
    """Every owner with its open entries, in the order they were made."""
    for path in sorted(RUN_DIR.glob("*.jsonl")):
        owner = Owner.of_tag(path.stem)
        if owner is not None and path.is_file():
            yield owner, path, _open_entries(path)


def _open_entries(path: Path) -> list[Entry]:
    entries: dict[int, Entry] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            row = msgspec.json.decode(line, type=dict[str, Any])
            if "struck" in row:
                entries.pop(msgspec.convert(row["struck"], int), None)
            else:
                entry = msgspec.convert(row, Entry)
                entries[entry.number] = entry
        except ValueError:  # no row of ours, or its writer died in the middle of it, hence before the change
            continue
    return list(entries.values())
