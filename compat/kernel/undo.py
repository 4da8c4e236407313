"""How a change is kept for the length of a block, and how each kind of change is undone.

`kept` is the frame of every context manager in links.py.  Undoing is a plain function of recorded facts (`UNDO`), so that
a later process can do it for one that was killed (leftovers.py).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from .errors import KernelError, KernelRefused
from .interface import Interface, index_of
from .ledger import Facts, Ledger, all_ledgers, exclusive, ledger
from .namespaces import Namespace
from .owner import Owner
from .sysctls import get_sysctl, set_sysctl


@contextmanager
def kept(kind: str, where: Namespace, facts: Callable[[], Facts], make: Callable[[], None]) -> Iterator[None]:
    """Make a change, keep it for the length of the block, undo it by `UNDO[kind]`.

    In a shared namespace it is recorded first.  facts: read just before the change, what its undoing needs.
    """
    made_by = os.getpid()
    book = None if where.private else ledger()
    guard = exclusive if book else nullcontext
    with where.again() as own:  # the caller may close theirs before this block ends
        with guard():
            known = facts()
            number = book.record(kind, own.inode, known) if book else 0
            try:
                make()
            except KernelError:  # refused: nothing was made, and what has that name belongs to somebody else
                if book:
                    book.strike(number)
                raise
            except BaseException:
                _undo(kind, own, known, book, number)
                raise
        try:
            yield
        finally:
            if os.getpid() == made_by:  # a forked child that unwinds its copy of the stack owns nothing
                with guard():
                    _undo(kind, own, known, book, number)


def _undo(kind: str, where: Namespace, facts: Facts, book: Ledger | None, number: int) -> None:
    UNDO[kind](where, facts)
    if book:
        book.strike(number)


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


def _exists(index: int) -> bool:
    try:
        socket.if_indextoname(index)
    except OSError:
        return False
    return True


def _undo_master(where: Namespace, facts: Facts) -> None:
    def work(route: IPRoute) -> None:
        index = index_of(facts["name"])
        if route.link("get", index=index)[0].get_attr("IFLA_MASTER") == facts["master"]:
            route.link("set", index=index, master=facts["before"] if _exists(facts["before"]) else 0)

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


def route_request(facts: Facts) -> Facts:
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
        lambda route_socket: route_socket.route("del", **route_request(facts)),
    )


def _undo_offloads(where: Namespace, facts: Facts) -> None:
    try:
        Interface(where, facts["name"]).set_offloads(facts["before"])
    except KernelRefused as error:
        if error.errno != errno.ENODEV:  # the interface has gone
            raise


def _holders(where: Namespace, kind: str, name: str) -> Iterator[tuple[Owner, Facts]]:
    """Everybody, dead or alive, whose ledger says that they hold the setting."""
    for owner, _, entries in all_ledgers():
        for entry in entries:
            if entry.kind == kind and entry.inode == where.inode and entry.facts["name"] == name:
                yield owner, entry.facts


def _first(where: Namespace, kind: str, name: str) -> Facts | None:
    """The facts of the first who holds the setting."""
    return None if where.private else next((facts for _, facts in _holders(where, kind, name)), None)


def value_before(where: Namespace, name: str) -> str:
    """The value to bring back in the end: the first holder's, where others hold the same setting already."""
    first = _first(where, "sysctl", name)
    return str(first["before"]) if first else get_sysctl(where, name)


def _held_by_others(where: Namespace, kind: str, facts: Facts) -> bool:
    """Whether the setting stays as it is, since a living owner holds it beside the one that ends."""
    if where.private:
        return False
    holders = [owner for owner, _ in _holders(where, kind, facts["name"]) if owner.alive()]
    ending = Owner.of_tag(facts["owner"])
    if ending in holders:
        holders.remove(ending)  # once: the same owner may hold the setting a second time
    return bool(holders)


def _undo_sysctl(where: Namespace, facts: Facts) -> None:
    if not _held_by_others(where, "sysctl", facts):
        _bring_back(where, facts["name"], facts["value"], facts["before"])


def _bring_back(where: Namespace, name: str, value: str, before: str) -> None:
    try:
        if get_sysctl(where, name) == value:
            set_sysctl(where, name, before)
    except KernelRefused as error:
        if error.errno != errno.ENOENT:  # the interface it belonged to has gone
            raise


FORWARDING = "ipv6/conf/all/forwarding"
"""Whether packets are forwarded.  What is written here the kernel writes to each interface as well."""


def forwarding_before(where: Namespace) -> dict[str, str]:
    """`forwarding` of "all", "default" and each interface, before the first owner who holds it switched it on."""
    first = _first(where, "forwarding", FORWARDING)
    if first is not None:
        return dict(first["before"])

    def read() -> dict[str, str]:
        found = {}
        for folder in Path("/proc/sys/net/ipv6/conf").iterdir():
            with suppress(FileNotFoundError):  # the link has just gone
                found[folder.name] = (folder / "forwarding").read_text().strip()
        return found

    return where.run(read, f"look what {where.name} forwards")


def _undo_forwarding(where: Namespace, facts: Facts) -> None:
    before = dict(facts["before"])
    if before.pop("all") != "0" or _held_by_others(where, "forwarding", facts):
        return
    if get_sysctl(where, FORWARDING) == "1":  # else somebody has switched it off meanwhile
        set_sysctl(where, FORWARDING, 0)
        for name, value in before.items():
            _bring_back(where, f"ipv6/conf/{name}/forwarding", "0", value)


UNDO: dict[str, Callable[[Namespace, Facts], None]] = {
    "link": _undo_link,
    "master": _undo_master,
    "address": _undo_address,
    "route": _undo_route,
    "offloads": _undo_offloads,
    "sysctl": _undo_sysctl,
    "forwarding": _undo_forwarding,
}
"""How each kind of ledger entry is undone; each function is harmless when there is nothing left to undo."""
