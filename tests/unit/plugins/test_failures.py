"""What a test leaves that fails: a capture with what was said, and the frame, named by the report and in the capture."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenarios.conformance import labels

from .sessions import read, run, table

HEAD = """
import dpkt
import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from tests.plugins import taps
from unittest.mock import Mock

class Bad:
    def __getattr__(self, name):
        raise KeyError(name)

def segment(seq):
    return bytes(IPv6(src="2001:db8::1", dst="2001:db8::2") / TCP(seq=seq))

def talk(link_type=taps.RAW_IP, front=b""):
    tap = taps.world("wire", link_type)
    for seq in range(5):
        tap.sent(float(seq), "a", front + segment(seq), [front + segment(seq)])
        tap.say(f"a says: {seq}")
"""

FAILING = {
    "bytes": "packet = segment(2); assert packet[0] == 0",
    "scapy": "tcp = IPv6(segment(2))[TCP]; assert tcp.seq == 7",
    "dpkt": "packet = dpkt.ip6.IP6(segment(2)); assert packet.data.seq == 7",
    "several": "found = [(1.0, 'a', segment(2))]; assert found[0][2] == b''",
    "a helper": "check(segment(2))",
    "beside what is none": "kind, mock, bad, packet = TCP, Mock(), Bad(), segment(2); assert (kind, mock, bad, packet) == 0",
    "an exception": "packet = segment(2); int(packet[:1].hex(), 2)",
}


@pytest.mark.parametrize(
    ("body", "options"),
    [*((body, ()) for body in FAILING.values()), (FAILING["scapy"], ("-n", "1"))],
    ids=[*FAILING, "scapy, by way of xdist"],
)
def test_the_report_names_the_capture_and_the_frame(
    session: pytest.Pytester, body: str, options: tuple[str, ...]
) -> None:
    session.makepyfile(
        test_it=HEAD
        + "def check(packet):\n    assert packet == b''\n"
        + f"@pytest.mark.proves('UM-ADDR-1')\ndef test_one():\n    talk()\n    {body}\n"
    )
    result = run(session, *options)
    result.assert_outcomes(failed=1)
    wire = session.path / "out/tests/test_it.test_one/wire.pcapng"
    frames = read(wire)
    assert [said[0] for _, _, said in frames] == [f"a says: {number}" for number in range(5)]
    assert [number for number, (_, _, said) in enumerate(frames, 1) if labels.said(labels.BROKEN, said)] == [3]
    result.stdout.fnmatch_lines([f"{wire}", "the assertion looked at frame 3 of wire.pcapng"])
    result.stdout.fnmatch_lines(["FAILED test_it.py::test_one - frame 3 of wire.pcapng: *"])
    (row,) = (row for row in table(session) if row["id"] == "UM-ADDR-1")
    assert row["reason"].startswith("frame 3 of wire.pcapng: ")


def test_where_no_variable_holds_a_frame_the_last_one_is_named_as_that(session: pytest.Pytester) -> None:
    session.makepyfile(test_it=HEAD + "def test_one():\n    talk()\n    seen = 5\n    assert seen == 6\n")
    result = run(session)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["the last frame before it is 5 of wire.pcapng", "FAILED test_it.py::test_one - assert 5 == 6"]
    )
    assert not any(
        labels.said(labels.BROKEN, said) for _, _, said in read(session.path / "out/tests/test_it.test_one/wire.pcapng")
    )


def test_a_test_that_passes_leaves_nothing_and_removes_what_it_left_before(session: pytest.Pytester) -> None:
    session.makepyfile(
        test_it=HEAD + "from pathlib import Path\ndef test_one():\n    talk()\n    assert Path('mended').exists()\n"
    )
    folder = session.path / "out/tests/test_it.test_one"
    run(session).assert_outcomes(failed=1)
    assert [path.name for path in folder.iterdir()] == ["wire.pcapng"]
    (session.path / "mended").touch()
    run(session).assert_outcomes(passed=1)
    assert not folder.exists()


def test_with_captures_the_kept_one_has_the_frame_too(session: pytest.Pytester) -> None:
    session.makepyfile(
        test_it=HEAD
        + "@pytest.mark.proves('UM-ADDR-1')\ndef test_one():\n    talk()\n    packet = segment(2)\n    assert not packet\n"
    )
    run(session, "--captures", "kept").assert_outcomes(failed=1)
    (kept,) = (session.path / "kept").glob("*.pcapng")
    assert labels.said(labels.BROKEN, read(kept)[2][2])


REAL = """
LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")

@pytest.fixture
def dumpcap(artefacts):
    taps.recording.world("as dumpcap would", taps.ETHERNET)
    recorder = taps.recording.worlds.pop()
    for seq in range(5):
        recorder.sent(float(seq), "eth0", bytes(LINK / IPv6(segment(seq))))
        recorder.write(artefacts / "peer.pcapng")
    yield artefacts / "peer.pcapng"
    recorder.sent(5.0, "eth0", bytes(LINK / IPv6(segment(5))))
    recorder.write(artefacts / "peer.pcapng")

def test_one(dumpcap):
    event = AddressChanged(time=1.0, address="2001:db8::1", old="UNCERTAIN", new="PREFERRED", kind="ephemeral", cause="taken")
    taps.recording.told.append((taps.EPOCH + 4.0, "tap-a", event))
    packets = [packet for packet in PcapNgReader(str(dumpcap)) if packet[TCP].seq == 2]
    assert packets[0][TCP].seq == 7
"""


def test_of_a_real_capture_an_annotated_copy_is_made_once_it_is_closed(session: pytest.Pytester) -> None:
    imports = "from scapy.utils import PcapNgReader\nfrom tapstack.events import AddressChanged\n"
    session.makepyfile(test_it=imports + HEAD + REAL)
    result = run(session)
    result.assert_outcomes(failed=1)
    folder: Path = session.path / "out/tests/test_it.test_one"
    result.stdout.fnmatch_lines([str(folder / "peer.pcapng"), "the assertion looked at frame 3 of peer.pcapng"])
    assert [said for _, _, said in read(folder / "peer.pcapng")] == [[]] * 6, "the original is as it was"
    said = [words for _, _, words in read(folder / "peer-annotated.pcapng")]
    assert len(said) == 6
    assert labels.said(labels.BROKEN, said[2])
    assert [words for each in said for words in each if "says" in words] == [
        "tap-a says: address 2001:db8::1 UNCERTAIN → PREFERRED (taken)"
    ]
