"""Links, addresses, routes, bridge membership, offload switches and sysctls: context managers that undo what they made.

Inside a namespace of our own nothing needs to be written down: it all goes with the namespace.  In a namespace shared
with others each change passes through the ledger, and its undoing is a plain function of recorded facts (`UNDO`),
so that a later process can do it for one that was killed.

    with ExitStack() as stack:
        router = stack.enter_context(namespace("router"))
        lan = stack.enter_context(bridge(router, "lan"))
        stack.enter_context(address(lan, "2001:db8:1::1/64"))
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool, NoSuchDevice
from pyroute2.netlink.exceptions import NetlinkError

from .errors import KernelError, KernelRefused
from .ledger import Facts, Ledger, all_ledgers, exclusive, ledger
from .namespaces import Namespace
from .owner import Owner

OFFLOADS = (
    "tx-checksumming",
    "scatter-gather",
    "tcp-segmentation-offload",
    "generic-segmentation-offload",
    "generic-receive-offload",
)
"""What `set_offloads` switches, in the order that switching on needs: segmentation needs the two before it."""

_IFA_F_NODAD = 0x02
_ARPHRD_ETHER = 1
_ARPHRD_LOOPBACK = 772

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Interface:
    """A link by name in a namespace.  Methods act at once and are not undone; the functions below are."""

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
    def has_ethernet(self) -> bool:
        """Whether its frames begin with an Ethernet header (a TUN's do not)."""

        def read(route: IPRoute) -> bool:
            kind = route.link("get", index=index_of(self.name))[0]["ifi_type"]
            return kind in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK)

        return self.namespace.netlink(read, f"read the interface {self}")

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

    def down(self) -> None:
        """Set the link down: its IPv6 addresses and routes go."""
        self._set(state="down")

    def set_mtu(self, mtu: int) -> None:
        """Set the MTU, in bytes of IPv6 packet; IPv6 needs 1280 (RFC 8200 §5)."""
        self._set(mtu=mtu)

    def set_multicast_snooping(self, on: bool) -> None:
        """Switch a bridge's MLD and IGMP snooping."""
        self._set(kind="bridge", br_mcast_snooping=int(on))

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


@contextmanager
def veth(
    a: Namespace,
    a_name: str,
    b: Namespace,
    b_name: str,
    *,
    mtu: int = 1500,
    macs: tuple[bytes, bytes] | None = None,
) -> Iterator[tuple[Interface, Interface]]:
    """A virtual cable between two namespaces, both ends up.  Removing it removes both ends.

    In a namespace shared with others take the name from `Owner.link_name`.  macs: the two ends' link-layer addresses.
    """
    peer: Facts = {"ifname": b_name, "net_ns_fd": b.fd, "mtu": mtu}
    own: Facts = {"ifname": a_name, "mtu": mtu}
    if macs is not None:
        own["address"], peer["address"] = macs[0].hex(":"), macs[1].hex(":")
    doing = f"make the link pair {a_name} in {a.name}, {b_name} in {b.name}"

    def make() -> None:
        a.netlink(lambda route: route.link("add", kind="veth", peer=peer, **own), doing)

    shared, name = (b, b_name) if a.private and not b.private else (a, a_name)
    with kept("link", shared, lambda: {"name": name}, make):
        ends = Interface(a, a_name), Interface(b, b_name)
        for end in ends:
            end.up()
        yield ends


@contextmanager
def bridge(
    where: Namespace,
    name: str,
    *,
    mtu: int = 1500,
    multicast_snooping: bool = False,
    mac: bytes | None = None,
) -> Iterator[Interface]:
    """A bridge without spanning tree, forwarding at once, up.  Its link-layer address does not follow its ports'."""
    own_mac = mac or bytes([0x02]) + os.urandom(5)

    def make() -> None:
        where.netlink(
            lambda route: route.link(
                "add",
                kind="bridge",
                ifname=name,
                mtu=mtu,
                address=own_mac.hex(":"),
                br_stp_state=0,
                br_forward_delay=0,
                br_mcast_snooping=int(multicast_snooping),
            ),
            f"make the bridge {name} in {where.name}",
        )

    with kept("link", where, lambda: {"name": name}, make):
        made = Interface(where, name)
        made.up()
        yield made


@contextmanager
def membership(port: Interface, of: Interface) -> Iterator[None]:
    """The interface is a port of the bridge `of`; afterwards of whatever it belonged to before."""
    master = of.index

    def facts() -> Facts:
        return {"name": port.name, "before": int(port._attribute("IFLA_MASTER") or 0), "master": master}

    with kept("master", port.namespace, facts, lambda: port._set(master=master)):
        yield


@contextmanager
def address(on: Interface, cidr: str, *, nodad: bool = True) -> Iterator[IPv6Interface]:
    """An IPv6 address with prefix length ("2001:db8::1/64") on an interface.

    nodad: usable at once, without duplicate address detection.
    """
    parsed = IPv6Interface(cidr)
    facts = {"name": on.name, "address": str(parsed.ip), "length": parsed.network.prefixlen}

    def make() -> None:
        on.namespace.netlink(
            lambda route: route.addr(
                "add",
                index=index_of(on.name),
                family=socket.AF_INET6,
                address=facts["address"],
                prefixlen=facts["length"],
                flags=_IFA_F_NODAD if nodad else 0,
            ),
            f"set the address {cidr} on {on}",
        )

    with kept("address", on.namespace, lambda: facts, make):
        yield parsed


@contextmanager
def route(
    where: Namespace, prefix: str, *, via: str | None = None, dev: Interface | None = None, metric: int | None = None
) -> Iterator[None]:
    """A route for an IPv6 prefix ("::/0" is the default route) through a gateway, an interface, or both."""
    if via is None and dev is None:
        raise ValueError("a route needs a gateway, an interface, or both")
    facts: Facts = {"dst": str(IPv6Network(prefix)), "gateway": via and str(IPv6Address(via))}
    facts |= {"dev": dev and dev.name, "priority": metric}

    def make() -> None:
        where.netlink(
            lambda socket_: socket_.route("add", **_route_request(facts)),
            f"add the route {prefix} in {where.name}",
        )

    with kept("route", where, lambda: facts, make):
        yield


@contextmanager
def offloads(of: Interface, on: bool) -> Iterator[None]:
    """All of `OFFLOADS` on or off, afterwards as before."""

    def facts() -> Facts:
        return {"name": of.name, "before": of.offloads()}

    with kept("offloads", of.namespace, facts, lambda: of.set_offloads(on)):
        yield


@contextmanager
def sysctl(where: Namespace, name: str, value: str | int) -> Iterator[None]:
    """One setting below /proc/sys/net, afterwards as before.

    name: slash-separated below net, as "ipv6/conf/all/forwarding" (an interface name may hold dots).
    Where several owners hold the same setting in a shared namespace, the last of them to end brings the first value
    back.  A value that somebody else has changed in the meantime is left alone.
    """

    def facts() -> Facts:
        before = _value_before(where, name)
        return {"name": name, "before": before, "value": str(value), "owner": Owner.current().tag}

    with kept("sysctl", where, facts, lambda: set_sysctl(where, name, value)):
        yield


def set_sysctl(where: Namespace, name: str, value: str | int) -> None:
    """Write one setting below /proc/sys/net for good."""
    path = Path("/proc/sys/net") / name
    where.run(lambda: path.write_text(str(value)), f"set the sysctl net/{name} to {value} in {where.name}")


def get_sysctl(where: Namespace, name: str) -> str:
    """Read one setting below /proc/sys/net."""
    path = Path("/proc/sys/net") / name
    return where.run(lambda: path.read_text().strip(), f"read the sysctl net/{name} in {where.name}")


@contextmanager
def kept(kind: str, where: Namespace, facts: Callable[[], Facts], make: Callable[[], None]) -> Iterator[None]:
    """Make a change, keep it for the length of the block, undo it by `UNDO[kind]`.

    In a shared namespace it is recorded first.  facts: read just before the change, what its undoing needs.
    """
    made_by = os.getpid()
    book = None if where.private else ledger()
    guard = exclusive if book else nullcontext
    with guard():
        known = facts()
        number = book.record(kind, where.inode, known) if book else 0
        try:
            make()
        except KernelError:  # refused: nothing was made, and what has that name belongs to somebody else
            if book:
                book.strike(number)
            raise
        except BaseException:
            _undo(kind, where, known, book, number)
            raise
    try:
        yield
    finally:
        if os.getpid() == made_by:  # a forked child that unwinds its copy of the stack owns nothing
            with guard():
                _undo(kind, where, known, book, number)


def _undo(kind: str, where: Namespace, facts: Facts, book: Ledger | None, number: int) -> None:
    UNDO[kind](where, facts)
    if book:
        book.strike(number)


def index_of(name: str) -> int:
    """The index of an interface of the calling thread's namespace; `OSError` ENODEV when there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:  # whose errno Python does not set
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name) from error


def _gone(error: NetlinkError | OSError) -> bool:
    """Whether the thing to undo is not there any more."""
    number = error.code if isinstance(error, NetlinkError) else error.errno
    # ENOENT ESRCH ENXIO ENODEV EADDRNOTAVAIL; None: if_nametoindex() found no such interface and gives no number
    return number in (2, 3, 6, 19, 99, None)


def _undo_by_netlink(where: Namespace, doing: str, work: Callable[[IPRoute], Any]) -> None:
    def tolerant(route_socket: IPRoute) -> None:
        try:
            work(route_socket)
        except (NetlinkError, OSError) as error:
            if not _gone(error):
                raise

    where.netlink(tolerant, doing)


def _undo_link(where: Namespace, facts: Facts) -> None:
    _undo_by_netlink(
        where,
        f"remove the link {facts['name']} in {where.name}",
        lambda route: route.link("del", index=index_of(facts["name"])),
    )


def _undo_master(where: Namespace, facts: Facts) -> None:
    def work(route: IPRoute) -> None:
        index = index_of(facts["name"])
        if route.link("get", index=index)[0].get_attr("IFLA_MASTER") == facts["master"]:
            route.link("set", index=index, master=facts["before"])

    _undo_by_netlink(where, f"take {facts['name']} from its bridge in {where.name}", work)


def _undo_address(where: Namespace, facts: Facts) -> None:
    _undo_by_netlink(
        where,
        f"remove the address {facts['address']} in {where.name}",
        lambda route: route.addr(
            "del",
            index=index_of(facts["name"]),
            family=socket.AF_INET6,
            address=facts["address"],
            prefixlen=facts["length"],
        ),
    )


def _route_request(facts: Facts) -> Facts:
    request: Facts = {"family": socket.AF_INET6, "dst": facts["dst"]}
    if facts["gateway"]:
        request["gateway"] = facts["gateway"]
    if facts["dev"]:
        request["oif"] = index_of(facts["dev"])
    if facts["priority"] is not None:
        request["priority"] = facts["priority"]
    return request


def _undo_route(where: Namespace, facts: Facts) -> None:
    _undo_by_netlink(
        where,
        f"remove the route {facts['dst']} in {where.name}",
        lambda route_socket: route_socket.route("del", **_route_request(facts)),
    )


def _undo_offloads(where: Namespace, facts: Facts) -> None:
    try:
        Interface(where, facts["name"]).set_offloads(facts["before"])
    except KernelRefused as error:
        if error.errno != errno.ENODEV:  # the interface has gone
            raise


def _holders(where: Namespace, name: str) -> Iterator[tuple[Owner, Facts]]:
    """Everybody, dead or alive, whose ledger says that they hold the setting."""
    for owner, _, entries in all_ledgers():
        for entry in entries:
            if entry.kind == "sysctl" and entry.inode == where.inode and entry.facts["name"] == name:
                yield owner, entry.facts


def _value_before(where: Namespace, name: str) -> str:
    """The value to bring back in the end: the first holder's, where others hold the same setting already."""
    if not where.private:
        for _, facts in _holders(where, name):
            return str(facts["before"])
    return get_sysctl(where, name)


def _undo_sysctl(where: Namespace, facts: Facts) -> None:
    name = facts["name"]
    if not where.private:
        holders = [owner for owner, _ in _holders(where, name) if owner.alive()]
        ending = Owner.of_tag(facts["owner"])
        if ending in holders:
            holders.remove(ending)  # once: the same owner may hold the setting a second time
        if holders:
            return
    try:
        if get_sysctl(where, name) == facts["value"]:
            set_sysctl(where, name, facts["before"])
    except KernelRefused as error:
        if error.errno != errno.ENOENT:  # the interface it belonged to has gone
            raise


UNDO: dict[str, Callable[[Namespace, Facts], None]] = {
    "link": _undo_link,
    "master": _undo_master,
    "address": _undo_address,
    "route": _undo_route,
    "offloads": _undo_offloads,
    "sysctl": _undo_sysctl,
}
"""How each kind of ledger entry is undone; each function is harmless when there is nothing left to undo."""
