"""The network that the demo and many tests use: two LANs, a router of unmodified Linux forwarding between them.

      client                  router                     server                      third
    ┌──────────────┐      ┌─────────────┐      ┌───────────────────────┐      ┌──────────────┐
    │ lan (bridge) │      │             │      │ lan (bridge)          │      │              │
    │   ::c  uplink ────── client server ────── uplink   ::80   third ───────── eth0  ::3     │
    │ + TAPs       │      │  ::1    ::1  │      │ + TAPs                │      │              │
    └──────────────┘      └─────────────┘      └───────────────────────┘      └──────────────┘
         2001:db8:1::/64                            2001:db8:2::/64

A unified node comes in by a TAP that `attach` makes a port of one of the bridges.  Every kernel end has a static address
without duplicate address detection and takes nothing from router advertisements; who wants those runs `router_advertiser`
(compat.programs) on the router's two links.  Bridge ports have no IPv6 of their own, so they add nothing to a capture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from .errors import KernelUnavailable
from .interface import Interface
from .links import address, bridge, membership, route, veth
from .namespaces import Namespace, namespace
from .sysctls import be_quiet, set_sysctl

CLIENT_PREFIX = "2001:db8:1::/64"
CLIENT_ROUTER = "2001:db8:1::1"
CLIENT_ADDRESS = "2001:db8:1::c"
SERVER_PREFIX = "2001:db8:2::/64"
SERVER_ROUTER = "2001:db8:2::1"
SERVER_ADDRESS = "2001:db8:2::80"
THIRD_ADDRESS = "2001:db8:2::3"


@dataclass(frozen=True, slots=True)
class Topology:
    """Every namespace and link of the picture above; the addresses are the constants of this module."""

    client: Namespace
    router: Namespace
    server: Namespace
    third: Namespace
    client_bridge: Interface
    client_uplink: Interface
    router_client: Interface
    router_server: Interface
    server_bridge: Interface
    server_uplink: Interface
    server_third: Interface
    third_link: Interface

    @property
    def namespaces(self) -> tuple[Namespace, ...]:
        """The four namespaces."""
        return self.client, self.router, self.server, self.third

    @property
    def veths(self) -> tuple[Interface, ...]:
        """Every end of every virtual cable."""
        return (
            self.client_uplink,
            self.router_client,
            self.router_server,
            self.server_uplink,
            self.server_third,
            self.third_link,
        )

    def set_offloads(self, on: bool) -> None:
        """Checksum and segmentation offloads of all veths and of the bridges' own ends.

        Off, every frame on a cable is at most an MTU long and carries its true checksum, as a verdict capture needs.
        """
        for link in (*self.veths, self.client_bridge, self.server_bridge):
            link.set_offloads(on)

    def set_congestion(self, name: str) -> None:
        """TCP congestion control of every kernel end.

        In a namespace the kernel takes only what the whole machine allows to all: reno always, others by
        net.ipv4.tcp_allowed_congestion_control.
        """
        for space in self.namespaces:
            try:
                set_sysctl(space, "ipv4/tcp_congestion_control", name)
            except KernelUnavailable as error:
                raise KernelUnavailable(
                    f"Congestion control {name!r} may not be set in a namespace; "
                    "add it to the machine's net.ipv4.tcp_allowed_congestion_control."
                ) from error


@contextmanager
def attach(port: Interface, to: Interface) -> Iterator[None]:
    """Make `port` (a TAP or veth of a namespace of ours) an upright port of the bridge `to`, without IPv6 of its own."""
    set_sysctl(port.namespace, f"ipv6/conf/{port.name}/disable_ipv6", 1)
    with membership(port, to):
        port.up()
        yield


@contextmanager
def demo_topology(*, mtu: int = 1500, congestion: str | None = None) -> Iterator[Topology]:
    """Build the network, in a few tens of milliseconds; offloads are as the kernel sets them (on).

    congestion: as `Topology.set_congestion`; None leaves the kernel's default.
    """
    with ExitStack() as stack:
        client, router, server, third = (
            stack.enter_context(namespace(role)) for role in ("client", "router", "server", "third")
        )
        for space in (client, router, server, third):
            be_quiet(space)
        set_sysctl(router, "ipv6/conf/all/forwarding", 1)

        client_bridge = stack.enter_context(bridge(client, "lan", mtu=mtu, mac=_mac(1, 0x0C)))
        server_bridge = stack.enter_context(bridge(server, "lan", mtu=mtu, mac=_mac(2, 0x80)))
        client_uplink, router_client = stack.enter_context(
            veth(client, "uplink", router, "client", mtu=mtu, macs=(_mac(1, 0xF1), _mac(1, 0x01)))
        )
        server_uplink, router_server = stack.enter_context(
            veth(server, "uplink", router, "server", mtu=mtu, macs=(_mac(2, 0xF1), _mac(2, 0x01)))
        )
        server_third, third_link = stack.enter_context(
            veth(server, "third", third, "eth0", mtu=mtu, macs=(_mac(2, 0xF3), _mac(2, 0x03)))
        )
        stack.enter_context(attach(client_uplink, client_bridge))
        stack.enter_context(attach(server_uplink, server_bridge))
        stack.enter_context(attach(server_third, server_bridge))

        client_bridge.until_operational()
        server_bridge.until_operational()

        for link, text in (
            (router_client, CLIENT_ROUTER),
            (router_server, SERVER_ROUTER),
            (client_bridge, CLIENT_ADDRESS),
            (server_bridge, SERVER_ADDRESS),
            (third_link, THIRD_ADDRESS),
        ):
            stack.enter_context(address(link, f"{text}/64"))
            link.until_answering()
        for space, gateway in ((client, CLIENT_ROUTER), (server, SERVER_ROUTER), (third, SERVER_ROUTER)):
            stack.enter_context(route(space, "::/0", via=gateway))

        topology = Topology(
            client=client,
            router=router,
            server=server,
            third=third,
            client_bridge=client_bridge,
            client_uplink=client_uplink,
            router_client=router_client,
            router_server=router_server,
            server_bridge=server_bridge,
            server_uplink=server_uplink,
            server_third=server_third,
            third_link=third_link,
        )
        if congestion is not None:
            topology.set_congestion(congestion)
        yield topology


def _mac(lan: int, host: int) -> bytes:
    """A locally administered address that tells a reader of the capture whose it is."""
    return bytes([0x02, 0, 0, 0, lan, host])
