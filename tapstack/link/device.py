"""What TAP and TUN share: opening the device through python-pytun, and frames through its file descriptor.

The device lives in the network namespace of the thread that opens it; the file descriptor works from anywhere.  So
a caller that wants the device elsewhere enters that namespace for the call, and everything that needs to be there
(name, MTU, link up) is done within it.

Offload.  With `offload` every frame begins with a virtio header (wire/virtio.py); the kernel then accepts TCP
super-segments and unfinished checksums and hands out the same, so that the cost of a system call is shared by 64 KiB.

Invariants.
- `receive` returns one whole frame as bytes of its own: it may be kept and sliced for as long as one likes.
- A frame is written whole or not at all; `send` never waits.
- The kernel removes the device with its last file descriptor: after `close`, or the death of the process, nothing is left.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Callable

import pytun

from ..types import Frame
from ..wire import ipv6, virtio
from .allocation import keep_pages
from .base import Link, LinkProperties
from .carrier import CarrierWatch
from .counters import LinkCounters, LinkDrop
from .errors import LinkLost, LinkUnavailable, Unavailable

LARGEST_FRAME = virtio.HEADER_LENGTH + 14 + 4 + 40 + 65_535
"""Bytes of the largest frame with offload: virtio, Ethernet and VLAN headers, and the largest IPv6 packet without a
jumbo payload option."""

GSO_SIZE = 65_521
"""The largest super-segment offered, in bytes of IPv6 packet.  The device itself takes 65,575, but a frame of 65,536 bytes
or more (Ethernet header included) is segmented in software before it leaves by another device."""

MTU_MAX = 65_535
NAME_MAX = 15

# <linux/if_tun.h>
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_TUN_F_CSUM = 0x01
_TUN_F_TSO6 = 0x04

_NAME = re.compile(r"[^\s/:%]+")

_DROPS = {
    errno.EAGAIN: LinkDrop.DEVICE_BUSY,
    errno.ENOBUFS: LinkDrop.DEVICE_BUSY,
    errno.ENOMEM: LinkDrop.DEVICE_BUSY,
    errno.EIO: LinkDrop.DEVICE_DOWN,
    errno.EINVAL: LinkDrop.DEVICE_REFUSED,
    errno.EMSGSIZE: LinkDrop.DEVICE_REFUSED,
    errno.E2BIG: LinkDrop.DEVICE_REFUSED,
}
_PIECES_MAX = os.sysconf("SC_IOV_MAX")


def open_device(
    name: str, flags: int, *, mtu: int, offload: bool, hwaddr: bytes | None = None, another_queue: bool = False
) -> pytun.TunTapDevice:
    """Create a TAP or TUN device here, set it up, and return it.

    name: 1 to 15 characters, or empty for one of the kernel's choice; flags: IFF_TAP or IFF_TUN, and IFF_MULTI_QUEUE; mtu: bytes;
    hwaddr: link-layer address of the *kernel's* end.  another_queue: of a device that exists, with the same other parameters.
    Raises `LinkUnavailable`; nothing is left behind then.
    """
    if not ipv6.MINIMUM_MTU <= mtu <= MTU_MAX - (14 if flags & pytun.IFF_TAP else 0):
        raise ValueError(f"an MTU of {mtu} is out of range for IPv6 over TUN/TAP")
    if name and (len(name.encode()) > NAME_MAX or name in (".", "..") or not _NAME.fullmatch(name)):
        raise LinkUnavailable(
            Unavailable.BAD_NAME,
            f"{name!r} cannot be the name of a network device: take up to {NAME_MAX} letters, digits and hyphens.",
        )
    flags |= pytun.IFF_NO_PI | (pytun.IFF_VNET_HDR if offload else 0) | (0 if another_queue else pytun.IFF_TUN_EXCL)
    device = None
    try:
        device = pytun.TunTapDevice(name=name, flags=flags)
        if offload:
            fcntl.ioctl(device.fileno(), _TUNSETVNETHDRSZ, struct.pack("i", virtio.HEADER_LENGTH))
            fcntl.ioctl(device.fileno(), _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO6)
        if not another_queue:
            if hwaddr is not None:
                device.hwaddr = hwaddr
            device.mtu = mtu
            device.up()
        os.set_blocking(device.fileno(), False)
        if offload:
            keep_pages()
    except OSError as error:  # pytun.Error is one
        if device is not None:
            device.close()
        raise _unavailable(name, error) from error
    return device


def _unavailable(name: str, error: OSError) -> LinkUnavailable:
    """What the kernel's refusal to open a device means, in one sentence."""
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return LinkUnavailable(
            Unavailable.NO_TUN,
            "There is no /dev/net/tun: load the kernel module with `modprobe tun`, or use a memory link.",
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return LinkUnavailable(
            Unavailable.NO_PRIVILEGE,
            "Creating a TUN/TAP device needs privilege: run as root or with CAP_NET_ADMIN, or use a memory link.",
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return LinkUnavailable(
            Unavailable.REFUSED,
            f"There is no file descriptor left for the TUN/TAP device {name!r}: raise the limit (ulimit -n), or close some.",
        )
    if error.errno == errno.EBUSY or _exists(name):
        return LinkUnavailable(
            Unavailable.NAME_TAKEN, f"A network device named {name!r} exists already: choose another name or delete it."
        )
    return LinkUnavailable(
        Unavailable.REFUSED,
        f"The kernel refused the TUN/TAP device {name!r} ({error.strerror or error}): change its settings.",
    )


def _exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


class DeviceLink(Link):
    """A link over the file descriptor of a TUN or TAP device."""

    def __init__(self, device: pytun.TunTapDevice, properties: LinkProperties) -> None:
        """Takes over `device`, which `open_device` made in the namespace of the calling thread.  Raises `LinkUnavailable`."""
        self.name: str = device.name
        self.counters = LinkCounters()
        self._device = device
        self._properties = properties
        self._fd: int = device.fileno()
        self._read_size = (
            LARGEST_FRAME if properties.vnet_header else properties.mtu + (18 if properties.mac is not None else 0)
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        try:
            self._carrier = CarrierWatch(device.name)
        except OSError as error:
            device.close()
            raise _unavailable(self.name, error) from error

    @property
    def properties(self) -> LinkProperties:
        """Constant while the link is open."""
        return self._properties

    def fileno(self) -> int:
        """The file descriptor, readable when frames wait; -1 after `close`."""
        return self._fd

    def attach(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        """Call `wake()` in every round of `loop` in which frames wait."""
        self._detach()
        loop.add_reader(self._fd, wake)
        self._loop = loop

    def watch(self, changed: Callable[[bool], None]) -> None:
        """Call `changed(up)` when the device is set down or up, or its carrier goes or comes."""
        assert self._loop is not None
        self._carrier.attach(self._loop, changed)

    def _detach(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._fd)
            self._loop = None

    def receive(self) -> bytes | None:
        """The next frame; None when none waits or the link is closed.  `LinkLost` when the device has been deleted."""
        try:
            frame = os.read(self._fd, self._read_size)
        except BlockingIOError:
            return None
        except OSError as error:
            if self._fd < 0:
                return None
            raise self._lost(error) from error
        self.counters.received += 1
        self.counters.received_bytes += len(frame)
        return frame

    def send(self, frame: Frame) -> bool:
        """Write one frame; False when the kernel drops it.  `LinkLost` when the device has been deleted."""
        try:
            if len(frame) > _PIECES_MAX:
                written = os.write(self._fd, b"".join(frame))
            else:
                written = os.writev(self._fd, frame)
        except OSError as error:
            self.counters.drops[self._drop(error)] += 1
            return False
        self.counters.sent += 1
        self.counters.sent_bytes += written
        return True

    def _drop(self, error: OSError) -> LinkDrop:
        """The reason of a failed write; raises when it is the last."""
        if self._fd < 0:
            return LinkDrop.CLOSED
        drop = _DROPS.get(error.errno or 0)
        if drop is None:
            raise self._lost(error) from error
        return drop

    def _lost(self, error: OSError) -> LinkLost:
        # The descriptor of a deleted device is readable for ever; the loop must not spin on it.
        self._detach()
        return LinkLost(f"The network device {self.name!r} is gone ({error.strerror}): open the link again.")

    def close(self) -> None:
        """Close the descriptor, and with it delete the device; harmless when called again."""
        if self._fd >= 0:
            self._detach()
            self._carrier.close()
            self._fd = -1
            self._device.close()
