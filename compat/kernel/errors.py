"""What can go wrong between this program and the kernel, as types whose message is one sentence for the user."""

from __future__ import annotations

import errno
import os

from unimux.errors import SetupError, UnimuxError


class KernelError(UnimuxError):
    """The kernel did not do what it was asked; the message says what, in one sentence."""

    exit_code = 3  # the machine lacks the bridge, namespace or right that was named


class KernelUnavailable(KernelError, SetupError):
    """This machine, or this user, cannot do it at all; the message says what is missing and how to mend it."""


class KernelRefused(KernelError):
    """One request was refused (name taken, no such interface, bad address); `errno` says why."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.errno = number


NEEDS_ROOT = "run it as root, or with the capabilities CAP_NET_ADMIN and CAP_SYS_ADMIN"

_REASONS = {
    errno.EEXIST: "that name, address or route is already in use; choose another or remove it first",
    errno.EBUSY: "it is in use by another program",
    errno.ENODEV: "there is no such interface",
    errno.ENETUNREACH: "the gateway is not reachable from here",
    errno.EHOSTUNREACH: "the gateway is not reachable from here",
    errno.EROFS: "it is mounted read-only here; mount it for writing, or run outside the container",
}
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ENOSYS)


def refusal(doing: str, number: int) -> KernelError:
    """The typed error for errno `number` met while `doing` ("make the bridge br0").

    >>> str(refusal("make the bridge br0", errno.EEXIST))
    'Cannot make the bridge br0: that name, address or route is already in use; choose another or remove it first.'
    >>> str(refusal("make the bridge br0", errno.EPERM)).startswith("Cannot make the bridge br0: it is not permitted;")
    True
    """
    if number in (errno.EPERM, errno.EACCES):
        return KernelUnavailable(f"Cannot {doing}: it is not permitted; {NEEDS_ROOT}.")
    if number in _UNSUPPORTED:
        return KernelUnavailable(
            f"Cannot {doing}: this kernel does not support it; "
            "load the module (tun, veth, bridge, ipv6) or use a kernel that has it."
        )
    reason = _REASONS.get(number) or os.strerror(number)
    return KernelRefused(f"Cannot {doing}: {reason}.", number)
