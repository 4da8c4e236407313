"""A link around a link that behaves like a bad path, from a seed (ST-LINK-3).

Model, for each direction separately, in the order a frame meets it:

1. *bottleneck*: frames pass one after another at `rate` bits per second; one that would make more than `queue_limit` bytes
   wait, itself and what is being sent included, is dropped (drop-tail), unless it finds the bottleneck free.  What counts is
   the frame without its virtio header.
2. *loss*: each frame is lost with probability `loss`, independently of all others.
3. *corruption*: with probability `corrupt` one bit is flipped, each bit behind the Ethernet header being equally likely.
4. *duplication*: with probability `duplicate` a frame arrives twice, the copy right behind the original.
5. *delay*: `delay` seconds for every frame, and on top of it `jitter`: drawn uniformly from [0, jitter) or from the exponential
   distribution of mean jitter.  Jitter alone never reorders: a frame that would overtake waits for the one before
   it, as in a queue, so that where frames follow each other closely the mean delay is more than the mean of the draws.
6. *reordering*: with probability `reorder` a frame is held back `reorder_delay` seconds more, so that those sent in that time
   overtake it.

Invariants.
- Equal seeds and equal frames at equal times give equal outcomes.  Each impairment of each direction draws from a generator of
  its own, once per frame, so changing one does not disturb the others: two runs that differ only in `delay` lose the same frames.
- The sender is never told: `send` is False only where the link below refuses at once.  The bottleneck is on the path, not here.
- Memory is bounded: at most IN_FLIGHT frames each way are held; more are dropped and counted as `queue-full`.

With offload a frame is a super-segment, and is lost or delayed as a whole.  Corruption is refused there: a checksum that
is still to be computed would vouch for the corrupted bytes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from random import Random

from ..types import Buffer, Frame
from ..wire import ethernet, virtio
from .base import Link, LinkProperties
from .errors import LinkLost
from .inbox import Inbox
from .schedule import DelayQueue

IN_FLIGHT = 100_000
"""Frames that one direction holds at most."""

BATCH = 256
"""Frames read from the link below per wake-up."""


class Jitter(StrEnum):
    """The distribution of the extra delay; its parameter is `Impairment.jitter`."""

    UNIFORM = "uniform"
    EXPONENTIAL = "exponential"


@dataclass(frozen=True, slots=True, kw_only=True)
class Impairment:
    """What one direction of a path does to frames.  The default does nothing.

    loss, duplicate, reorder, corrupt: probabilities per frame, 0 to 1.
    delay, jitter, reorder_delay: seconds.
    rate: bits per second, None for no limit; queue_limit: bytes that may wait for it, those being sent included, None for no
    limit.
    """

    loss: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    jitter_shape: Jitter = Jitter.UNIFORM
    reorder: float = 0.0
    reorder_delay: float = 0.01
    duplicate: float = 0.0
    corrupt: float = 0.0
    rate: float | None = None
    queue_limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "reorder", "duplicate", "corrupt"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a probability, {getattr(self, name)} is not")
        for name in ("delay", "jitter", "reorder_delay"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is in seconds and not negative, unlike {getattr(self, name)}")
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"the rate must be above zero, not {self.rate}")
        if self.queue_limit is not None and (self.rate is None or self.queue_limit < 0):
            raise ValueError("a queue limit needs a rate that makes frames wait, and is not negative")

    @property
    def longest(self) -> float:
        """Seconds that a frame takes at most, the wait for the bottleneck apart; of an exponential jitter ten means.

        >>> Impairment(delay=1.0, jitter=0.5).longest
        1.5
        """
        reach = 10 if self.jitter_shape is Jitter.EXPONENTIAL else 1
        return self.delay + reach * self.jitter + (self.reorder_delay if self.reorder else 0.0)


_SOON = 1e-3
NONE = Impairment()
"""A perfect direction."""


@dataclass(slots=True)
class PathCounters:
    """What happened to the frames of one direction.

    `lost`, `queue_drops` and `overflow` never arrived, nor did those that were still on the path when the link was closed:
    `abandoned`.
    """

    entered: int = 0
    lost: int = 0
    queue_drops: int = 0
    overflow: int = 0
    corrupted: int = 0
    duplicated: int = 0
    held_back: int = 0
    abandoned: int = 0

    def as_dict(self) -> dict[str, int]:
        """All counts by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where in a frame the wire begins, and where what may be corrupted."""

    wire: int
    packet: int

    @classmethod
    def of(cls, properties: LinkProperties) -> _Layout:
        wire = virtio.HEADER_LENGTH if properties.vnet_header else 0
        return cls(wire, wire + (ethernet.HEADER_LENGTH if properties.mac is not None else 0))


class _Path:
    """One direction: decides the fate of each frame, and delivers it when it is due."""

    def __init__(self, what: Impairment, seed: str, layout: _Layout, deliver: Callable[[list[bytes]], None]) -> None:
        self.what = what
        self.counters = PathCounters()
        self._layout = layout
        self._deliver = deliver
        self._loss, self._corrupt, self._where, self._duplicate, self._jitter, self._reorder = (
            Random(f"{seed}/{name}") for name in ("loss", "corrupt", "where", "duplicate", "jitter", "reorder")
        )
        self._free_at = -math.inf  # when the bottleneck has sent all it holds
        self._last_due = -math.inf  # of the latest frame, its being held back apart
        self._queue: DelayQueue[bytes] | None = None

    def enter(self, loop: asyncio.AbstractEventLoop, data: bytes) -> None:
        """Take a frame from the sender, now."""
        what, counters = self.what, self.counters
        counters.entered += 1
        # Every draw is made for every frame, whatever becomes of it: see the invariants.
        lost = self._loss.random() < what.loss
        corrupted = self._corrupt.random() < what.corrupt
        where = self._where.random()
        copies = 2 if self._duplicate.random() < what.duplicate else 1
        jitter = self._draw_jitter()
        held_back = self._reorder.random() < what.reorder

        now = loop.time()
        passed = self._pass_bottleneck(now, len(data) - self._layout.wire)
        if passed is None:
            counters.queue_drops += 1
            return
        if lost:
            counters.lost += 1
            return
        self._last_due = due = max(passed + what.delay + jitter, self._last_due)
        if corrupted:
            counters.corrupted += 1
            data = self._flip(data, where)
        if held_back:
            counters.held_back += 1
            due += what.reorder_delay
        counters.duplicated += copies - 1
        self._send_off(loop, now, due, [data] * copies)

    def _pass_bottleneck(self, now: float, length: int) -> float | None:
        """When a frame of `length` bytes leaves the bottleneck; None when its queue has no room."""
        rate = self.what.rate
        if rate is None:
            return now
        # Bytes, those being sent included; rounded, since what is left of a difference of two times must not decide.
        ahead = round(max(self._free_at - now, 0.0) * rate / 8)
        limit = self.what.queue_limit
        if limit is not None and ahead > 0 and ahead + length > limit:
            return None
        self._free_at = max(self._free_at, now) + length * 8 / rate
        return self._free_at

    def _draw_jitter(self) -> float:
        drawn = self._jitter.random()
        if self.what.jitter_shape is Jitter.UNIFORM:
            return drawn * self.what.jitter
        return -math.log(1.0 - drawn) * self.what.jitter

    def _flip(self, data: bytes, where: float) -> bytes:
        bits = (len(data) - self._layout.packet) * 8
        if bits <= 0:
            return data
        at, bit = divmod(int(where * bits), 8)
        changed = bytearray(data)
        changed[self._layout.packet + at] ^= 0x80 >> bit
        return bytes(changed)

    def _send_off(self, loop: asyncio.AbstractEventLoop, now: float, due: float, frames: list[bytes]) -> None:
        queue = self._queue
        if due <= now and (queue is None or queue.next_due is None or queue.next_due > now):
            self._deliver(frames)  # due now, and nothing that is due waits: no need to go through the loop
            return
        if queue is None:
            queue = self._queue = DelayQueue(loop, self._deliver, IN_FLIGHT)
        for frame in frames:
            if not queue.push(due, frame):
                self.counters.overflow += 1

    @property
    def next_due(self) -> float | None:
        """When the next frame leaves it; None where none is in flight."""
        return None if self._queue is None else self._queue.next_due

    def close(self) -> None:
        """Forget what is in flight."""
        if self._queue is not None:
            self.counters.abandoned += len(self._queue)
            self._queue.clear()


class ImpairedLink(Link):
    """`link` behind a bad path: `outgoing` towards it, `incoming` from it.  Closing this closes `link`.

    seed: whatever the outcome is to depend on; equal seeds give equal runs.  lingers: what was sent before `close` goes its way
    all the same, as on a cable; `through` waits for that, and `link` is left to who opened it.
    """

    def __init__(
        self,
        link: Link,
        *,
        seed: int | str,
        outgoing: Impairment = NONE,
        incoming: Impairment = NONE,
        lingers: bool = False,
    ) -> None:
        properties = link.properties
        if properties.vnet_header and (outgoing.corrupt or incoming.corrupt):
            raise ValueError("corruption needs a link without offload, where checksums are complete when bits flip")
        layout = _Layout.of(properties)
        self._link = link
        self._lingers = lingers
        self._properties = properties
        self._out = _Path(outgoing, f"{seed}/out", layout, self._leave)
        self._in = _Path(incoming, f"{seed}/in", layout, self._arrive)
        self._inbox = Inbox(IN_FLIGHT)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: Callable[[], None] | None = None
        self._lost: LinkLost | None = None
        self._pulling = False
        self._closed = False

    @property
    def properties(self) -> LinkProperties:
        """Those of the link below."""
        return self._properties

    @property
    def outgoing(self) -> PathCounters:
        """What happened to the frames that were sent.  Nothing is counted in a direction without impairment."""
        return self._out.counters

    @property
    def incoming(self) -> PathCounters:
        """What happened to the frames that came from the link below."""
        return self._in.counters

    def attach(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        """Call `wake()` from `loop` when frames have come through."""
        self._loop = loop
        self._wake = wake
        if self._in.what == NONE:
            self._link.attach(loop, wake)
        else:
            self._inbox.attach(loop, wake)
            self._link.attach(loop, self._pull)

    def watch(self, changed: Callable[[bool], None]) -> None:
        """As the link below."""
        self._link.watch(changed)

    def _pull(self) -> None:
        """Put what waits at the link below on its way to the owner."""
        assert self._loop is not None
        self._pulling = True
        try:
            for _ in range(BATCH):
                frame = self._link.receive()
                if frame is None:
                    break
                self._in.enter(self._loop, bytes(frame))
        except LinkLost as error:
            self._fail(error)
        finally:
            self._pulling = False
        self._inbox.announce()

    def _arrive(self, frames: list[bytes]) -> None:
        for frame in frames:
            if not self._inbox.put(frame):
                self._in.counters.overflow += 1
        if not self._pulling:
            self._inbox.announce()

    def _leave(self, frames: list[bytes]) -> None:
        try:
            for frame in frames:
                self._link.send([frame])
        except LinkLost as error:
            self._fail(error)

    def _fail(self, error: LinkLost) -> None:
        """The link below is gone, seen in a callback of the loop: the owner is told by its next call."""
        self._lost = error
        if self._wake is not None and self._loop is not None:
            self._loop.call_soon(self._wake)

    def receive(self) -> Buffer | None:
        """The next frame that came through; `LinkLost` once the link below is gone and nothing is left."""
        if self._in.what == NONE:
            frame = self._link.receive()
        else:
            frame = self._inbox.take()
        if frame is None and self._lost is not None and not self._closed:
            raise self._lost
        return frame

    def send(self, frame: Frame) -> bool:
        """Put a frame on the path; True unless there is no impairment and the link below refuses it."""
        if self._lost is not None and not self._closed:
            raise self._lost
        if self._out.what == NONE:
            return self._link.send(frame)
        if self._closed:
            return False
        self._out.enter(self._loop or asyncio.get_running_loop(), b"".join(frame))
        return True

    def handled(self) -> None:
        """Of the link below."""
        self._link.handled()

    def close(self) -> None:
        """Forget what is on the path, a stack's goodbye perhaps, and close the link below; see `lingers`."""
        self._closed = True
        self._wake = None
        self._in.close()
        self._inbox.close()
        if not self._lingers:
            self._out.close()
            self._link.close()
        elif self._loop is not None:
            self._link.attach(
                self._loop, self._drain
            )  # else what comes calls an owner who reads no more, again and again

    def _drain(self) -> None:
        with suppress(LinkLost):
            while self._link.receive() is not None:
                pass

    async def through(self) -> None:
        """Wait until all that was sent has left the path."""
        while (due := self._out.next_due) is not None:
            await asyncio.sleep(max(due - asyncio.get_running_loop().time(), _SOON))
