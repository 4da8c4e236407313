"""P-4 and P-6 with several processes on one multi-queue TAP, which share nothing.

Each process has a queue of the TAP and a sub-prefix, 2001:db8:b1:0::/64, 2001:db8:b1:1::/64, …, whose last byte is the number
of the queue: the kernel gives it every packet for an address of its sub-prefix (tapstack/link/steering.py).  All have one
link-layer address, behind which the kernel finds the router of all sub-prefixes.  The baseline is the same with one process.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any

from compat import kernel
from compat.programs.errors import ProgramFailed
from tapstack.link.tap import TapLink, open_queues
from tapstack.tcp.options import TimeWait
from tapstack.types import address
from unimux.node import Node

from . import connections
from .figures import Figure, figure
from .rig import ADDRESS, KERNEL_END, ON_LINK, PORT, WAIT, Rig, node_config, rig
from .setting import Setting

GATEWAY = "fe80::2"
"""Where the kernel's routes to the sub-prefixes lead; all stacks answer to its link-layer address."""
_MAC = bytes.fromhex("020000b10001")
_SUB_PREFIX_BYTE = 7
_PARALLEL = 8
_PATIENCE = 120.0

Work = Callable[[Rig, Node, int, int], Coroutine[Any, Any, tuple[int, float, float]]]
"""`work(net, node, number of the process, count)`: what was done, from when to when (CLOCK_MONOTONIC, which all share)."""


@dataclass(frozen=True, slots=True)
class _Job:
    """What each process does."""

    net: Rig
    work: Work
    count: int
    time_wait: TimeWait


def sub_prefix(number: int) -> str:
    """The sub-prefix of a process."""
    return f"2001:db8:b1:{number:x}::"


@contextmanager
def _queues(net: Rig, count: int) -> Iterator[list[TapLink]]:
    with ExitStack() as stack:
        with kernel.in_namespace(net.peer):
            links = open_queues("node", count, mac=_MAC, byte=_SUB_PREFIX_BYTE, offload=True)
        for link in links:
            stack.callback(link.close)
        end = kernel.Interface(net.peer, "node")
        for text in (KERNEL_END, ADDRESS):
            stack.enter_context(kernel.address(end, f"{text}/64"))
        end.set_neighbor(GATEWAY, _MAC)
        for number in range(count):
            stack.enter_context(kernel.route(net.peer, f"{sub_prefix(number)}/64", via=GATEWAY, dev=end))
        yield links


def _process(number: int, links: list[TapLink], job: _Job, pipe: Pipe) -> None:
    """One process: says that it is ready, waits for the word to begin, works, and tells what came of it."""
    for other in links:
        if other is not links[number]:
            other.close()

    async def main() -> None:
        async with Node(links[number], node_config(time_wait=job.time_wait)) as node:
            host, now = node.stack.host, node.now()
            await node.until(lambda: host.link_local is not None, WAIT)
            host.prefix_list.add_static(address(ON_LINK), 64, autonomous=False, now=now)
            host.routers.add_static(address(KERNEL_END), now)
            host.prefix_list.add_dedicated(address(sub_prefix(number)), 64)
            node.pool.start(now)
            node.driver.kick()
            await job.work(job.net, node, number, 8)  # the next hop is resolved, and Python warm
            pipe.send(None)
            pipe.recv()
            pipe.send(await job.work(job.net, node, number, job.count))

    try:
        asyncio.run(main())
    except Exception as error:
        pipe.send(str(error) or type(error).__name__)


def _together(job: _Job, count: int) -> float:
    """What `count` processes do per second, from the first beginning to the last end."""
    fork = multiprocessing.get_context("fork")
    with ExitStack() as stack:
        links = stack.enter_context(_queues(job.net, count))
        pipes: list[Pipe] = []
        for number in range(count):
            ours, theirs = fork.Pipe()
            process = fork.Process(target=_process, args=(number, links, job, theirs))
            process.start()
            stack.callback(_end, process)
            theirs.close()
            pipes.append(ours)
        for pipe in pipes:
            _answer(pipe)
        for pipe in pipes:
            pipe.send(None)
        outcomes = [_answer(pipe) for pipe in pipes]
    done, began, ended = zip(*outcomes, strict=True)
    return float(sum(done) / (max(ended) - min(began)))


def _answer(pipe: Pipe) -> Any:
    try:
        answer = pipe.recv() if pipe.poll(_PATIENCE) else "it said nothing"
    except EOFError:
        answer = "it ended early"
    if isinstance(answer, str):
        raise ProgramFailed(f"A process of the benchmark failed: {answer}.")
    return answer


def _end(process: multiprocessing.process.BaseProcess) -> None:
    process.join(WAIT)
    if process.is_alive():
        process.kill()
        process.join()


async def _connect(net: Rig, node: Node, number: int, count: int) -> tuple[int, float, float]:
    async with net.helper(net.peer, "echo", ADDRESS, PORT + number):
        series = await connections.connections(node, count, _PARALLEL, port=PORT + number)
    return series.done, series.began, series.began + series.seconds


async def _serve(net: Rig, node: Node, number: int, count: int) -> tuple[int, float, float]:
    return count, *await connections.visits(net, node, count, _PARALLEL)


def _compared(setting: Setting, id: str, what: str, work: Work) -> list[Figure]:
    several: list[float] = []
    alone: list[float] = []
    with rig() as net:
        job = _Job(net, work, setting.many(4000, 32), setting.time_wait)
        for _ in range(setting.repeats):
            several.append(_together(job, setting.workers))
            alone.append(_together(job, 1))
    what = f"{what}, {setting.workers} processes on a multi-queue TAP, {_PARALLEL} at a time each; baseline one process"
    return [figure(id, what, "1/s", several, alone)]


def rates(setting: Setting) -> list[Figure]:
    """P-4: connections per second, dedicated and on-link, and of several processes."""
    figures = connections.rates(setting)
    return figures + (_compared(setting, "P-4", "one-time connections", _connect) if setting.workers > 1 else [])


def services(setting: Setting) -> list[Figure]:
    """P-6: SSAs issued, used by a kernel client, and released, in one process and in several."""
    figures = connections.services(setting)
    return figures + (_compared(setting, "P-6", "SSAs issued, used, released", _serve) if setting.workers > 1 else [])
