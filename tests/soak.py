"""An hour of mixed traffic on a TAP, and whether anything grows: python -m tests.soak --seconds 3600, as root.

A node on a TAP of a real kernel, whose link loses frames in both directions, works in rounds: short connections of kernel
clients through SOCKS to a kernel server, connections of kernel clients to published one-time addresses, each used once, and an
unmodified program under `unimux run` that has long texts and datagrams sent back to it.  After each round everything has to end;
then what the node still holds is sampled: memory, file descriptors, addresses, multicast groups, armed timers, PCBs, tasks.  At
the end the node's process is killed in the middle of a round, what it left is cleaned, and a second one does a few rounds in its
place.

The verdict, by `judge`: from the first third of the rounds to the last, the greatest sample of each count may grow by no more
than the slack of `SLACK`, and memory by no more than `MEMORY` bytes, whatever the length of the run.  Nothing of the killed
process may be left in the kernel, nor a ledger.  Exit status 0: flat and clean; 1: not, and the lines say what.
Linux has one neighbour table for all namespaces (net.ipv6.neigh.default.gc_thresh3, 1024 entries) and keeps what it learned for
a minute: the peer forgets its neighbours after each round, as an administrator may have it do.  Where others fill the table
("neighbor table overflow" in dmesg) the kernel does not reach new addresses, and a run ends with PoolExhausted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import SystemRandom
from typing import Any

from compat import kernel
from compat.attachment import NodeSettings
from compat.kernel.ledger import all_ledgers
from compat.programs.errors import ProgramFailed
from compat.publisher import Backend, Publisher, published
from compat.run import RunSettings, run_here
from scenarios.bench.rig import ADDRESS, PORT, Rig, configure, node_config, rig, rss
from tapstack.link.impairment import ImpairedLink, Impairment
from unimux.node import Node
from unimux.poolstate import PoolConfig

MEMORY = 4 << 20
"""Bytes that the memory in RAM may grow by, from the first third to the last: what an allocator's fragments come to."""

SLACK = {"files": 2, "addresses": 8, "groups": 8, "timers": 16, "pcbs": 2, "tasks": 2}
"""How far each count may grow: the pool refills while it is sampled."""

LOSS = 0.005
VISITS = 20
REQUESTS = 60
CALLS = 6
FLOWS = 6
PROGRAM = """
import socket, sys
host, stream, datagram, calls, flows = sys.argv[1], *map(int, sys.argv[2:])
text = bytes(range(256)) * 1024
for _ in range(calls):
    with socket.create_connection((host, stream)) as sock:
        back = b""
        for at in range(0, len(text), 1 << 14):
            sock.sendall(text[at : at + (1 << 14)])
            while len(back) < at + (1 << 14):
                piece = sock.recv(1 << 14)
                assert piece, "the connection ended early"
                back += piece
        assert back == text, "the text came back changed"
for number in range(flows):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)
        for attempt in range(20):  # datagrams get lost
            sock.sendto(b"%d" % number, (host, datagram))
            try:
                assert sock.recv(100) == b"%d" % number, "another flow's datagram"
                break
            except TimeoutError:
                pass
        else:
            raise SystemExit("20 datagrams got no answer")
"""
"""What runs under `unimux run`: so many connections of 256 KiB each way, and so many flows of datagrams."""
QUIET = 60.0
"""Seconds within which a round's connections have to be gone."""

Sample = Mapping[str, int]


def judge(samples: Sequence[Sample]) -> list[str]:
    """What grew, in sentences; nothing when all is flat.  Raises ValueError for fewer than six samples, which show nothing."""
    if len(samples) < 6:
        raise ValueError(f"{len(samples)} rounds are too few to judge: run longer")
    third = len(samples) // 3
    found = []
    for name, slack in {**SLACK, "memory": MEMORY}.items():
        first, last = (max(sample[name] for sample in part) for part in (samples[:third], samples[-third:]))
        if last > first + slack:
            found.append(f"{name} grew from {first} to {last}, by more than {slack}")
    return found


def sample(node: Node) -> dict[str, int]:
    """What the node and its process hold now."""
    gc.collect()
    stack = node.stack
    return {
        "memory": rss(),
        "files": len(os.listdir("/proc/self/fd")),
        "addresses": len(stack.host.addresses),
        "groups": len(stack.host.multicast),
        "timers": len(stack.timers),
        "pcbs": len(stack.tcp.demux),
        "tasks": len(asyncio.all_tasks()),
    }


# -- the node's process --------------------------------------------------------------------------------


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()


async def _visits(net: Rig, publisher: Publisher) -> int:
    """Kernel clients at so many published addresses; how many were served."""
    issued = [await publisher.issue(sessions=1) for _ in range(VISITS)]
    async with net.helper(net.peer, "visit", ADDRESS, PORT) as helper:
        for each in issued:
            helper.tell(each.address.packed)
        helper.finish()
        return int((await helper.line())["done"])


class _Back(asyncio.DatagramProtocol):
    """Sends back what it gets."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, sender: tuple[str | Any, int]) -> None:
        self._transport.sendto(data, sender)


async def _program(node: Node) -> int:
    """Run `PROGRAM` as `unimux run` would; its exit status."""
    argv = [sys.executable, "-I", "-S", "-c", PROGRAM, ADDRESS, *map(str, (PORT, PORT, CALLS, FLOWS))]
    return await run_here(node, argv, NodeSettings(), RunSettings())


async def _rounds(net: Rig, node: Node, proxy: int, publisher: Publisher, end: float) -> None:
    with kernel.in_namespace(net.peer):
        datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.bind((ADDRESS, PORT))
    await asyncio.get_running_loop().create_datagram_endpoint(_Back, sock=datagrams)
    async with net.helper(net.peer, "echo", ADDRESS, PORT):
        number = 0
        while number < 8 or time.monotonic() < end:
            number += 1
            print(json.dumps({"begins": number}), flush=True)
            asked, visited, status = await asyncio.gather(
                net.ask(net.twin, "requests", ADDRESS, PORT, "--count", REQUESTS, "--parallel", 4, "--proxy", proxy),
                _visits(net, publisher),
                _program(node),
            )
            if asked["failed"] or visited != VISITS or status:
                raise ProgramFailed(
                    f"round {number}: {asked['failed']} requests failed, {visited} of {VISITS} visits, "
                    f"the program's status is {status}."
                )
            await node.until(lambda: not len(node.stack.tcp.demux), QUIET)
            await node.until(lambda: node.pool.pending == 0, QUIET)
            print(json.dumps({"round": number, **sample(node)}), flush=True)
            kernel.forget_neighbors(net.peer)


async def work(seconds: float) -> None:
    """The node with its front ends, in rounds for so long; one line of JSON for each."""
    with rig() as net, ExitStack() as stack:
        link = stack.enter_context(kernel.tap(net.peer, "node", mac=SystemRandom()))
        stack.enter_context(net.node_end())
        bad = ImpairedLink(link, seed=1, outgoing=Impairment(loss=LOSS), incoming=Impairment(loss=LOSS))
        async with Node(bad, node_config(pool=PoolConfig())) as node:
            await node.until(lambda: node.stack.host.link_local is not None, 20.0)
            configure(node, None)
            server = await asyncio.start_server(_echo, "127.0.0.1", 0)
            backend = Backend("127.0.0.1", server.sockets[0].getsockname()[1])
            async with (
                server,
                net.proxy(node) as proxy,
                published(node, "soak", backend) as publisher,
            ):
                await _rounds(net, node, proxy, publisher, time.monotonic() + seconds)


# -- the judge's process -------------------------------------------------------------------------------


class Worker:
    """A process that works; `lines` are its samples."""

    def __init__(self, seconds: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak", "--work", str(seconds)], stdout=subprocess.PIPE, text=True
        )

    def rounds(self, count: int | None, seconds: float = 0.0) -> list[dict[str, int]]:
        """Samples of so many rounds, or, for None, of as many as there are in so many seconds; ProgramFailed when it ends."""
        found: list[dict[str, int]] = []
        until = time.monotonic() + seconds
        while len(found) < count if count is not None else time.monotonic() < until or len(found) < 6:
            said = self._next()
            if "memory" in said:
                found.append(said)
                print(json.dumps(said), flush=True)
        return found

    def in_a_round(self) -> None:
        """Wait until a round has begun."""
        while "begins" not in self._next():
            pass

    def _next(self) -> dict[str, int]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ProgramFailed(f"the node ended early, with status {self.process.wait()}.")
        said: dict[str, int] = json.loads(line)
        return said

    def kill(self) -> None:
        """No goodbye."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def leftovers(process: int) -> list[str]:
    """Namespaces and ledgers of a process, in sentences."""
    names = [path.name for path in Path(kernel.NETNS_DIR).glob(f"unimux-{process}-*")]
    books = [path.name for owner, path, _ in all_ledgers() if owner.pid == process]
    return [f"namespace {name} is left" for name in names] + [f"ledger {name} is left" for name in books]


def main() -> int:
    parser = argparse.ArgumentParser(description="Mixed traffic on a TAP, and whether anything grows.")
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--work", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        asyncio.run(work(arguments.work))
        return 0
    worker = Worker(arguments.seconds + 3600.0)
    try:
        samples = worker.rounds(None, arguments.seconds)
        found = judge(samples)
        worker.in_a_round()
    finally:
        worker.kill()
    if not leftovers(worker.process.pid):
        found.append("the killed process had left nothing, so that it is cleaned shows nothing")
    kernel.clean_leftovers()
    found += leftovers(worker.process.pid)
    again = Worker(3600.0)
    try:
        again.rounds(3)
    finally:
        again.kill()
        kernel.clean_leftovers()
    found += leftovers(again.process.pid)
    for name in ("memory", *SLACK):
        values = [each[name] for each in samples]
        print(
            f"{name:10} first {values[0]:>10}  least {min(values):>10}  most {max(values):>10}  last {values[-1]:>10}"
        )
    print(f"{len(samples)} rounds, {len(samples) * (REQUESTS + VISITS + CALLS)} connections, loss {LOSS:.1%} each way")
    for sentence in found:
        print(f"FAILED: {sentence}")
    print("flat and clean" if not found else "not flat, or not clean")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
