"""A kernel end for the TAP tests: a namespace with one TAP or TUN device, an address on it, and sockets inside."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from compat.kernel import Interface, Namespace, address, in_namespace, namespace
from tapstack.link.base import Link
from tapstack.link.device import DeviceLink
from tapstack.link.tap import TapLink, open_tap
from tests.real import wire

KERNEL = "2001:db8:7a9::1"
OWN = "2001:db8:7a9::2"
_RTN_LOCAL = 2
WAIT = 30.0  # seconds: the bound of every wait for a condition

T = TypeVar("T")
Socket = socket.socket


@dataclass
class Far:
    """The kernel's end of a link."""

    space: Namespace
    interface: Interface

    def socket(self, family: int, kind: int, protocol: int = 0) -> Socket:
        """A socket inside the namespace, with a time-out."""
        with in_namespace(self.space):
            made = socket.socket(family, kind, protocol)
        made.settimeout(WAIT)
        return made

    @contextmanager
    def has_address(self) -> Iterator[None]:
        """KERNEL is an address of the interface, and packets to it are delivered.

        The kernel makes the local route in a work queue of its own, an instant after the address.
        """
        with address(self.interface, f"{KERNEL}/64"):
            until = time.monotonic() + WAIT
            while self.space.netlink(lambda route: route.route("get", dst=KERNEL)[0]["type"], "look up") != _RTN_LOCAL:
                assert time.monotonic() < until, "the kernel never took its own address"
            yield

    def packet_socket(self) -> Socket:
        """A packet socket on the interface that sees what the kernel receives and sends there."""
        made = wire.packet_socket(self.interface)
        made.settimeout(WAIT)
        return made


@contextmanager
def tap_in_namespace(name: str, *, offload: bool = False, mtu: int = 1500) -> Iterator[tuple[TapLink, Far]]:
    """A TAP in a namespace of its own; the kernel has the address KERNEL and knows OWN's link-layer address."""
    with ExitStack() as stack:
        space = stack.enter_context(namespace("link"))
        with in_namespace(space):
            link = open_tap(name, mac=Random(7), mtu=mtu, offload=offload)
        stack.callback(link.close)
        far = Far(space, Interface(space, name))
        stack.enter_context(far.has_address())
        index, mac = far.interface.index, link.properties.mac
        assert mac is not None
        space.netlink(
            lambda route: route.neigh("add", ifindex=index, dst=OWN, lladdr=mac.hex(":"), state="permanent"),
            "set a neighbour",
        )
        yield link, far


def next_frame(link: Link, wanted: Callable[[bytes], T | None], *, fd: int | None = None) -> T:
    """The first thing that `wanted` makes of a received frame; others are passed over.  fd: to wait on, if not the link's."""
    if fd is None:
        assert isinstance(link, DeviceLink)
        fd = link.fileno()
    until = time.monotonic() + WAIT
    while (left := until - time.monotonic()) > 0:
        frame = link.receive()
        if frame is None:
            select.select([fd], [], [], left)
        elif (found := wanted(bytes(frame))) is not None:
            return found
    raise AssertionError("the frame that was waited for did not come")
