"""Removing what owners that were killed have left behind.

A dead owner can leave four things: programs that it ran (compat/programs makes them die with it, but a program may fork),
namespaces under /run/netns, folders for its files (scratch.py), and open ledger entries about namespaces shared with others.
The living are recognised by process id and start time and are never touched.  A process of another PID namespace, say in a
container, is left alone: its owner's id means nothing here.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import KernelError, KernelRefused
from .ledger import Entry, all_ledgers, exclusive
from .namespaces import NETNS_DIR, Namespace, remove_namespace
from .owner import Owner, stat_fields
from .scratch import remove_scratch
from .undo import UNDO


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What `clean_leftovers` has removed: namespaces by name, processes by id, changes as "kind: facts", folders by path."""

    namespaces: tuple[str, ...] = ()
    processes: tuple[int, ...] = ()
    changes: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.namespaces or self.processes or self.changes or self.folders)


def clean_leftovers() -> Leftovers:
    """Remove everything whose owner is dead; call it at every start.  Never touches what a living owner holds."""
    try:
        with exclusive():
            processes = _end_processes()
            changes = _undo_changes()
            return Leftovers(_remove_namespaces(), processes, changes, remove_scratch())
    except KernelError:
        if os.geteuid() == 0:
            raise
        return Leftovers()  # an ordinary user cannot have left anything


def _end_processes() -> tuple[int, ...]:
    """Kill the programs that a dead owner started: they carry its tag in their environment."""
    ended: list[int] = []
    spared, here = _own_line(), _pid_namespace("self")
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) in spared:
            continue
        try:
            if _pid_namespace(folder.name) != here:
                continue
        except OSError:  # it has just ended
            continue
        owner = Owner.of_program(int(folder.name))
        if owner is not None and not owner.alive() and Owner.of_pid(int(folder.name)) is not None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(int(folder.name), signal.SIGKILL)
                ended.append(int(folder.name))
    return tuple(ended)


def _pid_namespace(process: str) -> str:
    return os.readlink(f"/proc/{process}/ns/pid")


def _own_line() -> set[int]:
    """This process and its ancestors, which may have been started by a program that a dead owner ran."""
    line: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in line:
        line.add(pid)
        try:
            pid = int(stat_fields(pid)[1])
        except OSError:
            break
    return line


def _undo_changes() -> tuple[str, ...]:
    undone: list[str] = []
    for owner, path, entries in all_ledgers():
        if owner.alive():
            continue
        known = [entry for entry in entries if entry.kind in UNDO]
        for entry in reversed(known):
            with _find(entry.inode) or Namespace.current() as where:
                if where.inode == entry.inode:  # else the namespace has gone, and the change with it
                    try:
                        UNDO[entry.kind](where, entry.facts)
                    except (KeyError, TypeError, ValueError):  # a fact is missing or of another type: no change of ours
                        continue
                    undone.append(_text(entry))
        if known == entries:
            path.unlink(missing_ok=True)  # else another version knows how to undo the rest
    return tuple(undone)


def _text(entry: Entry) -> str:
    return f"{entry.kind}: " + " ".join(f"{key}={value}" for key, value in entry.facts.items() if value is not None)


def _find(inode: int) -> Namespace | None:
    """A handle of the namespace with this inode, if any process lives in it or any name holds it."""
    names = list(NETNS_DIR.iterdir()) if NETNS_DIR.is_dir() else []
    for path in [Path("/proc/thread-self/ns/net"), *names, *Path("/proc").glob("[0-9]*/ns/net")]:
        try:
            if path.stat().st_ino == inode:
                return Namespace(path)
        except (OSError, KernelRefused):
            continue
    return None


def _remove_namespaces() -> tuple[str, ...]:
    removed: list[str] = []
    for path in sorted(NETNS_DIR.iterdir()) if NETNS_DIR.is_dir() else []:
        owner = Owner.of_namespace(path.name)
        if owner is not None and not owner.alive():
            remove_namespace(path.name)
            removed.append(path.name)
    return tuple(removed)
