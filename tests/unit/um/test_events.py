"""Every state change is an event (UM-NODE-4), compared with what was on the wire, and readable as JSON lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import ICMPv6MLReport2, IPv6
from scapy.layers.l2 import Ether

from tapstack.events import AddressChanged, ConnectionChanged, Event
from tapstack.types import address
from tests.unit.unimux.lan import virtual
from unimux.events import EventFile
from unimux.poolstate import PoolConfig

from .bed import bed
from .endings import ENDINGS

POOL = PoolConfig(low=16, high=32, pace=0.001)


@pytest.mark.proves("UM-NODE-4")
@pytest.mark.parametrize("dedicated", [True, False], ids=["dedicated", "on-link"])
def test_the_events_tell_what_the_wire_shows(dedicated: bool, rng: Random) -> None:
    """Every address speaks within the life that the events give it; every SYN on the wire is a connection in the events."""
    frames: list[tuple[float, bytes]] = []
    told: list[Event] = []

    async def main() -> None:
        async with bed(rng, dedicated=dedicated, pool=POOL) as made:
            made.switch.observe(lambda when, port, frame: frames.append((when, bytes(frame))))
            for node in made.nodes:
                node.watch(told.append)
            for name in ("client_closes", "server_resets", "both_close", "cancelled", "several_sessions", "refused"):
                for _ in range(4):
                    await ENDINGS[name](made)
            await made.quiet()

    virtual(main())
    life: dict[str, list[float]] = {}
    for event in told:
        if isinstance(event, AddressChanged) and event.new == "PREFERRED":
            life[event.address] = [event.time, float("inf")]
        elif isinstance(event, AddressChanged) and event.new == "INVALID" and event.address in life:
            life[event.address][1] = event.time
    opened = {
        (e.local, e.remote) for e in told if isinstance(e, ConnectionChanged) and e.new in ("SYN-SENT", "SYN-RECEIVED")
    }
    established = {(e.local, e.remote) for e in told if isinstance(e, ConnectionChanged) and e.new == "ESTABLISHED"}
    syns = answers = 0
    for when, frame in frames:
        packet = Ether(frame)
        if TCP not in packet:
            continue
        src, dst, flags = packet[IPv6].src, packet[IPv6].dst, str(packet[TCP].flags)
        if src in life:
            assert life[src][0] <= when <= life[src][1], f"{src} spoke at {when}, outside {life[src]}"
        else:
            assert address(src)[15:] == b"\x01", f"{src} spoke, and no event says that it lives"
        if "S" in flags:
            assert (src, dst) in opened, f"a SYN of {src} that no event tells of"
            syns += flags == "S"
            answers += flags == "SA"
        elif "F" in flags:
            assert (src, dst) in established
    assert syns >= 20
    assert answers >= 16


@pytest.mark.proves("UM-NODE-4")
def test_ordinary_addresses_have_their_end_when_the_node_stops(rng: Random) -> None:
    """Whatever an address is for, its story begins and ends INVALID; the link hears of each group once."""
    told: list[AddressChanged] = []
    frames: list[bytes] = []

    async def main() -> None:
        async with bed(rng, dedicated=False, pool=POOL) as made:
            (node, _), (witness, _) = made.nodes, made.witnesses
            node.watch(lambda event: told.append(event) if isinstance(event, AddressChanged) else None)
            made.ordinary(node)
            made.switch.observe(lambda when, port, frame: frames.append(bytes(frame)))
            await node.close()
            assert len(node.stack.host.addresses) == 0
        assert witness.faults(ended=True) == []
        said = [Ether(frame) for frame in frames if frame[6:12] == node.link.properties.mac]
        assert all(ICMPv6MLReport2 in frame for frame in said), "nothing is said but that groups are left"
        left = [record.dst for frame in said for record in frame[ICMPv6MLReport2].records]
        assert len(left) == len(set(left)) >= 2, "and each of them once"

    virtual(main())
    ended = {event.kind for event in told if event.new == "INVALID" and event.cause == "the host stops"}
    assert {"link-local", "stable"} <= ended


@pytest.mark.proves("UM-NODE-4", by="api")
def test_json_lines_carry_time_id_and_cause(tmp_path: Path, rng: Random) -> None:
    path = tmp_path / "events.jsonl"

    async def main() -> None:
        async with bed(rng, pool=POOL) as made:
            with EventFile(path, made.nodes[0].events, node="one"), EventFile(path, made.nodes[1].events, node="two"):
                for name in ("client_closes", "expires_unused", "withdrawn", "times_out"):
                    await ENDINGS[name](made)
                await made.quiet()
                await asyncio.sleep(10)

    virtual(main())
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    ids: dict[str, Callable[[dict[str, object]], object]] = {
        "address": lambda line: line["address"],
        "connection": lambda line: line["connection"],
        "listener": lambda line: line["listener"],
    }
    states = [line for line in lines if line["event"] in ids]
    assert {line["event"] for line in states} == set(ids)
    for line in states:
        assert line["cause"]
        assert isinstance(line["time"], float)
        assert isinstance(line["wall"], float)
        assert line["node"] in ("one", "two")
        assert ids[line["event"]](line)
        assert line["old"] != line["new"] or line["event"] == "listener"
    causes = {line["cause"] for line in states if line["event"] == "listener"}
    assert {"listen", "address set", "consumed", "expired unused", "withdrawn", "close"} <= causes
    armed = [line["armed"] for line in states if line["event"] == "listener" and line["cause"] == "close"]
    assert set(armed) == {0}
