"""The journal: who, when, behind which address; what is written, and what is not."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from tapstack.events import ConnectionChanged, EventStream
from tapstack.ipv6.addresses import AddressKind, AddressTable, Trigger
from tapstack.types import address as to_bytes
from unimux.journal import Journal, JournalError, JournalPolicy, MemoryJournal, SessionJournal, What, read_rows
from unimux.purpose import Purpose, tell_purpose
from unimux.source import AddressSource
from unimux.state import MemoryState

PREFIX = bytes.fromhex("20010db8000000010000000000000000")
PEER = "2001:db8:99::1"


class Peer:
    heard = True
    remote = None

    def serves(self, remote: bytes) -> bool:
        return True


class Node:
    """An address table, an event stream and a source, without the rest of a stack."""

    def __init__(self, state: MemoryState | None = None) -> None:
        self.events = EventStream()
        self.table = AddressTable(self.events)
        self.source = AddressSource(state or MemoryState(random.Random(3).randbytes))
        self.time = 1_700_000_000.0

    def wall(self) -> float:
        self.time += 1.0
        return self.time

    def session(
        self,
        *,
        connect: bool = True,
        kind: AddressKind = AddressKind.EPHEMERAL,
        purpose: Purpose | None = None,
    ) -> bytes:
        """One session from reservation to release."""
        address = self.source.draw(PREFIX)
        entry = self.table.add(address, AddressKind.RESERVED, 0.0)
        self.table.dad_passed(entry, 1.0)
        self.table.take(entry, kind, 2.0, "connect")
        if purpose is not None:
            tell_purpose(self.events, 2.0, address, purpose, to_bytes(PEER))
        user = Peer()
        self.table.acquire(entry, user)
        if connect:
            self.events.emit(
                ConnectionChanged(
                    time=3.0, connection=1, old="SYN-SENT", new="ESTABLISHED", local=str(IPv6Address(address)),
                    local_port=1024, remote=PEER, remote_port=443, mode="L1", cause="SYN-ACK",
                )
            )  # fmt: skip
        self.table.drop(entry, user, 4.0, "closed")
        return address


def memory(node: Node, policy: JournalPolicy | None = None) -> MemoryJournal:
    journal = MemoryJournal(node.source, policy, node.wall)
    journal.watch(node.events)
    return journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal" / "sessions.jsonl"


@pytest.fixture(params=["memory", "file"])
def journal(request: pytest.FixtureRequest, path: Path) -> Iterator[SessionJournal]:
    node = Node()
    made: SessionJournal = (
        MemoryJournal(node.source, None, node.wall)
        if request.param == "memory"
        else Journal(path, node.source, wall=node.wall)
    )
    made.watch(node.events)
    request.node.the_node = node
    yield made
    if isinstance(made, Journal):
        made.close()


@pytest.mark.proves("UM-GEN-3", by="api")
def test_an_address_leads_to_its_session(journal: SessionJournal, request: pytest.FixtureRequest) -> None:
    node: Node = request.node.the_node
    first = node.session(purpose=Purpose(front_end="socks5", who="alice"))
    second = node.session(kind=AddressKind.SERVICE)
    answer = journal.whois(first)
    assert [(row.what, row.counter, row.front_end, row.who) for row in answer.rows] == [
        (What.TAKEN, 0, None, None),
        (What.ASSIGNED, 0, "socks5", "alice"),
        (What.CONNECTED, 0, "socks5", "alice"),
        (What.RELEASED, 0, "socks5", "alice"),
    ]
    assert answer.origin is not None
    assert answer.origin.counter == 0
    assert [row.kind for row in journal.whois(second).rows] == ["service", None, "service"]
    assert "through socks5, who alice" in answer.text()
    assert "number 0 of key epoch 0" in answer.text()


def test_what_a_whois_says_of_others(journal: SessionJournal, request: pytest.FixtureRequest) -> None:
    node: Node = request.node.the_node
    never = journal.whois(PREFIX[:15] + b"\x09")
    assert (never.origin, never.rows) == (None, ())
    assert never.text() == "2001:db8:0:1::9 was never an address of this node"
    reserved = journal.whois(node.source.draw(PREFIX))
    assert reserved.rows == ()
    assert "no session" in reserved.text()


@pytest.mark.proves("UM-GEN-3", by="api")
def test_peers_are_left_out_unless_asked_for() -> None:
    node = Node()
    plain, full = memory(node), memory(node, JournalPolicy(peers=True))
    address = node.session()
    assert all(row.peer is None and row.peer_port is None for row in plain.rows())
    assert [(row.peer, row.peer_port) for row in full.rows() if row.what is What.CONNECTED] == [(PEER, 443)]
    assert f"peer [{PEER}]:443" in full.whois(address).text()
    failed = node.session(connect=False, purpose=Purpose())
    assert [row.what for row in plain.whois(failed).rows] == [What.TAKEN, What.RELEASED]
    told = full.whois(failed).rows
    assert [(row.what, row.peer) for row in told][1] == (What.ASSIGNED, PEER), "whom it was for, though nobody answered"


def test_a_journal_that_names_no_address_still_answers_the_keys_holder() -> None:
    node = Node()
    journal = memory(node, JournalPolicy(addresses=False, who=False, causes=False))
    node.session(purpose=Purpose(who="alice"))
    address = node.session(purpose=Purpose(who="alice", service="ssh"))
    rows = list(journal.rows())
    text = json.dumps([str(row) for row in rows])
    assert "2001:db8" not in text
    assert "alice" not in text
    assert [row.cause for row in rows] == [None] * 7, "where there is only a name to tell, nothing is assigned"
    assert len(journal.whois(address).rows) == 4
    assert {row.service for row in journal.whois(address).rows[1:]} == {"ssh"}


def test_addresses_set_from_outside_are_found_by_their_digest() -> None:
    node = Node()
    journal = memory(node, JournalPolicy(addresses=False))
    address = PREFIX[:15] + b"\x07"
    node.source.claim(address)
    entry = node.table.add(address, AddressKind.RESERVED, 0.0)
    node.table.dad_passed(entry, 1.0)
    node.table.take(entry, AddressKind.SERVICE, 2.0, "agent")
    node.source.state.rekey("digests outlive epochs")
    node.table.release(entry, 3.0, "expired")
    answer = journal.whois(address)
    assert answer.origin is None
    assert [row.what for row in answer.rows] == [What.TAKEN, What.RELEASED]
    assert journal.whois(PREFIX[:15] + b"\x08").rows == ()


def test_ordinary_addresses_and_reservations_are_no_sessions() -> None:
    node = Node()
    journal = memory(node)
    entry = node.table.add(PREFIX[:15] + b"\x01", AddressKind.STABLE, 0.0)
    node.table.dad_passed(entry, 1.0)
    node.events.emit(
        ConnectionChanged(
            time=3.0, connection=1, old="SYN-SENT", new="ESTABLISHED", local="2001:db8:0:1::1",
            local_port=1024, remote=PEER, remote_port=443, mode="aware", cause="SYN-ACK",
        )
    )  # fmt: skip
    reserved = node.table.add(node.source.draw(PREFIX), AddressKind.RESERVED, 0.0)
    node.table.dad_passed(reserved, 1.0)
    node.table.discard(reserved, 2.0, "max age")
    assert list(journal.rows()) == []


def test_optimistic_addresses_begin_with_their_first_use_and_end_with_a_duplicate() -> None:
    node = Node()
    journal = memory(node)
    address = node.source.draw(PREFIX)
    entry = node.table.add(address, AddressKind.EPHEMERAL, 0.0, trigger=Trigger.ADD_OPTIMISTIC)
    node.table.dad_failed(entry, 1.0, "claimed by another node")
    assert [(row.what, row.cause) for row in journal.whois(address).rows] == [
        (What.TAKEN, "added"),
        (What.RELEASED, "claimed by another node"),
    ]


def test_times_are_wall_clock_and_rows_are_json_lines(path: Path) -> None:
    node = Node()
    with Journal(path, node.source, wall=node.wall) as journal:
        journal.watch(node.events)
        node.session()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["time"] for line in lines] == [1_700_000_001.0, 1_700_000_002.0, 1_700_000_003.0]
    assert set(lines[0]) == {"time", "what", "epoch", "counter", "kind", "address", "cause"}
    assert path.stat().st_mode & 0o777 == 0o600


def test_rotation_by_size_keeps_so_many_files(path: Path) -> None:
    node = Node()
    policy = JournalPolicy(limit=1000, keep=3)
    with Journal(path, node.source, policy, wall=node.wall) as journal:
        journal.watch(node.events)
        addresses = [node.session() for _ in range(40)]
        assert [file.name for file in journal.files()] == [f"{path.name}{n}" for n in (".3", ".2", ".1", "")]
        assert all(file.stat().st_size <= 1000 for file in journal.files())
        times = [row.time for row in journal.rows()]
        assert times == sorted(times)
        assert len(journal.whois(addresses[-1]).rows) == 3
        assert journal.whois(addresses[0]).rows == ()
        assert journal.lost == 0


def test_keeping_nothing_starts_over(path: Path) -> None:
    node = Node()
    with Journal(path, node.source, JournalPolicy(limit=1000, keep=0), wall=node.wall) as journal:
        journal.watch(node.events)
        for _ in range(20):
            node.session()
        assert journal.files() == [path]
        assert path.stat().st_size <= 1000


def test_a_new_process_goes_on_after_a_torn_line(path: Path) -> None:
    state = MemoryState(random.Random(3).randbytes)
    node = Node(state)
    with Journal(path, node.source, wall=node.wall) as journal:
        journal.watch(node.events)
        first = node.session()
    with path.open("ab") as file:
        file.write(b'{"time":17000')
    node = Node(state)
    with Journal(path, node.source, wall=node.wall) as journal:
        journal.watch(node.events)
        second = node.session()
        assert len(journal.whois(first).rows) == 3
        assert len(journal.whois(second).rows) == 3


@pytest.mark.parametrize("damaged", [b"b\xefb", b"b\x00b", b'b"b', b"b\\xb"])
def test_a_damaged_line_takes_no_other_with_it(path: Path, damaged: bytes) -> None:
    row = b'{"time":1.0,"what":"taken","who":"bob"}\n'
    path.parent.mkdir()
    path.write_bytes(row + row.replace(b"bob", damaged) + row)
    assert [each.who for each in read_rows([path])] == ["bob", "bob"]


def test_a_full_disk_is_told_once_and_stops_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node()
    complaints: list[str] = []
    policy = JournalPolicy(durable=True)
    with Journal(path, node.source, policy, wall=node.wall, complain=complaints.append) as journal:
        journal.watch(node.events)

        def full(handle: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            node.session()
        assert journal.lost == 3
        assert len(complaints) == 1
        assert "No space left" in complaints[0]
        journal.close()
        node.session()
        assert journal.lost == 6


def test_a_row_that_did_not_fit_takes_no_other_with_it(path: Path) -> None:
    node = Node()
    with Journal(path, node.source, wall=node.wall) as journal:
        journal.watch(node.events)
        node.session()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40, hard))  # as on a disk with 40 bytes left
        try:
            cut = node.session()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert journal.lost == 3
        whole = node.session()
        assert (len(journal.whois(cut).rows), len(journal.whois(whole).rows)) == (0, 3)


def test_a_path_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be written: "):
        Journal(tmp_path / "file" / "journal", Node().source)


def test_memory_is_bounded() -> None:
    node = Node()
    journal = MemoryJournal(node.source, None, node.wall, limit=100)
    journal.watch(node.events)
    for _ in range(100):
        node.session()
    assert len(list(journal.rows())) <= 100


def test_watching_can_end() -> None:
    node = Node()
    journal = MemoryJournal(node.source, None, node.wall)
    stop = journal.watch(node.events)
    stop()
    node.session()
    assert list(journal.rows()) == []


def test_nothing_is_remembered_of_sessions_that_are_over() -> None:
    node = Node()
    journal = memory(node)
    for _ in range(50):
        node.session(purpose=Purpose(front_end="socks5", who="alice"))
    assert journal._purposes == {}
