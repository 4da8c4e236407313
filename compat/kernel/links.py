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

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv6Address, IPv6Interface, IPv6Network

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from .errors import KernelUnavailable
from .interface import Interface, index_of
from .ledger import Facts
from .namespaces import Namespace
from .owner import Owner
from .sysctls import get_sysctl, set_sysctl
from .undo import FORWARDING, forwarding_before, kept, route_request, value_before

_IFA_F_NODAD = 0x02


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
        for end in ends:
            end.until_operational()
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
        return {"name": port.name, "before": port.master, "master": master}

    with kept("master", port.namespace, facts, lambda: port.set_master(master)):
        yield


@contextmanager
def address(on: Interface, cidr: str, *, nodad: bool = True) -> Iterator[IPv6Interface]:
    """An IPv6 address with prefix length ("2001:db8::1/64") on an interface; neighbours can resolve it when the block begins.

    nodad: usable at once, without duplicate address detection.
    """
    parsed = IPv6Interface(cidr)
    facts = {"name": on.name, "address": str(parsed.ip), "length": parsed.network.prefixlen}

    def make() -> None:
        try:
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
        except KernelUnavailable as error:  # EACCES, which root gets where IPv6 is off
            if get_sysctl(on.namespace, f"ipv6/conf/{on.name}/disable_ipv6") == "0":
                raise
            raise KernelUnavailable(
                f"Cannot set the address {cidr} on {on}: IPv6 is switched off there; "
                f"switch it on (sysctl net.ipv6.conf.{on.name}.disable_ipv6=0)."
            ) from error

    with kept("address", on.namespace, lambda: facts, make):
        on.until_answering(parsed.ip)
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
            lambda socket_: socket_.route("add", **route_request(facts)),
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
        before = value_before(where, name)
        return {"name": name, "before": before, "value": str(value), "owner": Owner.current().tag}

    with kept("sysctl", where, facts, lambda: set_sysctl(where, name, value)):
        yield


@contextmanager
def forwarding(where: Namespace) -> Iterator[None]:
    """Let a namespace forward packets; afterwards each interface has its own setting again.

    Where packets are forwarded already nothing is written, since that would set each interface anew.  Several owners are
    as those of a `sysctl`.
    """

    def facts() -> Facts:
        return {"name": FORWARDING, "before": forwarding_before(where), "owner": Owner.current().tag}

    def make() -> None:
        if get_sysctl(where, FORWARDING) == "0":
            set_sysctl(where, FORWARDING, 1)

    with kept("forwarding", where, facts, make):
        yield


def forget_neighbors(space: Namespace) -> None:
    """Empty the neighbour cache of a namespace; its entries count for the one table that all of the machine share."""

    def forget(route: IPRoute) -> None:
        for entry in route.get_neighbours(family=socket.AF_INET6):
            with suppress(NetlinkError):  # it has gone by itself
                route.neigh("del", dst=entry.get("dst"), ifindex=entry["ifindex"], family=socket.AF_INET6)

    space.netlink(forget, "forget neighbours")
