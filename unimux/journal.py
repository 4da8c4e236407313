"""Who talked to whom, when, behind which address (UM-GEN-3; the drafts' "information known to administrators").

Model.  A session is the life of one one-time address: its first row is written when the address is taken, further
ones when a connection on it is established, the last when it is released.  Rows are JSON lines.  A row names the
address by (epoch, counter), which only the holder of the key can turn into an address or back; what else it says is
chosen by `JournalPolicy`, and peers' addresses are left out by default.

An address is assigned to a purpose (`unimux.purpose`) right after it was taken: a row says through which front end, for
whom, for which service.  The rows of the same session after it say so again, so that each can be read by itself.

`Journal` writes to files and rotates them by size; `MemoryJournal` keeps rows in a list.  Both listen to the event
stream of a stack (`watch`).

`whois(address)` answers an audit: what the generator says of the address, and every row on file about it.
"""

from __future__ import annotations

import hmac
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import msgspec

from tapstack.events import AddressChanged, ConnectionChanged, Event, EventStream
from tapstack.ipv6.addresses import AddressKind, AddressState
from tapstack.randomness import derive_key
from tapstack.types import address as to_bytes
from tapstack.types import address_text

from .errors import UnimuxError
from .linefile import LineFile
from .purpose import AddressAssigned
from .source import AddressSource, Origin


class JournalError(UnimuxError):
    """The journal cannot be written or read; the message is one sentence for the user."""

    exit_code = 3


class What(StrEnum):
    """What a row tells."""

    TAKEN = "taken"
    ASSIGNED = "assigned"
    CONNECTED = "connected"
    RELEASED = "released"


class Row(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of the journal.  `time` is wall-clock time in seconds since 1970; fields that the policy omits are None.

    An address that no counter stands for (set by an agent) has a keyed `digest` in place of epoch and counter.
    """

    time: float
    what: What
    epoch: int | None = None
    counter: int | None = None
    digest: str | None = None
    kind: str | None = None
    address: str | None = None
    peer: str | None = None
    peer_port: int | None = None
    front_end: str | None = None
    who: str | None = None
    service: str | None = None
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class JournalPolicy:
    """What rows say, and how much of them is kept.

    `addresses`: the one-time address in clear.  `peers`: the peer's address and port.  `who`: the user, key or program
    that a front end names; the front end and the service are always written.
    `causes`: why an address was taken or released; without `peers` no address stands in them.
    `limit` is the size in bytes at which a file is put aside, `keep` how many files put aside are kept.
    `durable`: fsync after each row; without it a crash of the machine (not of the process) can lose the last rows.
    """

    addresses: bool = True
    peers: bool = False
    who: bool = True
    causes: bool = True
    limit: int = 16 << 20
    keep: int = 8
    durable: bool = False


@dataclass(frozen=True, slots=True)
class Whois:
    """The answer of an audit: `origin` is None for an address that no counter of this node stands for."""

    address: str
    origin: Origin | None
    rows: tuple[Row, ...]

    def text(self) -> str:
        """The answer for people."""
        if self.origin is None and not self.rows:
            return f"{self.address} was never an address of this node"
        head = self.address
        if self.origin is not None:
            head += f" is number {self.origin.counter} of key epoch {self.origin.epoch} ({self.origin.generator})"
        if not self.rows:
            return f"{head}; it was reserved, and the journal has no session on it"
        return "\n  ".join([head, *(_row_text(row) for row in self.rows)])


def _row_text(row: Row) -> str:
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(row.time))
    parts = [f"{moment} UTC {row.what}"]
    if row.peer is not None:
        parts.append(f"peer {row.peer}" if row.peer_port is None else f"peer [{row.peer}]:{row.peer_port}")
    shown = (("kind", "kind"), ("front_end", "through"), ("who", "who"), ("service", "service"), ("cause", "cause"))
    parts += [f"{word} {value}" for name, word in shown if (value := getattr(row, name))]
    return ", ".join(parts)


def without_addresses(cause: str) -> str:
    """A cause as it may be written where peers stay unnamed.

    >>> without_addresses("connect to 2001:db8::1"), without_addresses("SYN answered")
    ('connect to …', 'SYN answered')
    """
    return " ".join("…" if _is_address(word) else word for word in cause.split(" "))


def _is_address(word: str) -> bool:
    try:
        ip_address(word.strip("[](),.;").partition("]")[0].partition("%")[0])
    except ValueError:
        return False
    return True


class SessionJournal(ABC):
    """What both journals share: turning events into rows under a policy."""

    def __init__(self, source: AddressSource, policy: JournalPolicy, wall: Callable[[], float]) -> None:
        self.source = source
        self.policy = policy
        self._wall = wall
        self._purposes: dict[str, AddressAssigned] = {}

    def watch(self, events: EventStream) -> Callable[[], None]:
        """Write a row for each session event of a stack from now on; returns the function that ends it."""
        return events.subscribe(self._see)

    def whois(self, address: bytes) -> Whois:
        """Everything this node knows of an address that was, or was not, its own (UM-GEN-3)."""
        origin = self.source.locate(address)
        text = str(IPv6Address(address))
        digest = self._digest(address)

        def about(row: Row) -> bool:
            if origin is not None and (row.epoch, row.counter) == (origin.epoch, origin.counter):
                return row.address is None or row.address == text
            return row.digest == digest

        return Whois(text, origin, tuple(row for row in self.rows() if about(row)))

    @abstractmethod
    def rows(self) -> Iterable[Row]:
        """All rows that are kept, oldest first."""

    @abstractmethod
    def _write(self, row: Row) -> None: ...

    def _see(self, event: Event) -> None:
        if isinstance(event, AddressChanged):
            self._see_address(event)
        elif isinstance(event, AddressAssigned):
            self._see_purpose(event)
        elif isinstance(event, ConnectionChanged) and event.new == "ESTABLISHED":
            peers = self.policy.peers
            local = to_bytes(event.local)
            row = self._row(What.CONNECTED, local, peer=event.remote if peers else None)
            row.peer_port = event.remote_port if peers else None
            if row.epoch is not None or local in self.source.state.claimed:  # a stable address has no sessions here
                self._write(row)

    def _see_address(self, event: AddressChanged) -> None:
        if event.kind not in (AddressKind.EPHEMERAL, AddressKind.SERVICE):
            return
        in_use = (AddressState.PREFERRED, AddressState.DEPRECATED, AddressState.OPTIMISTIC)
        if event.new in in_use and event.old not in in_use:
            what = What.TAKEN
        elif event.old in in_use and event.new not in in_use:
            what = What.RELEASED
        else:
            return
        row = self._row(what, to_bytes(event.address))
        row.kind = event.kind
        if self.policy.causes:
            row.cause = event.cause if self.policy.peers else without_addresses(event.cause)
        if what is What.RELEASED:
            self._purposes.pop(event.address, None)
        self._write(row)

    def _see_purpose(self, event: AddressAssigned) -> None:
        peer = event.destination if self.policy.peers else None
        if any((event.front_end, event.service, event.who and self.policy.who)):
            self._purposes[event.address] = event
        elif peer is None:
            return
        self._write(self._row(What.ASSIGNED, to_bytes(event.address), peer=peer))

    def _row(self, what: What, address: bytes, *, peer: str | None = None) -> Row:
        row = Row(time=self._wall(), what=what, peer=peer)
        if (purpose := self._purposes.get(address_text(address))) is not None:
            row.front_end, row.service = purpose.front_end, purpose.service
            row.who = purpose.who if self.policy.who else None
        origin = self.source.locate(address)
        if origin is not None:
            row.epoch, row.counter = origin.epoch, origin.counter
        else:
            row.digest = self._digest(address)
        if self.policy.addresses:
            row.address = str(IPv6Address(address))
        return row

    def _digest(self, address: bytes) -> str:
        """A name for an address that only the key's holder can test; under the first key, so it outlives epochs."""
        key = derive_key(self.source.state.epochs[0].key, "journal")
        return hmac.digest(key, address, "sha256")[:12].hex()


class MemoryJournal(SessionJournal):
    """A journal that lives as long as the object, for tests and simulations; keeps the last `limit` rows."""

    def __init__(
        self,
        source: AddressSource,
        policy: JournalPolicy | None = None,
        wall: Callable[[], float] = time.time,
        limit: int = 100_000,
    ) -> None:
        super().__init__(source, policy or JournalPolicy(), wall)
        self._rows: list[Row] = []
        self._limit = limit

    def rows(self) -> Iterable[Row]:
        return list(self._rows)

    def _write(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) > self._limit:
            del self._rows[: self._limit // 10 or 1]


class Journal(SessionJournal):
    """A journal in files of JSON lines: `path`, and `path.1` (the newest put aside) to `path.<keep>`.

    Only the owner can read the files.  Raises `JournalError` when `path` cannot be written at the start.  A write that
    fails later (disk full) does not stop traffic: it is counted in `lost` and told once through `complain`.
    """

    def __init__(
        self,
        path: Path,
        source: AddressSource,
        policy: JournalPolicy | None = None,
        *,
        wall: Callable[[], float] = time.time,
        complain: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(source, policy or JournalPolicy(), wall)
        self.path = path
        self.lost = 0
        self._complain = complain
        self._closed = False
        self._encoder = msgspec.json.Encoder()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file: LineFile | None = LineFile(path)
        except OSError as error:
            raise JournalError(f"the journal {path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Close the file; rows after this are counted as lost."""
        self._closed = True
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def files(self) -> list[Path]:
        """The files that exist, oldest first."""
        aside = [self._aside(n) for n in range(self.policy.keep, 0, -1)]
        return [path for path in [*aside, self.path] if path.exists()]

    def rows(self) -> Iterator[Row]:
        """All rows on file, oldest first; see `read_rows`."""
        return read_rows(self.files())

    # -- inside ------------------------------------------------------------------------------------

    def _aside(self, n: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{n}")

    def _write(self, row: Row) -> None:
        line = self._encoder.encode(row) + b"\n"
        try:
            if self._closed:
                raise OSError("it was closed")
            if self._file is None:  # putting the last file aside failed
                self._file = LineFile(self.path)
            if 0 < self._file.size > self.policy.limit - len(line):
                self._rotate()
            self._file.write(line, durable=self.policy.durable)
        except OSError as error:
            self.lost += 1
            if self.lost == 1 and self._complain is not None:
                self._complain(f"the journal {self.path} cannot be written ({error.strerror or error}): rows are lost")

    def _rotate(self) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None
        if self.policy.keep == 0:
            self.path.unlink(missing_ok=True)
        for n in range(self.policy.keep, 1, -1):
            if self._aside(n - 1).exists():
                self._aside(n - 1).replace(self._aside(n))
        if self.policy.keep:
            self.path.replace(self._aside(1))
        self._file = LineFile(self.path)


def read_rows(files: Iterable[Path]) -> Iterator[Row]:
    """The rows of files, in order; a line that is not a row (a crash in mid-write, a damaged disk) is passed over.

    Raises `JournalError` when a file cannot be read.
    """
    decoder = msgspec.json.Decoder(Row)
    for path in files:
        try:
            with path.open("rb") as lines:
                for line in lines:
                    with suppress(ValueError):  # no JSON, no row, or no UTF-8
                        yield decoder.decode(line)
        except OSError as error:
            raise JournalError(f"the journal {path} cannot be read: {error.strerror}") from error
