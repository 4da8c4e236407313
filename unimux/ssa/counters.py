"""How far a sequence of shared-secret addresses has come, kept by each side for itself (UM-GEN-5).

The server's record: `used`, the highest counter that served a session; `reserved`, the first counter that was never on the
link; `ended`, addresses above `used` that were in use and released without a session, and their counters; `epoch`, the key epoch
of the node's state that it was kept under.  The client's: `used`, the highest counter that it reached the server on.  The numbers
are -1 and 0 at first.

A record is on disk before what it says has an effect that lasts: the server's before the session is handed over, the
client's before the connection is.  `CounterFile` writes a record as a whole, and one process has it at a time.  Where it cannot
be written, the session under way has served all the same: the old record is put aside, and who reads it there passes over all
that was reserved.
"""

from __future__ import annotations

import fcntl
import hmac
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from tapstack.randomness import derive_key

from ..durable import replace_durably
from ..state import StateError


class Counters(Protocol):
    """A record; `save` is durable when it returns."""

    used: int
    reserved: int
    ended: dict[str, int]
    epoch: str

    def save(self) -> None:
        """Make the present values durable; raises `StateError`."""

    def close(self) -> None:
        """Give the record back to others."""


class MemoryCounters:
    """A record that lives as long as the object, for tests and simulations."""

    def __init__(self, used: int = -1, reserved: int = 0) -> None:
        self.used = used
        self.reserved = reserved
        self.ended: dict[str, int] = {}
        self.epoch = ""

    def save(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class _Record(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    used: int
    reserved: int
    ended: dict[str, int] = {}
    epoch: str = ""


def counter_file_name(secret: bytes, side: str, service: str, client: str) -> str:
    """The name of a record's file; it says nothing of the secret to those who do not have it.

    >>> counter_file_name(bytes(32), "client", "ssh", "alice") == counter_file_name(bytes(32), "server", "ssh", "alice")
    False
    """
    label = "\0".join((side, service, client)).encode()
    return f"secret-{hmac.digest(derive_key(secret, 'counter file'), label, 'sha256')[:8].hex()}.json"


def _aside(path: Path) -> Path:
    """Where a record stands that could not be written anew."""
    return path.with_suffix(".doubted")


def _read(path: Path) -> _Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except FileNotFoundError:
        return None


def _doubted(path: Path) -> _Record | None:
    """A record that was put aside: any counter that was reserved may have served since."""
    record = _read(_aside(path))
    return record and _Record(max(record.used, record.reserved - 1), record.reserved)


class CounterFile:
    """A record on disk.  Raises `StateError` where it cannot be read or written, or another process has it.

    A record that is damaged is an error, not a new beginning: counters that were used must not come again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: int | None = None
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            record = _read(path) or _doubted(path) or _Record(-1, 0)
        except BlockingIOError:
            self.close()
            raise StateError(f"Another process works with the counters {path}: wait for it, or stop it.") from None
        except OSError as error:
            self.close()
            raise StateError(f"The counters {path} cannot be read: {error.strerror}.") from error
        except ValueError:
            self.close()
            raise StateError(
                f"The counters {path} are damaged: remove the file and give both sides a new secret "
                "(`unimux ssa keygen`), so that no address comes twice."
            ) from None
        self.used, self.reserved, self.ended = record.used, record.reserved, record.ended
        self.epoch = record.epoch

    def save(self) -> None:
        """Make the present values durable."""
        if self._lock is None:
            raise StateError(f"the counters {self._path} were given back")
        self.ended = {address: counter for address, counter in self.ended.items() if counter > self.used}
        try:
            record = _Record(self.used, self.reserved, self.ended, self.epoch)
            replace_durably(self._path, msgspec.json.encode(record))
            _aside(self._path).unlink(missing_ok=True)
        except OSError as error:
            with suppress(OSError):  # a name can be changed on a full disk, as a rule
                self._path.rename(_aside(self._path))
            raise StateError(f"The counters {self._path} cannot be written: {error.strerror or error}.") from error

    def close(self) -> None:
        """Let another process have it."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def __enter__(self) -> CounterFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
