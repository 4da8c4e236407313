"""`--captures`: the file that a test leaves, read back by scapy; what of it the test made, lost or changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from scenarios.conformance import labels
from scenarios.witness.pcapng import file_comments
from tests.plugins import taps
from tests.plugins.marking import copy_marked

from .sessions import ROOT, read, run, table

BODY = """
import pytest
from scenarios.conformance import labels
from scenarios.witness.pcapng import file_comments
from tests.plugins import taps

@pytest.mark.proves("UM-ADDR-1")
def test_holds(artefacts):
    tap = taps.world("wire")
    tap.sent(1.0, "a", b"frame that is lost", [])
    tap.say("a says: hello")
    tap.sent(2.0, "a", b"frame that arrives", [b"frame that arrives"])
    tap.arrived(3.0, b"frame that arrives")
    tap.arrived(3.0, b"frame of the test")
    (artefacts / "deep").mkdir()
    (artefacts / "deep" / "dumpcap.pcapng").write_bytes(b"x")

def test_of_nothing():
    taps.world("wire").sent(1.0, "a", b"frame of a test that proves nothing")
"""


def test_a_test_that_proves_something_leaves_its_wire(session: pytest.Pytester) -> None:
    shutil.copy(ROOT / "tests" / "requirements.toml", session.path)
    session.makepyfile(BODY)
    run(session, "--captures", "kept").assert_outcomes(passed=2)
    row = json.loads((session.path / "out/proves.json").read_text())["rows"][0]
    assert [Path(capture).parts[0] for capture in row["captures"]] == ["kept", "kept"]
    wire = next(session.path / name for name in row["captures"] if not name.endswith("dumpcap.pcapng"))
    assert read(wire) == [
        ("a", b"frame that is lost", [labels.LOST, "a says: hello"]),
        ("a", b"frame that arrives", []),
        (labels.BY_HAND, b"frame of the test", []),
    ]
    assert file_comments(wire) == ("test_a_test_that_proves_something_leaves_its_wire.py::test_holds (wire)",)
    run(session, "--captures", "kept").assert_outcomes(passed=2)  # what an earlier run left is replaced


ASKED = """
import pytest
from tests.plugins import taps

@pytest.mark.proves("UM-ADDR-1")
def test_seen(): taps.world("wire").sent(1.0, "a", b"frame")

@pytest.mark.proves("UM-ADDR-1", "UM-ADDR-2", by="api")
def test_told(): taps.world("wire").sent(1.0, "a", b"frame")
"""


@pytest.mark.parametrize("processes", [0, 2])
def test_what_is_no_evidence_is_kept_and_listed_for_the_oracle(session: pytest.Pytester, processes: int) -> None:
    module = session.makepyfile(ASKED).name
    run(session, "--captures", "kept", "-n", str(processes)).assert_outcomes(passed=2)
    told = json.loads((session.path / "out/proves.json").read_text())
    assert sorted(told["kept"]) == [f"{module}::test_seen", f"{module}::test_told"]
    assert all((session.path / name).is_file() for names in told["kept"].values() for name in names)
    rows = {row["id"]: row for row in told["rows"]}
    assert rows["UM-ADDR-1"]["captures"] == told["kept"][f"{module}::test_seen"]
    assert (rows["UM-ADDR-2"]["captures"], rows["UM-ADDR-2"]["tests"]) == ([], [f"{module}::test_told"])


REAL = """
import pytest
from scapy.utils import wrpcapng
from tests.plugins import taps

@pytest.mark.real
@pytest.mark.proves("UM-ADDR-1")
@pytest.mark.proves("UM-ADDR-2", by="api")
def test_deaf(artefacts): pass

@pytest.mark.real
@pytest.mark.proves("UM-ADDR-4")
def test_heard(artefacts): wrpcapng(str(artefacts / "a.pcapng"), [b"frame"])

@pytest.mark.real
@pytest.mark.proves("UM-ADDR-5")
def test_in_memory(): taps.world("wire").sent(1.0, "a", b"frame")

@pytest.mark.real
@pytest.mark.proves("UM-ADDR-6", by="api")
def test_asked(artefacts): pass

@pytest.mark.proves("UM-ADDR-7")
def test_virtual(artefacts): pass

@pytest.mark.real
@pytest.mark.proves("UM-ADDR-8")
def test_wrong(artefacts): assert False
"""


def test_a_real_test_that_judged_by_the_wire_leaves_a_capture(session: pytest.Pytester) -> None:
    session.makepyfile(REAL)
    with (session.path / "conftest.py").open("a") as conftest:  # this test needs no privilege
        conftest.write(
            "\ndef pytest_configure():\n    __import__('tests.plugins.real').plugins.real.missing = lambda _: None\n"
        )
    result = run(session, "--captures", "kept")
    result.assert_outcomes(passed=5, failed=1, errors=1)
    result.stdout.fnmatch_lines_random(["*it proves UM-ADDR-1 by the wire and left no capture*", "ERROR *test_deaf*"])
    found = {row["id"]: row["verdict"] for row in table(session)}
    assert [found[f"UM-ADDR-{number}"] for number in (1, 4, 5, 6, 7)] == ["failed"] + ["passed"] * 4
    run(session).assert_outcomes(passed=5, failed=1)


def test_without_the_option_nothing_is_kept(session: pytest.Pytester) -> None:
    session.makepyfile(BODY)
    run(session).assert_outcomes(passed=2)
    assert not list(session.path.rglob("*.pcapng"))


def test_a_folder_with_other_things_is_left_alone(session: pytest.Pytester) -> None:
    session.makepyfile(BODY)
    (session.path / "mine").mkdir()
    (session.path / "mine" / "letter").write_text("dear")
    result = run(session, "--captures", "mine")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*the folder is not empty; name another*"])
    assert (session.path / "mine" / "letter").read_text() == "dear"


def test_what_the_wire_does_is_said(tmp_path: Path) -> None:
    recorder = taps.Recorder("wire", taps.RAW_IP)
    recorder.sent(1.0, "a", b"held", [(0.5, b"held")])
    recorder.sent(1.0, "a", b"bent", [b"BENT"])
    recorder.sent(1.0, "a", b"twice", [b"twice", b"twice"])
    for data in (b"twice", b"twice", b"BENT", b"held"):
        recorder.arrived(2.0, data)
    recorder.disturb()
    recorder.write(tmp_path / "wire.pcapng", "a test")
    assert read(tmp_path / "wire.pcapng") == [
        ("a", b"held", [labels.LATE]),
        ("a", b"bent", [labels.CHANGED]),
        ("a", b"twice", [labels.REPEATED]),
        (labels.BY_HAND, b"BENT", []),
    ]
    assert file_comments(tmp_path / "wire.pcapng") == ("a test", labels.DISTURBED)


def test_what_does_not_fit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taps, "MOST_BYTES", 20)
    monkeypatch.setattr(taps, "LAST_FRAMES", 2)
    recorder = taps.Recorder("wire", taps.RAW_IP)
    for number in range(6):
        recorder.sent(float(number), "a", b"frame no. %d" % number)
        recorder.say(f"said after {number}")
    recorder.write(tmp_path / "begin.pcapng", "a test")
    assert [data for _, data, _ in read(tmp_path / "begin.pcapng")] == [b"frame no. 0"]
    assert file_comments(tmp_path / "begin.pcapng") == ("a test", "left out: 5 frames")
    recorder.write(tmp_path / "both.pcapng", "a test", last=True)
    assert [(data, said) for _, data, said in read(tmp_path / "both.pcapng")] == [
        (b"frame no. %d" % number, [f"said after {number}"]) for number in (0, 4, 5)
    ]
    assert file_comments(tmp_path / "both.pcapng") == ("a test", "left out: 3 frames")


def test_of_many_wires_the_first_ones_stay_and_the_latest(tmp_path: Path) -> None:
    recording = taps.Recording()
    for number in range(10):
        recording.world("wire", taps.RAW_IP).sent(0.0, "a", b"world %d" % number)
    recording.world("idle", taps.RAW_IP)
    paths = [tmp_path / f"{number}.pcapng" for number in range(9)]
    written = recording.write(paths, "a test")
    assert [read(path)[0][1] for path in written] == [b"world %d" % number for number in range(taps.MOST_WORLDS)]
    assert file_comments(written[-1]) == ("a test (wire)", "left out: 7 wires")
    recording.world("wire", taps.RAW_IP).sent(0.0, "a", b"the one that failed")
    written = recording.write(paths, "a test")
    assert [read(path)[0][1] for path in written][-2:] == [b"world 2", b"the one that failed"]


def test_a_real_capture_that_is_too_large_is_cut_and_says_so(tmp_path: Path) -> None:
    recorder = taps.Recorder("wire", taps.ETHERNET)
    for number in range(100):
        recorder.sent(float(number), "eth0", bytes(1000))
    recorder.write(tmp_path / "all.pcapng")
    copy_marked(tmp_path / "all.pcapng", tmp_path / "whole.pcapng", most_bytes=200_000)
    assert (tmp_path / "whole.pcapng").read_bytes() == (tmp_path / "all.pcapng").read_bytes()
    copy_marked(tmp_path / "all.pcapng", tmp_path / "cut.pcapng", most_bytes=50_000)
    kept = len(read(tmp_path / "cut.pcapng"))
    assert 40 <= kept < 50
    assert file_comments(tmp_path / "cut.pcapng") == (f"left out: {100 - kept} frames",)
