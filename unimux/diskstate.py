"""A node's state on disk: durable before use, refused to a second process, and doubted where it may be old (UM-GEN-6).

The end of a block of counters is on disk, fsynced, before the first counter of the block is handed out.

What puts this memory in doubt is decided by `doubts`.  The state is stamped in two places: the state directory, and a
small *witness* file on another file system, by default under /run, which forgets at a restart of the machine.

* State missing or damaged: seen, by its absence or its checksum.
* Directory copied, or restored from a backup: seen, by the inode and change time of the file `identity`, which no restore
  can set back.  An image (container layer, disk snapshot) that is started twice keeps them; it is then seen by the
  machine id or the host name, if they differ.
* State file put back in place: seen, because the witness is ahead of it; after a restart of the machine see next.
* Disk rolled back, then a restart: nothing on the machine remembers.  Therefore *every* restart of the machine begins
  an epoch, unless the witness is kept on storage that outlives the machine (`witness_lasts`).
* Running machine resumed from a snapshot of its memory: **not seen**, this process is rolled back too.  Whoever resumes
  it calls `rekey` of the node's state, or stops the command, touches the file `identity` and starts it again.  Two machines
  resumed from one snapshot: not seen either; on one link DAD keeps them from using one address, at the price of failed
  attempts until one of them is rekeyed.
* The file `claimed` lost, damaged, cut or put back from earlier: seen, by how many addresses it had and their hash, which both
  places remember; the witness with each claim.  What is left of it still counts, and `lost_claims` says that it is not all.
* The process forked: seen, by the process id; the child is refused.

Two processes on one directory are refused by a lock (flock, which ends with the process, so no stale lock is left).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from .durable import replace_durably, sync_directory
from .generators import load_generator
from .prp import KEY_LENGTH
from .state import Epoch, StateError, StateLocked, refuse_fork

VERSION = 1
ADDRESS = 16
"""Bytes of one claim."""
_MARK = struct.Struct("!Q32s")
_LOCK_TRIES = 50
_LOCK_PAUSE = 0.02
"""Seconds between two tries, while somebody only looks."""


class Surroundings(msgspec.Struct, frozen=True):
    """What tells this machine, and this run of it, from others."""

    machine: str
    boot: str

    @classmethod
    def here(cls) -> Surroundings:
        """Those of this process: machine id and host name, and the kernel's boot id."""
        machine = _read_line("/etc/machine-id") + "/" + socket.gethostname()
        return cls(machine, _read_line("/proc/sys/kernel/random/boot_id"))


class Mark(msgspec.Struct, frozen=True):
    """How many addresses the file of claims had at least, and the hash of those.

    >>> Mark.of(bytes(32)).fits(bytes(48)), Mark.of(bytes(32)).fits(bytes(16))
    (True, False)
    """

    count: int = 0
    digest: str = ""

    @classmethod
    def of(cls, claims: bytes) -> Mark:
        """That of a file with such a content."""
        return cls(len(claims) // ADDRESS, hashlib.sha256(claims).hexdigest())

    @classmethod
    def unpack(cls, data: bytes) -> Mark:
        """What `pack` made; raises ValueError for anything else."""
        if len(data) != _MARK.size:
            raise ValueError(f"a mark has {_MARK.size} bytes, not {len(data)}")
        count, digest = _MARK.unpack(data)
        return cls(count, digest.hex())

    def pack(self) -> bytes:
        """As many bytes for any, so that one is written over another."""
        return _MARK.pack(self.count, bytes.fromhex(self.digest))

    def fits(self, claims: bytes) -> bool:
        """Whether a file begins with what this is the mark of; what was added since is no loss."""
        return not self.count or Mark.of(claims[: self.count * ADDRESS]) == self


class Stamp(msgspec.Struct, frozen=True):
    """What the second place remembers of the state: how far it was, and in which run of the machine."""

    sequence: int
    boot: str


class Stored(msgspec.Struct):
    """The state file.  `identity`: inode and change time of the file `identity` beside it.  `claims`: the mark of `claimed`."""

    version: int
    id: str
    sequence: int
    surroundings: Surroundings
    identity: str
    epochs: list[Epoch]
    claims: Mark = Mark()


def doubts(
    stored: Stored, stamp: Stamp | None, here: Surroundings, identity: str, *, witness_lasts: bool
) -> str | None:
    """Why a stored state cannot be continued under its key; None where it can.

    The state is written before its stamp, and a lease is handed out after both: a stamp one behind is a crash
    between the two, whose lease was never used.
    """
    if stored.surroundings.machine != here.machine:
        return "the state comes from another machine (a clone)"
    if stored.identity != identity:
        return "the state directory was copied or restored"
    if stored.surroundings.boot != here.boot and not witness_lasts:
        return "the machine has restarted: a disk rolled back before that would leave no trace"
    if stamp is None:
        return "the second stamp is missing"
    if stamp.sequence > stored.sequence:
        return f"the state was rolled back ({stamp.sequence - stored.sequence} leases behind its second stamp)"
    if stamp.sequence < stored.sequence - 1:
        return "the second stamp was rolled back"
    return None


class DiskState:
    """State in a directory, durable before use (UM-GEN-6).  Use as a context manager, or `close` it.

    `witness` is the directory of the second stamp; None looks for one under /run, and where there is none every start
    begins a new epoch.  `witness_lasts` says that it survives restarts and is never rolled back with the state.
    `wall` gives seconds since 1970, for the record only.

    Raises `StateLocked` when another process has the state, `StateError` when the directory cannot be used,
    `GeneratorError` when the generator cannot be loaded.
    """

    def __init__(
        self,
        directory: Path,
        *,
        generator: str = "permutation",
        witness: Path | None = None,
        witness_lasts: bool = False,
        surroundings: Surroundings | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
        wall: Callable[[], float] = time.time,
    ) -> None:
        load_generator(generator)  # a name that leads nowhere must not become an epoch
        self.directory = directory
        self._entropy = entropy
        self._wall = wall
        self._process = os.getpid()
        self._broken: str | None = None
        self._claims: int | None = None
        self._marked: int | None = None
        self._here = surroundings or Surroundings.here()
        self.claimed: set[bytes] = set()
        self.lost_claims = False
        """Whether addresses were claimed before this start that are not in `claimed`, or may have been."""
        self.doubt: str | None = None
        """Why this start began a new key epoch; None where the old one goes on, and on the very first start."""
        self._handles = [self._take_lock()]
        try:
            self._witness = witness or _second_place()
            self._open(generator, witness_lasts=witness_lasts)
        except BaseException as error:
            self._broken = "it was not opened"
            self.close()
            if isinstance(error, OSError):
                raise StateError(f"the state in {directory} cannot be mended: {error.strerror or error}") from error
            raise

    # -- use ---------------------------------------------------------------------------------------

    @property
    def epochs(self) -> Sequence[Epoch]:
        """All epochs, oldest first."""
        return self._stored.epochs

    @property
    def epoch(self) -> Epoch:
        """The epoch that counters are drawn under now."""
        return self._stored.epochs[-1]

    def lease(self, sequence: str, count: int) -> range:
        """The next `count` counters of a sequence; durable when this returns.

        Raises `StateError` when they cannot be made durable: then none are handed out.
        """
        self.guard()
        begin = self.epoch.reached(sequence)
        self.epoch.leased[sequence] = begin + count
        self._write()
        return range(begin, begin + count)

    def forget(self, sequence: str) -> None:
        """Drop the record of a sequence that will never be drawn from again; written with the next lease."""
        self.epoch.leased.pop(sequence, None)

    def claim(self, address: bytes) -> None:
        """Remember one address that no counter stands for; durable when this returns."""
        self.guard()
        if address in self.claimed:
            return
        try:
            if self._claims is None:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                self._claims = os.open(self.directory / "claimed", flags, 0o600)
                self._handles.append(self._claims)
                sync_directory(self.directory)
            if os.write(self._claims, address) != len(address):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._claims)
        except OSError as error:
            raise self._failed(error) from error
        self.claimed.add(address)
        self._hash.update(address)
        self._count += 1
        self._remember_claims()

    def rekey(self, cause: str, generator: str | None = None) -> Epoch:
        """Begin a new key epoch, for instance after this machine was resumed from a snapshot; durable on return."""
        self.guard()
        last = self.epoch
        if generator is not None:
            load_generator(generator)
        self._stored.epochs.append(self._new_epoch(last.number + 1, generator or last.generator, cause))
        self._write()
        return self.epoch

    def guard(self) -> None:
        """Raise `StateError` when counters leased from here must no longer be used: closed, failed, or forked."""
        if self._broken is not None:
            raise StateError(f"the state in {self.directory} cannot be used: {self._broken}")
        refuse_fork(self._process)

    def close(self) -> None:
        """End the use of the state and give up the lock; what was leased and not drawn is lost."""
        if self._broken is None and self._process == os.getpid() and self._stored.claims != self._mark():
            with suppress(StateError):  # the witness knows
                self._write()
        self._broken = self._broken or "it was closed"
        handles, self._handles = self._handles, []
        for handle in handles:
            os.close(handle)

    def __enter__(self) -> DiskState:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- inside ------------------------------------------------------------------------------------

    def _failed(self, error: OSError) -> StateError:
        # What is on disk is now unknown, so nothing more is issued from here.
        self._broken = f"writing it failed ({error.strerror or error})"
        return StateError(f"the state in {self.directory} cannot be written: {error.strerror or error}")

    def _take_lock(self) -> int:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            refuse_foreign(self.directory)
            lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"{self.directory} cannot hold the node's state: {error.strerror}.") from error
        try:
            _lock_alone(lock)
        except OSError as error:
            holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
            os.close(lock)
            who = f" (process {holder})" if holder else ""
            raise StateLocked(
                f"another node{who} uses the state in {self.directory}: stop it, or give this one a directory of its own"
            ) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        return lock

    def _open(self, generator: str, *, witness_lasts: bool) -> None:
        identity = self._identity()
        stored, cause = self._load()
        known: list[Mark] = []
        if stored is not None:
            stamp = self._read_stamp(stored.id)
            known = [stored.claims, *self._read_mark(stored.id)]
            cause = doubts(stored, stamp, self._here, identity, witness_lasts=witness_lasts) or ""
            if not cause and stored.epochs[-1].generator != generator:
                cause = f"the generator is now {generator}"
        if stored is None:
            stored = Stored(VERSION, self._entropy(16).hex(), 0, self._here, identity, [])
        elif stored.identity != identity or stored.surroundings.machine != self._here.machine:
            stored.id = self._entropy(16).hex()  # a copy has a witness of its own
        stored.surroundings = self._here
        stored.identity = identity
        self._stored = stored
        self._load_claims(known)
        if self.lost_claims:
            cause = cause or "addresses that were claimed are no longer on record in the file claimed"
        if cause:
            again = bool(stored.epochs or self.claimed or "damaged" in cause)
            number = stored.epochs[-1].number + 1 if stored.epochs else int(again)  # 0 only where nothing was before
            self.doubt = cause if again else None
            stored.epochs.append(self._new_epoch(number, generator, cause))
        self._write()
        self._remember_claims()

    def _new_epoch(self, number: int, generator: str, cause: str) -> Epoch:
        return Epoch(number, self._entropy(KEY_LENGTH), generator, self._wall(), cause)

    def _identity(self) -> str:
        """Inode and change time of a file that is written once: a copy of it has others."""
        try:
            handle = os.open(self.directory / "identity", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            status = os.fstat(handle)
            os.close(handle)
        except OSError as error:
            raise StateError(f"{self.directory} cannot hold the node's state: {error.strerror}.") from error
        return f"{status.st_ino}/{status.st_ctime_ns}"

    def _load(self) -> tuple[Stored | None, str]:
        path = self.directory / "state.json"
        try:
            return read_stored(path), ""
        except FileNotFoundError:
            return None, "there was no state"
        except OSError as error:
            raise StateError(f"{path} cannot be read: {error.strerror}") from error
        except ValueError:  # msgspec's and Unicode's errors are ValueErrors
            aside = path.with_name(f"state.damaged-{self._entropy(4).hex()}.json")
            try:  # what is damaged stays until something new has taken its place: else the next start knows of nothing
                os.link(path, aside)
            except OSError:
                path.rename(aside)
            return None, f"the state was damaged (kept as {aside.name})"

    def _load_claims(self, known: list[Mark]) -> None:
        """Read the file of claims; `known` is what is remembered of it, nothing where there was no state."""
        path = self.directory / "claimed"
        try:
            data, torn = read_claims(path)
        except OSError as error:
            raise StateError(f"{path} cannot be read: {error.strerror}") from error
        if torn:  # a crash in the middle of a write: the address was never used
            os.truncate(path, path.stat().st_size - torn)
        self.lost_claims = not all(mark.fits(data) for mark in known) if known else bool(data)
        self.claimed = claims_in(data)
        self._count = len(data) // ADDRESS
        self._hash = hashlib.sha256(data)

    def _mark(self) -> Mark:
        return Mark(self._count, self._hash.hexdigest())

    def _read_stamp(self, name: str) -> Stamp | None:
        if self._witness is None:
            return None
        try:
            return msgspec.json.decode((self._witness / f"{name}.json").read_bytes(), type=Stamp)
        except (OSError, ValueError):
            return None

    def _write(self) -> None:
        self._stored.sequence += 1
        self._stored.claims = self._mark()
        body = msgspec.json.encode(self._stored)
        data = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
        stamp = msgspec.json.encode(Stamp(self._stored.sequence, self._here.boot))
        try:
            replace_durably(self.directory / "state.json", data)
            if self._witness is not None:
                self._witness.mkdir(mode=0o700, parents=True, exist_ok=True)
                replace_durably(self._witness / f"{self._stored.id}.json", stamp)
        except OSError as error:
            raise self._failed(error) from error

    def _read_mark(self, name: str) -> list[Mark]:
        """What the second place remembers of the file of claims, if it does."""
        if self._witness is not None:
            with suppress(OSError, ValueError):
                return [Mark.unpack((self._witness / f"{name}.claims").read_bytes())]
        return []

    def _remember_claims(self) -> None:
        """Write the mark of the claims to the second place, in place: each claim waits for it."""
        if self._witness is None:
            return
        try:
            if self._marked is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
                self._marked = os.open(self._witness / f"{self._stored.id}.claims", flags, 0o600)
                self._handles.append(self._marked)
                sync_directory(self._witness)
            os.pwrite(self._marked, self._mark().pack(), 0)
            os.fsync(self._marked)
        except OSError as error:
            raise self._failed(error) from error


class _Version(msgspec.Struct):
    version: int


def read_stored(path: Path) -> Stored:
    """The content of a state file.

    Raises OSError, ValueError where it is damaged, `StateError` where it is of another version.
    """
    checksum, _, body = path.read_bytes().partition(b"\n")
    if checksum.decode() != hashlib.sha256(body).hexdigest():
        raise ValueError("wrong checksum")
    if (version := msgspec.json.decode(body, type=_Version).version) != VERSION:
        raise StateError(f"{path} was written by another version of this program (format {version})")
    stored = msgspec.json.decode(body, type=Stored)
    if not stored.epochs:
        raise ValueError("no epoch")
    return stored


def read_claims(path: Path) -> tuple[bytes, int]:
    """The whole addresses in a file of claims, which may be missing, and the number of bytes behind them.  Raises OSError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return b"", 0
    torn = len(data) % ADDRESS
    return data[: len(data) - torn], torn


def claims_in(data: bytes) -> set[bytes]:
    """The addresses in what `read_claims` gives."""
    return {data[n : n + ADDRESS] for n in range(0, len(data), ADDRESS)}


def refuse_foreign(directory: Path) -> None:
    """Raise `StateError` for a folder that holds other things and no state: a slip of the hand, as a rule."""
    names = {path.name for path in directory.iterdir()}
    if names and not names & {"lock", "state.json", "identity"}:
        raise StateError(
            f"{directory} holds other files ({min(names)}, for one) and no state of a node: name a new or empty folder."
        )


def _lock_alone(lock: int) -> None:
    """Take the lock of a state directory; raises BlockingIOError where a node has it.  An audit may, for a moment."""
    pause = threading.Event()
    for _ in range(_LOCK_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # beside an audit that can be had, beside a node it cannot
        fcntl.flock(lock, fcntl.LOCK_UN)
        pause.wait(_LOCK_PAUSE)
    raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))


def _read_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _second_place() -> Path | None:
    """A directory on a file system that a rollback of the disk does not reach; None where there is none.

    UNIMUX_WITNESS names another one.
    """
    if named := os.environ.get("UNIMUX_WITNESS"):
        return Path(named)
    for base in (Path("/run"), Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent"))):
        if base.is_dir() and os.access(base, os.W_OK):
            return base / "unimux"
    return None
