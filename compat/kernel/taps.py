"""TAP devices inside a namespace, closed with their block; the frames come from and go to tapstack's `TapLink`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random

from tapstack.link.tap import TapLink, open_tap

from .interface import Interface
from .links import membership
from .namespaces import Namespace, in_namespace
from .sysctls import get_sysctl, set_sysctl

_NEW_LINKS_WITHOUT_IPV6 = "ipv6/conf/default/disable_ipv6"


@contextmanager
def tap(
    where: Namespace,
    name: str,
    *,
    mac: bytes | Random,
    mtu: int = 1500,
    offload: bool = False,
    kernel_mac: bytes | None = None,
) -> Iterator[TapLink]:
    """A TAP whose kernel's end is an ordinary interface of the namespace, up.  Parameters as `tapstack.link.tap.open_tap`.

    In a namespace shared with others take the name from `Owner.link_name`.
    """
    with in_namespace(where):
        link = open_tap(name, mac=mac, mtu=mtu, offload=offload, kernel_mac=kernel_mac)
    try:
        yield link
    finally:
        link.close()


@contextmanager
def bridged_tap(
    bridge: Interface, name: str, *, mac: bytes | Random, mtu: int = 1500, offload: bool = False
) -> Iterator[TapLink]:
    """A TAP whose kernel's end is a port of a bridge and has no IPv6 of its own: the stack is one more host on that LAN."""
    where = bridge.namespace
    port = Interface(where, name)
    with ExitStack() as stack:
        if where.private:  # from the start, else the port would solicit routers and report groups as soon as it is up
            before = get_sysctl(where, _NEW_LINKS_WITHOUT_IPV6)
            set_sysctl(where, _NEW_LINKS_WITHOUT_IPV6, 1)
            try:
                link = stack.enter_context(tap(where, name, mac=mac, mtu=mtu, offload=offload))
            finally:
                set_sysctl(where, _NEW_LINKS_WITHOUT_IPV6, before)
        else:
            link = stack.enter_context(tap(where, name, mac=mac, mtu=mtu, offload=offload))
            set_sysctl(where, f"ipv6/conf/{name}/disable_ipv6", 1)
        port.until_operational()  # a bridge lets nothing through a port before
        stack.enter_context(membership(port, bridge))
        bridge.until_operational()
        yield link
