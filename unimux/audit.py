"""Looking into a node's state folder without disturbing the node: the audit behind `unimux ssa whois` (UM-GEN-3).

A running node holds the lock of its folder; an audit takes no lock and writes nothing.  It reads the state file, which
is only ever replaced as a whole, and the journal, which only grows.  What it says was true a moment ago: counters are on
disk before they are used, so every address that anybody has seen is found.

Works on a copy of the folder too, on another machine for instance; `Audit.warnings` says so.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv6Address
from pathlib import Path
from typing import NoReturn

from .diskstate import Stored, Surroundings, claims_in, read_claims, read_stored
from .errors import WrongUsage
from .journal import JournalPolicy, Row, SessionJournal, Whois, read_rows
from .source import AddressSource
from .state import Epoch, StateError

JOURNAL = "journal.jsonl"
"""Name of the journal in a state folder; `.1` is the newest file put aside."""


class StateView:
    """The epochs and claims of a state folder, to be read only; see `unimux.state.State`."""

    def __init__(self, directory: Path) -> None:
        try:
            self.stored: Stored = read_stored(directory / "state.json")
            self.claimed = claims_in(read_claims(directory / "claimed")[0])
        except FileNotFoundError:
            raise StateError(_missing(directory)) from None
        except PermissionError as error:
            raise StateError(
                f"{error.filename} may be read by its owner only: ask as that user, or as root."
            ) from error
        except OSError as error:
            raise StateError(f"{error.filename} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise StateError(f"{directory / 'state.json'} is damaged ({error}): use a copy from a backup.") from None

    @property
    def epochs(self) -> Sequence[Epoch]:
        """All epochs, oldest first."""
        return self.stored.epochs

    @property
    def epoch(self) -> Epoch:
        """The last epoch."""
        return self.stored.epochs[-1]

    def lease(self, sequence: str, count: int) -> NoReturn:
        """Refused."""
        self.guard()

    def forget(self, sequence: str) -> None:
        """Refused."""
        self.guard()

    def claim(self, address: bytes) -> None:
        """Refused."""
        self.guard()

    def rekey(self, cause: str, generator: str | None = None) -> NoReturn:
        """Refused."""
        self.guard()

    def guard(self) -> NoReturn:
        """Nothing is issued from here."""
        raise StateError("this state is open for reading only")

    def close(self) -> None:
        """Nothing to do."""


def _missing(directory: Path) -> str:
    if not directory.exists():
        return f"There is no folder {directory}: name the one that the node was started with (--state)."
    return f"{directory} holds no state of a node: name the folder that the node was started with (--state)."


class _JournalView(SessionJournal):
    """The journal of a state folder, to be read only."""

    def __init__(self, path: Path, source: AddressSource) -> None:
        super().__init__(source, JournalPolicy(), time.time)
        self._path = path

    def files(self) -> list[Path]:
        """The files that exist, oldest first."""
        aside = []
        for path in self._path.parent.glob(self._path.name + ".*"):
            if found := re.fullmatch(re.escape(self._path.name) + r"\.(\d+)", path.name):
                aside.append((int(found[1]), path))
        present = [self._path] if self._path.exists() else []
        return [path for _, path in sorted(aside, reverse=True)] + present

    def rows(self) -> Iterable[Row]:
        return read_rows(self.files())

    def _write(self, row: Row) -> NoReturn:
        raise StateError("this journal is open for reading only")


class Audit:
    """What a state folder knows of addresses.  Raises `StateError` with a sentence where there is no state to read.

    warnings: what whoever reads the answers should know, each one sentence.
    """

    def __init__(self, directory: Path, here: Callable[[], Surroundings] = Surroundings.here) -> None:
        self.state = StateView(directory)
        self._journal = _JournalView(directory / JOURNAL, AddressSource(self.state))
        self.warnings: list[str] = []
        if self.state.stored.surroundings.machine != here().machine:
            self.warnings.append("This state was written on another machine; what that one did since is not in it.")
        if not self._journal.files():
            self.warnings.append("This folder has no journal: addresses are found, sessions are not on record.")
        self.holder = lock_holder(directory)

    def whois(self, address: str) -> Whois:
        """Everything on record about an address; raises `WrongUsage` for text that is no IPv6 address."""
        try:
            wanted = IPv6Address(address.strip().strip("[]"))
        except ValueError:
            raise WrongUsage(f"{address!r} is no IPv6 address.") from None
        if wanted.scope_id is not None:
            raise WrongUsage(
                f"A node's one-time addresses are of no single link: write {address!r} without the part behind %."
            )
        return self._journal.whois(wanted.packed)


def lock_holder(directory: Path) -> int | None:
    """The process id of the node that works with a state folder now; None where none does, or nobody may know."""
    with suppress(OSError, ValueError):
        handle = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(os.pread(handle, 20, 0).decode() or 0) or None
        finally:
            os.close(handle)
    return None
