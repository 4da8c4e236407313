"""The same impairments on a TAP, in real time (ST-LINK-3)."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest
from scapy.layers.inet import UDP

from tapstack.link.impairment import ImpairedLink, Impairment

from .tap_support import OWN, Far, tap_in_namespace
from .wire import capturing, packets

pytestmark = [pytest.mark.real("dumpcap"), pytest.mark.proves("ST-LINK-3")]

MARK = b"\x88\xb5"  # a local experimental EtherType: nobody else uses it


def marked(seen: socket.socket) -> bytes:
    while (frame := seen.recv(4000))[12:14] != MARK:
        pass
    return frame


def test_outgoing_frames_are_delayed_in_order_and_doubled(artefacts: Path) -> None:
    async def main() -> float:
        with tap_in_namespace("link-imp") as (link, far), far.packet_socket() as seen:
            loop = asyncio.get_running_loop()
            impaired = ImpairedLink(link, seed=1, outgoing=Impairment(delay=0.05, jitter=0.02, duplicate=1.0))
            async with capturing(far.interface, artefacts / "peer.pcapng"):
                impaired.attach(loop, lambda: None)
                began = time.time()
                for number in range(20):
                    assert impaired.send([bytes(12), MARK, bytes([number]) * 50])
                for _ in range(40):
                    await loop.run_in_executor(None, marked, seen)
            assert impaired.outgoing.duplicated == 20
            impaired.close()
            assert link.fileno() == -1
            return began

    began = asyncio.run(main())
    arrived = [packet for packet in packets(artefacts / "peer.pcapng") if bytes(packet)[12:14] == MARK]
    assert [bytes(packet)[14] for packet in arrived] == [n for n in range(20) for _ in range(2)]
    assert all(float(packet.time) - began >= 0.05 for packet in arrived)


def test_incoming_frames_are_lost_as_asked(artefacts: Path) -> None:
    async def arrived(loss: float, seed: int) -> list[int]:
        path = artefacts / f"loss-{loss}.pcapng"
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

            async with capturing(far.interface, path):
                impaired.attach(asyncio.get_running_loop(), wake)
                await send_numbers(far, over)
        sent = [bytes(packet[UDP].payload) for packet in packets(path) if UDP in packet and packet[UDP].dport == 9]
        assert [data[4] for data in sent if data[4] < 200] == list(range(200)), "the kernel sent each once"
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
