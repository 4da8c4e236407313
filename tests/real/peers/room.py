"""A LAN of one unified node and one legacy peer that is not this machine's kernel.

node ─ TAP ─ bridge ─ TAP ─ the peer: a User-mode Linux          2001:db8:2::/64, the peer is ::80; all addresses are on the link
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import struct
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, TypeVar

from compat import kernel
from compat.kernel.topology import SERVER_ADDRESS, SERVER_PREFIX, attach
from compat.programs.process import run_in
from tapstack.ipv6.addresses import AddressKind, Trigger
from tapstack.ipv6.config import HostConfig
from tapstack.link.base import Link
from tapstack.tcp.options import SocketOptions, TimeWait
from tapstack.types import address
from tests.real.um.room import BOUND
from tests.real.um.talk import answer_to
from tests.real.wire import capturing
from unimux.node import Node, NodeConfig
from unimux.poolstate import PoolConfig

PREFIX, _, _LENGTH = SERVER_PREFIX.partition("/")
PEER = SERVER_ADDRESS
"""As the legacy host of `tests.real.um.room` is called, so that what judges its captures judges these too."""
ROOT = Path(__file__).parents[3]
READY = 120.0  # a Linux boots meanwhile
POOL = PoolConfig(low=16, high=32)
_PATIENCE = 60.0
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_TAP_WITHOUT_HEADER = 0x1002
_MODULES = Path("/usr/lib/uml/modules")

T = TypeVar("T")


class Call(NamedTuple):
    """A connection that the peer is to make; see `tests.real.peers.talker`."""

    host: str
    port: int
    source: int | None
    seed: int

    def request(self, size: int) -> bytes:
        """What it says."""
        return Random(self.seed).randbytes(size)


class Peer:
    """The peer's program: what it is told, and what it says."""

    def __init__(self, process: Process) -> None:
        self.name = ""
        self.log: list[str] = []
        """lines of its output that are no messages: its last words, if it fails"""
        self._process = process
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._others: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._listening = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            text = line.decode(errors="replace").strip()
            if not text.startswith("{"):
                self.log.append(text)
                continue
            message = json.loads(text)
            if "call" in message:
                self._answers[message["call"]].set_result(message)
            else:
                self._others.put_nowait(message)
        self._others.put_nowait({"ended": self.log[-3:]})

    def _tell(self, **order: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def ready(self) -> None:
        """Wait until it listens."""
        said = await asyncio.wait_for(self._others.get(), READY)
        assert "ready" in said, said
        self.name = said["ready"]

    async def netem(self, **settings: int) -> None:
        """Disturb what it sends."""
        self._tell(netem=settings)
        said = await asyncio.wait_for(self._others.get(), READY)
        assert "netem" in said, said

    async def call(self, to: Sequence[Call], size: int) -> None:
        """It makes some calls at once, says `size` bytes in each and hears the answers, of which every byte must be right."""
        number = len(self._answers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        self._tell(call=number, to=[each._asdict() for each in to], size=size)
        said = await asyncio.wait_for(self._answers[number], _PATIENCE)
        digests = [sha256(answer_to(each.request(size))).hexdigest() for each in to]
        assert said["answers"] == [{"digest": digest, "missing": 0, "rest": 0} for digest in digests]

    async def stop(self) -> None:
        """Let it end by itself."""
        self._tell(stop=True)
        await asyncio.wait_for(self._process.wait(), READY)
        await self._listening


class Lan:
    """A switch with one unified node, running."""

    def __init__(self, runner: asyncio.Runner, port: kernel.Interface) -> None:
        self._runner = runner
        self.port = port
        """the kernel's end of the node's TAP: the switch's port"""
        self.node: Node

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Let the network live until `main` is done."""
        return self._runner.run(main)

    def captured(self, path: Path) -> AbstractAsyncContextManager[Path]:
        """Capture the node's port of the switch while the block runs."""
        return capturing(self.port, path)


class LinuxLan(Lan):
    """The network of the picture above."""

    peer: Peer


@contextmanager
def lan() -> Iterator[LinuxLan]:
    """Build the network; everything is gone afterwards."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        middle = stack.enter_context(kernel.namespace("peers"))
        bridge = stack.enter_context(kernel.bridge(middle, "lan", multicast_snooping=False))
        link = stack.enter_context(kernel.bridged_tap(bridge, "tap-node", mac=Random(9)))
        made = LinuxLan(runner, kernel.Interface(middle, "tap-node"))
        made.port.set_offloads(False)

        async def begin() -> None:
            made.node = await _start_node(stack, link)
            made.peer = await stack.enter_async_context(_peer(middle, bridge))

        try:
            runner.run(begin())
            yield made
        finally:
            runner.run(stack.aclose())


async def start_node(stack: AsyncExitStack, link: Link, pool: PoolConfig = POOL) -> Node:
    """A node that lives as long as `stack`; it knows no prefix yet, other than from a router."""
    config = NodeConfig(
        host=HostConfig(stable_addresses=False, dad_initial_delay=0.1),
        pool=pool,
        socket=SocketOptions(time_wait=TimeWait.SHORT),
    )
    node = await stack.enter_async_context(Node(link, config))
    await node.until(lambda: node.stack.host.link_local is not None, READY)
    return node


async def _start_node(stack: AsyncExitStack, link: Link) -> Node:
    node = await start_node(stack, link)
    host = node.stack.host
    host.prefix_list.add_static(address(PREFIX), int(_LENGTH), autonomous=True, now=node.now())
    host.addresses.add(address(BOUND), AddressKind.STABLE, node.now(), trigger=Trigger.ADD_WITHOUT_DAD)
    node.pool.start(node.now())
    node.driver.kick()
    return node


@asynccontextmanager
async def _peer(where: kernel.Namespace, bridge: kernel.Interface) -> AsyncIterator[Peer]:
    name = "tap-uml"
    where.run(lambda: _make_tap(name), f"make {name}")
    port = kernel.Interface(where, name)
    argv = _command(name)
    with attach(port, bridge):
        async with run_in(where, argv, stdin=PIPE, stdout=PIPE, env={"TMPDIR": "/dev/shm"}) as process:
            peer = Peer(process)
            await peer.ready()
            port.until_operational()
            yield peer
            await peer.stop()


def _command(tap: str) -> list[str]:
    (modules,) = sorted(_MODULES.iterdir())[-1:]
    # Its first process runs this interpreter from this machine's own file system, which it sees read-only.
    linux = ["linux.uml", "mem=192M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet"]
    linux += ["con=null", "con0=fd:0,fd:1", "ssl=null", f"vec0:transport=tap,ifname={tap}", f"init={sys.executable}"]
    site = next(path for path in sys.path if path.endswith("site-packages"))
    arguments = [f"{PEER}/{_LENGTH}", str(modules), str(ROOT), site]
    return [*linux, "--", "-B", str(ROOT / "tests/real/peers/guest.py"), *arguments]


def _make_tap(name: str) -> None:
    """A TAP that stays when nobody holds it, for a program that opens it by its name."""
    device = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP_WITHOUT_HEADER))
        fcntl.ioctl(device, _TUNSETPERSIST, 1)
    finally:
        os.close(device)
