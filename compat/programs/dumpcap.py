"""Captures by dumpcap, complete from the first frame after the start to the last frame before the stop."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ..kernel import Interface, KernelError, KernelRefused, scratch_folder
from . import barrier
from .barrier import Barrier
from .errors import ProgramFailed
from .process import last_words, run_in, sleeps, until

_STATISTICS = re.compile(rb"Packets received/dropped on interface '[^\n]*': (\d+)/(\d+)")
_HANDED_OVER = 2.0  # seconds after which the kernel has surely handed over a block that is not full, by itself at 0.25
_LONGEST_WAIT = 30.0
OFFLOAD = "offload: checksums and the cutting into segments are left to the link"
"""The comment of a capture on an interface that has any offload on."""
_POLL = 0.01


class Capture:
    """A running or finished capture of one interface.

    received, dropped: after `stop`, frames that passed the filter, and those among them that the kernel's buffer had no
    room for.  A verdict must not rest on a capture that dropped any.
    """

    def __init__(self, interface: Interface, path: Path, process: Process, log: Path, mark: Barrier) -> None:
        self.interface = interface
        self.path = path
        self.received = 0
        self.dropped = 0
        self._process = process
        self._log = log
        self._mark = mark
        self._stopped = False

    async def stop(self) -> None:
        """Return when every frame that was on the interface before the call is in the file, and the file is closed.

        Takes about a quarter of a second, and two seconds where the link is down.  Harmless when called again.
        Raises `ProgramFailed` when dumpcap has ended by itself (its interface removed, the disk full), since then the
        end of the capture may be missing.
        """
        if self._stopped:
            return
        self._stopped = True
        try:
            await asyncio.to_thread(self._mark.send)
        except KernelError as error:
            if isinstance(error, KernelRefused) and error.errno == errno.ENODEV:
                await self._until_ended()
            else:  # the link is down: nothing comes any more, so what waits is soon old enough
                await self._until_idle()
        else:
            await self._until_marked()
        if self._process.returncode is not None:
            self._refuse_full_disk()
            raise ProgramFailed(f"dumpcap ended before its capture of {self.interface} did: {last_words(self._log)}")
        self._process.send_signal(signal.SIGINT)
        await self._process.wait()
        if found := _STATISTICS.search(self._log.read_bytes()):
            self.received, self.dropped = int(found[1]), int(found[2])
        self.received -= await asyncio.to_thread(barrier.strip, self.path)

    async def _until_marked(self) -> None:
        deadline = asyncio.get_running_loop().time() + _LONGEST_WAIT
        with self.path.open("rb") as file:
            tail = b""
            while self._mark.token not in tail:
                if asyncio.get_running_loop().time() > deadline:
                    raise ProgramFailed(
                        f"The capture of {self.interface} cannot be brought to an end: its mark is lost."
                    )
                if self._process.returncode is not None:
                    return
                fresh = file.read(1 << 20)
                tail = (tail + fresh)[-(len(fresh) + len(self._mark.token)) :]
                if not fresh:
                    self._refuse_full_disk()
                    await asyncio.sleep(_POLL)

    def _refuse_full_disk(self) -> None:
        """Raise `ProgramFailed` where the file cannot grow; dumpcap's log may have no room to say so."""
        about = os.statvfs(self.path.parent)
        if about.f_blocks and not about.f_bfree:  # some file systems count no blocks
            raise ProgramFailed(
                f"The capture of {self.interface} is not whole: the disk of {self.path.parent} is full."
            )

    async def _until_ended(self) -> None:
        """The interface is gone: dumpcap writes what it has, says so and ends."""
        try:
            await asyncio.wait_for(self._process.wait(), _LONGEST_WAIT)
        except TimeoutError:
            raise ProgramFailed(f"dumpcap did not notice that {self.interface} is gone.") from None

    async def _until_idle(self) -> None:
        """Wait until all frames are handed over and dumpcap, asleep again, has written them."""
        await asyncio.sleep(_HANDED_OVER)
        deadline = asyncio.get_running_loop().time() + _LONGEST_WAIT
        while self._process.returncode is None and not sleeps(self._process):
            if asyncio.get_running_loop().time() > deadline:
                raise ProgramFailed(f"The capture of {self.interface} cannot be brought to an end: dumpcap stays busy.")
            await asyncio.sleep(_POLL)


def _offloads(interface: Interface) -> bool:
    try:
        return any(interface.offloads().values())
    except KernelError:  # a driver that knows none
        return False


@asynccontextmanager
async def dumpcap(
    interface: Interface, path: Path, *, capture_filter: str = "", snaplen: int = 262144, buffer_mib: int = 32
) -> AsyncIterator[Capture]:
    """Capture an interface into a pcapng file; capturing when the block begins, stopped (`Capture.stop`) when it ends.

    capture_filter: libpcap syntax.  snaplen: bytes kept of a frame, at least `barrier.SHORTEST_SNAPLEN`.
    The file of an interface with offload says so in its comment (`OFFLOAD`): checksums in it may be unfinished.
    buffer_mib: kernel buffer in MiB; at several Gbit/s on two cores whole frames need 64, their first 256 bytes need 16.
    Raises `ProgramMissing`, or `ProgramFailed` for a filter or interface that dumpcap does not take.
    """
    if snaplen < barrier.SHORTEST_SNAPLEN:
        raise ValueError(f"a capture keeps at least {barrier.SHORTEST_SNAPLEN} bytes of a frame, not {snaplen}")
    ethernet = interface.has_ethernet
    full_filter = f"{barrier.FILTERS[ethernet]} or ({capture_filter})" if capture_filter else ""
    argv = ["dumpcap", "-i", interface.name, "-s", str(snaplen), "-B", str(buffer_mib), "-q", "-w", "-"]
    if await asyncio.to_thread(_offloads, interface):
        argv += ["--capture-comment", OFFLOAD]
    if full_filter:
        argv += ["-f", full_filter]
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder("dumpcap") as folder:
        log = folder / "dumpcap.log"
        # To its standard output dumpcap writes without delay; a file it names itself it flushes twice a second.
        with path.open("wb") as output, log.open("wb") as errors:
            async with run_in(interface.namespace, argv, stdout=output, stderr=errors) as process:
                # It writes the file's header after it has opened the interface and set the filter.
                await until(process, lambda: path.stat().st_size > 0, log)
                capture = Capture(interface, path, process, log, Barrier(interface, ethernet=ethernet))
                try:
                    yield capture
                finally:
                    await capture.stop()
