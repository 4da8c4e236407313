"""Annotated copies: the same frames, nanoseconds, and comments that tshark shows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from scenarios.witness import CaptureFile, annotate, read_file
from scenarios.witness.annotate import copy_with_notes
from scenarios.witness.pcapng import file_comments
from tests.plugins import taps

from .story import EA, SSA, examine, good
from .test_claims import honest
from .wire import resolved


def comments(path: Path) -> dict[int, str]:
    """The comments of a capture by frame number, as tshark shows them."""
    fields = ["-T", "fields", "-e", "frame.number", "-e", "frame.comment"]
    shown = subprocess.run(
        ["tshark", "-n", "-Q", "-r", str(path), *fields], capture_output=True, text=True, check=True, timeout=60
    )
    rows = [line.split("\t") for line in shown.stdout.splitlines()]
    return {int(number): comment for number, comment in rows if comment}


def test_comments_stand_at_their_frames(tmp_path: Path) -> None:
    lan, far = good()
    events = tmp_path / "events.jsonl"
    events.write_text("".join(json.dumps({**event, "node": "N"}) + "\n" for event in honest(lan)))
    judgement = examine(tmp_path, lan, far, events=(events,))
    written = annotate(judgement, tmp_path / "report")
    assert [path.name for path in written] == ["capture-lan.pcapng", "capture-far.pcapng"]
    shown = comments(written[0])
    assert "TENTATIVE (probe 1 of N)" in shown[lan.number("probe:ea")]
    assert f"{EA} PREFERRED: the promotion NA" in shown[lan.number("promotion:ea")]
    assert "N says: address" in shown[lan.number("promotion:ea")]
    assert "UNCERTAIN → PREFERRED" in shown[lan.number("promotion:ea")]
    assert "gone after 0.414 s PREFERRED" in shown[lan.number("leave:ea")]
    assert "address resolution: must meet silence" in shown[lan.number("ask-late:ea")]
    assert "established" in shown[lan.number("ack:ssa")]
    assert "the ports change to 11 → 13" in shown[lan.number("reply-ack0:l0")]
    assert "witness of: A used SSA never connects again" in comments(written[1])[far.number("again-far")]


def test_a_breach_is_named_at_its_frame(tmp_path: Path) -> None:
    lan, far = good()
    bent = lan.after("ask-late:ea", resolved(EA))
    written = annotate(examine(tmp_path, bent, far), tmp_path / "report")
    assert "FAILED silence-after" in comments(written[0])[lan.number("ask-late:ea") + 1]


def test_frames_and_times_are_the_same(tmp_path: Path) -> None:
    lan, far = good()
    judgement = examine(tmp_path, lan, far, snap=100)
    (copy, _) = annotate(judgement, tmp_path)
    _, _, originals = read_file(CaptureFile(tmp_path / "lan.pcapng", "lan"))
    source, _, copies = read_file(CaptureFile(copy, "lan"))
    pairs = list(zip(originals, copies, strict=True))
    assert [a.offset for a, _ in pairs] == [b.offset for _, b in pairs]
    assert [(a.seq, a.payload, a.cut) for a, _ in pairs] == [(b.seq, b.payload, b.cut) for _, b in pairs]
    assert any(a.cut for a, _ in pairs)
    assert source.interfaces[0].ticks_per_second == 10**9
    assert source.interfaces[0].name == "veth"


def test_the_original_is_never_overwritten(tmp_path: Path) -> None:
    lan, _ = good()
    path = lan.save(tmp_path / "capture-lan.pcapng")
    before = path.read_bytes()
    judgement = examine(tmp_path, lan, lan)
    judgement.evidence.captures = (CaptureFile(path, "lan"),)
    (written,) = annotate(judgement, tmp_path)
    assert written.name == "capture-lan-annotated.pcapng"
    assert path.read_bytes() == before


def test_the_labels_of_a_capture_are_those_of_its_copy(tmp_path: Path) -> None:
    path = tmp_path / "lan.pcapng"
    recorder = taps.Recorder("lan", taps.ETHERNET)
    recorder.sent(0.0, "veth", bytes(60))
    recorder.write(path, "offload: checksums are left to the link", "disturbed")
    copy_with_notes(path, tmp_path / "copy.pcapng", "lan", {})
    assert file_comments(tmp_path / "copy.pcapng")[1:] == file_comments(path)
    assert len(file_comments(path)) == 2


def test_an_unreadable_capture_is_left_out(tmp_path: Path) -> None:
    lan, _ = good()
    judgement = examine(tmp_path, lan, lan)
    judgement.evidence.captures = (CaptureFile(tmp_path / "missing.pcapng", "lan"),)
    assert annotate(judgement, tmp_path / "report") == []
    assert list((tmp_path / "report").iterdir()) == []
    assert SSA
