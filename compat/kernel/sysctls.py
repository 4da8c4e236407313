"""Settings below /proc/sys/net, read and written inside a namespace."""

from __future__ import annotations

from pathlib import Path

from .namespaces import Namespace


def set_sysctl(where: Namespace, name: str, value: str | int) -> None:
    """Write one setting below /proc/sys/net for good."""
    path = Path("/proc/sys/net") / name
    where.run(lambda: path.write_text(str(value)), f"set the sysctl net/{name} to {value} in {where.name}")


def get_sysctl(where: Namespace, name: str) -> str:
    """Read one setting below /proc/sys/net."""
    path = Path("/proc/sys/net") / name
    return where.run(lambda: path.read_text().strip(), f"read the sysctl net/{name} in {where.name}")


def be_quiet(where: Namespace) -> None:
    """No duplicate address detection, router solicitation or autoconfiguration on the links to come."""
    for setting in ("accept_dad", "dad_transmits", "accept_ra", "router_solicitations", "autoconf"):
        set_sysctl(where, f"ipv6/conf/default/{setting}", 0)
