"""`unimux ssa whois`: reading a state folder that a node works with, that is missing, foreign, copied or damaged (UM-GEN-3)."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import threading
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from compat.attachment import NodeSettings
from tapstack.events import AddressChanged, ConnectionChanged, EventStream
from tapstack.types import address, address_text
from unimux.audit import JOURNAL, Audit, lock_holder
from unimux.cli.exits import ExitCode
from unimux.cli.main import run
from unimux.diskstate import DiskState, Surroundings
from unimux.generators import GeneratorError
from unimux.journal import Journal, JournalPolicy
from unimux.source import AddressSource
from unimux.state import StateError, StateLocked

PREFIX = address("2001:db8:1::")
PEER = "2001:db8:99::9"


def session(events: EventStream, local: bytes) -> None:
    """The events of one connection from an address."""
    text = address_text(local)
    events.emit(
        AddressChanged(
            time=0.0, address=text, old="UNCERTAIN", new="PREFERRED", kind="ephemeral", cause=f"connect to {PEER}"
        )
    )
    events.emit(
        ConnectionChanged(
            time=0.1, connection=1, old="SYN-SENT", new="ESTABLISHED", local=text, local_port=1024, remote=PEER,
            remote_port=80, mode="L1", cause="SYN answered",
        )
    )  # fmt: skip
    events.emit(
        AddressChanged(time=0.2, address=text, old="PREFERRED", new="INVALID", kind="ephemeral", cause="last user gone")
    )


def used(state: DiskState, count: int = 1, policy: JournalPolicy | None = None) -> list[str]:
    """Addresses that were used in a session each, on record."""
    events, made = EventStream(), []
    source = AddressSource(state)
    with Journal(state.directory / JOURNAL, source, policy) as journal:
        journal.watch(events)
        for _ in range(count):
            local = source.draw(PREFIX)
            made.append(address_text(local))
            session(events, local)
    return made


@pytest.mark.proves("UM-GEN-3", by="api")
def test_an_audit_reads_beside_a_running_node_and_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with DiskState(folder) as state:
        (local,) = used(state)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        audit = Audit(folder)
        found = audit.whois(local)
        assert found.origin is not None
        assert (found.origin.epoch, found.origin.counter) == (0, 0)
        assert [row.what for row in found.rows] == ["taken", "connected", "released"]
        assert audit.holder is not None
        assert audit.warnings == []
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        with pytest.raises(StateLocked):
            DiskState(folder)
        with pytest.raises(StateError, match="reading only"):
            audit.state.lease("64", 1)
    assert Audit(folder).holder is None


def test_a_node_that_starts_while_somebody_looks_is_not_told_that_another_node_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks holds the lock for a moment, to learn whether a node does; a node that starts waits for that."""
    folder = tmp_path / "state"
    DiskState(folder).close()
    flock = fcntl.flock
    refused = threading.Event()
    outcome: list[object] = []

    def start() -> None:
        try:
            with DiskState(folder):
                outcome.append("started")
        except StateLocked as error:
            outcome.append(str(error))

    starting = threading.Thread(target=start)

    def slowly(handle: int, operation: int) -> None:
        if threading.current_thread() is starting:
            try:
                flock(handle, operation)
            except BlockingIOError:
                refused.set()
                raise
            return
        flock(handle, operation)
        starting.start()
        assert refused.wait(10)

    monkeypatch.setattr(fcntl, "flock", slowly)
    assert lock_holder(folder) is None
    starting.join(10)
    assert outcome == ["started"]


@pytest.mark.proves("UM-GEN-3", by="api")
def test_the_rows_of_files_put_aside_are_found_oldest_first(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with DiskState(folder) as state:
        made = used(state, 12, JournalPolicy(limit=1000, keep=11))
    assert len(list(folder.glob("journal.jsonl.*"))) > 2
    audit = Audit(folder)
    for local in made:
        assert [row.what for row in audit.whois(local).rows] == ["taken", "connected", "released"]


def test_peers_stay_out_of_the_journal_even_where_a_cause_names_them(tmp_path: Path) -> None:
    for name, peers in (("closed", False), ("open", True)):
        with DiskState(tmp_path / name) as state:
            used(state, policy=JournalPolicy(peers=peers))
        text = (tmp_path / name / JOURNAL).read_text()
        assert (PEER in text) is peers
        assert "connect to" in text


def test_an_address_that_was_never_the_nodes_is_exit_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "state"
    with DiskState(folder) as state:
        (local,) = used(state)
        assert run(["ssa", "whois", local, "--state", str(folder), "--json"]) == ExitCode.DONE
        facts = json.loads(capsys.readouterr().out)
        assert (facts["ours"], facts["epoch"], facts["counter"]) == (True, 0, 0)
        assert IPv6Address(facts["address"]) == IPv6Address(local)
        assert run(["ssa", "whois", "2001:db8::1", "--state", str(folder)]) == ExitCode.NO
        assert capsys.readouterr().out == "2001:db8::1 was never an address of this node.\n"


@pytest.mark.parametrize("case", ["missing", "empty", "foreign", "damaged", "another's", "no address", "of a link"])
def test_what_cannot_be_audited_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    folder = tmp_path / "state"
    what = "2001:db8::1"
    if case != "missing":
        folder.mkdir()
    if case == "foreign":
        (folder / "letters.txt").write_text("dear all")
    if case == "damaged":
        (folder / "state.json").write_text("nonsense")
    if case == "another's":

        def refused(path: Path) -> bytes:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

        monkeypatch.setattr(Path, "read_bytes", refused)
    if case in ("no address", "of a link"):
        DiskState(folder).close()
        what = "www.example" if case == "no address" else "2001:db8::1%eth0"
    wrong = ExitCode.USAGE if case in ("no address", "of a link") else ExitCode.MACHINE
    assert run(["ssa", "whois", what, "--state", str(folder)]) == wrong
    said = capsys.readouterr().err
    wanted = {
        "missing": "There is no folder",
        "empty": "holds no state of a node",
        "foreign": "holds no state of a node",
        "damaged": "is damaged",
        "another's": "may be read by its owner only: ask as that user",
        "no address": "is no IPv6 address",
        "of a link": "without the part behind %",
    }
    assert wanted[case] in said
    assert said.count("\n") == 1
    assert "Traceback" not in said


def test_a_copy_on_another_machine_is_read_with_a_warning(tmp_path: Path) -> None:
    with DiskState(tmp_path / "one") as state:
        (local,) = used(state)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / JOURNAL).unlink()
    audit = Audit(tmp_path / "two", lambda: Surroundings("elsewhere", "boot"))
    assert audit.whois(local).origin is not None
    assert [sentence.partition(" ")[0] for sentence in audit.warnings] == ["This", "This"]
    assert "another machine" in audit.warnings[0]
    assert "no journal" in audit.warnings[1]


def test_a_folder_of_other_things_never_becomes_a_state(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear all")
    with pytest.raises(StateError, match=r"holds other files \(letters.txt"):
        DiskState(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_a_new_epoch_says_why_but_not_on_the_very_first_start(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with DiskState(folder) as state:
        assert state.doubt is None
    with DiskState(folder) as state:
        assert state.doubt is None
    with DiskState(folder, surroundings=Surroundings("elsewhere", "boot")) as state:
        assert state.doubt is not None
        assert "another machine" in state.doubt


# -- settings ----------------------------------------------------------------------------------------------


def test_settings_reach_state_journal_and_pool(tmp_path: Path) -> None:
    settings = NodeSettings(
        bridge="lan", state=str(tmp_path / "s"), pool_low=3, pool_high=5, pool_limit=7, pool_pace=0.5, pool_max_age=60,
        journal_peers=True, journal_keep=2, journal_limit=5000,
    )  # fmt: skip
    pool = settings.pool_config()
    assert (pool.low, pool.high, pool.limit, pool.pace, pool.max_age) == (3, 5, 7, 0.5, 60)
    policy = settings.journal_policy()
    assert (policy.peers, policy.keep, policy.limit, policy.addresses) == (True, 2, 5000, True)
    state = settings.node_state()
    assert isinstance(state, DiskState)
    state.close()
    with pytest.raises(GeneratorError, match="no generator is called"):
        NodeSettings(bridge="lan", generator="magic").node_state()
