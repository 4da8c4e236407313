"""A link around a link that writes every frame to a pcapng file, with what the stack has to say about it (ST-LINK-4).

What is said belongs to a frame by when it is said:

- A received frame is held back until it has been `handled`, or the next `receive`, `send` or `flush`; everything remarked in
  between is its comment.
- Otherwise a remark waits for the next sent frame, the one that it explains.
- If a frame is received first, the waiting remarks (a timer did something that sent nothing) go to that one, marked "before".

With offload the virtio header is not part of the capture.  A checksum that the link is still to complete, and a
super-segment that it is still to cut, are labelled by a comment, since in the file they look wrong.

Invariants: frames are in the file in the order in which they passed; a full disk ends the capture, not the traffic.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ..events import Counters, EventStream
from ..types import Buffer, Frame
from ..wire import virtio
from .base import Link, LinkProperties
from .pcapng import ETHERNET, RAW_IP, Direction, PcapngWriter

REMARKS_MAX = 100
"""Remarks kept for one frame; more are counted in its last comment."""


class CaptureLink(Link):
    """`link`, recorded in a pcapng file.  Closing this closes `link` and the file.

    file: a path, or a binary file object, which is flushed but not closed.
    clock: Unix time in nanoseconds; under a virtual clock see `tapstack.clock.wall_clock`.
    name: of the interface, as readers show it.  snaplen: bytes kept of each frame.
    Raises `OSError` when the file cannot be made.
    """

    def __init__(
        self,
        link: Link,
        file: str | Path | BinaryIO,
        *,
        clock: Callable[[], int] = time.time_ns,
        name: str = "stack",
        comment: str = "",
        snaplen: int = 262_144,
    ) -> None:
        self.error: OSError | ValueError | None = None
        """Why the capture ended early, a full disk or a file that somebody closed; None while it goes on."""
        self._link = link
        self._properties = link.properties
        self._clock = clock
        self._own: BinaryIO | None = None
        if isinstance(file, (str, Path)):
            file = self._own = Path(file).open("wb")  # noqa: SIM115  # closed by `close`
        self._writer = PcapngWriter(file, comment=comment, snaplen=snaplen)
        ethernet = self._properties.mac is not None
        self._interface = self._writer.add_interface(name, ETHERNET if ethernet else RAW_IP)
        self._held: Buffer | None = None
        self._held_at = 0
        self._remarks: list[str] = []
        self._unsaid = 0
        self._counters: Counters | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._closed = False

    @property
    def properties(self) -> LinkProperties:
        """Those of the link below."""
        return self._properties

    @property
    def frames(self) -> int:
        """How many frames are in the file."""
        return self._writer.frames

    def annotate(self, events: EventStream, counters: Counters) -> None:
        """From now on every event is a remark, and so is the reason for which a received frame was dropped."""
        self._counters = counters
        self._unsubscribe = events.subscribe(lambda event: self.remark(event.text()))

    def remark(self, text: str) -> None:
        """Add a comment to the frame being handled (see the top of this file)."""
        if len(self._remarks) < REMARKS_MAX:
            self._remarks.append(text)
        else:
            self._unsaid += 1

    def attach(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        """Attach the link below."""
        self._link.attach(loop, wake)

    def watch(self, changed: Callable[[bool], None]) -> None:
        """As the link below."""
        self._link.watch(changed)

    def receive(self) -> Buffer | None:
        """The next frame of the link below; it is written when it has been handled."""
        self._write_held()
        frame = self._link.receive()
        if frame is not None and self._recording:
            self._remarks = [f"before: {text}" for text in self._remarks]
            self._held = frame
            self._held_at = self._clock()
            if self._counters is not None:
                self._counters.last_drop = None
        return frame

    def handled(self) -> None:
        """What is remarked from now on is not about the frame received last."""
        self._write_held()

    def send(self, frame: Frame) -> bool:
        """Send through the link below, and write the frame."""
        self._write_held()
        now = self._clock()
        taken = self._link.send(frame)
        if self._recording:
            if not taken:
                self.remark("not taken by the link")
            self._write(now, b"".join(frame), Direction.OUTBOUND)
        return taken

    def flush(self) -> None:
        """The frame received last has been handled: write it, and everything before it, to the file."""
        self._write_held()
        if self._recording:
            self._guarded(self._writer.flush)

    def close(self) -> None:
        """Write what is held, close the link below and the file; harmless when called again."""
        if self._closed:
            return
        self.flush()
        self._closed = True
        if self._unsubscribe is not None:
            self._unsubscribe()
        try:
            if self._own is not None:
                self._guarded(self._own.close)
        finally:
            self._link.close()

    @property
    def _recording(self) -> bool:
        return self.error is None and not self._closed

    def _write_held(self) -> None:
        held, self._held = self._held, None
        if held is None or not self._recording:
            return
        if self._counters is not None and self._counters.last_drop is not None:
            self.remark(f"dropped: {self._counters.last_drop.value}")
        self._write(self._held_at, held, Direction.INBOUND)

    def _write(self, at: int, frame: Buffer, direction: Direction) -> None:
        comments, self._remarks = self._remarks, []
        if self._unsaid:
            comments.append(f"and {self._unsaid} remarks more")
            self._unsaid = 0
        if self._properties.vnet_header:
            comments += offload_labels(frame)
            frame = memoryview(frame)[virtio.HEADER_LENGTH :]
        self._guarded(lambda: self._writer.write(self._interface, at, frame, direction, comments))

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (OSError, ValueError) as error:
            self.error = error
        except struct.error as error:  # a clock before 1970
            self.error = ValueError(f"no room in the format: {error}")


def offload_labels(frame: Buffer) -> list[str]:
    """What a virtio header says that a reader of the bare frame should know.

    >>> offload_labels(virtio.VirtioHeader(flags=virtio.NEEDS_CSUM).pack())
    ['offload: the checksum is left to the link']
    """
    if len(frame) < virtio.HEADER_LENGTH:
        return []
    header = virtio.VirtioHeader.parse(frame)
    labels = []
    if header.flags & virtio.NEEDS_CSUM:
        labels.append("offload: the checksum is left to the link")
    if header.gso_type & ~virtio.GSO_ECN != virtio.GSO_NONE and header.gso_size:
        payload = max(len(frame) - virtio.HEADER_LENGTH - header.header_length, 0)
        segments = -(-payload // header.gso_size)
        labels.append(f"offload: super-segment, {segments} × {header.gso_size} bytes of payload at most")
    return labels
