"""P-4 … P-7: short connections: how many per second, what one-time addresses cost, and how long a connect takes.

A connection here is: an address, the handshake, one byte each way, close, and the release of the address.  In P-4, P-5 and P-7
the node closes first, so its side goes through TIME-WAIT; the setting's option says for how long that holds the address.  P-4
and P-5 begin when the first connections have gone through it, so that as many are released while they measure as are made.  In
P-6 the kernel's client closes first, and TIME-WAIT is the client's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count as numbered
from itertools import takewhile

from compat import kernel
from compat.programs.errors import ProgramFailed
from tapstack.tcp.options import TimeWait
from unimux.errors import UnimuxError
from unimux.node import Node
from unimux.poolstate import PoolConfig

from .figures import Figure, Goal, figure
from .overflows import Overflows, overflows
from .rig import ADDRESS, PORT, VETH_ADDRESS, WAIT, Rig, rig
from .setting import Setting, percentile, take_turns

NEIGHBOURS = "ipv6/neigh/default/gc_thresh3"
_FAILURES = (UnimuxError, OSError)


class Byte(asyncio.Protocol):
    """Sends one byte, waits for one, closes; `done` then holds whether it came."""

    def __init__(self) -> None:
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._came = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"x")

    def data_received(self, data: bytes) -> None:
        self._came = True
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(self._came)


class Whole(Byte):
    """As `Byte`, but the connection is over on both sides when `done` says so."""

    def data_received(self, data: bytes) -> None:
        self._came = True
        self._transport.write_eof()


@dataclass(slots=True)
class Series:
    """What became of a number of connections; times in seconds.

    stopped_at, overflowed_at: how many came before the first that failed, and before the first overflow; None without one.
    cpu: processor time of this process; peer: of the peer's program, where it was asked.
    """

    done: int = 0
    failed: int = 0
    stopped_at: int | None = None
    overflowed_at: int | None = None
    began: float = 0.0
    seconds: float = 0.0
    cpu: float = 0.0
    peer: float = 0.0
    connect: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Connections per second."""
        return self.done / max(self.seconds, 1e-9)

    @property
    def cost(self) -> float:
        """Processor time of this process per connection, seconds."""
        return self.cpu / max(self.done, 1)


async def connections(
    node: Node,
    count: int | None,
    parallel: int,
    *,
    wait: bool = False,
    enough: Callable[[Series], bool] = lambda series: False,
    overflows: Overflows | None = None,
    until_failure: bool = False,
    to_the_end: bool = False,
    may_fail: bool = False,
    port: int = PORT,
) -> Series:
    """Make `count` connections with the kernel's echo program, `parallel` at a time; `seconds` ends with the last good one.

    count: None for as many as it takes until `enough`.  wait: until TIME-WAIT is over, so that `cpu` covers every release.
    overflows: those of the peer's neighbour table, looked at after each connection.  until_failure: stop at the first that fails.
    to_the_end: each is over on both sides before the next begins.  may_fail: the caller counts those that do; else any
    that fails raises `ProgramFailed`, since a rate or a cost of the others would mean nothing.
    """
    series = Series()
    numbers = takewhile(lambda _: not enough(series), numbered() if count is None else range(count))
    factory = Whole if to_the_end else Byte

    async def worker() -> None:
        for number in numbers:
            began = time.perf_counter()
            try:
                _, protocol = await node.create_connection(factory, ADDRESS, port, timeout=5.0)
                series.connect.append(time.perf_counter() - began)
                assert isinstance(protocol, Byte)
                came = await protocol.done
            except _FAILURES:
                came = False
            if overflows is not None and series.overflowed_at is None and overflows.risen():
                series.overflowed_at = number
            if came:
                series.done += 1
                series.seconds = time.perf_counter() - start
            else:
                series.failed += 1
                if until_failure:
                    series.stopped_at = number
                    return

    cpu, start = time.process_time(), time.perf_counter()
    series.began = time.monotonic()
    await asyncio.gather(*(worker() for _ in range(parallel)))
    if wait:
        await released(node)
    series.cpu = time.process_time() - cpu
    series.connect.sort()
    if series.failed and not (may_fail or until_failure):
        made = series.done + series.failed
        raise ProgramFailed(f"{series.failed} of {made} connections failed; the figure would mean nothing.")
    return series


async def steady(node: Node, parallel: int, *, port: int = PORT) -> None:
    """Make connections until the first of them has been released: from then on as many are released as are made.

    Not with full TIME-WAIT, in which nothing is released while anybody waits.
    """
    if node.config.socket.time_wait is not TimeWait.FULL:
        standing = node.stack.tcp.demux  # whoever is done and not released stands in it
        await connections(node, None, parallel, enough=lambda series: series.done > len(standing), port=port)


async def released(node: Node) -> None:
    """Wait until nothing is left of the node's connections; not with full TIME-WAIT, which takes a minute."""
    while len(node.stack.tcp.time_waits) and node.config.socket.time_wait is not TimeWait.FULL:
        await asyncio.sleep(0.2)  # what looking costs is measured by whoever measures releases


async def kernels(net: Rig, count: int, parallel: int, *, to_the_end: bool = False) -> dict[str, object]:
    """The same between the two kernels."""
    more = ["--to-the-end"] if to_the_end else []
    port = next(net.ports)
    amount = ("--count", count, "--parallel", parallel)
    async with net.helper(net.peer, "echo", VETH_ADDRESS, port):
        return await net.ask_all(net.twin, "requests", VETH_ADDRESS, port, *amount, *more)


def _rate(facts: dict[str, object]) -> float:
    done, seconds = facts["done"], facts["seconds"]
    assert isinstance(done, int) and isinstance(seconds, float)
    return done / seconds


# -- P-4 -------------------------------------------------------------------------------------------


def rates(setting: Setting) -> list[Figure]:
    """P-4 in one process: connections per second, dedicated and on-link."""
    return [*setting.run(_dedicated(setting)), *setting.run(_on_link(setting))]


async def _dedicated(setting: Setting) -> list[Figure]:
    figures = []
    with rig() as net:
        async with (
            net.node(time_wait=setting.time_wait) as node,
            net.helper(net.peer, "echo", ADDRESS, PORT),
        ):
            for parallel in (1, 16):
                count = setting.many(4000, 32)

                async def ours(count: int = count, parallel: int = parallel) -> float:
                    await steady(node, parallel)
                    series = await connections(node, count, parallel)
                    await released(node)  # not while it is the kernels' turn
                    return series.rate

                async def theirs(count: int = count, parallel: int = parallel) -> float:
                    return _rate(await kernels(net, count, parallel))

                values, baselines = await take_turns(setting.repeats, ours, theirs)
                what = (
                    f"one-time connections, dedicated prefix, {_times(parallel)}, {meanwhile(setting)}; "
                    "baseline a kernel client in Python"
                )
                figures.append(figure("P-4", what, "1/s", values, baselines, Goal(at_least=3000)))
    return figures


def _times(parallel: int) -> str:
    return "one after another" if parallel == 1 else f"{parallel} at a time"


def meanwhile(setting: Setting) -> str:
    """What a row in steady state says of its TIME-WAIT."""
    how_many = "none" if setting.time_wait is TimeWait.FULL else "as many"
    return f"{how_many} released meanwhile, TIME-WAIT {setting.time_wait}"


async def _on_link(setting: Setting) -> list[Figure]:
    """A pool filled beforehand, used until it is empty or the peer's neighbour table is full."""
    count = setting.many(2000, 16)
    pool = PoolConfig(low=0, high=count, limit=count + 64, pace=0.0005, concurrent=256, max_age=3600.0)
    values: list[float] = []
    first: list[float] = []
    overflow: list[float] = []
    with overflows() as counter:
        for _ in range(setting.repeats):
            series = await _of_pool(setting, pool, counter)
            values.append(series.rate)
            first.append(float(count if series.stopped_at is None else series.stopped_at))
            if counter is not None:
                overflow.append(float(first_overflow(series, count)))
    threshold = kernel.get_sysctl(kernel.Namespace.current(), NEIGHBOURS)
    option = f"TIME-WAIT {setting.time_wait}"
    pool_of = f"on-link pool of {count} filled beforehand"
    figures = [
        figure("P-4", f"one-time connections, {pool_of}, {option}", "1/s", values),
        figure("P-4", f"{pool_of}: connections before the first that fails, {option}", "connections", first),
    ]
    if overflow:
        of = f"the first overflow of the peer's neighbour table (gc_thresh3 {threshold}), {option}"
        figures.append(figure("P-4", f"{pool_of}: connections before {of}", "connections", overflow))
    else:
        setting.say("P-4: overflows of the neighbour table are not counted: this namespace has no /proc/net/stat")
    return figures


async def _of_pool(setting: Setting, pool: PoolConfig, counter: Overflows | None) -> Series:
    """The pool's addresses, one after another, towards a fresh kernel."""
    with rig() as net:
        async with (
            net.node(pool=pool, time_wait=setting.time_wait) as node,
            net.helper(net.peer, "echo", ADDRESS, PORT),
        ):
            await node.until(lambda: node.pool.ready >= pool.high, WAIT + pool.high * 0.01)
            if counter is not None:
                counter.begin()
            return await connections(node, pool.high, 1, until_failure=True, overflows=counter)


def first_overflow(series: Series, count: int) -> int:
    """How many connections came before the first overflow; all where there was none.

    Raises `ProgramFailed` where one failed although nothing had overflown: it was not the neighbour table that ended the series.
    """
    if series.overflowed_at is not None:
        return series.overflowed_at
    if series.failed:
        raise ProgramFailed(
            f"a connection failed after {series.done} though the peer's neighbour table had not overflown."
        )
    return count


# -- P-5 -------------------------------------------------------------------------------------------


def price(setting: Setting) -> list[Figure]:
    """P-5: the price of one-time: the same stack with one fixed address and four-value keys."""
    with rig() as net:
        return setting.run(_price(setting, net))


async def _price(setting: Setting, net: Rig) -> list[Figure]:
    figures = []
    for parallel in (1, 16):
        figures += await _price_of(setting, net, parallel)
    return figures


async def _price_of(setting: Setting, net: Rig, parallel: int) -> list[Figure]:
    count = setting.many(3000, 32)
    costs: dict[bool, list[float]] = {False: [], True: []}
    speeds: dict[bool, list[float]] = {False: [], True: []}

    async def one(fixed: bool) -> float:
        async with (
            net.node(fixed=fixed, time_wait=setting.time_wait) as node,
            net.helper(net.peer, "echo", ADDRESS, PORT),
        ):
            await steady(node, parallel)
            series = await connections(node, count, parallel)
        costs[fixed].append(series.cost * 1e6)
        speeds[fixed].append(series.rate)
        return series.cost

    await take_turns(setting.repeats, lambda: one(False), lambda: one(True))
    how = f"{_times(parallel)}, {meanwhile(setting)}; baseline one fixed address, four-value keys"
    cost, rate = f"processor time per one-time connection, {how}", f"one-time connections, {how}"
    return [
        figure("P-5", cost, "µs", costs[False], costs[True], Goal(at_most=1.05, of_ratio=True)),
        figure("P-5", rate, "1/s", speeds[False], speeds[True], Goal(at_least=0.95, of_ratio=True)),
    ]


# -- P-6 -------------------------------------------------------------------------------------------


class Answer(asyncio.Protocol):
    """Sends back what comes; tells when the connection is over."""

    def __init__(self, over: Callable[[], None]) -> None:
        self._over = over

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._over()


def services(setting: Setting) -> list[Figure]:
    """P-6 in one process: SSAs issued, used by a kernel client, and released."""
    with rig() as net:
        return setting.run(_services(setting, net))


async def _services(setting: Setting, net: Rig) -> list[Figure]:
    count = setting.many(4000, 32)

    async def one(parallel: int) -> float:
        async with net.node(time_wait=setting.time_wait) as node:
            return (await visits(net, node, count, parallel)).rate

    figures = []
    for parallel in (1, 16):
        [values] = await take_turns(setting.repeats, partial(one, parallel))
        what = f"SSAs issued, used, released, {_times(parallel)}, TIME-WAIT {setting.time_wait}"
        figures.append(figure("P-6", what, "1/s", values, goal=Goal(at_least=3000)))
    return figures


async def visits(net: Rig, node: Node, count: int, parallel: int) -> Series:
    """Issue `count` SSAs to a kernel client, `parallel` at a time, from the first one issued to the last connection over."""
    port = node.config.socket.reduced_port
    async with net.helper(net.peer, "visit", ADDRESS, port, "--parallel", parallel) as visitor:
        free = asyncio.Semaphore(parallel)
        server = node.listen(lambda: Answer(free.release))
        cpu, began = time.process_time(), time.monotonic()
        for _ in range(count):
            await free.acquire()
            ssa = await server.issue()
            visitor.tell(ssa.address.packed)
        for _ in range(parallel):
            await asyncio.wait_for(free.acquire(), WAIT)
        series = Series(began=began, seconds=time.monotonic() - began, cpu=time.process_time() - cpu)
        visitor.finish()
        facts = await visitor.line()
        server.close()
    if facts["done"] != count:
        raise ProgramFailed(f"{facts['failed']} of {count} connections to SSAs failed; the figure would mean nothing.")
    series.done, series.peer = count, facts["cpu"]
    return series


# -- P-7 -------------------------------------------------------------------------------------------


def latencies(setting: Setting) -> list[Figure]:
    """P-7: from connect() to established."""
    with rig() as net:
        return setting.run(_latencies(setting, net))


async def _latencies(setting: Setting, net: Rig) -> list[Figure]:
    count = setting.many(500, 16)
    pool = PoolConfig(low=0, high=count, limit=count + 64, pace=0.0005, concurrent=256)
    times: dict[str, list[list[float]]] = {"pool hit": [], "dedicated": [], "fixed": [], "kernel": []}

    async def own(name: str) -> float:
        async with (
            net.node(
                fixed=name == "fixed", pool=pool if name == "pool hit" else None, time_wait=setting.time_wait
            ) as node,
            net.helper(net.peer, "echo", ADDRESS, PORT),
        ):
            if name == "pool hit":
                await node.until(lambda: node.pool.ready >= count, WAIT + count * 0.01)
            series = await connections(node, count, 1, to_the_end=True)
        times[name].append(series.connect)
        return percentile(series.connect, 0.5)

    async def kernel_() -> float:
        facts = await kernels(net, count, 1, to_the_end=True)
        connect = facts["times"]
        assert isinstance(connect, list)
        times["kernel"].append(connect)
        return percentile(connect, 0.5)

    def run(name: str) -> Callable[[], Awaitable[float]]:
        return lambda: own(name)

    await take_turns(setting.repeats, run("pool hit"), run("dedicated"), run("fixed"), kernel_)
    figures = []
    for name in ("pool hit", "dedicated", "fixed"):
        for share, label in ((0.5, "p50"), (0.99, "p99")):
            values, baselines = (
                [percentile(connect, share) * 1e3 for connect in times[key]] for key in (name, "kernel")
            )
            goal = Goal(at_most=4.0, of_ratio=True) if share == 0.5 else None
            figures.append(
                figure(
                    "P-7",
                    f"connect() to established, {name}, {label}, TIME-WAIT {setting.time_wait}; baseline connect() of a kernel",
                    "ms",
                    values,
                    baselines,
                    goal,
                )
            )
    return figures
