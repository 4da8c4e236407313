"""The first process of a User-mode Linux: another kernel version than this machine's, on one of its TAPs.

    init=PYTHON -- guest.py ADDRESS/LENGTH MODULES [LIBRARIES …]

The root file system is this machine's, read-only.  {"netem": {…}} on its input sets the queueing discipline of that name on the
interface: delay and jitter in microseconds, loss, duplicate and reorder in percent.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import sys
import termios
from collections.abc import Callable
from ipaddress import IPv6Interface
from typing import Any

_FINIT_MODULE = 313  # x86-64
_POWER_OFF = 0x4321FEDC
_LINK = "vec0"
_libc = ctypes.CDLL(None, use_errno=True)


def _mount(kind: str, where: str) -> None:
    if _libc.mount(kind.encode(), where.encode(), kind.encode(), 0, None):
        raise OSError(ctypes.get_errno(), f"cannot mount {kind} on {where}")


def _load(modules: str, name: str) -> None:
    """Load a module and, before it, what it needs."""
    with open(f"{modules}/modules.dep", encoding="ascii") as table:
        needs = next(line.split(":") for line in table if line.startswith(f"{name}:"))
    for each in [*reversed(needs[1].split()), name]:
        with open(f"{modules}/{each}", "rb") as file:
            if _libc.syscall(_FINIT_MODULE, file.fileno(), b"", 0):
                raise OSError(ctypes.get_errno(), f"cannot load {each}")


class KernelSockets:
    """The sockets of this kernel."""

    def listen(self, port: int) -> Callable[[], socket.socket]:
        server = socket.create_server(("::", port), family=socket.AF_INET6, backlog=64)
        return lambda: server.accept()[0]

    def connect(self, host: str, port: int, source: int | None) -> socket.socket:
        """As `tests.real.um.legacy.connect` has it: 0 for a port that no other socket has, None for one that `connect` draws."""
        made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        made.settimeout(60)
        if source is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(source > 0))
            made.bind(("::", source))
        made.connect((host, port))
        return made


def main(address: str, modules: str) -> None:
    """Bring the interface up and talk."""
    for kind, where in (("proc", "/proc"), ("sysfs", "/sys")):
        _mount(kind, where)
    settings = termios.tcgetattr(0)
    settings[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(0, termios.TCSANOW, settings)
    for name in ("ipv6/ipv6.ko", "sched/sch_netem.ko"):
        _load(modules, f"kernel/net/{name}")
    from pyroute2 import IPRoute

    from tests.real.peers import talker

    with IPRoute() as route:
        interface = IPv6Interface(address)
        for name in ("lo", _LINK):
            route.link("set", index=route.link_lookup(ifname=name)[0], state="up")
        index = route.link_lookup(ifname=_LINK)[0]
        no_dad = 0x02
        route.addr(
            "add", index=index, family=socket.AF_INET6, address=str(interface.ip), prefixlen=interface.network.prefixlen,
            flags=no_dad,
        )  # fmt: skip
        route.route("add", family=socket.AF_INET6, dst="::/0", oif=index)  # every address is a neighbour's

        def netem(order: dict[str, Any]) -> None:
            route.tc("replace", "netem", index, **order["netem"])
            talker.say(netem=order["netem"])

        talker.run(KernelSockets(), f"Linux {platform.release()}", netem)


if __name__ == "__main__":
    try:
        sys.path += sys.argv[3:]
        main(*sys.argv[1:3])
    except BaseException as error:
        print(f"guest: {error!r}", flush=True)
    os.sync()
    _libc.reboot(_POWER_OFF)
