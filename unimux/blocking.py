"""Sockets that block, over one-time addresses: for programs that are written with threads and `socket`.

    with NodeThread(lambda: attached_node(settings)) as net:
        with net.socket() as s:
            s.setsockopt(SOL_UNIMUX, Option.PORT_MODE, PortMode.L2)
            s.connect(("2001:db8::1", 80))
            s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            page = s.makefile("rb").read()

The node runs in a loop of its own in a background thread; a socket may be used from any thread.  Names and meanings are those of
Python's `socket` where there is one.  What differs follows from the addresses:

* `getsockname()` gives `::` until the address is set (DAS), then the EA; an accepted socket gives the SSA it came to.
* `listen()` puts the socket into LISTEN_o, where nobody can reach it.  `issue()` arms an SSA; `accept()` arms one itself
  when none is armed; the option SSA_POLICY keeps several armed (UM-LIS-2).
* There is no file descriptor: `fileno()` raises, `select` cannot be used.
"""

from __future__ import annotations

import asyncio
import errno
import io
import ipaddress
import socket as _socket
import time
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import IO, Any

from tapstack.tcp.options import PortMode, SocketOptions, TimeWait
from tapstack.types import address as to_bytes
from tapstack.types import check_port

from .acceptqueue import AcceptQueue, SsaPolicy
from .das import AgentCaller, ChosenAddress, DasRequired, Policy, Want
from .errors import PoolExhausted
from .exchange import Exchange
from .loopthread import LoopThread
from .poolstate import NoPrefix
from .socketfile import socket_file
from .socketoptions import SOL_UNIMUX, DasMode, Option, buffer_size, user_timeout
from .ssa.issue import ServiceAddress
from .sticky import NamedSession, StickySession, check_session

Address = tuple[str, int, int, int]


class NodeThread(LoopThread):
    """A node in a thread of its own, for `with`, and the sockets of that node."""

    def socket(self, options: SocketOptions | None = None) -> Socket:
        """A new TCP socket; options: the node's by default."""
        return Socket(self, options or self.node.config.socket)

    def create_connection(self, address: tuple[str, int], timeout: float | None = None) -> Socket:
        """As `socket.create_connection`, from an EA of its own."""
        made = self.socket()
        made.settimeout(timeout)
        try:
            made.connect(address)
        except BaseException:
            made.close()
            raise
        return made


class Socket:
    """A TCP socket of a node.  Made by `NodeThread.socket` and by `accept`."""

    family = _socket.AF_INET6
    type = _socket.SOCK_STREAM
    proto = _socket.IPPROTO_TCP

    def __init__(self, net: NodeThread, options: SocketOptions, exchange: Exchange | None = None) -> None:
        self._net = net
        self._options = replace(options, nodelay=bool(options.nodelay))
        self._exchange = exchange
        self._listening: AcceptQueue | None = None
        self._das_mode = DasMode.AUTO
        self._ssa_policy = SsaPolicy()
        self._session: StickySession | None = None
        self._chosen: bytes | None = None
        self._port: int | None = None
        self._timeout: float | None = None
        self._supplied: deque[str] = deque()
        self._supply: Callable[[], None] | None = None
        self._files = 0
        self._closed = False

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        """Nobody holds it any more: its address is not to stay for ever.  In whatever thread this is, it waits for nothing."""
        exchange, listening = self._exchange, self._listening
        if self._closed or (exchange is None and listening is None):
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        if exchange is not None:
            exchange.close()
        elif listening is not None:
            with suppress(RuntimeError):  # the loop has ended, and the listener with it
                self._net.loop.call_soon_threadsafe(listening.close)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "listening" if self._listening else "socket"
        return f"<unimux {state} {self._options.mode} laddr={self.getsockname()[:2]}>"

    # -- options ---------------------------------------------------------------------------------

    def settimeout(self, value: float | None) -> None:
        """Seconds that a call may wait: None for no end, 0 for not at all."""
        if value is not None and not value >= 0:
            raise ValueError(f"a time-out is a time, not below 0: {value!r} is none")
        self._timeout = value

    def gettimeout(self) -> float | None:
        """What `settimeout` set."""
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        """`settimeout(None)` or `settimeout(0)`."""
        self._timeout = None if flag else 0.0

    def getblocking(self) -> bool:
        """Whether calls may wait."""
        return self._timeout != 0

    def setsockopt(self, level: int, name: int, value: Any) -> None:
        """Set an option of `SOL_UNIMUX` (`Option`), or TCP_NODELAY, TCP_USER_TIMEOUT (milliseconds), SO_KEEPALIVE, SO_SNDBUF,
        SO_RCVBUF, the last before the socket connects.  On a connection they change it, on a listening socket those to come.
        A buffer is no smaller than a segment needs, and of the size that was set: it does not grow any more.

        SO_REUSEADDR and SO_REUSEPORT are taken and mean nothing here: no two sockets want the same one-time address.
        """
        match (level, name):
            case (_, _) if level == SOL_UNIMUX:
                self._set_new_option(Option(name), value)
            case (_socket.IPPROTO_TCP, _socket.TCP_NODELAY):
                self._change(nodelay=bool(value))
            case (_socket.IPPROTO_TCP, _socket.TCP_USER_TIMEOUT):
                self._change(user_timeout=user_timeout(value))
            case (_socket.SOL_SOCKET, _socket.SO_KEEPALIVE):
                self._change(keep_alive=7200.0 if value else None)
            case (_socket.SOL_SOCKET, _socket.SO_SNDBUF):
                self._change(send_buffer=(size := buffer_size(value)), send_buffer_maximum=size)
            case (_socket.SOL_SOCKET, _socket.SO_RCVBUF):
                if self._exchange is not None:
                    raise OSError(errno.EISCONN, "SO_RCVBUF is set before connecting: the peer knows the scale")
                self._change(receive_buffer=(size := buffer_size(value)), receive_buffer_maximum=size)
            case (_socket.SOL_SOCKET, _socket.SO_REUSEADDR | _socket.SO_REUSEPORT):
                pass
            case _:
                raise OSError(errno.ENOPROTOOPT, f"there is no option {name} at level {level}")

    def _set_new_option(self, option: Option, value: Any) -> None:
        if self._exchange is not None or self._listening is not None:
            raise OSError(errno.EISCONN, f"{option.name} is set before the socket connects or listens")
        match option:
            case Option.DAS_MODE:
                self._das_mode = DasMode(value)
            case Option.PORT_MODE:
                self._change(mode=value)
            case Option.TIME_WAIT:
                self._change(time_wait=value)
            case Option.SSA_POLICY:
                if not isinstance(value, SsaPolicy):
                    raise TypeError("SSA_POLICY takes a SsaPolicy")
                self._ssa_policy = value
            case Option.STICKY_SESSION:
                session = NamedSession(value) if isinstance(value, str) else value
                if session is not None:
                    check_session(session)
                self._session = session

    def _change(self, **values: Any) -> None:
        options = replace(self._options, **values)
        begun = self._exchange or self._listening
        if begun is not None:
            self._net.call(lambda: begun.set_options(options))
        self._options = options

    def getsockopt(self, level: int, name: int) -> Any:
        """The value of an option that `setsockopt` takes; SO_ERROR is always 0, since errors are raised where they happen."""
        if level == SOL_UNIMUX:
            return {
                Option.DAS_MODE: self._das_mode,
                Option.PORT_MODE: self._options.mode,
                Option.TIME_WAIT: self._options.time_wait,
                Option.SSA_POLICY: self._ssa_policy,
                Option.STICKY_SESSION: self._session,
            }[Option(name)]
        known = {
            (_socket.IPPROTO_TCP, _socket.TCP_NODELAY): int(bool(self._options.nodelay)),
            (_socket.IPPROTO_TCP, _socket.TCP_USER_TIMEOUT): round(self._options.user_timeout * 1000),
            (_socket.SOL_SOCKET, _socket.SO_KEEPALIVE): int(self._options.keep_alive is not None),
            (_socket.SOL_SOCKET, _socket.SO_SNDBUF): self._options.send_buffer,
            (_socket.SOL_SOCKET, _socket.SO_RCVBUF): self._options.receive_buffer,
            (_socket.SOL_SOCKET, _socket.SO_ERROR): 0,
            (_socket.SOL_SOCKET, _socket.SO_TYPE): int(self.type),
        }
        if (level, name) not in known:
            raise OSError(errno.ENOPROTOOPT, f"there is no option {name} at level {level}")
        return known[level, name]

    # -- addresses -------------------------------------------------------------------------------

    def bind(self, address: tuple[str, int]) -> None:
        """With no address (`::` or empty) nothing is fixed (UM-DAS-1); else the ordinary address to use (UM-DAS-5).

        The port counts in Aware mode only.
        """
        host, port = address[0], address[1]
        self._check_fresh()
        check_port(port)
        if host not in ("", "::"):
            self._chosen = to_bytes(host)
        self._port = port or None

    def set_address(self, address: str) -> None:
        """Set the address that this socket waits for, or will wait for, in DAS mode REQUIRED; from any thread (UM-DAS-3)."""
        to_bytes(address)
        self._supplied.append(address)
        if self._supply is not None:
            self._net.loop.call_soon_threadsafe(self._supply)

    def getsockname(self) -> Address:
        """`::` before the address is set; the EA of a connected socket, the SSA of an accepted one."""
        if self._exchange is not None:
            return self._exchange.local
        if self._chosen is not None:
            return str(ipaddress.IPv6Address(self._chosen)), self._port or 0, 0, 0
        return "::", self._port or 0, 0, 0

    def getpeername(self) -> Address:
        """The peer's address and port."""
        return self._connected().remote

    def _policy(self) -> Policy | None:
        """Runs in the loop: who sets this socket's address; None for the node's policy."""
        node = self._net.node
        if self._chosen is not None:
            return ChosenAddress(node.stack.host.addresses, self._chosen)
        if self._das_mode is DasMode.AUTO:
            return None
        supplied = asyncio.Event()
        self._supply = supplied.set

        async def agent(want: Want) -> str:
            while not self._supplied:
                supplied.clear()
                await supplied.wait()
            return self._supplied.popleft()

        policy = DasRequired(node.pool, node.events)
        policy.on_need = AgentCaller(policy, agent, node.now, node.driver.kick)
        return policy

    # -- connecting and listening -----------------------------------------------------------------

    def connect(self, address: tuple[str, int]) -> None:
        """Connect from an EA of its own; raises a `UnimuxError`.  It needs time: a time-out of 0 is refused."""
        self._check_fresh()
        if self._timeout == 0:
            raise BlockingIOError(errno.EAGAIN, "connecting takes time: set a time-out above 0")
        if self._chosen is not None and self._session is not None:
            raise OSError(errno.EINVAL, "a sticky session has an address of its own: bind to none, or name no session")
        seconds = self._options.syn_timeout if self._timeout is None else self._timeout
        host, port = address[0], address[1]

        async def inside() -> Exchange:
            loop = asyncio.get_running_loop()
            _, protocol = await self._net.node.create_connection(
                lambda: Exchange(loop),
                host,
                port,
                options=self._options,
                timeout=seconds,
                session=self._session,
                local_port=self._port,
                das=self._policy(),
            )
            assert isinstance(protocol, Exchange)
            return protocol

        self._exchange = self._net.run(inside())
        self._check_kept()

    def connect_ex(self, address: tuple[str, int]) -> int:
        """As `connect`; the error number in place of the error, 0 for success."""
        try:
            self.connect(address)
        except (PoolExhausted, NoPrefix):
            return errno.EADDRNOTAVAIL  # as of a kernel that has no port left
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def listen(self, backlog: int = 128) -> None:
        """LISTEN_o, or, after `bind` to an address, LISTEN at that one; the option SSA_POLICY arms SSAs by itself.

        It waits for those within the time-out, 30 seconds where there is none; what is not armed by then follows.
        """
        self._check_fresh()
        options = replace(self._options, backlog=max(1, backlog))

        async def inside() -> AcceptQueue:
            chosen = self._chosen
            port = self._port if options.mode is PortMode.AWARE else None
            listening = AcceptQueue(self._net.node, options, port, None if chosen else self._policy())
            try:
                if chosen is not None:
                    listening.server.bind(chosen)
                else:
                    await listening.keep(self._ssa_policy, self._timeout)
            except BaseException:
                listening.close()
                raise
            return listening

        self._listening = self._net.run(inside())
        self._check_kept()

    def issue(self, policy: SsaPolicy | None = None) -> ServiceAddress:
        """Arm an SSA for this listening socket and return it, to be told to its client."""
        listening = self._listener()
        return self._net.run(listening.issue(policy or self._ssa_policy))

    @property
    def armed(self) -> list[ipaddress.IPv6Address]:
        """The SSAs that can be connected to now."""
        listening = self._listener()
        return self._net.call(lambda: listening.server.armed)

    def accept(self) -> tuple[Socket, Address]:
        """The next connection, and its peer; the time-out of the new socket is None, as in `socket`."""
        listening = self._listener()
        if self._timeout == 0 and not listening.accepted:
            raise BlockingIOError(errno.EAGAIN, "nobody has come")
        waiting = listening.accept(self._ssa_policy, self._chosen is not None, self._timeout)
        try:
            exchange = self._net.run(waiting)
        except TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, "timed out: nobody came") from None
        return Socket(self._net, self._options, exchange), exchange.remote

    # -- data ------------------------------------------------------------------------------------

    def recv(self, size: int, flags: int = 0) -> bytes:
        """As soon as there is something, at most `size` bytes of it; empty at the end.  Flags: MSG_PEEK."""
        if size < 0:
            raise ValueError("a size is not below 0")
        if flags & ~_socket.MSG_PEEK:
            raise OSError(errno.EOPNOTSUPP, f"recv knows no flags {flags:#x} but MSG_PEEK")
        exchange = self._connected()
        return exchange.read(size, self._timeout, peek=bool(flags)) if size else b""

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0) -> int:
        """As `recv`, into a writable buffer; how much."""
        view = memoryview(buffer).cast("B")
        data = self.recv(min(size or len(view), len(view)), flags)
        view[: len(data)] = data
        return len(data)

    def send(self, data: Any, flags: int = 0) -> int:
        """Hand over what there is room for; how much."""
        piece = bytes(memoryview(data))
        return self._connected().write(piece, self._timeout) if piece else 0

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Hand over everything, within the time-out as a whole."""
        exchange, left = self._connected(), memoryview(bytes(memoryview(data)))
        deadline = None if not self._timeout else time.monotonic() + self._timeout
        while left:
            remaining = self._timeout if deadline is None else max(deadline - time.monotonic(), 1e-6)
            left = left[exchange.write(bytes(left[: 1 << 20]), remaining) :]

    def sendfile(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> int:
        """Send a file from `offset` on, at most `count` bytes; how much."""
        if offset:
            file.seek(offset)
        sent = 0
        while count is None or sent < count:
            piece = file.read(1 << 16 if count is None else min(1 << 16, count - sent))
            if not piece:
                break
            self.sendall(piece)
            sent += len(piece)
        return sent

    def shutdown(self, how: int) -> None:
        """SHUT_WR and SHUT_RDWR send FIN after what was handed over; SHUT_RD alone changes nothing, as TCP has no such signal."""
        if how not in (_socket.SHUT_RD, _socket.SHUT_WR, _socket.SHUT_RDWR):
            raise OSError(errno.EINVAL, "shutdown takes SHUT_RD, SHUT_WR or SHUT_RDWR")
        exchange = self._connected()
        if how != _socket.SHUT_RD:
            exchange.end()

    def makefile(
        self,
        mode: str = "r",
        buffering: int | None = None,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """A file over this socket, as `socket.makefile`; the socket ends when it and all its files are closed."""
        return socket_file(self, mode, buffering, encoding, errors, newline)

    def fileno(self) -> int:
        """Raises `io.UnsupportedOperation`: the kernel knows nothing of this socket."""
        raise io.UnsupportedOperation("a socket of a userspace stack has no file descriptor")

    def close(self) -> None:
        """Close in order, as soon as all files of `makefile` are closed too; harmless when called again."""
        self._closed = True
        if not self._files:
            self._end()

    def hold_file(self) -> None:
        """A file of `makefile` was made."""
        self._files += 1

    def release_file(self) -> None:
        """A file of `makefile` was closed."""
        self._files -= 1
        if self._closed and not self._files:
            self._end()

    def _end(self) -> None:
        exchange, listening = self._exchange, self._listening
        self._listening = None
        if exchange is not None:
            exchange.close()
        if listening is not None:
            with suppress(OSError):  # the node has gone, and the listener with it
                self._net.call(listening.close)

    # -- checks ----------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed and not self._files:
            raise OSError(errno.EBADF, "the socket is closed")

    def _check_kept(self) -> None:
        """End what has come about after another thread closed the socket; in this order one of the two sees the other."""
        if self._closed:
            self._end()
            raise OSError(errno.EBADF, "the socket was closed meanwhile")

    def _check_fresh(self) -> None:
        self._check_open()
        if self._exchange is not None:
            raise OSError(errno.EISCONN, "the socket is connected already")
        if self._listening is not None:
            raise OSError(errno.EINVAL, "the socket listens already")

    def _connected(self) -> Exchange:
        self._check_open()
        if self._exchange is None:
            raise OSError(errno.ENOTCONN, "the socket is not connected")
        return self._exchange

    def _listener(self) -> AcceptQueue:
        self._check_open()
        if self._listening is None:
            raise OSError(errno.EINVAL, "the socket does not listen")
        return self._listening


__all__ = ["SOL_UNIMUX", "DasMode", "NodeThread", "Option", "PortMode", "Socket", "SsaPolicy", "TimeWait"]
