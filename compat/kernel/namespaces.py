"""Network namespaces: made, entered, left, removed.

A namespace belongs to a thread, not to a process.  So every piece of work inside a namespace runs in a thread of its
own that enters, works and ends: the caller's thread never changes place, a running asyncio loop is not disturbed (the
netlink library wants a loop of its own), and nothing is inherited by a fork in the middle.  The one exception is
`in_namespace`, for opening sockets and TAPs by code that wants the current thread; a socket or TAP stays in the
namespace where it was opened, wherever its user goes later.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pyroute2 import IPRoute, netns
from pyroute2.netlink.exceptions import NetlinkError

from .errors import KernelError, KernelUnavailable, refusal
from .owner import Owner

NETNS_DIR = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
NO_IPV6 = "This kernel runs without IPv6; start it without ipv6.disable=1, or load the ipv6 module."
HERE = "the current namespace"
_LOOPBACK = 1
_HERE = "/proc/thread-self/ns/net"
_libc = ctypes.CDLL(None, use_errno=True)
_naming = threading.Lock()

T = TypeVar("T")


class Namespace:
    """One network namespace, held open by a file descriptor until `close`.

    name: for people and for `ip netns exec`; a path for one that is not under /run/netns.
    inode: its identity; equal for two handles of the same namespace.
    private: made by this process, so that everything inside goes when it goes.
    """

    def __init__(self, path: str | Path, *, private: bool = False) -> None:
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise refusal(f"open the network namespace {path}", error.errno or 0) from error
        self.path = Path(path)
        self.name = self.path.name if self.path.parent == NETNS_DIR else HERE if path == _HERE else str(path)
        self.inode = os.fstat(self.fd).st_ino
        self.private = private

    def __repr__(self) -> str:
        return f"Namespace({self.name})"

    @classmethod
    def current(cls) -> Namespace:
        """The namespace of the calling thread, shared with others."""
        return cls(_HERE)

    @classmethod
    def named(cls, name: str) -> Namespace:
        """A namespace of /run/netns that somebody else made, shared with others."""
        return cls(NETNS_DIR / name)

    def close(self) -> None:
        """Let go of the handle; the namespace itself is not touched.  Harmless when called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def again(self) -> Namespace:
        """A second handle of the same namespace, with a life of its own."""
        other = Namespace(f"/proc/self/fd/{self.fd}", private=self.private)
        other.path, other.name = self.path, self.name
        return other

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, work: Callable[[], T], doing: str) -> T:
        """Do `work()` in a fresh thread inside this namespace and return its result.

        An `OSError` or netlink error becomes the `KernelError` of "Cannot <doing>".  An interrupt waits until
        the work is done, so that it is never half done unknown to the caller.
        """

        def inside() -> T:
            _setns(self.fd)
            return work()

        return _in_thread(inside, doing)

    def netlink(self, work: Callable[[IPRoute], T], doing: str) -> T:
        """As `run`, with a route netlink socket of this namespace."""

        def inside() -> T:
            with IPRoute() as route:
                return work(route)

        return self.run(inside, doing)


@contextmanager
def namespace(role: str) -> Iterator[Namespace]:
    """A new network namespace with the loopback up and IPv6 on, removed at the end.

    role: what it is for, a word or two; the name is made of it and of this process (owner.py).
    Sockets and programs still inside keep the namespace's links alive after its name has gone: end them first.
    """
    made_by = os.getpid()
    name = _make_named(role)
    try:
        with Namespace(NETNS_DIR / name, private=True) as made:
            made.run(_enable_ipv6, "switch on IPv6 in a namespace")
            made.netlink(lambda route: route.link("set", index=_LOOPBACK, state="up"), "set the loopback interface up")
            yield made
    finally:
        if os.getpid() == made_by:  # a forked child that unwinds its copy of the stack owns nothing
            remove_namespace(name)


@contextmanager
def unnamed_namespace() -> Iterator[Namespace]:
    """A new namespace as it comes from the kernel, without a name: it ends with the block whatever happens."""

    def make() -> Namespace:
        _unshare()
        return Namespace(_HERE, private=True)

    with _in_thread(make, "make a network namespace") as made:
        yield made


def tcp_socket(where: Namespace) -> socket.socket:
    """A kernel's TCP socket over IPv6, of the namespace wherever it is used."""
    with in_namespace(where):
        return socket.socket(socket.AF_INET6, socket.SOCK_STREAM)


@contextmanager
def in_namespace(where: Namespace) -> Iterator[None]:
    """The current thread works inside `where`: sockets, TAPs and processes it opens belong there.

    Never `await` inside: other tasks of the loop would run in the wrong place.  Leaving checks for it and raises
    `RuntimeError`, after the thread has been brought back.
    """
    back = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            _setns(where.fd)
        except OSError as error:
            raise refusal(f"enter the network namespace {where.name}", error.errno or 0) from error
        try:
            yield
        finally:
            stayed = os.stat(_HERE).st_ino == where.inode
            _setns(back)  # cannot fail where entering succeeded; if it does, the error must not be swallowed
        if not stayed:
            raise RuntimeError("the thread changed its namespace inside in_namespace(); was there an await?")
    finally:
        os.close(back)


def remove_namespace(name: str) -> None:
    """Take a name from /run/netns; harmless when it has gone already."""
    try:
        netns.remove(name, libc=_libc)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise refusal(f"remove the network namespace {name}", error.errno or 0) from error


def _make_named(role: str) -> str:
    """Make a namespace under the first free name for `role`: role, role.2, role.3 …"""
    owner = Owner.current()
    with _naming:
        number = 1
        while (NETNS_DIR / (name := owner.namespace_name(role, number))).exists():
            number += 1
        try:
            _in_thread(lambda: _make(name), f"make the network namespace {name}")
        except KeyboardInterrupt:
            remove_namespace(name)
            raise
        return name


def _unshare() -> None:
    if _libc.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        if number in (errno.ENOSYS, errno.EINVAL):
            raise KernelUnavailable("This kernel has no network namespaces; use one built with CONFIG_NET_NS.")
        raise OSError(number, os.strerror(number))


def _make(name: str) -> None:
    _unshare()
    try:
        netns.attach(name, "thread-self", libc=_libc)
    except OSError as error:
        if error.errno != errno.EEXIST:
            remove_namespace(name)  # the mount point may stand already
        raise


def _enable_ipv6() -> None:
    settings = Path("/proc/sys/net/ipv6/conf")
    if not settings.is_dir():
        raise KernelUnavailable(NO_IPV6)
    for which in ("all", "default"):
        (settings / which / "disable_ipv6").write_text("0")


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _in_thread(work: Callable[[], T], doing: str) -> T:
    """Run `work` in a new thread, so that whatever it does to the thread's namespace ends with it."""
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work())
        except BaseException as error:  # handed to the caller's thread
            failures.append(error)

    thread = threading.Thread(target=body, name="namespace", daemon=True)
    thread.start()
    interrupt: BaseException | None = None
    while thread.is_alive():
        try:
            thread.join()
        except KeyboardInterrupt as error:
            interrupt = error
    if failures:
        raise _typed(failures[0], doing) from failures[0]
    if interrupt is not None:
        raise interrupt
    return results[0]


def _typed(error: BaseException, doing: str) -> BaseException:
    if isinstance(error, KernelError):
        return error
    if isinstance(error, NetlinkError):
        return refusal(doing, int(error.code))
    if isinstance(error, OSError):
        return refusal(doing, error.errno or 0)
    return error
