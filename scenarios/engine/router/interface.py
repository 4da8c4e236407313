"""One interface of a simulated router: its addresses, groups and subnets."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

from tapstack.link.base import LinkProperties
from tapstack.types import ALL_NODES, ALL_ROUTERS, is_link_local, is_multicast, solicited_node

from .config import InterfaceConfig


class Interface:
    """An attachment of the router; `addresses` are its own there, the link-local one first."""

    def __init__(self, port: int, properties: LinkProperties, config: InterfaceConfig) -> None:
        """port: its number; properties: of its link."""
        if properties.mac is None or properties.vnet_header:
            raise ValueError("a simulated router needs links with Ethernet and without offload")
        self.port = port
        self.mac = properties.mac
        self.mtu = properties.mtu
        self.link_local = link_local(self.mac)
        self.addresses: list[bytes] = []
        self.subnets: list[IPv6Network] = []
        self.groups: set[bytes] = set()
        self.configure(config)

    def configure(self, config: InterfaceConfig) -> None:
        """Take the addresses, subnets and groups of a configuration."""
        self.config = config
        own = config.interfaces()
        self.addresses = [self.link_local, *(interface.packed for interface in own)]
        self.subnets = [interface.network for interface in own]
        self.groups = {ALL_NODES, ALL_ROUTERS, *map(solicited_node, self.addresses)}

    def source_for(self, dst: bytes) -> bytes:
        """The own address that speaks to `dst`: link-local within the link, else a global one where there is one."""
        if is_link_local(dst) or is_multicast(dst) or len(self.addresses) == 1:
            return self.link_local
        return self.addresses[1]

    def on_link(self, addr: bytes) -> bool:
        """Whether an address belongs to this link."""
        return is_link_local(addr) or any(IPv6Address(addr) in subnet for subnet in self.subnets)


def link_local(mac: bytes) -> bytes:
    """The link-local address of a MAC address, by modified EUI-64 (RFC 4291 appendix A).

    >>> str(IPv6Address(link_local(bytes.fromhex("020000000001"))))
    'fe80::ff:fe00:1'
    """
    return bytes.fromhex("fe80000000000000") + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
