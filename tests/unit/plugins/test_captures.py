"""`--captures`: the file that a test leaves, read back by scapy; what of it the test made, lost or changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from scapy.utils import RawPcapNgReader

from tests.plugins import taps

from .test_plugins import ROOT, run, session

__all__ = ["session"]

BODY = """
import pytest
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
    assert taps.world("wire") is taps.FORGETFUL
"""


def read(path: Path) -> list[tuple[str, bytes, list[str]]]:
    with path.open("rb") as file:
        found: list[Any] = list(RawPcapNgReader(file))
    return [(meta.ifname.decode(), data, [c.decode() for c in meta.comments or []]) for data, meta in found]


def test_a_test_that_proves_something_leaves_its_wire(session: pytest.Pytester) -> None:
    shutil.copy(ROOT / "tests" / "requirements.toml", session.path)
    session.makepyfile(BODY)
    run(session, "--captures", "kept").assert_outcomes(passed=2)
    row = json.loads((session.path / "out/proves.json").read_text())["rows"][0]
    assert [Path(capture).parts[0] for capture in row["captures"]] == ["kept", "kept"]
    wire = next(session.path / name for name in row["captures"] if not name.endswith("dumpcap.pcapng"))
    assert read(wire) == [
        ("a", b"frame that is lost", [taps.LOST, "a says: hello"]),
        ("a", b"frame that arrives", []),
        (taps.BY_HAND, b"frame of the test", []),
    ]
    assert taps.DISTURBED.encode() not in wire.read_bytes()[:400]
    run(session, "--captures", "kept").assert_outcomes(passed=2)  # what an earlier run left is replaced


def test_without_the_option_nothing_is_kept(session: pytest.Pytester) -> None:
    session.makepyfile(BODY.replace("tap.sent", "assert tap is taps.FORGETFUL\n    tap.sent", 1))
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
        ("a", b"held", [taps.LATE]),
        ("a", b"bent", [taps.CHANGED]),
        ("a", b"twice", [taps.REPEATED]),
        (taps.BY_HAND, b"BENT", []),
    ]
    assert f"a test; {taps.DISTURBED}".encode() in (tmp_path / "wire.pcapng").read_bytes()


def test_what_does_not_fit_is_counted() -> None:
    recorder = taps.Recorder("wire", taps.RAW_IP)
    for number in range(3):
        recorder.sent(float(number), "a", bytes(taps.MOST_BYTES // 2))
    assert recorder.left_out == 1
