"""A unified node attached to this machine's network, and everything about it undone at the end.

Two ways, one TAP each:

* *bridged*: the TAP is a port of a bridge; the node is one more host of that LAN, with the prefix its router advertises.
* *routed*: the kernel routes a prefix to the node, by the node's link-local address; no neighbour discovery per
  address, addresses are minted on demand (UM-POOL-4).

Settings come from the table `[node]` (flags, environment, file); see `NodeSettings`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv6Network
from itertools import pairwise
from pathlib import Path
from random import SystemRandom
from typing import Annotated

import msgspec

from compat.buffers import BUDGET, frugal
from tapstack.tcp.congestion import load_controller
from tapstack.tcp.options import PortMode, SocketOptions, TimeWait
from unimux.audit import JOURNAL
from unimux.cli.exits import as_sentence
from unimux.cli.settings import SettingsError
from unimux.control import clean_services
from unimux.dasocket import AgentSocket
from unimux.diskstate import DiskState
from unimux.endpoint import parse_prefix
from unimux.errors import SetupError
from unimux.events import EventFile
from unimux.generators import MIN_IDENTIFIER_BITS, load_generator
from unimux.journal import Journal, JournalPolicy
from unimux.node import Node, NodeConfig
from unimux.poolstate import PoolConfig, WhenEmpty
from unimux.state import MemoryState, State
from unimux.status import status_server

from . import kernel
from .routed import routed


def complain(text: str) -> None:
    """Tell the user something that stops nothing, on standard error."""
    print(f"unimux: {text}", file=sys.stderr, flush=True)


_NO_ADDRESSES = tuple(map(IPv6Network, ("::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8")))
"""What no prefix of one-time addresses has in it: the default route neither, which would take all of the machine's traffic."""


_POOL = PoolConfig()


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a node is attached and what it defaults to; times in seconds."""

    bridge: Annotated[str | None, msgspec.Meta(description="bridge that the node's TAP becomes a port of")] = None
    prefix: Annotated[
        str | None, msgspec.Meta(description="prefix that is routed to the node, in place of a bridge")
    ] = None
    netns: Annotated[str | None, msgspec.Meta(description="network namespace of the bridge or route, by name")] = None
    mtu: Annotated[int, msgspec.Meta(description="MTU of the TAP in bytes", ge=1280, le=65521)] = 1500
    offload: Annotated[bool, msgspec.Meta(description="checksum and segmentation offload on the TAP")] = True
    mode: Annotated[PortMode, msgspec.Meta(description="port-ignore mode of sockets that name none")] = PortMode.L1
    time_wait: Annotated[TimeWait, msgspec.Meta(description="TIME-WAIT option: full, short or sharp")] = TimeWait.FULL
    congestion: Annotated[
        str, msgspec.Meta(description="congestion controller: bbr, cubic, newreno or module:Class")
    ] = "cubic"
    buffer_budget: Annotated[
        int, msgspec.Meta(description="bytes of all connections' buffers beyond 64 KiB each way", ge=0)
    ] = BUDGET
    pool_low: Annotated[
        Annotated[int, msgspec.Meta(ge=0)] | None,
        msgspec.Meta(description="reserved addresses below which the pool is filled"),
    ] = None
    pool_high: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        msgspec.Meta(description="reserved addresses up to which it is filled"),
    ] = None
    pool_limit: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None, msgspec.Meta(description="one-time addresses on the link at a time")
    ] = None
    pool_pace: Annotated[float, msgspec.Meta(description="seconds between two addresses that are started", gt=0)] = (
        _POOL.pace
    )
    pool_max_age: Annotated[float, msgspec.Meta(description="seconds that an address may stay reserved", gt=0)] = (
        _POOL.max_age
    )
    when_empty: Annotated[WhenEmpty, msgspec.Meta(description="what an empty pool does: wait, fail or optimistic")] = (
        _POOL.when_empty
    )
    generator: Annotated[
        str, msgspec.Meta(description="where addresses come from: a built-in name or module:Class")
    ] = "permutation"
    state: Annotated[
        str | None, msgspec.Meta(description="folder of keys, counters and journal; without, every start has new keys")
    ] = None
    journal: Annotated[bool, msgspec.Meta(description="keep a journal of sessions in the folder of the state")] = True
    journal_addresses: Annotated[bool, msgspec.Meta(description="write one-time addresses in clear into it")] = True
    journal_peers: Annotated[bool, msgspec.Meta(description="write peers' addresses and ports into it")] = False
    journal_who: Annotated[bool, msgspec.Meta(description="write users and applications into it")] = True
    journal_causes: Annotated[bool, msgspec.Meta(description="write why addresses came and went into it")] = True
    journal_limit: Annotated[int, msgspec.Meta(description="bytes at which its file is put aside", ge=4096)] = 16 << 20
    journal_keep: Annotated[int, msgspec.Meta(description="how many files put aside are kept", ge=0)] = 8
    journal_durable: Annotated[bool, msgspec.Meta(description="flush it to disk after each row")] = False
    das_agent: Annotated[
        str | None, msgspec.Meta(description="socket at which an agent sets every address, in place of the pool")
    ] = None
    nat64: Annotated[
        str | None, msgspec.Meta(description="NAT64 prefix for IPv4 destinations, in place of one that is found")
    ] = None
    name_servers: Annotated[list[str], msgspec.Meta(description="name servers in place of those routers announce")] = []
    events: Annotated[str | None, msgspec.Meta(description="file that events are written to as JSON lines")] = None

    def check(self) -> None:
        """Raise `SettingsError` where the settings contradict each other or name what there is not."""
        if self.bridge is None and self.prefix is None:
            raise SettingsError("A node needs a bridge or a prefix of its own: give --bridge NAME or --prefix PREFIX.")
        if self.bridge is not None and self.prefix is not None:
            raise SettingsError(
                f"A node has a bridge or a prefix of its own, and here are both ({self.bridge}, {self.prefix}): "
                "leave one of them away (`unimux config show` tells where each comes from)."
            )
        try:
            load_generator(self.generator)
            load_controller(self.congestion)
        except ValueError as error:
            raise SettingsError(as_sentence(str(error))) from error
        self.node_config()  # refuses marks of the pool, name servers and a NAT64 prefix that cannot be
        if self.prefix is not None:
            try:
                network = parse_prefix(self.prefix)
            except ValueError as error:
                raise SettingsError(f"{self.prefix!r} is not an IPv6 prefix: {error}.") from None
            if any(network.overlaps(other) for other in _NO_ADDRESSES):
                raise SettingsError(
                    f"{network} cannot be routed to a node: link-local addresses, groups and the loopback are in it."
                )
            longest = 128 - MIN_IDENTIFIER_BITS
            if network.prefixlen > longest:
                raise SettingsError(
                    f"{network} is too small for one-time addresses: give a prefix of /{longest} or shorter."
                )

    def node_config(self) -> NodeConfig:
        """The node's part of the settings."""
        return NodeConfig(
            pool=self.pool_config(),
            socket=frugal(SocketOptions(mode=self.mode, time_wait=self.time_wait, congestion=self.congestion)),
            buffer_budget=self.buffer_budget,
            name_servers=tuple(self.name_servers),
            nat64=self.nat64,
        )

    def _check_marks(self) -> None:
        """Raise `SettingsError` where marks of the pool that were set leave no room for each other."""
        marks = [("pool_low", self.pool_low), ("pool_high", self.pool_high), ("pool_limit", self.pool_limit)]
        given = [(name, value) for name, value in marks if value is not None]
        for (lower, less), (upper, more) in pairwise(given):
            if less > more:
                raise SettingsError(
                    f"The settings {lower} = {less} and {upper} = {more} contradict each other: "
                    f"make {lower} at most {upper}."
                )

    def effective(self) -> NodeSettings:
        """The same settings with every mark of the pool: one that was not set keeps out of the way of those that were."""
        low, high, limit = self.pool_low, self.pool_high, self.pool_limit
        if limit is None:
            limit = max(_POOL.limit, low or 0, high or 0)
        if high is None:
            high = min(max(_POOL.high, low or 0), limit)
        if low is None:
            low = min(_POOL.low, high)
        return msgspec.structs.replace(self, pool_low=low, pool_high=high, pool_limit=limit)

    def pool_config(self) -> PoolConfig:
        """The pool's part of the settings; raises `SettingsError` where they contradict each other."""
        self._check_marks()
        marks = self.effective()
        assert marks.pool_low is not None and marks.pool_high is not None and marks.pool_limit is not None
        return PoolConfig(
            low=marks.pool_low,
            high=marks.pool_high,
            limit=marks.pool_limit,
            pace=self.pool_pace,
            max_age=self.pool_max_age,
            when_empty=self.when_empty,
        )

    def node_state(self) -> State:
        """Where the node keeps its counters and keys; raises `StateError`, `GeneratorError`."""
        if self.state is None:
            return MemoryState(generator=self.generator)
        return DiskState(Path(self.state), generator=self.generator)

    def journal_policy(self) -> JournalPolicy:
        """What the journal says, and how much of it is kept."""
        return JournalPolicy(
            addresses=self.journal_addresses,
            peers=self.journal_peers,
            who=self.journal_who,
            causes=self.journal_causes,
            limit=self.journal_limit,
            keep=self.journal_keep,
            durable=self.journal_durable,
        )


@asynccontextmanager
async def attached_node(settings: NodeSettings) -> AsyncIterator[Node]:
    """A running node, attached as the settings say.

    What an earlier node left behind by dying is removed first.  Raises `SetupError` with what is missing.
    """
    settings.check()
    kernel.capabilities().require()
    kernel.clean_leftovers()
    clean_services()
    async with AsyncExitStack() as stack:
        where = stack.enter_context(
            kernel.Namespace.named(settings.netns) if settings.netns else kernel.Namespace.current()
        )
        name = kernel.Owner.current().link_name("node")
        mac = SystemRandom()
        if settings.bridge is not None:
            bridge = kernel.Interface(where, settings.bridge)
            if not bridge.is_bridge:
                raise SetupError(
                    f"{settings.bridge} is no bridge: make one with the network card in it (docs/programs.md, "
                    "'On a LAN that you have'), or use --prefix."
                )
            link = stack.enter_context(
                kernel.bridged_tap(bridge, name, mac=mac, mtu=settings.mtu, offload=settings.offload)
            )
        else:
            link = stack.enter_context(kernel.tap(where, name, mac=mac, mtu=settings.mtu, offload=settings.offload))
        state = settings.node_state()  # as late as can be: a start that is refused begins no key epoch
        stack.callback(state.close)
        if isinstance(state, DiskState) and state.doubt is not None:
            complain(f"a new key epoch begins in {settings.state}: {state.doubt}.")
        node = Node(link, settings.node_config(), state=state)
        if settings.state is not None and settings.journal:
            journal = Journal(Path(settings.state) / JOURNAL, node.source, settings.journal_policy(), complain=complain)
            stack.enter_context(journal)
            stack.callback(journal.watch(node.events))
        if settings.events is not None:
            stack.enter_context(EventFile(Path(settings.events), node.events, complain=complain))
        await stack.enter_async_context(node)
        what = f"bridge {settings.bridge}" if settings.bridge else f"prefix {settings.prefix}"
        await stack.enter_async_context(status_server(node, what))
        if settings.prefix is not None:
            device = kernel.Interface(where, name)
            await stack.enter_async_context(routed(device, node, IPv6Network(settings.prefix), complain))
        if settings.das_agent is not None:
            await stack.enter_async_context(AgentSocket(node, Path(settings.das_agent)))
        yield node
