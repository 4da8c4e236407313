"""What every link offers, so that capture, impairment and offload are links around a link.

A link is pulled: `attach` names a function to call when frames may be waiting, `receive` returns them one
by one until it returns None.  Sending never waits; what a link cannot take is dropped and counted, as on a wire.
The one error that `receive` and `send` raise is `LinkLost` (errors.py): the device below has gone for good.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from ..types import Buffer, Frame


@dataclass(frozen=True, slots=True)
class LinkProperties:
    """What a stack must know of its link.

    mtu: largest IPv6 packet in bytes.
    mac: own link-layer address, 6 bytes; None on a link without Ethernet (TUN).
    vnet_header: every frame begins with a 10-byte virtio_net_hdr, in and out.
    gso_size: largest TCP super-segment the link takes, in bytes of IPv6 packet; 0 where it does not segment.
    checksum_offload: the link completes a TCP or UDP checksum of which only the pseudo-header part is written.
    """

    mtu: int
    mac: bytes | None
    vnet_header: bool = False
    gso_size: int = 0
    checksum_offload: bool = False


class Link(ABC):
    """One attachment to a network."""

    @property
    @abstractmethod
    def properties(self) -> LinkProperties:
        """What the stack must know; constant while the link is open."""

    @abstractmethod
    def attach(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        """Call `wake()` from `loop` whenever frames may be waiting, until `close`."""

    @abstractmethod
    def watch(self, changed: Callable[[bool], None]) -> None:
        """After `attach`: call `changed(up)` whenever the carrier is lost or comes back; never, where a link cannot tell."""

    @abstractmethod
    def receive(self) -> Buffer | None:
        """The next waiting frame; None when there is none.  The caller may keep and slice it."""

    def handled(self) -> None:  # noqa: B027 - nothing is a fair answer
        """What the last `receive` gave has been handled; what happens from now on does not come of it."""

    @abstractmethod
    def send(self, frame: Frame) -> bool:
        """Send one frame given in pieces; False when it was dropped.  The pieces are not kept after the call."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back; harmless when called again."""
