"""Bulk transfer between a node on a TAP and the kernel, each way; optionally over an impaired path (needs root).

    python bench/tcp_bulk.py --direction out --seconds 2
    python bench/tcp_bulk.py --direction in --no-offload --loss 0.01 --delay 0.02 --bytes 10000000

Prints one JSON object: bytes, seconds, Gbit/s, and the connection's statistics.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))

from compat.kernel import Interface, address, in_namespace, namespace
from tapstack.driver import Driver
from tapstack.ipv6.addresses import AddressKind, Trigger
from tapstack.ipv6.config import HostConfig
from tapstack.link.base import Link
from tapstack.link.impairment import ImpairedLink, Impairment
from tapstack.link.tap import open_tap
from tapstack.stack import Stack
from tapstack.tcp.connection import Connection, Signal
from tapstack.tcp.options import PortMode, SocketOptions, TimeWait

KERNEL, OWN, PORT = "2001:db8:7c9::1", "2001:db8:7c9::2", 5001
PIECE = bytes(1 << 18)


def kernel_end(listener: socket.socket, direction: str, total: int | None) -> None:
    """The kernel's program: takes one connection and sends, or receives, as fast as it can; ends with the process."""
    connection, _ = listener.accept()
    if direction == "out":
        buffer = bytearray(1 << 20)
        while connection.recv_into(buffer):
            pass
    else:
        left = total
        try:
            while left is None or left > 0:
                sent = connection.send(PIECE if left is None else PIECE[: min(left, len(PIECE))])
                left = None if left is None else left - sent
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)
        except OSError:
            pass
    connection.close()


class Transfer:
    """The node's program on one connection."""

    def __init__(self, driver: Driver, connection: Connection, direction: str, total: int | None) -> None:
        self.driver = driver
        self.connection = connection
        self.direction = direction
        self.left = total
        self.received = 0
        self.acknowledged_at_start = 0
        self.done = asyncio.Event()
        self.established_at: float | None = None
        self.done_at: float | None = None
        connection.owner = self.signalled

    def signalled(self, bits: int) -> None:
        connection = self.connection
        if bits & Signal.ESTABLISHED:
            self.established_at = time.perf_counter()
        if bits & Signal.READABLE:
            self.received += sum(map(len, connection.read()))
        if bits & (Signal.WRITABLE | Signal.ESTABLISHED) and self.direction == "out":
            self.fill()
        if bits & (Signal.CLOSED | Signal.END_OF_STREAM):
            self.done_at = self.done_at or time.perf_counter()
            self.done.set()

    def fill(self) -> None:
        connection = self.connection
        while self.left != 0 and not connection.write_blocked and connection.state.value != "CLOSED":
            piece = PIECE if self.left is None else PIECE[: min(self.left, len(PIECE))]
            connection.write(piece)
            self.left = None if self.left is None else self.left - len(piece)
        if self.left == 0:
            connection.shutdown(self.driver.now())
        self.driver.kick()


async def run(link: Link, arguments: argparse.Namespace) -> dict[str, object]:
    """One transfer over `link`."""
    stack = Stack(link.properties, os.urandom(32), HostConfig(solicit_routers=False, stable_addresses=False))
    driver = Driver(stack, link)
    driver.start()
    now = driver.now()
    own = socket.inet_pton(socket.AF_INET6, OWN)
    stack.host.prefix_list.add_static(own[:8] + bytes(8), 64, autonomous=False, now=now)
    entry = stack.host.addresses.add(own, AddressKind.STABLE, now, trigger=Trigger.ADD_WITHOUT_DAD)
    options = SocketOptions(
        mode=PortMode.AWARE, time_wait=TimeWait.SHARP, congestion=arguments.congestion, pacing=arguments.pacing
    )
    connection = stack.tcp.connect(entry, socket.inet_pton(socket.AF_INET6, KERNEL), PORT, now, options)
    transfer = Transfer(driver, connection, arguments.direction, arguments.bytes)
    driver.kick()
    started = time.perf_counter()
    cpu = time.process_time()
    try:
        await asyncio.wait_for(transfer.done.wait(), arguments.seconds if arguments.bytes is None else arguments.limit)
    except TimeoutError:
        pass
    elapsed = time.perf_counter() - started
    moved = transfer.received if arguments.direction == "in" else connection.sender.delivered
    result: dict[str, object] = {
        "direction": arguments.direction,
        "bytes": moved,
        "seconds": round(elapsed, 4),
        "finished": transfer.done_at is not None,
        "completion": round((transfer.done_at or time.perf_counter()) - (transfer.established_at or started), 4),
        "gbit_s": round(moved * 8 / elapsed / 1e9, 4),
        "cpu": round((time.process_time() - cpu) / elapsed, 2),
        "retransmissions": connection.sender.retransmissions,
        "timeouts": connection.timers.timeouts,
        "cwnd": connection.sender.congestion.cwnd,
        "srtt": connection.rtt.srtt,
    }
    if connection.state.value != "CLOSED":
        connection.abort(driver.now())
    driver.close()
    return result


def options() -> argparse.ArgumentParser:
    """What can be chosen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--direction", choices=("in", "out"), default="out")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--bytes", type=int)
    parser.add_argument("--limit", type=float, default=120.0)
    parser.add_argument("--no-offload", action="store_true")
    parser.add_argument("--congestion", default="cubic")
    parser.add_argument("--pacing", action="store_true")
    parser.add_argument("--kernel-congestion", default="cubic")
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--reorder", type=float, default=0.0)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--queue", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile")
    return parser


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """One transfer in a namespace of its own."""
    with ExitStack() as stack:
        space = stack.enter_context(namespace("tcpbench"))
        with in_namespace(space):
            tap = open_tap("tcpbench", mac=Random(7), offload=not arguments.no_offload)
            stack.callback(tap.close)
            listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        interface = Interface(space, "tcpbench")
        stack.enter_context(address(interface, f"{KERNEL}/64"))
        with in_namespace(space):
            until = time.monotonic() + 5
            while True:
                try:
                    listener.bind((KERNEL, PORT))
                    break
                except OSError:
                    assert time.monotonic() < until
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, arguments.kernel_congestion.encode())
        listener.listen()
        child = os.fork()
        if not child:
            try:
                kernel_end(listener, arguments.direction, arguments.bytes)
            finally:
                os._exit(0)
        link: Link = tap
        path = Impairment(
            loss=arguments.loss,
            delay=arguments.delay,
            reorder=arguments.reorder,
            rate=arguments.rate,
            queue_limit=arguments.queue,
        )
        if path != Impairment():
            back = Impairment(delay=arguments.delay)
            there, here = (path, back) if arguments.direction == "out" else (back, path)
            link = ImpairedLink(tap, seed=arguments.seed, outgoing=there, incoming=here)
        if arguments.profile:
            import cProfile

            profile = cProfile.Profile()
            profile.enable()
        result = asyncio.run(run(link, arguments))
        if arguments.profile:
            profile.disable()
            profile.dump_stats(arguments.profile)
        os.kill(child, 9)
        os.waitpid(child, 0)
        return result


def main() -> None:
    """One transfer, one line."""
    print(json.dumps(measure(options().parse_args())))


if __name__ == "__main__":
    main()
