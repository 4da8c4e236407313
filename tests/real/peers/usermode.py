"""A LAN of one unified node and a TCP that is no Linux's: that of slirp4netns (libslirp, of 4.4BSD's line) or of pasta.

node ─ TAP ─ bridge ─ TAP ─ slirp4netns or pasta ═ sockets of the gateway, ::1 ─ veth ─ the legacy host, ::80     2001:db8:2::/64

The program is the node's router and advertises its prefix.  Every connection it ends itself, with a TCP of its own towards the
node, and carries the bytes over by a socket of the gateway's kernel; segments towards the node bear the legacy host's address.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from random import Random

import dpkt
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from compat import kernel
from compat.kernel.topology import SERVER_ADDRESS, SERVER_ROUTER, attach
from compat.programs.process import run_in, until
from tapstack.ipv6.addresses import AddressKind, Trigger
from tapstack.link.impairment import ImpairedLink, Impairment
from tapstack.types import address, address_text, solicited_node
from tests.plugins import taps
from tests.real.um.cells import RP, WP
from tests.real.um.room import BOUND
from tests.real.wire import packet_socket
from unimux.poolstate import PoolConfig

from .room import POOL, READY, Lan, start_node

GATEWAY = SERVER_ROUTER
"""Where the legacy host calls, to be carried over to the node."""
_TAP = "tap-peer"
_ROUTER = "fe80::1"
_ROUTER_MAC = bytes.fromhex("020000000201")
_CALLED = (9, RP, WP, WP + 1, 40_000)
_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class UserStack:
    """A program with a TCP of its own.

    options: kinds of the TCP options of its SYN-ACK (IANA, TCP Option Kind Numbers); no other segment of its has any.
    hop_limit: of its segments.  command: the words before the namespace in which it makes its TAP.  pool: of the node.
    """

    name: str
    options: frozenset[int]
    hop_limit: int
    command: tuple[str, ...]
    pool: PoolConfig = POOL

    @property
    def program(self) -> str:
        """What has to be installed."""
        return self.command[0]


LIBSLIRP = UserStack(
    "libslirp", frozenset({dpkt.tcp.TCP_OPT_MSS}), 255, ("slirp4netns", "--enable-ipv6", "--netns-type=path")
)
PASTA = UserStack(
    "pasta",
    frozenset({dpkt.tcp.TCP_OPT_MSS, dpkt.tcp.TCP_OPT_WSCALE}),
    255,
    (
        *("pasta", "--foreground", "--stderr", "--quiet", "--ipv6-only", "--no-dhcpv6", "--mtu", "1500"),
        *("--runas", "0:0"),  # nobody may not enter a namespace of root's
        # Its advertisements have the prefix of the address that it would assign: the one that `BOUND` is of.
        *("--address", str(IPv6Address(int(IPv6Address(BOUND)) >> 64 << 64) + 1), "--gateway", _ROUTER),
        *("--mac-addr", _ROUTER_MAC.hex(":")),
        *("--tcp-ports", ",".join(map(str, _CALLED)), "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none"),
        *("--ns-ifname", _TAP, "--netns-only", "--netns"),
    ),
    # It sends to whoever spoke last, and would take the unspecified source of another address's DAD for one.
    PoolConfig(low=0, high=0),
)


class UserLan(Lan):
    """The network of the picture above."""

    def __init__(self, runner: asyncio.Runner, far: kernel.Namespace, port: kernel.Interface) -> None:
        super().__init__(runner, port)
        self.far = far
        """the legacy host"""
        self.path: ImpairedLink | None = None
        """between node and switch, where that was asked to be bad"""
        self._peer = kernel.Interface(port.namespace, _TAP)

    async def show(self, shown: str) -> None:
        """Let pasta see that the node has an address: it calls the one that was last a source (docs/conformance.md).

        The router's question for it is made by hand, since pasta asks none; and when the node has answered, a second one, to
        pasta in the node's name.  Its answer says that pasta has read what came before, and the node need not ask for a while.
        """
        link_local = self.node.stack.host.link_local
        own = self.node.link.properties.mac
        assert link_local is not None and own is not None
        with packet_socket(self.port) as to_node, packet_socket(self._peer) as to_peer:
            to_node.send(_question(_ROUTER_MAC, _ROUTER, shown))
            await until_seen(to_peer, _answers(shown))
            to_peer.send(_question(own, address_text(link_local), _ROUTER))
            await until_seen(to_peer, _answers(_ROUTER))


def _question(mac: bytes, source: str, target: str) -> bytes:
    group = solicited_node(IPv6Address(target).packed)
    asked: Packet = (
        Ether(src=mac.hex(":"), dst=(b"\x33\x33" + group[-4:]).hex(":"))
        / IPv6(src=source, dst=str(IPv6Address(group)), hlim=255)
        / ICMPv6ND_NS(tgt=target)
        / ICMPv6NDOptSrcLLAddr(lladdr=mac.hex(":"))
    )
    return taps.by_hand(bytes(asked))


async def until_seen(seen: socket.socket, wanted: Callable[[Packet], bool]) -> Packet:
    """Wait for the frame that somebody wants among those that a `packet_socket` sees."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            packet = Ether(await asyncio.get_running_loop().sock_recv(seen, 65536))
            if wanted(packet):
                return packet


def _answers(target: str) -> Callable[[Packet], bool]:
    """Whether a frame is the advertisement that answers a question for `target`."""
    about = IPv6Address(target)
    return lambda packet: ICMPv6ND_NA in packet and IPv6Address(packet[ICMPv6ND_NA].tgt) == about


@contextmanager
def user_lan(which: UserStack, *, path: Impairment | None = None, seed: int = 1) -> Iterator[UserLan]:
    """Build the network; everything is gone afterwards.  path: what happens to frames between node and switch, both ways."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        far, gateway, middle = (stack.enter_context(kernel.namespace(role)) for role in ("far", "gateway", "peers"))
        # A host of the kernel's on this LAN would be one more whose addresses pasta sees.
        kernel.set_sysctl(middle, "ipv6/conf/default/disable_ipv6", 1)
        bridge = stack.enter_context(kernel.bridge(middle, "lan", multicast_snooping=False))
        tap = stack.enter_context(kernel.bridged_tap(bridge, "tap-node", mac=Random(9)))
        made = UserLan(runner, far, kernel.Interface(middle, "tap-node"))
        made.port.set_offloads(False)
        ends = stack.enter_context(kernel.veth(far, "eth0", gateway, "eth0"))
        for end, at, other in zip(ends, (SERVER_ADDRESS, GATEWAY), (GATEWAY, SERVER_ADDRESS), strict=True):
            stack.enter_context(kernel.address(end, f"{at}/64"))
            stack.enter_context(kernel.route(end.namespace, "::/0", via=other, dev=end))

        async def begin() -> None:
            await stack.enter_async_context(_running(which, gateway, bridge))
            if path is not None:
                made.path = ImpairedLink(tap, seed=seed, outgoing=path, incoming=path)
            made.node = await start_node(stack, made.path or tap, which.pool)
            host = made.node.stack.host
            await made.node.until(lambda: bool(host.routes.default_routers), READY)
            if which is PASTA:
                host.addresses.add(address(BOUND), AddressKind.STABLE, made.node.now(), trigger=Trigger.ADD_WITHOUT_DAD)

        try:
            runner.run(begin())
            yield made
        finally:
            runner.run(stack.aclose())


@asynccontextmanager
async def _running(which: UserStack, gateway: kernel.Namespace, bridge: kernel.Interface) -> AsyncIterator[None]:
    """The program, its TAP a port of the bridge."""
    port = kernel.Interface(bridge.namespace, _TAP)
    words = [*which.command, str(bridge.namespace.path)]
    if which is LIBSLIRP:
        words.append(_TAP)
    with kernel.scratch_folder("peers") as folder, (folder / f"{which.program}.log").open("wb") as log:
        async with run_in(gateway, words, stdout=log, stderr=log) as process:
            await until(process, lambda: _exists(port), Path(log.name), timeout=_PATIENCE)
            with attach(port, bridge):
                port.until_operational()
                yield


def _exists(port: kernel.Interface) -> bool:
    try:
        return port.index > 0
    except kernel.KernelRefused:
        return False
