"""A simulated IPv6 router for in-memory links.

It shows a host what a Linux router would: advertisements, address resolution, errors, and a neighbour cache with
Linux's bounds, all of it counted.  `Router` is sans-I/O (frames and a time in, frames and a deadline out), `RouterNode`
runs one on links in an asyncio loop.

What it leaves out, and Linux has: reassembly of fragments sent to itself, TCP and UDP services of its own (UDP gets Port
Unreachable, TCP nothing), DAD for its own addresses, the subnet-router anycast address, MLD queries, a routing protocol.
"""

from __future__ import annotations

from .config import AdvertisedPrefix, InterfaceConfig, NeighborLimits, RouterConfig, StaticRoute, UntrackedNa
from .core import Router
from .counters import RouterCounters, RouterDrop
from .neighbors import Neighbor, NudState
from .node import RouterNode

__all__ = [
    "AdvertisedPrefix",
    "InterfaceConfig",
    "Neighbor",
    "NeighborLimits",
    "NudState",
    "Router",
    "RouterConfig",
    "RouterCounters",
    "RouterDrop",
    "RouterNode",
    "StaticRoute",
    "UntrackedNa",
]
