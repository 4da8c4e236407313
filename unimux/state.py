"""What a node must remember so that it never issues an address twice: key epochs and leased counters (UM-GEN-6).

Model.  Counters are drawn under a *key epoch*.  They are leased in blocks, and a start goes on at the end of the last block:
whatever happens between the draw and the use of a counter, it is lost, never issued again.

A lease is only as good as the memory behind it.  Where that is in doubt, a new epoch with a fresh random key begins,
and the old ones are kept: for the audit, and because every identifier of the new epoch is held against them
(`unimux.source`).  How far an old epoch had come is then in doubt too, so the old epoch counts as having issued
2**(bits - 16) counters more than it had on record: far beyond any branch of history that was lost, at the price of
passing over one candidate in 65,536.  Of a prefix longer than /88 it is a greater share, up to one in 1,024 (`source.in_doubt`);
no share would be enough for every history there (docs/limits.md).

`diskstate` keeps this in a directory, and decides what puts it in doubt.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence, Set
from typing import Protocol

import msgspec

from .errors import UnimuxError
from .generators import load_generator
from .prp import KEY_LENGTH

DEFAULT_BLOCK = 1 << 14
"""Counters leased with one write to disk."""


class StateError(UnimuxError):
    """The state cannot be read, written or trusted; the message is one sentence for the user."""

    exit_code = 3


class StateLocked(StateError):
    """Another process works with this state."""


class Epoch(msgspec.Struct):
    """One key and what has been issued under it.  `began` is wall-clock time in seconds since 1970."""

    number: int
    key: bytes
    generator: str
    began: float
    cause: str
    leased: dict[str, int] = {}

    def reached(self, sequence: str) -> int:
        """The first counter of a sequence that was never leased."""
        return self.leased.get(sequence, 0)


class State(Protocol):
    """Where epochs and leases are kept: on disk, or in memory for tests and simulations."""

    @property
    def epochs(self) -> Sequence[Epoch]:
        """All epochs, oldest first."""

    @property
    def claimed(self) -> Set[bytes]:
        """The addresses on record that no counter stands for."""

    @property
    def epoch(self) -> Epoch:
        """The epoch that counters are drawn under now: the last."""

    def lease(self, sequence: str, count: int) -> range:
        """The next `count` counters of a sequence: nobody else ever gets them, whatever happens next."""

    def forget(self, sequence: str) -> None:
        """Drop the record of a sequence that will never be drawn from again."""

    def claim(self, address: bytes) -> None:
        """Remember one address that no counter stands for."""

    def rekey(self, cause: str, generator: str | None = None) -> Epoch:
        """Begin a new key epoch."""

    def guard(self) -> None:
        """Raise `StateError` when counters leased from here must no longer be used."""

    def close(self) -> None:
        """End the use of the state."""


class MemoryState:
    """State that lives as long as the object: for tests, simulations, and nodes that may forget.

    `entropy(n)` gives n random bytes; give a seeded one to repeat a run.  `wall` tells when an epoch after the first begins.
    Raises `GeneratorError` when the generator cannot be loaded.
    """

    def __init__(
        self,
        entropy: Callable[[int], bytes] = os.urandom,
        generator: str = "permutation",
        wall: Callable[[], float] = time.time,
    ) -> None:
        load_generator(generator)  # as `DiskState` does
        self._entropy = entropy
        self._wall = wall
        self._process = os.getpid()
        self.claimed: set[bytes] = set()
        self.epochs = [Epoch(0, entropy(KEY_LENGTH), generator, 0.0, "in memory")]

    @property
    def epoch(self) -> Epoch:
        return self.epochs[-1]

    def lease(self, sequence: str, count: int) -> range:
        begin = self.epoch.reached(sequence)
        self.epoch.leased[sequence] = begin + count
        return range(begin, begin + count)

    def forget(self, sequence: str) -> None:
        self.epoch.leased.pop(sequence, None)

    def claim(self, address: bytes) -> None:
        self.claimed.add(address)

    def rekey(self, cause: str, generator: str | None = None) -> Epoch:
        last = self.epoch
        key = self._entropy(KEY_LENGTH)
        self.epochs.append(Epoch(last.number + 1, key, generator or last.generator, self._wall(), cause))
        return self.epoch

    def guard(self) -> None:
        """See `State.guard`: a forked child would repeat what its parent issues."""
        refuse_fork(self._process)

    def close(self) -> None:
        """Nothing to do."""


_process = os.getpid()


def _forked() -> None:
    global _process
    _process = os.getpid()


os.register_at_fork(after_in_child=_forked)  # each address asks, and the system call is the larger part of drawing one


def refuse_fork(process: int) -> None:
    """Raise `StateError` in a process that is not the one with this id: Python has forked it off.

    A fork by other means, as by a library in C that does not tell Python of it, is not noticed.
    """
    if _process != process:
        raise StateError("a forked process cannot go on with its parent's addresses; open a state of its own")
