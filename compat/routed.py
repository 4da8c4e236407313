"""A prefix that the kernel routes to a node on a TAP of its own, for as long as the node runs.

The kernel's end of the TAP has the address `KERNEL_END`, which is the node's default router, and a route for the prefix by
the node's link-local address.  A link that is set down loses both, and nobody but us puts them back when it is up again.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from ipaddress import IPv6Network
from pathlib import Path

from tapstack.types import address, address_text
from unimux.errors import NodeStopped, SetupError
from unimux.node import Node

from . import kernel

KERNEL_END = "fe80::1"
"""The kernel's address on a routed node's TAP: its default router."""
LINK_LOCAL_TIMEOUT = 30.0
_DOWN_AGAIN = (errno.ENETDOWN, errno.ENODEV)


class _KernelEnd:
    """The address and the route of the kernel's end of a TAP; `set` and `close` may be called from any thread."""

    def __init__(self, link: kernel.Interface, prefix: IPv6Network) -> None:
        self._link = link
        self._prefix = prefix
        self._held = ExitStack()
        self._lock = threading.Lock()
        self._over = False

    def set(self, gateway: str) -> None:
        """Make both, anew where they were made before.  Raises `KernelError`."""
        with self._lock:
            self._held.close()
            if not self._over:
                self._held.enter_context(kernel.address(self._link, f"{KERNEL_END}/64"))
                self._held.enter_context(
                    kernel.route(self._link.namespace, str(self._prefix), via=gateway, dev=self._link)
                )

    def close(self) -> None:
        """Take both back, for good."""
        with self._lock:
            self._over = True
            self._held.close()


@asynccontextmanager
async def routed(
    link: kernel.Interface, node: Node, prefix: IPv6Network, complain: Callable[[str], None]
) -> AsyncIterator[None]:
    """Route a prefix to the node on the TAP `link`, and let the kernel forward; everything is undone at the end.

    complain: told in a sentence what stops nothing.  Raises `KernelError`, `SetupError`, `NodeStopped`.
    """
    where, host = link.namespace, node.stack.host
    _switch_on_ipv6(link, complain)
    try:
        await node.until(lambda: host.link_local is not None, LINK_LOCAL_TIMEOUT)
    except TimeoutError:
        raise SetupError(
            f"The node found no link-local address of its own on {link.name} within {LINK_LOCAL_TIMEOUT:.0f} s: "
            "see that the link stays up, and try again."
        ) from None
    back = asyncio.Event()
    with ExitStack() as stack:
        for name in _autoconfiguring(where):  # forwarding would switch it off
            try:
                stack.enter_context(kernel.sysctl(where, f"ipv6/conf/{name}/accept_ra", 2))
            except kernel.KernelRefused as error:
                if error.errno != errno.ENOENT:  # the link has just gone
                    raise
        stack.enter_context(kernel.forwarding(where))
        end = _KernelEnd(link, prefix)
        stack.callback(end.close)
        node.on_link_up = lambda now: back.set()
        end.set(_gateway(node))
        now = node.now()
        host.routers.add_static(address(KERNEL_END), now)
        host.prefix_list.add_dedicated(prefix.network_address.packed, prefix.prefixlen)
        node.pool.start(now)
        node.driver.kick()
        restoring = asyncio.create_task(_restore(end, node, back, f"{prefix} is not routed to the node", complain))
        try:
            yield
        finally:
            restoring.cancel()
            await asyncio.gather(restoring, return_exceptions=True)


def _gateway(node: Node) -> str:
    found = node.stack.host.link_local
    assert found is not None
    return address_text(found)


async def _restore(
    end: _KernelEnd, node: Node, back: asyncio.Event, lost: str, complain: Callable[[str], None]
) -> None:
    """Put address and route back each time that the link has come up again; `lost`: what it means when they cannot be."""
    while True:
        await back.wait()
        back.clear()
        try:
            await node.until(lambda: node.stack.host.link_local is not None)
            await asyncio.to_thread(end.set, _gateway(node))
        except NodeStopped:
            return
        except kernel.KernelError as error:
            if not back.is_set() and getattr(error, "errno", None) not in _DOWN_AGAIN:
                complain(f"The link was down and is up again, but {lost}: {error}")


def _switch_on_ipv6(link: kernel.Interface, complain: Callable[[str], None]) -> None:
    """Give the kernel's end of our TAP IPv6 where the machine has it switched off for new links; the setting goes with the TAP.

    Where it is off for all others as well, the node reaches nothing beyond them, which is their owner's to decide.
    """
    where, off = link.namespace, _links_without_ipv6(link.namespace)
    if off.pop(link.name, False):
        kernel.set_sysctl(where, f"ipv6/conf/{link.name}/disable_ipv6", 0)
    others = {name for name in off if name != "lo"} or off.keys()
    if all(off[name] for name in others):
        complain(
            f"IPv6 is switched off on {' and '.join(sorted(others))}, so the node reaches nobody there: "
            "switch it on (sysctl net.ipv6.conf.all.disable_ipv6=0)."
        )


def _links_without_ipv6(where: kernel.Namespace) -> dict[str, bool]:
    """Every link of a namespace, and whether IPv6 is switched off on it."""
    settings = Path("/proc/sys/net/ipv6/conf")

    def read() -> dict[str, bool]:
        found = {}
        for folder in settings.iterdir():
            with suppress(FileNotFoundError):  # the link has just gone
                found[folder.name] = (folder / "disable_ipv6").read_text().strip() != "0"
        return found

    found = where.run(read, "look where IPv6 is switched on")
    return {name: off for name, off in found.items() if name not in ("all", "default")}


def _autoconfiguring(where: kernel.Namespace) -> Sequence[str]:
    """The interfaces that listen to routers now and would not while they forward; "default" stands for those to come."""
    before = kernel.forwarding_before(where)
    if before.pop("all") != "0":
        return []
    hosts = [name for name, forwards in before.items() if forwards == "0" and name != "lo"]
    found = []
    for name in hosts:
        with suppress(kernel.KernelRefused):  # the link has just gone
            if kernel.value_before(where, f"ipv6/conf/{name}/accept_ra") == "1":
                found.append(name)
    return found
