"""tshark over what the suite leaves: nothing without an explanation; and the oracle itself, given faults that it must find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.layers.l2 import Ether

from scenarios.conformance import labels
from scenarios.conformance.oracle import consult
from scenarios.conformance.packets import Listing, Reader
from scenarios.conformance.page import write
from scenarios.conformance.rows import Row, Table, Verdict
from scenarios.witness.pcapng import file_comments
from tapstack.wire import checksum
from tests.plugins import taps
from tests.plugins.marking import copy_marked

from .talk import TALK, A, B, capture, segment

pytestmark = [pytest.mark.real("tshark"), pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]
SUITE = (
    "tests/unit/tcp/test_modes.py",
    "tests/unit/tcp/test_listen.py",
    "tests/unit/ipv6/test_uncertain.py",
    "tests/unit/ipv6/test_dad.py",
    "tests/unit/unimux/test_issue.py",
    "tests/real/um/test_matrix.py::test_modes_mix_on_one_node",
)
"""A part of the suite that stands for all of it: `unimux conformance` gives tshark every capture that is kept."""


@pytest.mark.timeout(1000)
def test_nothing_that_the_suite_leaves_lacks_an_explanation(reader: Reader, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *SUITE]
    command += [
        "--requirements",
        "all",
        "--captures",
        str(tmp_path / "kept"),
        "--proves",
        str(tmp_path / "proves.json"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    captures = sorted((tmp_path / "kept").rglob("*.pcapng"))
    assert len(captures) >= 40
    listings = list(reader.read_all(captures))
    for listing in listings:
        assert not listing.error, listing
        assert listing.packets, listing.path
        assert not listing.unexplained, (listing.path.name, listing.unexplained)
    real = [listing for listing in listings if listing.path.parent.name.startswith("real.")]
    for listing in (*real, listings[-1]):
        comments = [comment for packet in listing.packets for comment in packet.comments]
        assert any(" says: " in comment for comment in comments), f"no event in {listing.path}"
    assert len(real) == 1


# -- the oracle on faults ------------------------------------------------------------------------------


LOST_AND_REPEATED = ("a", segment(A, B, "PA", 101, 901, b"hello", window=65535))


def opinion(reader: Reader, path: Path, *more: tuple[str, bytes]) -> Listing:
    times = [number / 10 for number in range(len(TALK))] + [2.0 + number for number in range(len(more))]
    return reader.read(capture(path, [(who, bytes(packet)) for who, packet in TALK] + list(more), times=times))


def test_a_clean_talk_is_clean(reader: Reader, tmp_path: Path) -> None:
    listing = opinion(reader, tmp_path / "x.pcapng")
    assert (listing.error, listing.unexplained, listing.explained) == ("", [], 0)
    assert [packet.sender for packet in listing.packets] == ["a", "b", "a", "a", "b"]
    assert "[SYN, ACK]" in listing.packets[1].info
    assert file_comments(tmp_path / "x.pcapng") == ("tests/x.py::test_of_the_oracle (wire)",)


def test_a_comment_of_several_lines_is_several(reader: Reader, tmp_path: Path) -> None:
    frames = [(who, bytes(packet)) for who, packet in TALK]
    listing = reader.read(capture(tmp_path / "x.pcapng", frames, lambda recorder: recorder.say("one\ntwo")))
    assert listing.packets[-1].comments == ("one", "two")


def wrong_checksum() -> bytes:
    frame = bytearray(bytes(segment(A, B, "A", 106, 901, window=65535)))
    frame[56] ^= 1
    return bytes(frame)


def malformed() -> bytes:
    frame = bytearray(bytes(segment(A, B, "A", 106, 901, window=65535)))
    frame[52] = 0x20  # a header of eight bytes
    return bytes(frame)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (wrong_checksum(), "hecksum"),
        (malformed(), "header length"),
        (bytes(LOST_AND_REPEATED[1]), "retransmission"),
        (bytes(segment(A, B, "PA", 300, 901, b"later", window=65535)), "not captured"),
    ],
    ids=["checksum", "malformed", "retransmission", "gap"],
)
def test_faults_of_a_stack_have_no_explanation(reader: Reader, tmp_path: Path, frame: bytes, said: str) -> None:
    listing = opinion(reader, tmp_path / "x.pcapng", ("a", frame))
    assert len(listing.unexplained) >= 1, listing.packets[-1]
    number, message = listing.unexplained[0]
    assert number == 6
    assert said in message
    by_hand = opinion(reader, tmp_path / "y.pcapng", (labels.BY_HAND, frame))
    assert by_hand.unexplained == [], "what the test made is the test's"
    assert by_hand.explained >= 1


def test_a_loss_on_the_wire_explains_the_retransmission_but_no_wrong_checksum(reader: Reader, tmp_path: Path) -> None:
    frames = [(who, bytes(packet)) for who, packet in TALK]

    def lossy(recorder: taps.Recorder) -> None:
        recorder.say(labels.LOST)
        recorder.sent(1.0, "a", bytes(LOST_AND_REPEATED[1]))
        recorder.sent(1.1, "a", wrong_checksum())

    listing = reader.read(capture(tmp_path / "x.pcapng", frames, lossy))
    assert [number for number, _ in listing.unexplained] == [7]
    assert listing.explained >= 1


def test_an_impaired_wire_explains_as_much(reader: Reader, tmp_path: Path) -> None:
    frames = [(who, bytes(packet)) for who, packet in TALK]
    frames.append(("a", bytes(LOST_AND_REPEATED[1])))
    listing = reader.read(capture(tmp_path / "x.pcapng", frames, taps.Recorder.disturb))
    assert listing.unexplained == []
    assert listing.explained >= 1


# -- what else explains a remark --------------------------------------------------------------------


@pytest.mark.parametrize("label", ["offload", "offload: checksums are left to the link"])
@pytest.mark.parametrize("of_frame", [False, True], ids=["of the file", "of the frame"])
def test_only_a_link_that_says_so_leaves_checksums_to_its_offload(
    reader: Reader, tmp_path: Path, label: str, of_frame: bool
) -> None:
    frames = [("a", wrong_checksum())]
    assert "checksum" in str(reader.read(capture(tmp_path / "x.pcapng", frames)).unexplained)
    if of_frame:
        path = capture(tmp_path / "y.pcapng", frames, lambda recorder: recorder.say(label))
    else:
        path = capture(tmp_path / "y.pcapng", frames, comments=["tests/x.py::test_y (wire)", label])
    listing = reader.read(path)
    assert (listing.unexplained, listing.explained) == ([], 1)


@pytest.mark.parametrize(
    "words",
    ["offload", "disturbed", "lost on the way", f"made by the test elsewhere: {A} and {B}", "left out: 3 frames"],
)
@pytest.mark.parametrize(
    "comment", ["tests/x.py::test_of[{}] (wire)", "tests/x.py::test_y[{}", "a says: {}", "a says: {}: yes", "no {}"]
)
def test_no_other_comment_is_a_label_whatever_words_it_holds(
    reader: Reader, tmp_path: Path, words: str, comment: str
) -> None:
    text = comment.format(words)
    frames = [(who, bytes(packet)) for who, packet in TALK]

    def faults(recorder: taps.Recorder) -> None:
        recorder.remark(5, text)
        recorder.sent(2.0, "a", bytes(LOST_AND_REPEATED[1]))
        recorder.say(text)
        recorder.sent(2.1, "a", wrong_checksum())
        recorder.say(text)

    listing = reader.read(capture(tmp_path / "x.pcapng", frames, faults, comments=[text]))
    found = [(number, "hecksum" in message) for number, message in listing.unexplained]
    assert (6, False) in found and (7, True) in found, listing.unexplained
    assert listing.left_out == []


def test_what_captures_do_not_hold_is_told(reader: Reader, tmp_path: Path) -> None:
    frames = [(who, bytes(packet)) for who, packet in TALK]
    for name, comments in (
        ("x", ["tests/x.py::test_x (wire)", taps.left_out(1, "frame"), taps.left_out(1, "wire")]),
        ("y", ["tests/x.py::test_y (wire)", taps.left_out(1200, "frame")]),
        ("z", ["tests/x.py::test_z (wire)"]),
    ):
        capture(tmp_path / f"captures/{name}.pcapng", frames, comments=comments)
    tests = {f"captures/{name}.pcapng": f"tests/x.py::test_{name}" for name in "xyz"}
    row = Row("um", "X-1", "", Verdict.PASSED, captures=tuple(tests))
    opinion = consult(tmp_path, tests)
    assert opinion.sound
    assert opinion.sentence().endswith("0 without; not kept: 1,201 frames, 1 wire")
    index = write(tmp_path / "report", tmp_path, Table((row,), {}), [row], opinion).read_text(encoding="utf-8")
    assert "left out: 1 frame, left out: 1 wire<" in index
    assert index.count("left out: ") == 3
    page = (tmp_path / "report/captures/y.html").read_text(encoding="utf-8")
    assert "left out: 1200 frames" in page and "tests/x.py::test_y (wire)" in page


def test_the_report_points_at_the_frame_that_broke_a_rule(tmp_path: Path) -> None:
    frames = [(who, bytes(packet)) for who, packet in TALK]
    why = labels.label(labels.BROKEN, "assert 3 == 4")
    capture(tmp_path / "captures/x.pcapng", frames, lambda recorder: recorder.remark(3, why))
    row = Row("um", "X-1", "", Verdict.FAILED, captures=("captures/x.pcapng",))
    opinion = consult(tmp_path, {"captures/x.pcapng": "tests/x.py::test_x"})
    index = write(tmp_path / "report", tmp_path, Table((row,), {}), [row], opinion).read_text(encoding="utf-8")
    assert '<a class="failed" href="captures/x.html#p3">failed at 3</a>' in index
    assert index.count("failed at") == 1
    page = (tmp_path / "report/captures/x.html").read_text(encoding="utf-8")
    assert '<tr id="p3" class="broken">' in page and "the test failed here: assert 3 == 4" in page
    assert page.count('class="broken"') == 1


def test_zero_in_its_other_form_is_a_kernels_and_never_ours(reader: Reader, tmp_path: Path) -> None:
    """One segment in 65,536 has the checksum zero; Linux writes 0xFFFF then, as for UDP, and both say the same."""
    plain = segment(A, B, "PA", 106, 901, b"\0\0", window=65535)
    fitting = segment(A, B, "PA", 106, 901, bytes(plain)[56:58], window=65535)
    frame = bytearray(bytes(fitting))
    assert frame[56:58] == b"\0\0"
    frame[56:58] = b"\xff\xff"
    assert checksum.valid(bytes(frame[8:24]), bytes(frame[24:40]), 6, bytes(frame[40:]))
    listing = opinion(reader, tmp_path / "x.pcapng", ("a", bytes(frame)))
    assert (listing.unexplained, listing.explained) == ([], 1)
    assert {checksum.field(total) for total in range(65536)} == set(range(65535)), "ours is never 0xFFFF"


def test_frames_that_a_test_put_on_a_real_wire_are_told_from_all_others(reader: Reader, tmp_path: Path) -> None:
    """A capture as dumpcap takes it has one interface; the copy has the test's frames on another."""

    def ethernet(packet: IPv6) -> bytes:
        return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet)

    crafted = ethernet(IPv6(wrong_checksum()))
    recorder = taps.Recorder("wire", taps.ETHERNET)
    for number, (_, packet) in enumerate(TALK):
        recorder.sent(number / 10, "eth0", ethernet(packet))
    forwarded = bytearray(crafted)
    forwarded[21] -= 1  # a router has passed it on
    recorder.sent(1.0, "eth0", bytes(forwarded))
    recorder.write(tmp_path / "x.pcapng", "")
    assert {number for number, _ in reader.read(tmp_path / "x.pcapng").unexplained} == {6}
    copy_marked(tmp_path / "x.pcapng", tmp_path / "y.pcapng", made=[crafted])
    listing = reader.read(tmp_path / "y.pcapng")
    assert [packet.sender for packet in listing.packets] == ["eth0"] * 5 + [labels.BY_HAND]
    assert (listing.unexplained, listing.error) == ([], "")
    elsewhere = ethernet(segment(A, B, "R", 4711))
    copy_marked(tmp_path / "x.pcapng", tmp_path / "z.pcapng", made=[elsewhere])
    assert f"made by the test elsewhere: {A} and {B}" in file_comments(tmp_path / "z.pcapng")
    assert {number for number, _ in reader.read(tmp_path / "z.pcapng").unexplained} == {6}, "a wrong checksum stays one"


def test_a_quotation_is_not_held_against_the_error(reader: Reader, tmp_path: Path) -> None:
    error = bytes(IPv6(src=B, dst=A) / ICMPv6DestUnreach(code=4) / IPv6(wrong_checksum()))
    listing = reader.read(capture(tmp_path / "x.pcapng", [("b", error)]))
    assert listing.unexplained == []
    broken = bytearray(error)
    broken[42] ^= 1  # the error's own checksum
    listing = reader.read(capture(tmp_path / "y.pcapng", [("b", bytes(broken))]))
    assert listing.unexplained != []


def test_what_a_test_does_later_explains_nothing_before_it(reader: Reader, tmp_path: Path) -> None:
    by_hand = (labels.BY_HAND, bytes(segment(A, B, "A", 106, 901, window=65535)))
    fault = ("a", bytes(LOST_AND_REPEATED[1]))
    assert opinion(reader, tmp_path / "x.pcapng", by_hand, fault).unexplained == []
    listing = opinion(reader, tmp_path / "y.pcapng", fault, by_hand)
    assert {number for number, _ in listing.unexplained} == {6}


def test_what_tshark_says_before_it_fails_is_an_error(reader: Reader, tmp_path: Path) -> None:
    path = capture(tmp_path / "x.pcapng", [(who, bytes(packet)) for who, packet in TALK])
    path.write_bytes(path.read_bytes()[:-6])
    assert "x.pcapng" in reader.read(path).error


def test_what_is_no_capture_is_an_error(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    path.write_bytes(b"nothing")
    assert reader.read(path).error == "x.pcapng is not a pcapng file"
    assert reader.read(tmp_path / "absent.pcapng").error != ""
