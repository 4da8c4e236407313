"""A TAP device as a link: Ethernet frames to and from the kernel, with or without offload (ST-LINK-1).

The device has two ends.  The kernel's end is a network interface like any other, with a MAC address of its own; the
stack is the host at the far end of that cable and has another one.  Bridge the interface, or give it an address.

A device may have several queues, each a link to a stack in a process of its own: `open_queues`.
"""

from __future__ import annotations

from random import Random

import pytun

from .base import LinkProperties
from .device import GSO_SIZE, DeviceLink, open_device
from .steering import steer_by_destination


class TapLink(DeviceLink):
    """A link over a TAP device; made by `open_tap`."""


def open_tap(
    name: str = "", *, mac: bytes | Random, mtu: int = 1500, offload: bool = False, kernel_mac: bytes | None = None
) -> TapLink:
    """Create the TAP device `name` in the network namespace of the calling thread and bring it up.

    name: at most 15 characters; empty lets the kernel choose, see `TapLink.name`.
    mac: the stack's link-layer address, or the generator to draw a locally administered one from.
    mtu: largest IPv6 packet in bytes, 1280 to 65521.
    offload: exchange virtio headers, unfinished checksums and TCP super-segments with the kernel.
    kernel_mac: link-layer address of the kernel's end; the kernel draws one if not given.

    Raises `LinkUnavailable`.
    """
    return _open(name, 1, mac, mtu, offload, kernel_mac)[0]


def open_queues(
    name: str, count: int, *, mac: bytes | Random, byte: int, mtu: int = 1500, offload: bool = False
) -> list[TapLink]:
    """Create a TAP with `count` queues, each a link for a stack of its own that may live in another process.

    byte: which byte of an IPv6 destination is the number of the queue that gets the frame (see `steering`).  All stacks have
    the same link-layer address; the other parameters are those of `open_tap`.  Raises `LinkUnavailable`.
    """
    links = _open(name, count, mac, mtu, offload, None)
    try:
        steer_by_destination(links[0].fileno(), byte)
    except BaseException:
        for link in links:
            link.close()
        raise
    return links


def _open(
    name: str, count: int, mac: bytes | Random, mtu: int, offload: bool, kernel_mac: bytes | None
) -> list[TapLink]:
    own = local_mac(mac) if isinstance(mac, Random) else mac
    for given in (own, kernel_mac or own):
        if len(given) != 6 or given[0] & 1 or not any(given):
            raise ValueError(f"not a unicast MAC address: {given.hex(':')}")
    properties = LinkProperties(
        mtu=mtu, mac=own, vnet_header=offload, gso_size=GSO_SIZE if offload else 0, checksum_offload=offload
    )
    flags = pytun.IFF_TAP | (pytun.IFF_MULTI_QUEUE if count > 1 else 0)
    links: list[TapLink] = []
    try:
        for number in range(count):
            device = open_device(name, flags, mtu=mtu, offload=offload, hwaddr=kernel_mac, another_queue=number > 0)
            links.append(TapLink(device, properties))
            name = links[0].name
    except BaseException:
        for link in links:
            link.close()
        raise
    return links


def local_mac(random: Random) -> bytes:
    """A random unicast link-layer address from the locally administered space (IEEE 802, RFC 7042 §2.1).

    >>> local_mac(Random(1))[0] & 3
    2
    """
    first, *rest = random.randbytes(6)
    return bytes([first & 0xFC | 2, *rest])
