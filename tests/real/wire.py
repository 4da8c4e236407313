"""What dumpcap sees on the peer's interface while a real test runs, and how a test reads it: the one way for all of them.

    with captured(interface, artefacts / "peer.pcapng") as path:             around code without a running loop
    async with capturing(interface, artefacts / "peer.pcapng") as path:      inside a running loop

A file is whole and closed when its block ends.  `frames` reads it with the witness's dissector, `packets` with scapy; neither
shares code with the stack.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import dpkt
from scapy.packet import Packet
from scapy.utils import rdpcap

from compat.kernel import Interface, in_namespace
from compat.programs import dumpcap
from scenarios.witness import CaptureFile, Judgement, Setup, UnifiedNode, Verdict, judge, load
from scenarios.witness.frames import UNSPECIFIED, Advertisement, Frame, Kind, ListenerReport, Solicitation, text
from tests.plugins import taps

_ETH_P_ALL = 0x0003


def packet_socket(interface: Interface) -> socket.socket:
    """A socket that never blocks, sees every frame on an interface, both ways, and sends there."""
    with in_namespace(interface.namespace):
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    made.bind((interface.name, _ETH_P_ALL))  # and not before: it would hear every other interface until then
    made.setblocking(False)
    return made


@asynccontextmanager
async def capturing(interface: Interface, path: Path, **options: Any) -> AsyncIterator[Path]:
    """Capture an interface while the block runs, to the last frame; nothing may be missing.  options: those of `dumpcap`."""
    async with dumpcap(interface, path, **options) as capture:
        yield path
        await capture.stop()
    assert capture.dropped == 0, f"the capture of {interface} lost {capture.dropped} frames"


@contextmanager
def captured(interface: Interface, path: Path, **options: Any) -> Iterator[Path]:
    """The same around code that runs no loop, or one by turns."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        runner.run(stack.enter_async_context(capturing(interface, path, **options)))
        try:
            yield path
        finally:
            runner.run(stack.aclose())


def frames(path: Path) -> list[Frame]:
    """The frames of a capture in order; AssertionError where it cannot be read to its end."""
    point = load([CaptureFile(path, "peer")])["peer"]
    assert not point.unreadable, point.unreadable
    return point.frames


def packets(path: Path) -> list[Packet]:
    """The frames of a capture in order, as scapy reads them; the first has tshark's number 1."""
    return list(rdpcap(str(path)))


def made_by_a_tool(path: Path, ours: bytes) -> None:
    """What did not come from our link-layer address was made by a tool of the test, malformed on purpose or untrue."""
    with path.open("rb") as file:
        for _, frame in dpkt.pcapng.Reader(file):
            if frame[6:12] != ours:
                taps.by_hand(bytes(frame))


def after(seen: Iterable[Frame], frame: Frame) -> list[Frame]:
    """Those of a capture's frames that came after one of them."""
    return [each for each in seen if each.order > frame.order]


def sources(seen: Iterable[Frame], kind: Kind, port: int | None = None) -> set[tuple[str, str]]:
    """Link-layer and IPv6 source of every TCP segment or UDP datagram; port: only of those to it."""
    return {(f.eth_src.hex(":"), text(f.src)) for f in seen if f.kind is kind and port in (None, f.dport)}


def judged(
    path: Path, prefix: str, stable: Sequence[str], rules: Sequence[str], sessions: Mapping[str, int] | None = None
) -> Judgement:
    """What the witness says of the one node on a LAN, captured there: every rule must pass.

    prefix: of the LAN, where the node is who sends TCP from any but the `stable` addresses.
    """
    lan = IPv6Network(prefix)
    senders = sources(frames(path), Kind.TCP)
    macs = {mac for mac, source in senders if source not in stable and IPv6Address(source) in lan}
    node = UnifiedNode("node", "lan", tuple(macs), (prefix,), tuple(stable))
    setup = Setup((node,), sessions=dict(sessions or {}), rules=tuple(rules))
    judgement = judge([CaptureFile(path, "lan", offload_free=True)], setup, consult_tshark=False)
    for finding in judgement.findings:
        assert finding.verdict is Verdict.PASSED, f"{finding.rule}: {finding.sentence} {finding.details}"
    return judgement


# -- neighbour discovery and MLD ---------------------------------------------------------------------------


def probes(seen: Iterable[Frame], target: str) -> list[Frame]:
    """Neighbor Solicitations of duplicate address detection: from the unspecified address."""
    return [f for f in solicitations(seen, target) if f.src == UNSPECIFIED]


def questions(seen: Iterable[Frame], target: str) -> list[Frame]:
    """Neighbor Solicitations of address resolution and unreachability detection: from an address."""
    return [f for f in solicitations(seen, target) if f.src != UNSPECIFIED]


def solicitations(seen: Iterable[Frame], target: str) -> list[Frame]:
    """Neighbor Solicitations for a target."""
    return [f for f in seen if isinstance(f.message, Solicitation) and f.message.target == IPv6Address(target).packed]


def advertisements(seen: Iterable[Frame], target: str) -> list[Frame]:
    """Neighbor Advertisements for a target."""
    return [f for f in seen if isinstance(f.message, Advertisement) and f.message.target == IPv6Address(target).packed]


def reports(seen: Iterable[Frame], group: bytes, *types: int) -> list[Frame]:
    """MLD reports with a record of one of these types about a group."""
    return [
        f
        for f in seen
        if isinstance(f.message, ListenerReport)
        and any(record.group == group and record.type in types for record in f.message.records)
    ]


def echoes(seen: Iterable[Frame], kind: Kind, *, src: str | None = None, dst: str | None = None) -> list[Frame]:
    """Echo requests or replies from and to these addresses."""
    return [
        f
        for f in seen
        if f.kind is kind
        and (src is None or f.src == IPv6Address(src).packed)
        and (dst is None or f.dst == IPv6Address(dst).packed)
    ]
