"""An impaired cable between namespaces does what it does in simulation: it delays both ways and loses its share."""

from __future__ import annotations

import asyncio
import socket

import pytest

from scenarios.engine import Impairment, Raw, Run, scenario
from scenarios.engine.execute import Order, execute
from scenarios.engine.measure import exact
from scenarios.engine.raw import echo_request
from tapstack.types import address
from unimux.aio import open_connection, start_server

DELAY = 0.1
LOSS, PINGS = 0.3, 200
ECHO_REQUEST = 128


async def bad_uplink(run: Run) -> None:
    """What does a bad uplink do?"""
    slow = Impairment(delay=DELAY)
    one, two = run.lan("one", to_router=slow, from_router=slow), run.lan("two")
    lossy = run.lan("lossy", from_router=Impairment(loss=LOSS))
    run.router(one, two, lossy)
    alice, bob = await run.node("alice", one), await run.node("bob", two)
    ssa = await start_server(bob, lambda reader, writer: writer.close()).issue()
    began = run.now()
    reader, writer = await open_connection(alice, ssa.address, None)
    run.measure("setup", run.now() - began, "s")
    await reader.read()
    writer.close()

    there, here = await run.raw("there", lossy), await run.raw("here", two)
    for _ in range(300):  # the router finds both before anything counts, over the lossy cable too
        here.send(echo_request(here.address, there.address))
        there.send(echo_request(there.address, here.address))
        await asyncio.sleep(0.1)
        if _arrived(here, there) and _arrived(there, here):
            break
    await asyncio.sleep(0.5)
    here.seen.clear()
    there.seen.clear()
    for number in range(PINGS):
        there.send(echo_request(there.address, here.address, number))
        here.send(echo_request(here.address, there.address, number))
        await asyncio.sleep(0.01)
    await asyncio.sleep(1)
    arrived, got = _arrived(here, there), _arrived(there, here)
    run.measure("arrived on the way there", arrived)
    run.measure("arrived on the way back", got)


def _arrived(receiver: Raw, sender: Raw) -> int:
    """Echo requests of one that reached the other."""
    pair = address(sender.address) + address(receiver.address)
    packets = (packet for _, packet in receiver.seen if packet[8:40] == pair and packet[6] == socket.IPPROTO_ICMPV6)
    return sum(packet[40] == ECHO_REQUEST for packet in packets)


@pytest.mark.real("radvd")
@pytest.mark.parametrize("backend", ["sim", "netns"])
def test_an_uplink_delays_and_loses(backend: str) -> None:
    outcome = execute(scenario()(bad_uplink), Order("here", {}, 5, "sim" if backend == "sim" else "netns"))
    assert outcome.held, [claim for claim in outcome.claims if not claim.holds]
    means = outcome.metrics.means()
    # One round trip for the handshake and one for the router's address resolution; a busy machine only adds to it.
    assert means["setup"] >= 4 * DELAY
    assert means["arrived on the way there"] == PINGS  # only the other direction is lossy
    low, high = exact(int(PINGS - means["arrived on the way back"]), PINGS)
    assert low <= LOSS <= high
