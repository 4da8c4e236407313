"""A TUN device as a link: IPv6 packets to and from the kernel, without Ethernet (ST-LINK-2)."""

from __future__ import annotations

import pytun

from .base import LinkProperties
from .device import GSO_SIZE, DeviceLink, open_device


class TunLink(DeviceLink):
    """A link over a TUN device; made by `open_tun`."""


def open_tun(name: str = "", *, mtu: int = 1500, offload: bool = False) -> TunLink:
    """Create the TUN device `name` in the network namespace of the calling thread and bring it up.

    name: at most 15 characters; empty lets the kernel choose, see `TunLink.name`.
    mtu: largest IPv6 packet in bytes, 1280 to 65535.
    offload: exchange virtio headers, unfinished checksums and TCP super-segments with the kernel.

    Raises `LinkUnavailable`.
    """
    device = open_device(name, pytun.IFF_TUN, mtu=mtu, offload=offload)
    return TunLink(
        device,
        LinkProperties(
            mtu=mtu, mac=None, vnet_header=offload, gso_size=GSO_SIZE if offload else 0, checksum_offload=offload
        ),
    )
