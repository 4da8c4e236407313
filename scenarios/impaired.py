"""How much goodput is left on a bad path, and which congestion controller does best on it?

A client fetches a file over a path with a bottleneck, once for each congestion controller and each rate of random loss, each
delay, and each share of reordered frames, and several times each.  One-time addresses change nothing here, and that is the
point: the transfer is the same TCP.  Theory knows what a controller like Reno reaches under random loss p: 1.31 segments per
round trip over the root of p (Ott, Kemperman and Mathis, 1996; 1.22 where losses come evenly spaced, Mathis et al., 1997).
The second half of each transfer is held against it, when slow start is long over.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from scenarios.engine import OPTIONS, Curves, Ecdf, Impairment, Lan, Parameter, ParameterError, Run, Summary, scenario
from scenarios.engine.charts import Point, thinned
from tapstack.events import CongestionTrace, Event
from tapstack.tcp.congestion import known, load_controller
from unimux.aio import open_connection, start_server
from unimux.node import Node

MSS = 1428
"""Bytes of a segment with timestamps at an MTU of 1,500."""
LAW = 1.31
SETTLED = 16
"""Losses in the first half of a transfer, on average, after which its second half is held against the law: with half as many the
window that slow start left is not always gone."""
MOST_LOSS = 0.03
"""With more, time-outs count, of which the law knows nothing."""


@dataclass(frozen=True, slots=True)
class Case:
    """One path: the axis along which it is drawn, where on it, and what it does to the data."""

    axis: str
    x: float
    loss: float
    delay: float
    reorder: float

    @property
    def name(self) -> str:
        """For metrics."""
        return f"{self.axis} {self.x:g}"

    def law(self, rate: float) -> float:
        """Mbit/s by the law, at most the bottleneck's."""
        rtt = 2 * self.delay + 0.002
        return min(LAW * MSS * 8 / rtt / math.sqrt(self.loss) if self.loss else rate, rate) / 1e6


@scenario(
    requirements=("ST-TCP-6",),
    shows=("complete", "own-pair", "released"),
    quick={"size": 300_000, "losses": "0,0.01", "delays": "0.05", "reorders": "0.05", "repeats": 1},
)
async def impaired(
    run: Run,
    *,
    size: Annotated[int, Parameter("bytes of the file", unit="B", least=1000, most=1_000_000_000)] = 2_500_000,
    delay: Annotated[float, Parameter("one-way delay, where it is not what varies", unit="s", least=0, most=2)] = 0.02,
    rate: Annotated[float, Parameter("bottleneck", unit="bit/s", least=10_000)] = 50e6,
    queue: Annotated[int, Parameter("bytes that may wait at the bottleneck", unit="B", least=1500)] = 250_000,
    losses: Annotated[str, Parameter("loss rates, separated by commas")] = "0,0.001,0.005,0.01,0.02",
    delays: Annotated[str, Parameter("one-way delays in seconds, at a loss of 0.005")] = "0.005,0.05",
    reorders: Annotated[str, Parameter("shares of frames that are held back 10 ms, without loss")] = "0.05,0.2",
    controllers: Annotated[str, Parameter("congestion controllers, module:Class for your own; by default all")] = "",
    repeats: Annotated[int, Parameter("transfers of each kind", least=1, most=1000)] = 4,
) -> None:
    run.leave_out("second-opinion", "losses look like losses")
    names = [name.strip() for name in controllers.split(",") if name.strip()] or list(known())
    for name in names:
        try:
            load_controller(name)
        except ValueError as error:
            raise ParameterError(f"controllers: {error}.") from error
    cases = [
        *(Case("loss", x, x, delay, 0.0) for x in _numbers("losses", losses)),
        *(Case("delay", x, 0.005, x, 0.0) for x in _numbers("delays", delays)),
        *(Case("reordering", x, 0.0, delay, x) for x in _numbers("reorders", reorders)),
    ]
    client_lan = run.lan("client")
    lans = []
    for number, case in enumerate(cases):
        down = Impairment(loss=case.loss, delay=case.delay, rate=rate, queue_limit=queue, reorder=case.reorder)
        lans.append(run.lan(f"server{number}", to_router=down, from_router=Impairment(delay=case.delay)))
    run.router(client_lan, *lans)
    alice = await run.node("alice", client_lan, ready=8)
    transfers = _Transfers(run, alice, run.random.randbytes(size))
    todo = [(case, lan, name) for case, lan in zip(cases, lans, strict=True) for name in names]
    run.witness(connections=len(todo) * repeats)
    for done, (case, lan, controller) in enumerate(todo):
        run.progress(done, len(todo), "paths")
        for _ in range(repeats):
            await transfers.one(case, lan, controller)
    _law(run, cases, transfers, size, repeats)
    _show(run, cases, transfers, names, rate)


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ParameterError(f"{name} cannot be {text!r}: it takes numbers separated by commas.") from None


class _Transfers:
    """Downloads by Alice, each from a node of its own; samples by case and controller."""

    def __init__(self, run: Run, alice: Node, data: bytes) -> None:
        self.run, self.alice, self.data = run, alice, data
        self.goodput: dict[tuple[Case, str], list[float]] = {}
        self.steady: dict[tuple[Case, str], list[float]] = {}
        self.windows: dict[tuple[Case, str], list[Point]] = {}
        self._servers = 0

    async def one(self, case: Case, lan: Lan, controller: str) -> None:
        """One download."""
        run, half = self.run, len(self.data) // 2
        options = replace(OPTIONS, congestion=controller, trace=True)
        self._servers += 1
        bob = await run.node(f"bob{self._servers}", lan, options=options, ready=1)
        start, window = run.now(), list[Point]()
        bob.watch(lambda event: _trace(event, window, start))

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(self.data)
            writer.close()

        ssa = await start_server(bob, serve).issue()
        began = run.now()
        reader, writer = await open_connection(self.alice, ssa.address, None, options=options)
        received = await reader.readexactly(half)
        middle = run.now()
        received += await reader.read(-1)
        took, rest = run.now() - began, run.now() - middle
        writer.close()
        equal = hashlib.sha256(received).digest() == hashlib.sha256(self.data).digest()
        run.require_quietly(equal, "Every file arrived equal", "UM-NODE-2")
        key, of = (case, controller), f"{controller}, {case.name}"
        run.measure("completion", took, "s", of=of)
        run.measure("goodput", len(self.data) * 8 / took / 1e6, "Mbit/s", of=of)
        self.goodput.setdefault(key, []).append(len(self.data) * 8 / took / 1e6)
        self.steady.setdefault(key, []).append((len(self.data) - half) * 8 / max(rest, 1e-9) / 1e6)
        self.windows.setdefault(key, window)


def _trace(event: Event, into: list[Point], start: float) -> None:
    if isinstance(event, CongestionTrace):
        into.append((event.time - start, event.cwnd / 1000))


def _law(run: Run, cases: list[Case], transfers: _Transfers, size: int, repeats: int) -> None:
    """The second halves of NewReno's transfers beside the law, all paths together."""
    half = size / 2 / MSS
    held = [case for case in cases if half * case.loss >= SETTLED and case.loss <= MOST_LOSS]
    held = [case for case in held if (case, "newreno") in transfers.steady]
    if not held:
        run.remark("The files are too short to hold NewReno against the square-root law: --set size=4000000 or more.")
        return
    slowness = [case.law(math.inf) / goodput for case in held for goodput in transfers.steady[case, "newreno"]]
    drops = sum(case.loss * half * repeats for case in held)
    # A mean over n random losses scatters by about 1/sqrt(n); a tenth is for what the law leaves out.
    ratio, within = 1 / Summary.of(slowness).mean, 0.1 + 2 / math.sqrt(drops)
    run.measure("NewReno's steady goodput over the law's", ratio)
    run.expect("NewReno's steady goodput, in units of the square-root law", ratio, 1.0, within=within)


def _curves(cases: list[Case], transfers: _Transfers, names: list[str], axis: str) -> Iterator[tuple[str, list[Point]]]:
    for name in names:
        points: list[Point] = []
        for case in (case for case in cases if case.axis == axis):
            about = Summary.of(transfers.goodput[case, name])
            points.append((case.x or 1e-4, about.mean, max(about.low, 0.0), about.high))
        yield name, points


def _show(run: Run, cases: list[Case], transfers: _Transfers, names: list[str], rate: float) -> None:
    for axis, label in (
        ("loss", "loss rate (no loss is drawn at 0.0001)"),
        ("delay", "one-way delay in seconds, at a loss of 0.005"),
        ("reordering", "share of frames held back by 10 ms"),
    ):
        along = sorted((case for case in cases if case.axis == axis), key=lambda case: case.x)
        if not along:
            continue
        law: dict[str, list[Point]] = {
            f"square-root law, at most {rate / 1e6:g}": [(case.x or 1e-4, case.law(rate)) for case in along]
        }
        run.show(
            Curves(
                title=f"Goodput over {axis}",
                x=label,
                y="Mbit/s",
                log_x=True,
                log_y=axis != "reordering",
                series=dict(_curves(along, transfers, names, axis)),
                theory=law if axis != "reordering" else {},
                caption="Means over the repeats with 95 % intervals, slow start included, which short files live by.",
            )
        )
    lossy = [case for case in cases if case.axis == "loss" and case.loss]
    if lossy:
        case = min(lossy, key=lambda case: abs(case.loss - 0.005))
        series = {name: thinned(transfers.windows[case, name]) for name in names}
        run.show(
            Curves(title=f"Congestion windows at {case.name}", x="seconds", y="kilobytes", series=series, steps=True)
        )
        took = {name: run.metrics.samples("completion", f"{name}, {case.name}") for name in names}
        run.show(Ecdf(title=f"Completion times at {case.name}", x="seconds", series=took))
    worst = max(cases, key=lambda case: case.loss)
    about = {name: Summary.of(transfers.goodput[worst, name]) for name in names}
    said = ", ".join(f"{name} {about[name].mean:.2g}" for name in names)
    run.answer(f"Of {rate / 1e6:g} Mbit/s, a loss of {worst.loss:.1%} leaves {said} Mbit/s: {best(about)}.")


def best(about: Mapping[str, Summary]) -> str:
    """Which controller does best, if the 95 % intervals of the means tell.

    >>> best({"bbr": Summary.of([21.0, 23.0, 22.0]), "cubic": Summary.of([3.0, 4.0, 3.5])})
    'bbr does best'
    >>> best({"bbr": Summary.of([2.0, 6.0]), "cubic": Summary.of([3.0, 4.0])})
    'two transfers do not tell which does best'
    """
    first = max(about, key=lambda name: about[name].mean)
    n = about[first].n
    if len(about) == 1 or (n > 1 and all(of.high < about[first].low for name, of in about.items() if name != first)):
        return f"{first} does best"
    return f"{'one transfer does' if n == 1 else 'two transfers do' if n == 2 else f'{n} transfers do'} not tell which does best"
