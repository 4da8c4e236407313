"""In-memory wire and switch: order, latency, learning, bounds, wake-ups."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from tapstack.clock import VirtualTimeLoop, run_virtual
from tapstack.link.counters import LinkDrop
from tapstack.link.memory import MemoryLink, MemorySwitch, MemoryWire
from tapstack.types import address
from tapstack.wire import checksum, ethernet, ipv6, tcp, virtio

A, B, C = (bytes([2, 0, 0, 0, 0, n]) for n in (1, 2, 3))
GROUP = bytes.fromhex("333300000001")


def drain(link: MemoryLink) -> list[bytes]:
    return list(iter(link.receive, None))


def frame(dst: bytes, src: bytes, text: str = "x") -> bytes:
    return ethernet.header(dst, src) + text.encode()


def virtual(main: Coroutine[Any, Any, None]) -> None:
    run_virtual(main)


@pytest.mark.proves("ST-LINK-3")
def test_frames_arrive_in_order_after_exactly_the_latency() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        wire = MemoryWire(latency=0.25)
        arrivals: list[tuple[float, bytes]] = []

        def wake() -> None:
            arrivals.extend((loop.time(), bytes(f)) for f in drain(wire.b))

        wire.b.attach(loop, wake)
        for number in range(100):  # the same instant: order must not depend on the heap of timers
            assert wire.a.send([b"%d" % number])
        await asyncio.sleep(0.1)
        assert wire.a.send([b"la", memoryview(b"te")])
        await asyncio.sleep(1)
        assert arrivals == [(0.25, b"%d" % n) for n in range(100)] + [(0.35, b"late")]

    virtual(main())


def test_delivery_never_happens_inside_send() -> None:
    async def main() -> None:
        wire = MemoryWire()
        inside = False

        def wake() -> None:
            assert not inside

        wire.b.attach(asyncio.get_running_loop(), wake)
        inside = True
        wire.a.send([b"x"])
        inside = False
        await asyncio.sleep(0)
        assert drain(wire.b) == [b"x"]

    virtual(main())


@pytest.mark.proves("ST-LINK-3")
def test_the_switch_learns_floods_and_forgets() -> None:
    async def main() -> None:
        switch = MemorySwitch(ageing=300)
        one, two, three = (switch.connect(mac) for mac in (A, B, C))

        async def reached(sender: MemoryLink, data: bytes) -> list[int]:
            sender.send([data])
            await asyncio.sleep(0.001)
            return [link.port for link in (one, two, three) if drain(link) == [data]]

        assert await reached(one, frame(B, A)) == [1, 2]  # unknown: flooded, not back to its sender
        assert await reached(two, frame(A, B)) == [0]  # learnt from the first
        assert await reached(one, frame(B, A)) == [1]
        assert await reached(one, frame(GROUP, A)) == [1, 2]  # multicast always
        assert switch.where(B) == 1
        assert await reached(three, frame(A, B)) == [0]  # B moved
        assert await reached(one, frame(B, A)) == [2]
        assert await reached(three, frame(B, C)) == []  # its own port: not sent back
        await asyncio.sleep(301)
        assert switch.where(B) is None
        assert await reached(one, frame(B, A)) == [1, 2]
        await reached(three, frame(A, C))
        three.close()
        assert switch.where(C) is None
        assert await reached(one, frame(C, A)) == [1]

    virtual(main())


def test_the_address_table_is_bounded_and_the_oldest_goes() -> None:
    async def main() -> None:
        switch = MemorySwitch(table_limit=100)
        one, two = switch.connect(A), switch.connect(B)
        for number in range(100):
            one.send([frame(B, b"\x06" + number.to_bytes(5, "big"))])
        await asyncio.sleep(0)
        one.send([frame(B, b"\x06" + (0).to_bytes(5, "big"))])  # refreshed
        one.send([frame(B, b"\x06" + (1000).to_bytes(5, "big"))])  # one too many
        await asyncio.sleep(0)
        assert len(drain(two)) == 102
        assert switch.where(b"\x06" + (0).to_bytes(5, "big")) == 0
        assert switch.where(b"\x06" + (1).to_bytes(5, "big")) is None
        assert switch.where(b"\x06" + (1000).to_bytes(5, "big")) == 0

    virtual(main())


@pytest.mark.proves("ST-LINK-5", by="api")
def test_every_drop_is_counted() -> None:
    async def main() -> None:
        switch = MemorySwitch(mtu=100, fabric_limit=5)
        one, two = switch.connect(A), switch.connect(B, queue_limit=3)
        assert one.send([frame(B, A), bytes(99)])  # 100 bytes of packet: just fits
        assert not one.send([frame(B, A), bytes(100)])
        assert one.counters.drops == {LinkDrop.OVERSIZE: 1}
        assert [one.send([frame(B, A)]) for _ in range(6)] == [True] * 4 + [False] * 2
        assert one.counters.drops[LinkDrop.QUEUE_FULL] == 2
        await asyncio.sleep(0)
        assert len(drain(two)) == 3
        assert two.counters.drops == {LinkDrop.QUEUE_FULL: 2}
        assert one.send([b"short"])
        assert one.send([frame(B, GROUP)])
        assert one.counters.drops[LinkDrop.MALFORMED] == 2
        await asyncio.sleep(0)
        assert drain(two) == []
        one.close()
        one.close()
        assert not one.send([frame(B, A)])
        assert one.counters.drops[LinkDrop.CLOSED] == 1
        assert one.counters.sent == 7
        assert two.counters.received == 3
        assert two.counters.received_bytes == 3 * 15 + 99

    virtual(main())


def test_observers_see_each_frame_once_with_time_and_port() -> None:
    async def main() -> None:
        switch = MemorySwitch(latency=0.5)
        one, two, _three = (switch.connect(mac) for mac in (A, B, C))
        seen: list[tuple[float, int, bytes]] = []
        stop = switch.observe(lambda *what: seen.append(what))
        one.send([frame(GROUP, A)])
        await asyncio.sleep(0.125)
        two.send([frame(A, B)])
        assert seen == [(0.0, 0, frame(GROUP, A)), (0.125, 1, frame(A, B))]
        stop()
        two.send([frame(A, B)])
        assert len(seen) == 2

    virtual(main())


def test_an_owner_that_takes_some_is_woken_for_the_rest() -> None:
    async def main() -> None:
        wire = MemoryWire()
        taken: list[bytes] = []

        def wake() -> None:
            taken.extend(f for f in (wire.b.receive(), wire.b.receive()) if f is not None)

        wire.b.attach(asyncio.get_running_loop(), wake)
        for _ in range(7):
            wire.a.send([b"x"])
        await asyncio.sleep(1)
        assert len(taken) == 7

    virtual(main())


def test_an_owner_that_takes_nothing_does_not_stop_time() -> None:
    async def main() -> None:
        wire = MemoryWire(queue_limit=10)
        wakes: list[float] = []
        loop = asyncio.get_running_loop()
        wire.b.attach(loop, lambda: wakes.append(loop.time()))
        for _ in range(20):
            wire.a.send([b"x"])
            await asyncio.sleep(1)
        assert wire.b.counters.drops[LinkDrop.QUEUE_FULL] == 10
        assert wakes == [float(n) for n in range(20)]

    virtual(main())


def test_frames_that_came_before_attach_are_announced() -> None:
    async def main() -> None:
        wire = MemoryWire()
        wire.a.send([b"early"])
        await asyncio.sleep(1)
        event = asyncio.Event()
        wire.b.attach(asyncio.get_running_loop(), event.set)
        await event.wait()
        assert wire.b.receive() == b"early"
        assert wire.b.receive() is None

    virtual(main())


def test_nothing_is_delivered_after_close() -> None:
    async def main() -> None:
        wire = MemoryWire(latency=1.0)
        woken: list[bool] = []
        wire.b.attach(asyncio.get_running_loop(), lambda: woken.append(True))
        wire.a.send([b"x"])
        wire.b.close()
        await asyncio.sleep(2)
        assert wire.b.receive() is None
        wire.a.send([b"x"])
        wire.close()
        await asyncio.sleep(2)
        assert woken == []

    virtual(main())


def test_wrong_use_is_refused() -> None:
    async def main() -> None:
        switch = MemorySwitch()
        with pytest.raises(ValueError, match="unicast"):
            switch.connect(GROUP)
        with pytest.raises(ValueError, match="unicast"):
            switch.connect(b"\x02")
        other = VirtualTimeLoop()
        with pytest.raises(ValueError, match="event loop"):
            switch.connect(A).attach(other, lambda: None)
        other.close()

    virtual(main())


def test_checksums_are_left_to_the_switch_only_where_the_sender_has_offload() -> None:
    """Between ports with offload a frame passes as it is; observers, and ports without, get its checksum finished."""

    async def main() -> None:
        switch = MemorySwitch()
        one, two, plain = switch.connect(A, offload=True), switch.connect(B, offload=True), switch.connect(C)
        assert one.properties.vnet_header and one.properties.checksum_offload and not one.properties.gso_size
        seen: list[bytes] = []
        switch.observe(lambda when, port, whole: seen.append(whole))
        src, dst = address("2001:db8::1"), address("2001:db8::2")
        whole = tcp.pack(src, dst, 1, 2, 3, 4, tcp.ACK, 5, payload=b"odd") + b"odd"
        packet = ipv6.pack_header(src, dst, tcp.PROTOCOL, len(whole)) + whole
        at = 54 + 16
        finished = ethernet.header(GROUP, A) + packet
        partial = checksum.pseudo_header(src, dst, len(whole), tcp.PROTOCOL).to_bytes(2, "big")
        left = finished[:at] + partial + finished[at + 2 :]
        assert left != finished
        header = virtio.VirtioHeader(virtio.NEEDS_CSUM, checksum_start=54, checksum_offset=16).pack()

        assert one.send([header + left])
        await asyncio.sleep(0.001)
        assert seen == [finished]
        assert drain(two) == [header + left]
        assert drain(plain) == [finished]

        assert plain.send([frame(GROUP, C)])
        assert two.send([virtio.PLAIN, frame(GROUP, B)])
        await asyncio.sleep(0.001)
        assert drain(one) == [virtio.PLAIN + frame(GROUP, C), virtio.PLAIN + frame(GROUP, B)]
        assert drain(plain) == [frame(GROUP, B)]
        assert seen[1:] == [frame(GROUP, C), frame(GROUP, B)]
        assert switch.where(B) == two.port

        assert two.send([virtio.PLAIN + B])  # no whole header
        assert two.counters.drops[LinkDrop.MALFORMED] == 1

    virtual(main())


def test_a_checksum_that_lies_outside_its_frame_is_left_alone() -> None:
    header = virtio.VirtioHeader(virtio.NEEDS_CSUM, checksum_start=10, checksum_offset=16).pack()
    assert virtio.completed(header + bytes(27)) == bytes(27)
    assert virtio.completed(header + bytes(11) + b"\1" + bytes(16)) == bytes(11) + b"\1" + bytes(14) + b"\xff\xfe"
    assert virtio.completed(virtio.PLAIN + b"frame") == b"frame"


@pytest.mark.proves("ST-IP6-11", by="api")
@pytest.mark.parametrize(("offset", "zero"), [(6, b"\xff\xff"), (16, b"\x00\x00")], ids=["UDP", "TCP"])
def test_a_udp_checksum_that_is_finished_as_zero_is_written_as_all_ones(offset: int, zero: bytes) -> None:
    """RFC 8200 §8.1: zero would say that there is none."""
    header = virtio.VirtioHeader(virtio.NEEDS_CSUM, checksum_start=10, checksum_offset=offset).pack()
    packet = b"\x00\x01" + bytes(20) + b"\xff\xfe"
    assert virtio.completed(header + bytes(10) + packet) == bytes(10) + packet[:offset] + zero + packet[offset + 2 :]
