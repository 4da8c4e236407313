"""How many forged packets does an off-path attacker need to break into a connection, with and without port numbers?

The attacker knows both addresses, which for one-time addresses means that somebody leaked them, but sees no packet.  It guesses
the sequence number, and where ports are read (Aware) the client's port as well.  To be measurable it is told all but some bits
of each; theory gives the odds for these bits and for all of them.  Before RFC 5961 any RST in the window closed a connection;
since then only the exact number does, and everything else in the window is challenged: the challenges count the connections
that the old rule would have lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Annotated

from scenarios.engine import OPTIONS, Bars, Parameter, Raw, Run, Streams, Table, number, scenario
from scenarios.engine.raw import segment
from tapstack.events import DropReason
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import PortMode
from tapstack.tcp.states import TcpState
from tapstack.types import address_text
from tapstack.wire import ethernet, ipv6, tcp
from unimux.aio import open_connection, start_server
from unimux.node import Node

SPACE = 2.0**32
PORT_BITS = 4
"""Bits of the client's port that the attacker has to guess in Aware mode."""


@scenario(
    requirements=("UM-PORT-3", "UM-PORT-10"),
    backends=("sim",),
    shows=("own-pair", "speaks-within-life", "released"),
    quick={"trials": 25, "packets": 1000},
)
async def blind_injection(
    run: Run,
    *,
    bits: Annotated[int, Parameter("bits of the sequence number that the attacker has to guess", least=3, most=12)] = 7,
    budget: Annotated[int, Parameter("forged packets against each connection", least=1, most=4096)] = 40,
    trials: Annotated[int, Parameter("connections attacked in each way", least=10, most=2000)] = 150,
    packets: Annotated[int, Parameter("forged data segments", least=100, most=1_000_000)] = 20_000,
) -> None:
    run.leave_out("complete", "connections are broken on purpose")
    run.leave_out("second-opinion", "forged segments look like what they are")
    client_lan, server_lan, outside = run.lan("client"), run.lan("server"), run.lan("outside")
    run.router(client_lan, server_lan, outside)
    alice, bob = await run.node("alice", client_lan, ready=8), await run.node("bob", server_lan, ready=8)
    mallory = await run.raw("mallory", outside)
    attack = _Attack(run, alice, bob, mallory, bits, min(budget, 1 << bits))
    await run.observe(server_lan, attack.see)
    exact = {}
    for name, flags, mode in (
        ("RST, ports ignored (L1)", tcp.RST, PortMode.L1),
        ("RST, port to guess (Aware)", tcp.RST, PortMode.AWARE),
        ("SYN, ports ignored (L1)", tcp.SYN, PortMode.L1),
    ):
        hits = sum([await attack.on_one(mode, flags) for _ in range(trials)])
        share = hits / trials
        exact[name] = share
        run.measure("connections broken", share, of=name)
        odds = 0.0 if flags == tcp.SYN else attack.budget / 2**bits / (2**PORT_BITS if mode is PortMode.AWARE else 1)
        run.expect_share(f"connections broken by {name}", hits, trials, odds)
    run.require("No SYN breaks a connection (RFC 5961 §4)", exact["SYN, ports ignored (L1)"] == 0, "UM-PORT-10")
    before, spread = await attack.in_window(packets)
    run.measure("RSTs in the window, which closed connections before RFC 5961", before / packets)
    run.expect_share("share of RSTs in the receive window", before, packets, 1 / spread)
    taken, window = await attack.forged_data(packets)
    run.measure("forged data accepted", taken / packets)
    run.expect_share("share of forged data with an acceptable acknowledgment", taken, packets, window / SPACE)
    _show(run, window, exact)
    run.answer(
        f"Blind RSTs need {number(SPACE / 2, 2)} packets on average where ports are ignored and 2^14 times as many where they "
        f"are read; before RFC 5961 it was {number(SPACE / window / 2, 2)}. No SYN breaks a connection, and who does not know "
        "the one-time address has 64 bits more to guess."
    )


def _show(run: Run, window: float, exact: Mapping[str, float]) -> None:
    """What was broken with some bits known, and packets needed on average for the whole of what has to be guessed."""
    theory = {comparison.what.rpartition(" by ")[2]: comparison.theory for comparison in run.comparisons}
    run.show(
        Bars(
            title="Share of connections that the attack broke",
            categories=list(exact),
            series={"": list(exact.values())},
            theory={"theory": [theory[name] for name in exact]},
            y="share",
        )
    )
    ports = 2.0**14
    rows = [
        ("RST before RFC 5961, port known or ignored", SPACE / window / 2),
        ("RST before RFC 5961, port to guess", SPACE / window / 2 * ports),
        ("RST since, port known or ignored (L0, L1)", SPACE / 2),
        ("RST since, port to guess (Aware)", SPACE / 2 * ports),
        ("data since, port known or ignored: window × acknowledgment", SPACE / window / 2 * SPACE / window),
        ("anything, one-time address not known: its 64 bits first", 2.0**63 * SPACE / 2),
    ]
    run.show(
        Table(
            title=f"Packets needed on average, receive window {number(window)} bytes",
            columns=("attack", "packets"),
            rows=[(name, number(count, 2)) for name, count in rows],
            caption="What is lost by ignoring ports (2^14 ephemeral ports) is gained many times over by the address, as long as "
            "the address is secret. An attacker who knows it needs fewer packets at L1 than against a host of today.",
        )
    )


class _Attack:
    """Connections from Alice to Bob, and forged segments to Bob in Alice's name."""

    def __init__(self, run: Run, alice: Node, bob: Node, mallory: Raw, bits: int, budget: int) -> None:
        self.run, self.alice, self.bob, self.mallory = run, alice, bob, mallory
        self.bits, self.budget = bits, budget
        self.sent = 0

    def see(self, when: float, frame: bytes) -> None:
        """Count Bob's bare acknowledgments, which on an idle connection are challenges."""
        packet = frame[ethernet.HEADER_LENGTH :]
        self.sent += frame[6:12] == self.bob.link.properties.mac and packet[6] == ipv6.TCP and packet[53] == tcp.ACK

    async def _connect(self, mode: PortMode) -> tuple[Connection, Streams]:
        accepted: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        options = replace(OPTIONS, mode=mode, timestamps=False)

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(writer.get_extra_info("connection"))
            with suppress(OSError):
                await reader.read(-1)

        port = 80 if mode is PortMode.AWARE else None
        server = start_server(self.bob, take, options=options, port=port)
        ssa = await server.issue(timeout=60)
        streams = await open_connection(self.alice, ssa.address, 80, options=options)
        victim = await asyncio.wait_for(accepted, 5)
        return victim, streams

    def _end(self, victim: Connection, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
        victim.abort(self.bob.now(), "the trial is over")
        self.bob.driver.kick()

    def _forge(self, victim: Connection, flags: int, seq: int, ack: int, port: int, data: bytes = b"") -> None:
        source, target = address_text(victim.remote), address_text(victim.local)
        ports = (port, victim.local_port)
        self.mallory.send(segment(source, target, ports, flags, seq=seq % 2**32, ack=ack % 2**32, data=data))

    async def on_one(self, mode: PortMode, flags: int) -> bool:
        """Attack one connection with all packets there are; whether it broke."""
        victim, (_, writer) = await self._connect(mode)
        random = self.run.random
        base = victim.receiver.rcv_nxt - random.randrange(1 << self.bits)
        port_base = victim.remote_port - random.randrange(1 << PORT_BITS)
        guesses = 1 << (self.bits + (PORT_BITS if mode is PortMode.AWARE else 0))
        for guess in random.sample(range(guesses), self.budget):
            high, low = divmod(guess, 1 << self.bits)
            port = (port_base + high) % 65536 if mode is PortMode.AWARE else 9
            self._forge(victim, flags, base + low, 0, port)
        await asyncio.sleep(0.1)
        broken = victim.state is not TcpState.ESTABLISHED
        self._end(victim, writer)
        await asyncio.sleep(0.1)
        return broken

    async def in_window(self, packets: int) -> tuple[int, float]:
        """RSTs at random in eight times the receive window: how many were challenged, sent or held back, and the eight."""
        victim, (_, writer) = await self._connect(PortMode.L1)
        writer.write(b"!")  # its acknowledgment announces the whole window, which a handshake cannot
        await asyncio.sleep(1)
        drops = self.bob.stack.counters.drops
        limited, self.sent = drops[DropReason.TCP_CHALLENGE_LIMIT], 0
        spread, window = 8, victim.receiver.window()
        for sent in range(packets):
            # Never at the exact number, which closes the connection to this day.
            beyond = self.run.random.randrange(1, spread * window)
            self._forge(victim, tcp.RST, victim.receiver.rcv_nxt + beyond, 0, 9)
            if sent % 500 == 499:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        challenged = drops[DropReason.TCP_CHALLENGE_LIMIT] - limited + self.sent
        self._end(victim, writer)
        return challenged, float(spread)

    async def forged_data(self, packets: int) -> tuple[int, float]:
        """Data in the window with random acknowledgments: how many were taken, and the largest send window."""
        victim, (_, writer) = await self._connect(PortMode.L1)
        drops = self.bob.stack.counters.drops
        before = drops[DropReason.TCP_ACK]
        for sent in range(packets):
            ack = self.run.random.randrange(2**32)
            self._forge(victim, tcp.ACK, victim.receiver.rcv_nxt + 1000, ack, 9, b"!")
            if sent % 500 == 499:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        refused = drops[DropReason.TCP_ACK] - before
        window = float(max(victim.sender.maximum_window, 65535))
        self._end(victim, writer)
        return packets - refused, window
