"""The witness before the stack itself: real unified nodes on an in-memory LAN, judged from the switch's frames.

A neighbour probes, a third host knocks and a client comes back.  The stack as it is passes every rule; deliberately broken
in one place, it fails the rule that watches over that place (the negative controls of conformance).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random

import msgspec
import pytest
from scapy.packet import Packet

from scenarios.demo.ports import RestlessPorts
from scenarios.witness import CaptureFile, Judgement, Setup, UnifiedNode, Verdict, annotate, judge
from tapstack.events import Event
from tapstack.ipv6 import addresses
from tapstack.ipv6.addresses import AddressEntry, AddressState, AddressTable, Answers
from tapstack.ipv6.discovery import Discovery
from tapstack.ipv6.multicast import MulticastListener
from tapstack.link.memory import MemoryLink
from tapstack.tcp.options import PortMode
from tapstack.types import address, address_text
from tests.unit.unimux.lan import OPTIONS, Lan, echo_server, lan, settle, virtual
from unimux.aio import open_connection
from unimux.node import Node, NodeConfig
from unimux.poolstate import PoolConfig

from .judged import found
from .wire import EPOCH, echo, packet_block, pcapng_head, probe, solicitation, tcp, udp

PREFIX, NEIGHBOUR, THIRD = "2001:db8:1::/64", "2001:db8:1::66", "2001:db8:1::bad"
NEIGHBOUR_MAC = "02:00:00:00:00:66"
BREAK = Callable[[pytest.MonkeyPatch], None]


class Neighbour:
    """A host that sends frames made by hand and never answers."""

    def __init__(self, net: Lan) -> None:
        self.link: MemoryLink = net.switch.connect(bytes.fromhex(NEIGHBOUR_MAC.replace(":", "")))

    async def send(self, *packets: Packet) -> None:
        """Send, and give the frames and what they cause time to cross the switch."""
        for packet in packets:
            self.link.send([bytes(packet)])
        await asyncio.sleep(0.02)


def mac_of(node: Node) -> str:
    mac = node.link.properties.mac
    assert mac is not None
    return mac.hex(":")


def to(node: Node, source: str, target: str, number: int) -> Packet:
    """A SYN of a stranger to an address of the node."""
    return tcp(source, target, "S", number, ports=(4000 + number, 80), macs=(NEIGHBOUR_MAC, mac_of(node)))


@asynccontextmanager
async def unified(net: Lan, number: int, events: list[Event]) -> AsyncIterator[Node]:
    """A node whose events are heard from the start, with addresses reserved and a link-local one to defend them from."""
    config = NodeConfig(pool=PoolConfig(low=4, high=8), socket=OPTIONS)
    node = Node(net.switch.connect(bytes((2, 0, 0, 0, 0, number))), config, seed=bytes([number]) * 32)
    node.events.subscribe(events.append)
    async with node:
        node.stack.host.prefix_list.add_static(address(PREFIX.split("/")[0]), 64, autonomous=True, now=node.now())
        node.pool.start(node.now())
        node.driver.kick()
        await node.ready(3)
        await node.until(lambda: link_local(node) != "", 10)
        yield node


async def story(net: Lan, stack: AsyncExitStack, events: list[Event]) -> None:
    """Alice opens an L0 session to an SSA of Bob while others try their luck."""
    neighbour = Neighbour(net)
    alice, bob = (
        await stack.enter_async_context(unified(net, 1, events)),
        await stack.enter_async_context(unified(net, 2, events)),
    )
    # Bob learns where they are, so that nothing but the rules keeps him silent.
    for source in ("fe80::66", NEIGHBOUR, THIRD):
        await neighbour.send(solicitation(link_local(bob), source, NEIGHBOUR_MAC))
    reserved = reserved_of(bob)
    await neighbour.send(
        solicitation(reserved, NEIGHBOUR, NEIGHBOUR_MAC), probe(reserved, NEIGHBOUR_MAC, b"\x0e\x01nosey!")
    )
    await neighbour.send(to(bob, NEIGHBOUR, reserved, 1), echo(NEIGHBOUR, reserved, NEIGHBOUR_MAC, mac_of(bob)))

    server = echo_server(bob, mode=PortMode.L0)
    ssa = await server.issue()
    reader, writer = await open_connection(alice, ssa.address, None, mode=PortMode.L0)
    writer.get_extra_info("connection").emitter.transform = RestlessPorts(Random(5))
    writer.write(bytes(20000))
    assert await reader.readexactly(20000) == bytes(20000)
    await neighbour.send(to(bob, THIRD, str(ssa), 2), udp(THIRD, str(ssa), NEIGHBOUR_MAC))
    writer.write_eof()
    await reader.read()
    writer.close()
    for node in (alice, bob):
        await settle(node)
    again = to(bob, NEIGHBOUR, str(ssa), 3)
    await neighbour.send(solicitation(str(ssa), NEIGHBOUR, NEIGHBOUR_MAC), again, probe(str(ssa), NEIGHBOUR_MAC))


def link_local(node: Node) -> str:
    """The link-local address, once it is usable."""
    usable = (e for e in node.stack.host.addresses if e.address[0] == 0xFE and e.state is AddressState.PREFERRED)
    return next((address_text(e.address) for e in usable), "")


def reserved_of(node: Node) -> str:
    """One of the addresses in reserve."""
    return next(address_text(e.address) for e in node.stack.host.addresses if e.state is AddressState.UNCERTAIN)


def run(folder: Path) -> Judgement:
    """Tell the story and judge it."""
    events: list[Event] = []
    path, claims = folder / "switch.pcapng", folder / "events.jsonl"

    async def main() -> None:
        async with lan() as net, AsyncExitStack() as stack:
            seen.append(net)
            await story(net, stack, events)

    seen: list[Lan] = []
    virtual(main())
    path.write_bytes(pcapng_head() + b"".join(packet_block(EPOCH + when, frame) for when, frame in seen[0].frames))
    rows = ({**msgspec.to_builtins(event), "wall": EPOCH + event.time} for event in events)
    claims.write_text("".join(json.dumps(row) + "\n" for row in rows))
    nodes = tuple(UnifiedNode(n, "switch", (f"02:00:00:00:00:0{m}",), (PREFIX,)) for n, m in (("alice", 1), ("bob", 2)))
    setup = Setup(nodes, strangers=(THIRD,), connections=1)
    return judge([CaptureFile(path, "switch", offload_free=True)], setup, [claims])


@pytest.mark.proves(
    *("UM-ADDR-1", "UM-ADDR-2", "UM-ADDR-3", "UM-ADDR-4", "UM-ADDR-5", "UM-ADDR-7", "UM-ADDR-8", "UM-ADDR-9"),
    *("UM-DAS-1", "UM-DAS-4", "UM-EA-1", "UM-GEN-1", "UM-LIS-6", "UM-PORT-1", "UM-REL-1", "UM-NODE-4"),
)
def test_the_stack_passes_every_rule(artefacts: Path) -> None:
    judgement = run(artefacts)
    failed = [finding for finding in judgement.findings if finding.verdict is not Verdict.PASSED]
    assert not failed
    assert len(judgement.findings) == 21
    assert len(annotate(judgement, artefacts / "annotated")) == 1


def answers(state: AddressState, allowed: int) -> BREAK:
    """Let a state answer other things than it should."""
    return lambda patch: patch.setitem(addresses.ANSWERS, state, allowed)


def nothing(*_: object, **__: object) -> None:
    """Does nothing."""


def announce_twice(patch: pytest.MonkeyPatch) -> None:
    once = Discovery.announce

    def twice(self: Discovery, entry: AddressEntry) -> None:
        once(self, entry)
        once(self, entry)

    patch.setattr(Discovery, "announce", twice)


def forget_to_release(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MulticastListener, "leave", nothing)
    patch.setattr(MulticastListener, "leave_all", nothing)


def lie_about_promotion(patch: pytest.MonkeyPatch) -> None:
    """The address is in use half a second before the events say so."""
    take = AddressTable.take

    def late(self: AddressTable, entry: AddressEntry, kind: addresses.AddressKind, now: float, cause: str) -> None:
        take(self, entry, kind, now + 0.5, cause)

    patch.setattr(AddressTable, "take", late)


EVERYTHING = Answers.DAD | Answers.RESOLUTION | Answers.TRAFFIC


@pytest.mark.parametrize(
    ("rule", "broken"),
    [
        ("silence-before", answers(AddressState.UNCERTAIN, Answers.DAD | Answers.RESOLUTION)),
        ("speaks-within-life", answers(AddressState.UNCERTAIN, EVERYTHING)),
        ("defended", answers(AddressState.UNCERTAIN, Answers.NOTHING)),
        ("promotion-once", lambda patch: patch.setattr(Discovery, "announce", nothing)),
        ("promotion-once", announce_twice),
        ("group-held", lambda patch: patch.setattr(MulticastListener, "_report_changes", nothing)),
        ("released", forget_to_release),
        ("third-host", lambda patch: patch.setattr(AddressEntry, "speaks_to", lambda self, remote: True)),
        ("claims", lie_about_promotion),
    ],
    ids=[
        "resolution answered while reserved",
        "anything answered while reserved",
        "not defended",
        "no promotion NA",
        "two promotion NAs",
        "no group reported",
        "never left",
        "strangers answered",
        "events that lie",
    ],
)
def test_a_broken_stack_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rule: str, broken: BREAK) -> None:
    broken(monkeypatch)
    finding = found(run(tmp_path), rule)
    assert finding.verdict is Verdict.FAILED, finding
