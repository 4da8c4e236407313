"""The same impairments on a TAP, in real time (ST-LINK-3)."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from tapstack.link.impairment import ImpairedLink, Impairment

from .tap_support import OWN, Far, tap_in_namespace

pytestmark = [pytest.mark.real(), pytest.mark.proves("ST-LINK-3")]

MARK = b"\x88\xb5"  # a local experimental EtherType: nobody else uses it


def marked(seen: socket.socket) -> bytes:
    while (frame := seen.recv(4000))[12:14] != MARK:
        pass
    return frame


def test_outgoing_frames_are_delayed_in_order_and_doubled() -> None:
    async def main() -> None:
        with tap_in_namespace("link-imp") as (link, far), far.packet_socket() as seen:
            loop = asyncio.get_running_loop()
            path = Impairment(delay=0.05, jitter=0.02, duplicate=1.0)
            impaired = ImpairedLink(link, seed=1, outgoing=path)
            impaired.attach(loop, lambda: None)
            before = time.monotonic()
            for number in range(20):
                assert impaired.send([bytes(12), MARK, bytes([number]) * 50])
            got = [(await loop.run_in_executor(None, marked, seen))[14] for _ in range(40)]
            assert time.monotonic() - before >= 0.05
            assert got == [n for n in range(20) for _ in range(2)]
            assert impaired.outgoing.duplicated == 20
            impaired.close()
            assert link.fileno() == -1

    asyncio.run(main())


def test_incoming_frames_are_lost_as_asked() -> None:
    async def arrived(loss: float, seed: int) -> list[int]:
        with tap_in_namespace("link-imp") as (link, far):
            impaired = ImpairedLink(link, seed=seed, incoming=Impairment(loss=loss))
            numbers: list[int] = []
            over = asyncio.Event()

            def wake() -> None:
                while (frame := impaired.receive()) is not None:
                    if frame[54 + 8 :][:4] == b"mark":
                        numbers.append(frame[54 + 12])
                        if numbers[-1] == 255:
                            over.set()

            impaired.attach(asyncio.get_running_loop(), wake)
            await send_numbers(far, over)
            return [n for n in numbers if n < 200]

    async def send_numbers(far: Far, over: asyncio.Event) -> None:
        with far.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            for number in range(200):
                sender.sendto(b"mark" + bytes([number]), (OWN, 9))
            async with asyncio.timeout(10):
                while not over.is_set():  # the last message may be lost, too, so it is repeated
                    sender.sendto(b"mark\xff", (OWN, 9))
                    await asyncio.sleep(0.01)

    half = asyncio.run(arrived(0.5, 3))
    assert half == sorted(half)
    assert (
        60 <= len(half) <= 140
    )  # five standard deviations; which frames they are depends on what else the kernel sends
    assert asyncio.run(arrived(0.0, 3)) == list(range(200))
