"""A link as the kernel shows it: what one can read from it and set on it at once."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Interface
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool, NoSuchDevice

from tapstack.types import solicited_node

from .errors import KernelError
from .namespaces import Namespace

OFFLOADS = (
    "tx-checksumming",
    "scatter-gather",
    "tcp-segmentation-offload",
    "generic-segmentation-offload",
    "generic-receive-offload",
)
"""What `set_offloads` switches, in the order that switching on needs: segmentation needs the two before it."""

_IFF_UP = 0x01
_IFF_LOOPBACK = 0x08
_IFF_NOARP = 0x80
_OPERATIONAL = ("UP", "UNKNOWN")  # RFC 2863 ifOperStatus; UNKNOWN where a driver does not tell
_POLL = 0.001
_PATIENCE = 30.0  # seconds; the kernel's background work comes late on a busy machine
_ARPHRD_ETHER = 1
_ARPHRD_LOOPBACK = 772

T = TypeVar("T")


def index_of(name: str) -> int:
    """The index of an interface of the calling thread's namespace; `OSError` ENODEV when there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:  # whose errno Python does not set
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name) from error


def _groups(index: int) -> set[str]:
    """The IPv6 multicast groups of an interface of the calling thread's namespace, in hexadecimal."""
    rows = (line.split() for line in Path("/proc/thread-self/net/igmp6").read_text().splitlines())
    return {row[2] for row in rows if row[0] == str(index)}


@dataclass(frozen=True, slots=True)
class Interface:
    """A link by name in a namespace.  Methods act at once and are not undone; the functions of links.py are."""

    namespace: Namespace
    name: str

    def __str__(self) -> str:
        return f"{self.name} in {self.namespace.name}"

    @property
    def index(self) -> int:
        """Its interface index."""
        return self.namespace.run(lambda: index_of(self.name), f"find the interface {self}")

    @property
    def mac(self) -> bytes:
        """Its link-layer address, 6 bytes."""
        return bytes.fromhex(str(self._attribute("IFLA_ADDRESS")).replace(":", ""))

    @property
    def mtu(self) -> int:
        """Its MTU in bytes of IPv6 packet."""
        return int(self._attribute("IFLA_MTU"))

    @property
    def is_bridge(self) -> bool:
        """Whether it is a bridge, which others can be ports of."""
        about = self._attribute("IFLA_LINKINFO")
        return about is not None and about.get_attr("IFLA_INFO_KIND") == "bridge"

    @property
    def has_ethernet(self) -> bool:
        """Whether its frames begin with an Ethernet header (a TUN's do not)."""

        def read(route: IPRoute) -> bool:
            kind = route.link("get", index=index_of(self.name))[0]["ifi_type"]
            return kind in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK)

        return self.namespace.netlink(read, f"read the interface {self}")

    @property
    def master(self) -> int:
        """The index of the bridge it is a port of; 0 when of none."""
        return int(self._attribute("IFLA_MASTER") or 0)

    @property
    def is_up(self) -> bool:
        """Whether it is set up and has a carrier."""
        return bool(self._attribute("IFLA_OPERSTATE") == "UP")

    @property
    def addresses(self) -> list[IPv6Interface]:
        """Its IPv6 addresses with their prefix lengths."""

        def read(route: IPRoute) -> list[IPv6Interface]:
            rows = route.get_addr(family=socket.AF_INET6, index=index_of(self.name))
            return [IPv6Interface((row.get_attr("IFA_ADDRESS"), row["prefixlen"])) for row in rows]

        return self.namespace.netlink(read, f"read the addresses of {self}")

    def up(self) -> None:
        """Set the link up."""
        self._set(state="up")

    def until_operational(self, timeout: float = _PATIENCE) -> None:
        """Wait until frames pass: the kernel notices a carrier in the background, and drops what is sent before.

        For a link whose other end is up; `KernelError` at once when the link itself was never set up, and when its carrier
        takes longer than `timeout` seconds.
        """

        def wait(route: IPRoute) -> bool:
            index, pause, deadline = index_of(self.name), threading.Event(), time.monotonic() + timeout
            while (state := (link := route.link("get", index=index)[0]).get_attr("IFLA_OPERSTATE")) not in _OPERATIONAL:
                if not link["flags"] & _IFF_UP:
                    raise KernelError(f"{self} is down; set it up first (ip link set {self.name} up).")
                if time.monotonic() > deadline:
                    raise KernelError(f"{self} is not operational ({state}); its other end may be down.")
                pause.wait(_POLL)
            return True

        self.namespace.netlink(wait, f"wait for {self}")

    def until_answering(self, address: IPv6Address | None = None, timeout: float = _PATIENCE) -> None:
        """Wait until neighbours can resolve an address of this link; without one, its link-local address.

        The kernel joins an address's solicited-node group in the background, after it has accepted the address.  A link
        that is down or has no neighbours (loopback, TUN) is not waited for.
        """

        def wait(route: IPRoute) -> None:
            index, pause, deadline = index_of(self.name), threading.Event(), time.monotonic() + timeout
            while True:
                flags = route.link("get", index=index)[0]["flags"]
                if not flags & _IFF_UP or flags & (_IFF_LOOPBACK | _IFF_NOARP):
                    return
                rows = route.get_addr(family=socket.AF_INET6, index=index)
                present = [IPv6Address(row.get_attr("IFA_ADDRESS")) for row in rows]
                wanted = [each for each in present if each == address or (address is None and each.is_link_local)]
                if wanted and all(solicited_node(each.packed).hex() in _groups(index) for each in wanted):
                    return
                gone = address is not None and not wanted  # somebody has taken it from the link
                if gone or time.monotonic() > deadline:
                    raise KernelError(f"{self} does not answer for {address or 'a link-local address'}.")
                pause.wait(_POLL)

        self.namespace.netlink(wait, f"wait for an address of {self}")

    def down(self) -> None:
        """Set the link down: its IPv6 addresses and routes go."""
        self._set(state="down")

    def set_mtu(self, mtu: int) -> None:
        """Set the MTU, in bytes of IPv6 packet; IPv6 needs 1280 (RFC 8200 §5)."""
        self._set(mtu=mtu)

    def set_neighbor(self, at: str, mac: bytes) -> None:
        """Have a neighbour stand at a link-layer address for good, without asking for it."""

        def write(route: IPRoute) -> None:
            route.neigh(
                "replace",
                family=socket.AF_INET6,
                dst=at,
                lladdr=mac.hex(":"),
                ifindex=index_of(self.name),
                state="permanent",
            )

        self.namespace.netlink(write, f"set the neighbour {at} of {self}")

    def set_master(self, index: int) -> None:
        """Make it a port of the bridge with this index; 0 takes it out."""
        self._set(master=index)

    def offloads(self) -> dict[str, bool]:
        """The state of each of `OFFLOADS`."""

        def read(tool: IoctlEthtool) -> dict[str, bool]:
            flags = tool.get_offload_flags()
            return {name: flags[name] for name in OFFLOADS}

        return self._ethtool(read)

    def set_offloads(self, on: bool | dict[str, bool]) -> None:
        """Switch all of `OFFLOADS` on or off, or each as the mapping says.  What the driver fixes stays as it is."""
        wanted = on if isinstance(on, dict) else dict.fromkeys(OFFLOADS, on)

        def write(tool: IoctlEthtool) -> None:
            for name in sorted(wanted, key=OFFLOADS.index):
                tool.set_offload_flag(name, wanted[name])

        self._ethtool(write)

    def _ethtool(self, work: Callable[[IoctlEthtool], T]) -> T:
        def inside() -> T:
            tool = IoctlEthtool(self.name)
            try:
                return work(tool)
            except NoSuchDevice as error:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from error
            except EthtoolError as error:
                raise KernelError(f"Cannot switch the offloads of {self}: its driver has no such switch.") from error
            finally:
                tool.close()

        return self.namespace.run(inside, f"switch the offloads of {self}")

    def _attribute(self, name: str) -> Any:
        def read(route: IPRoute) -> Any:
            return route.link("get", index=index_of(self.name))[0].get_attr(name)

        return self.namespace.netlink(read, f"read the interface {self}")

    def _set(self, **settings: Any) -> None:
        def write(route: IPRoute) -> None:
            route.link("set", index=index_of(self.name), **settings)

        self.namespace.netlink(write, f"change the interface {self}")
