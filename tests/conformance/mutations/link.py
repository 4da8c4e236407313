"""Defects in links: impairment, capture, counters, TUN (ST-LINK-2 to -5)."""

from __future__ import annotations

from tests.conformance.mutant import Edit, Mutation

_PATH = "tapstack.link.impairment:_Path"
_IMPAIRMENT = "tests/unit/link/test_impairment.py"
_CAPTURE = "tapstack.link.capture:CaptureLink"
_CAPTURES = "tests/unit/link/test_capture.py"
_MEMORY = "tests/unit/link/test_memory.py"

MUTATIONS = (
    Mutation(
        "tun-with-ethernet",
        "a TUN is made as a TAP, and its packets come with Ethernet headers",
        ("ST-LINK-2",),
        ("tests/real/test_tap.py::test_tun_carries_bare_packets_both_ways",),
        (Edit("tapstack.link.tun:open_tun", "pytun.IFF_TUN", "pytun.IFF_TAP"),),
    ),
    Mutation(
        "loss-never",
        "no frame is lost",
        ("ST-LINK-3",),
        (_IMPAIRMENT,),
        (Edit(f"{_PATH}.enter", "if lost:", "if False:"),),
        quick=True,
    ),
    Mutation(
        "jitter-reorders",
        "a frame with less jitter overtakes the one before it",
        ("ST-LINK-3",),
        (_IMPAIRMENT,),
        (Edit(f"{_PATH}.enter", "max(passed + what.delay + jitter, self._last_due)", "passed + what.delay + jitter"),),
    ),
    Mutation(
        "impairments-share-a-generator",
        "corruption draws from the generator of loss, where there is any: who corrupts, loses other frames",
        ("ST-LINK-3",),
        (_IMPAIRMENT,),
        (Edit(f"{_PATH}.enter", "self._corrupt.random() <", "what.corrupt > 0 and self._loss.random() <"),),
    ),
    Mutation(
        "bottleneck-without-limit",
        "the queue of the bottleneck has no end",
        ("ST-LINK-3",),
        (_IMPAIRMENT,),
        (Edit(f"{_PATH}._pass_bottleneck", "limit is not None and ahead > 0", "False"),),
    ),
    Mutation(
        "corruption-of-addresses",
        "corruption flips bits of the Ethernet header too",
        ("ST-LINK-3",),
        (_IMPAIRMENT,),
        (Edit(f"{_PATH}._flip", "changed[self._layout.packet + at]", "changed[at]"),),
    ),
    Mutation(
        "switch-never-learns",
        "the switch of the tests hands every frame to every port",
        ("ST-LINK-3",),
        (_MEMORY,),
        (Edit("tapstack.link.memory:MemorySwitch._targets", "if not frame[at] & 1:", "if False:"),),
    ),
    Mutation(
        "remark-on-a-frame-long-past",
        "what is said after a frame was handled stands at that frame",
        ("ST-LINK-4",),
        (_CAPTURES,),
        (Edit(f"{_CAPTURE}.handled", "self._write_held()", "pass"),),
    ),
    Mutation(
        "drop-without-its-reason",
        "the capture does not say why a frame was dropped",
        ("ST-LINK-4",),
        (f"{_CAPTURES}::test_events_and_drops_become_comments",),
        (Edit(f"{_CAPTURE}._write_held", "self._counters.last_drop is not None", "False"),),
        quick=True,
    ),
    Mutation(
        "virtio-header-in-the-file",
        "the virtio header stands before each frame of the file",
        ("ST-LINK-4",),
        (f"{_CAPTURES}::test_virtio_headers_are_taken_off_and_explained",),
        (Edit(f"{_CAPTURE}._write", "memoryview(frame)[virtio.HEADER_LENGTH :]", "memoryview(frame)"),),
    ),
    Mutation(
        "capture-in-microseconds",
        "times in a capture are cut to microseconds",
        ("ST-LINK-4",),
        (f"{_CAPTURES}::test_both_directions_with_nanoseconds_and_virtual_time",),
        (
            Edit(
                "tapstack.link.pcapng:PcapngWriter.write",
                "ts_high=time_ns >> 32",
                "ts_high=time_ns // 1000 * 1000 >> 32",
            ),
            Edit(
                "tapstack.link.pcapng:PcapngWriter.write",
                "ts_low=time_ns & 0xFFFFFFFF",
                "ts_low=time_ns // 1000 * 1000 & 0xFFFFFFFF",
            ),
        ),
    ),
    Mutation(
        "capture-of-one-direction",
        "frames that are sent are not captured",
        ("ST-LINK-4",),
        (_CAPTURES,),
        (Edit(f"{_CAPTURE}.send", "if self._recording:", "if False:"),),
    ),
    Mutation(
        "queue-drop-uncounted",
        "a frame that finds a port's queue full goes uncounted",
        ("ST-LINK-5",),
        (f"{_MEMORY}::test_every_drop_is_counted",),
        (Edit("tapstack.link.memory:MemoryLink.put", "if dropped:", "if False:"),),
        quick=True,
    ),
    Mutation(
        "drop-uncounted",
        "the stack counts no packet that it drops",
        ("ST-LINK-5",),
        ("tests/unit/ipv6/test_extension_headers.py::test_what_the_fixed_header_rules_out_is_counted",),
        (Edit("tapstack.events:Counters.drop", "self.drops[reason] += 1", "pass"),),
    ),
    Mutation(
        "drop-under-another-reason",
        "a packet for somebody else is counted as one with a wrong source",
        ("ST-LINK-5",),
        ("tests/unit/ipv6/test_extension_headers.py::test_what_the_fixed_header_rules_out_is_counted",),
        (Edit("tapstack.events:Counters.drop", "self.drops[reason]", "self.drops[DropReason.IP_BAD_SOURCE]"),),
    ),
)
