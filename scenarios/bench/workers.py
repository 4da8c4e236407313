"""P-4 and P-6 with several processes on one multi-queue TAP, which share nothing.

Each process has a queue of the TAP and a sub-prefix, 2001:db8:b1:0::/64, 2001:db8:b1:1::/64, …, whose last byte is the number
of the queue: the kernel gives it every packet for an address of its sub-prefix (tapstack/link/steering.py).  All have one
link-layer address, behind which the kernel finds the router of all sub-prefixes.  The baseline is one process that has as many
connections at a time as the others have together.  What the processes and the peer's programs take of the processors says what
bounds the gain.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection as Pipe
from typing import Any

from compat import kernel
from compat.programs.errors import ProgramFailed
from tapstack.garbage import settled
from tapstack.link.tap import TapLink, open_queues
from tapstack.tcp.options import TimeWait
from unimux.node import Node

from . import connections
from .connections import Series
from .figures import Figure, figure
from .rig import ADDRESS, PORT, WAIT, Rig, configure, node_config, rig
from .setting import Setting

GATEWAY = "fe80::2"
"""Where the kernel's routes to the sub-prefixes lead; all stacks answer to its link-layer address."""
_MAC = bytes.fromhex("020000b10001")
_SUB_PREFIX_BYTE = 7
_PARALLEL = 8
"""Connections at a time for each process."""
_PATIENCE = 120.0
_fork = multiprocessing.get_context("fork")

Work = Callable[["_Job", Node, int, int], Coroutine[Any, Any, Series]]
"""`work(job, node, number of the process, count)`: what was done, and when (CLOCK_MONOTONIC, which all share)."""


class Meeting:
    """Where so many processes wait for each other; each has it from the fork that made it."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._came = _fork.Value("i", 0)
        self._times = 0

    def come(self) -> Callable[[], bool]:
        """Be there, once more; whether the others have come as often."""
        self._times += 1
        expected = self._times * self._processes
        with self._came.get_lock():
            self._came.value += 1
        return lambda: self._came.value >= expected


@dataclass(frozen=True, slots=True)
class _Job:
    """What each process does.  parallel: connections at a time; meeting: of the processes that do it."""

    net: Rig
    work: Work
    count: int
    parallel: int
    time_wait: TimeWait
    meeting: Meeting


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
        end = stack.enter_context(net.node_end())
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
            await node.until(lambda: node.stack.host.link_local is not None, WAIT)
            configure(node, sub_prefix(number))
            with settled():  # as every node of the benchmarks
                await job.work(job, node, number, 8)  # the next hop is resolved, and Python warm
                pipe.send(None)
                pipe.recv()
                pipe.send(await job.work(job, node, number, job.count))

    try:
        asyncio.run(main())
    except Exception as error:
        pipe.send(str(error) or type(error).__name__)


def _together(net: Rig, work: Work, setting: Setting, count: int, parallel: int) -> list[Series]:
    """What `count` processes do at the same time, each with so many connections at a time."""
    job = _Job(net, work, setting.many(4000, 32), parallel, setting.time_wait, Meeting(count))
    with ExitStack() as stack:
        links = stack.enter_context(_queues(net, count))
        pipes: list[Pipe] = []
        for number in range(count):
            ours, theirs = _fork.Pipe()
            process = _fork.Process(target=_process, args=(number, links, job, theirs))
            process.start()
            stack.push(partial(_end, process))
            theirs.close()
            pipes.append(ours)
        for pipe in pipes:
            _answer(pipe)
        for pipe in pipes:
            pipe.send(None)
        return [_answer(pipe) for pipe in pipes]


def _seconds(outcomes: list[Series]) -> float:
    """From the first beginning to the last end."""
    return max(each.began + each.seconds for each in outcomes) - min(each.began for each in outcomes)


def rate(outcomes: list[Series]) -> float:
    """Per second of all processes together."""
    return sum(each.done for each in outcomes) / _seconds(outcomes)


def peer_cost(outcomes: list[Series]) -> float:
    """Microseconds that the peer's programs need for each."""
    return sum(each.peer for each in outcomes) / sum(each.done for each in outcomes) * 1e6


def share(outcomes: list[Series], processors: int) -> float:
    """The part of the machine's processors that the processes and the peer's programs take, in per cent."""
    taken = sum(each.cpu + each.peer for each in outcomes)
    return taken / (_seconds(outcomes) * processors) * 100


def _answer(pipe: Pipe) -> Any:
    try:
        answer = pipe.recv() if pipe.poll(_PATIENCE) else "it said nothing"
    except EOFError:
        answer = "it ended early"
    if isinstance(answer, str):
        raise ProgramFailed(f"A process of the benchmark failed: {answer}.")
    return answer


def _end(process: multiprocessing.process.BaseProcess, kind: type[BaseException] | None, *rest: object) -> None:
    """Wait for its end; where something went wrong, or who measures interrupts, nobody tells it to come to one."""
    if kind is not None:
        process.terminate()
    process.join(WAIT)
    if process.is_alive():
        process.kill()
        process.join()


async def _connect(job: _Job, node: Node, number: int, count: int) -> Series:
    port = PORT + number
    async with job.net.helper(job.net.peer, "echo", ADDRESS, port) as echo:
        await connections.steady(node, job.parallel, port=port)
        all_steady = job.meeting.come()
        await connections.connections(node, None, job.parallel, enough=lambda series: all_steady(), port=port)
        before = await echo.cpu()
        series = await connections.connections(node, count, job.parallel, port=port)
        series.peer = await echo.cpu() - before
    return series


async def _serve(job: _Job, node: Node, number: int, count: int) -> Series:
    return await connections.visits(job.net, node, count, job.parallel)


def _compared(setting: Setting, id: str, what: str, how: str, work: Work) -> list[Figure]:
    several: list[list[Series]] = []
    alone: list[list[Series]] = []
    number, parallel = setting.workers, _PARALLEL * setting.workers
    with rig() as net:
        for _ in range(setting.repeats):
            several.append(_together(net, work, setting, number, _PARALLEL))
            alone.append(_together(net, work, setting, 1, parallel))
    how = f"{number} processes on a multi-queue TAP, {parallel} at a time in all, {how}; baseline one process, as many at a time"
    processors = os.cpu_count() or 1
    own = [1e6 * outcomes[0].cost for outcomes in alone]
    return [
        figure(id, f"{what}, {how}", "1/s", [*map(rate, several)], [*map(rate, alone)]),
        *(
            figure(
                id,
                f"processor time of process {n + 1} for each, {how}",
                "µs",
                [1e6 * of[n].cost for of in several],
                own,
            )
            for n in range(number)
        ),
        figure(
            id,
            f"processor time of the peer's programs for each, {how}",
            "µs",
            [*map(peer_cost, several)],
            [*map(peer_cost, alone)],
        ),
        figure(
            id,
            f"share of the processors that all these take, {how}",
            "% of all processors",
            [share(each, processors) for each in several],
            [share(each, processors) for each in alone],
        ),
    ]


def rates(setting: Setting) -> list[Figure]:
    """P-4: connections per second, dedicated and on-link, and of several processes."""
    figures = connections.rates(setting)
    if setting.workers > 1:
        figures += _compared(setting, "P-4", "one-time connections", connections.meanwhile(setting), _connect)
    return figures


def services(setting: Setting) -> list[Figure]:
    """P-6: SSAs issued, used by a kernel client, and released, in one process and in several."""
    figures = connections.services(setting)
    if setting.workers > 1:
        how = f"TIME-WAIT {setting.time_wait}"
        figures += _compared(setting, "P-6", "SSAs issued, used, released", how, _serve)
    return figures
