"""What this machine and this user can do, found by trying it in a namespace without a name that ends with the try."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .errors import NEEDS_ROOT, KernelError, KernelUnavailable
from .links import bridge, veth
from .namespaces import NO_IPV6, unnamed_namespace

TUN_DEVICE = Path("/dev/net/tun")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Each thing that is missing, as one sentence that says how to mend it; empty when everything is there."""

    missing: tuple[str, ...]

    def __bool__(self) -> bool:
        return not self.missing

    def require(self) -> None:
        """Raise `KernelUnavailable` with the first missing thing, if any."""
        if self.missing:
            raise KernelUnavailable(self.missing[0])


def capabilities() -> Capabilities:
    """Try namespaces, IPv6, links, bridges and TAP; takes a few milliseconds and leaves nothing behind."""
    missing = [message for message in (_tun(), _network()) if message]
    return Capabilities(tuple(missing))


def _tun() -> str | None:
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"There is no {TUN_DEVICE}; load the tun module (modprobe tun), or give the container that device."
    except PermissionError:
        return f"{TUN_DEVICE} may not be opened; {NEEDS_ROOT}, or allow the device for the container."
    except OSError as error:
        return f"{TUN_DEVICE} cannot be opened ({error.strerror}); load the tun module (modprobe tun)."
    return None


def _network() -> str | None:
    try:
        with unnamed_namespace() as space:
            if not space.run(lambda: Path("/proc/sys/net/ipv6").is_dir(), "look for IPv6"):
                return NO_IPV6
            with veth(space, "probe0", space, "probe1"), bridge(space, "probe2"):
                return None
    except KernelError as error:
        return str(error)
