"""Two unified nodes on one switch in virtual time, where every way to end a session can be provoked.

`Bed` has a client's and a server's side, and whichever node plays which is drawn for each session.  Frames of muted addresses
are lost, and a share of all others is, if `loss` says so.  `holders` logs who took hold of an address and let go of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random

from tapstack.events import AddressChanged, ConnectionChanged, Event, ListenerChanged
from tapstack.ipv6.addresses import AddressEntry, AddressKind, AddressUser, Trigger
from tapstack.ipv6.config import HostConfig
from tapstack.tcp.options import PortMode, SocketOptions, TimeWait
from tapstack.types import address, address_text
from tests.unit.unimux.lan import Switch, in_use
from unimux.aio import open_connection, start_server
from unimux.node import Node, NodeConfig
from unimux.poolstate import PoolConfig
from unimux.server import Server
from unimux.state import MemoryState

ON_LINK = "2001:db8:1::"
DEDICATED = ("2001:db8:a::", "2001:db8:b::")
OPTIONS = SocketOptions(user_timeout=20.0, keep_alive=30.0, fin_wait_2_timeout=15.0)
NOWHERE = "2001:db8:1::99"
_SOURCE, _DESTINATION = slice(22, 38), slice(38, 54)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class Talk:
    """One established session and both its ends."""

    client: Streams
    server: Streams
    calling: Node

    @property
    def client_address(self) -> bytes:
        """The EA."""
        local: bytes = self.client[1].get_extra_info("connection").local
        return local

    @property
    def server_address(self) -> bytes:
        """The SSA."""
        local: bytes = self.server[1].get_extra_info("connection").local
        return local


@dataclass(slots=True)
class Chain:
    """The states that the events of one thing told, and whether they follow from each other."""

    states: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, old: str, new: str, cause: str, begins: str) -> None:
        """One more event."""
        before = self.states[-1] if self.states else begins
        if old != before:
            self.faults.append(f"{old} → {new} after {before}")
        if not cause:
            self.faults.append(f"{old} → {new} without a cause")
        self.states.append(new)


class Witness:
    """Follows a node's events: every chain begins and ends where it should, and time never goes back (UM-NODE-4)."""

    def __init__(self) -> None:
        self.addresses: defaultdict[str, Chain] = defaultdict(Chain)
        self.connections: defaultdict[int, Chain] = defaultdict(Chain)
        self.listeners: defaultdict[int, Chain] = defaultdict(Chain)
        self.last = 0.0
        self.backwards = 0
        self.count = 0

    def __call__(self, event: Event) -> None:
        self.count += 1
        self.backwards += event.time < self.last
        self.last = event.time
        if isinstance(event, AddressChanged):
            self.addresses[event.address].add(event.old, event.new, event.cause, "INVALID")
        elif isinstance(event, ConnectionChanged):
            self.connections[event.connection].add(event.old, event.new, event.cause, "CLOSED")
        elif isinstance(event, ListenerChanged):
            self.listeners[event.listener].add(event.old, event.new, event.cause, "CLOSED")

    def faults(self, *, ended: bool) -> list[str]:
        """Whatever is wrong with the story that the events tell; `ended`: all of it is over."""
        found = ["time went back"] if self.backwards else []
        for kind, chains, last in (
            ("address", self.addresses, "INVALID"),
            ("connection", self.connections, "CLOSED"),
            ("listener", self.listeners, "CLOSED"),
        ):
            for name, chain in chains.items():
                found += [f"{kind} {name}: {fault}" for fault in chain.faults]
                if ended and chain.states[-1] != last:
                    found.append(f"{kind} {name} ended {chain.states[-1]}")
        return found


class Bed:
    """See the module's docstring; made by `bed`."""

    def __init__(self, random: Random, loss: float) -> None:
        self.random = random
        self.loss = loss
        self.switch = Switch(0.001)
        self.muted: set[bytes] = set()
        self.nodes: list[Node] = []
        self.witnesses: list[Witness] = []
        self.holders: dict[Node, dict[bytes, list[str]]] = {}
        self.options = OPTIONS
        self.settled = False
        """always the first node calls, at L1 with the full TIME-WAIT"""
        self._stack = AsyncExitStack()
        self.switch.unlucky = self._unlucky

    def _unlucky(self, frame: bytes) -> bool:
        muted = bool(self.muted) and (frame[_SOURCE] in self.muted or frame[_DESTINATION] in self.muted)
        return muted or bool(self.loss and frame[20:21] == b"\x06" and self.random.random() < self.loss)

    async def add(
        self, *, dedicated: bool, pool: PoolConfig, state: MemoryState | None = None, number: int | None = None
    ) -> Node:
        """One more node, or number `number` anew after a crash."""
        again = number is not None
        number = number or len(self.nodes) + 1
        link = self.switch.connect(bytes([2, 0, 0, 0, 0, number]), queue_limit=100_000)
        config = NodeConfig(host=HostConfig(stable_addresses=False, dad_pace=0.001), pool=pool, socket=OPTIONS)
        node = Node(
            link, config, seed=bytes([number + 100 * again]) * 32, state=state or MemoryState(Random(number).randbytes)
        )
        witness = Witness()
        node.watch(witness)
        await self._stack.enter_async_context(node)
        self.nodes.append(node)
        self.witnesses.append(witness)
        node.stack.host.prefix_list.add_static(address(ON_LINK), 64, autonomous=not dedicated, now=node.now())
        if dedicated:
            node.stack.host.prefix_list.add_dedicated(address(DEDICATED[number - 1]), 64)
        await node.until(lambda: node.stack.host.link_local is not None)
        node.pool.start(node.now())
        node.driver.kick()
        self._log_holders(node)
        return node

    def introduce(self) -> None:
        """Each of the two nodes is the other's router, so that routed prefixes reach their node."""
        one, two = self.nodes
        for node, other in ((one, two), (two, one)):
            assert other.stack.host.link_local is not None
            node.stack.host.routers.add_static(other.stack.host.link_local, node.now())

    def ordinary(self, node: Node) -> str:
        """An address of the node that is not one-time, where nobody listens."""
        prefix = DEDICATED[self.nodes.index(node)]
        wanted = address(prefix)[:15] + b"\x01"
        if wanted not in node.stack.host.addresses:
            node.stack.host.addresses.add(
                wanted, AddressKind.STABLE, node.now(), trigger=Trigger.ADD_WITHOUT_DAD, per_address_nd=False
            )
        return address_text(wanted)

    def _log_holders(self, node: Node) -> None:
        log: dict[bytes, list[str]] = {}
        self.holders[node] = log
        table = node.stack.host.addresses
        acquire, drop = table.acquire, table.drop

        def acquired(entry: AddressEntry, user: AddressUser) -> None:
            acquire(entry, user)
            log.setdefault(entry.address, []).append(f"+{type(user).__name__}")

        def dropped(entry: AddressEntry, user: AddressUser, now: float, cause: str) -> None:
            log.setdefault(entry.address, []).append(f"-{type(user).__name__}")
            drop(entry, user, now, cause)

        table.acquire = acquired  # type: ignore[method-assign]
        table.drop = dropped  # type: ignore[method-assign]

    # -- sessions --------------------------------------------------------------------------------

    def draw_options(self) -> SocketOptions:
        """Options of one session: every mode, every TIME-WAIT option."""
        if self.settled:
            return replace(self.options, mode=PortMode.L1, time_wait=TimeWait.FULL)
        return replace(
            self.options, mode=self.random.choice(list(PortMode)), time_wait=self.random.choice(list(TimeWait))
        )

    def draw_roles(self) -> tuple[Node, Node]:
        """Who calls and who is called."""
        one, two = self.nodes
        return (one, two) if self.settled or self.random.random() < 0.5 else (two, one)

    def service(self, node: Node, options: SocketOptions) -> tuple[Server, asyncio.Future[Streams]]:
        """A server for one session, and the session when it comes."""
        accepted: asyncio.Future[Streams] = asyncio.get_running_loop().create_future()

        def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if accepted.done():
                writer.transport.abort()
            else:
                accepted.set_result((reader, writer))

        return start_server(node, take, options=options), accepted

    async def talk(self, options: SocketOptions | None = None) -> Talk:
        """An established session in which both sides have said something."""
        options = options or self.draw_options()
        calling, called = self.draw_roles()
        server, accepted = self.service(called, options)
        ssa = await server.issue(lifetime=60)
        client = await open_connection(calling, ssa.address, None, options=options)
        client[1].write(b"hello")
        peer = await accepted
        server.close()
        await peer[0].readexactly(5)
        peer[1].write(b"welcome")
        await client[0].readexactly(7)
        return Talk(client, peer, calling)

    # -- afterwards ------------------------------------------------------------------------------

    async def quiet(self, timeout: float = 900.0) -> None:
        """Wait until no one-time address is in use at either node."""
        for node in self.nodes:
            await node.until(lambda node=node: not in_use(node), timeout)  # type: ignore[misc]

    def left(self, node: Node) -> dict[str, int]:
        """How much is left of everything that sessions need; all of it must be zero."""
        tcp, host = node.stack.tcp, node.stack.host
        return {
            "one-time addresses": len(in_use(node)),
            "PCBs": len(tcp.demux),
            "pairs with PCBs": len(tcp.demux._by_pair),
            "half-open handshakes": tcp.demux.half_open_count,
            "pairs with handshakes": len(tcp.demux._half_open),
            "TIME-WAIT records": len(tcp.time_waits),
            "armed SSAs": len(tcp._armed) + len(tcp._armed_on),
            "listeners": len(tcp.listeners),
            "UDP flows": len(node.stack.udp),
            "requests to the pool": node.pool.waiting,
            "addresses held": node.pool.held,
            "unsent frames": len(node.stack._frames),
            "signals": int(node.stack.has_signals()),
            "ordinary addresses with users": sum(bool(e.users) for e in host.addresses if not e.kind.one_time),
        }


@asynccontextmanager
async def bed(
    random: Random, *, dedicated: bool = True, loss: float = 0.0, pool: PoolConfig | None = None
) -> AsyncIterator[Bed]:
    """Two nodes; both are stopped at the end."""
    made = Bed(random, loss)
    pool = pool or PoolConfig(low=8, high=16)
    try:
        for _ in range(2):
            await made.add(dedicated=dedicated, pool=pool)
        made.introduce()
        yield made
    finally:
        await made._stack.aclose()


async def read_to_the_end(streams: Streams, timeout: float = 600.0) -> bytes:
    """What comes until the end of the stream or an error."""
    data = b""
    with contextlib.suppress(ConnectionError, TimeoutError, OSError):
        while piece := await asyncio.wait_for(streams[0].read(65536), timeout):
            data += piece
    return data


def shut(*all_streams: Streams) -> None:
    """Close streams, whatever their state."""
    for _, writer in all_streams:
        writer.close()
