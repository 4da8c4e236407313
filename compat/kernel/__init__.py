"""The kernel's side of every experiment: namespaces, links, addresses, routes, sysctls, by netlink.

Nothing here runs another program.  Each thing is a context manager; an `ExitStack` of them is a network that
goes away on every exit, and after a `kill -9` the next start removes what is left (`clean_leftovers`).
"""

from __future__ import annotations

from .errors import KernelError, KernelRefused, KernelUnavailable
from .interface import OFFLOADS, Interface
from .leftovers import Leftovers, clean_leftovers
from .links import address, bridge, forget_neighbors, forwarding, membership, offloads, route, sysctl, veth
from .namespaces import NETNS_DIR, Namespace, in_namespace, namespace, tcp_socket, unnamed_namespace
from .owner import Owner
from .probe import Capabilities, capabilities
from .scratch import scratch_folder
from .sysctls import be_quiet, get_sysctl, set_sysctl
from .taps import bridged_tap, tap
from .undo import forwarding_before, value_before

__all__ = [
    "NETNS_DIR",
    "OFFLOADS",
    "Capabilities",
    "Interface",
    "KernelError",
    "KernelRefused",
    "KernelUnavailable",
    "Leftovers",
    "Namespace",
    "Owner",
    "address",
    "be_quiet",
    "bridge",
    "bridged_tap",
    "capabilities",
    "clean_leftovers",
    "forget_neighbors",
    "forwarding",
    "forwarding_before",
    "get_sysctl",
    "in_namespace",
    "membership",
    "namespace",
    "offloads",
    "route",
    "scratch_folder",
    "set_sysctl",
    "sysctl",
    "tap",
    "tcp_socket",
    "unnamed_namespace",
    "value_before",
    "veth",
]
