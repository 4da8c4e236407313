"""A namespace whose only way out is a TUN device, and the files by which its programs find a resolver.

The namespace is made for one run and goes with it; the device is held open by this process, so that even a killed one leaves
no traffic behind.  The files are laid over those of /etc in a mount namespace of the program's own (launch.py): nothing
of the machine is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from compat.gateway.inside import Inside
from compat.kernel import (
    Interface,
    Namespace,
    address,
    be_quiet,
    in_namespace,
    namespace,
    route,
    scratch_folder,
    set_sysctl,
)
from tapstack.link.tun import TunLink, open_tun

DEVICE = "unimux0"
_SOURCES = {"files", "dns"}
"""What may tell names inside: others ask a service of the machine, which is not in the namespace."""


@dataclass(frozen=True, slots=True)
class Room:
    """A namespace for programs.  `link`: its TUN device; `files`: a folder of files to lay over those of /etc."""

    where: Namespace
    link: TunLink
    inside: Inside
    files: Path


@contextmanager
def room(*, mtu: int = 1500, offload: bool = True) -> Iterator[Room]:
    """Make it; everything is gone at the end.  Raises `KernelError`, `LinkUnavailable`."""
    inside = Inside.fresh()
    with ExitStack() as stack:
        where = stack.enter_context(namespace("run"))
        be_quiet(where)
        set_sysctl(where, "ipv6/conf/default/addr_gen_mode", 1)  # no link-local address: there are no neighbours
        with in_namespace(where):
            link = open_tun(DEVICE, mtu=mtu, offload=offload)
        stack.callback(link.close)
        device = Interface(where, DEVICE)
        stack.enter_context(address(device, f"{inside.program}/64"))
        stack.enter_context(route(where, "::/0", dev=device))
        files = stack.enter_context(scratch_folder("run"))
        files.chmod(0o755)
        _lay_out(files / "resolv.conf", f"nameserver {inside.resolver}\n".encode())
        if (switch := _name_switch(Path("/etc/nsswitch.conf"))) is not None:
            _lay_out(files / "nsswitch.conf", switch)
        yield Room(where, link, inside, files)


def _lay_out(path: Path, content: bytes) -> None:
    """Write a file that everybody can read, whatever our umask: the program may be another user's."""
    path.write_bytes(content)
    path.chmod(0o644)


def _name_switch(path: Path) -> bytes | None:
    """The machine's name service switch with host names from files and DNS only; None where that is so already."""
    try:
        lines = path.read_bytes().decode(errors="surrogateescape").splitlines()
    except OSError:
        return None
    changed = [_hosts_line(line) for line in lines]
    return None if changed == lines else ("\n".join(changed) + "\n").encode(errors="surrogateescape")


def _hosts_line(line: str) -> str:
    """One line of the switch.

    >>> _hosts_line("hosts: files mdns4_minimal [NOTFOUND=return] resolve dns"), _hosts_line("passwd: files systemd")
    ('hosts: files dns', 'passwd: files systemd')
    """
    database, _, sources = line.partition(":")
    if database.strip() != "hosts" or set(sources.partition("#")[0].split()) <= _SOURCES:
        return line
    return "hosts: files dns"
