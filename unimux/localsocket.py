"""JSON lines over a Unix socket, for programs on the same machine: the control socket and the agent that sets addresses.

One message is one JSON object on one line; a question has at most `MAX_LINE` bytes, an answer `MAX_UNREAD`.  Only the owner of
the socket file can connect.  A peer that sends what is not a message is told so in `{"error": …}` and stays connected; one that
does not read what it is sent is disconnected when `MAX_UNREAD` bytes wait for it.  Who comes when this process can open no more
files waits until it can, as long as the kernel has room for `MAX_PEERS` that wait.  A socket file of a dead process is replaced,
and removed where sockets of one kind have a folder (`living`).
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from .errors import SetupError

MAX_LINE = 16 * 1024
MAX_UNREAD = 256 * 1024
MAX_PEERS = 32
ACCEPT_PAUSE = 1.0
"""Seconds until a connection for which there was no file is accepted again."""
_MAX_PATH = 107

Message = dict[str, Any]


def runtime_folder() -> Path:
    """Where this user's sockets are: below /run for root, else where the system keeps a user's own.

    Where it keeps none they are below /tmp; raises `SetupError` where somebody else has made that folder.
    """
    if os.geteuid() == 0:
        return Path("/run/unimux")
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "unimux"
    own = Path(f"/tmp/unimux-{os.geteuid()}")
    with suppress(FileNotFoundError):
        found = own.lstat()
        if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
            raise SetupError(
                f"{own} was made by somebody else: remove it, or name a folder of your own in XDG_RUNTIME_DIR."
            )
    return own / "unimux"


class LocalError(SetupError):
    """The other end of a local socket is not there or does not answer; the message is one sentence."""


class Peer:
    """One program at the other end.  Iterate `messages`; `send` never waits."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message; a peer that does not read is dropped."""
        if self._writer.is_closing():
            return
        self._writer.write(msgspec.json.encode(message) + b"\n")
        if self._writer.transport.get_write_buffer_size() > MAX_UNREAD:
            self._writer.transport.abort()

    async def messages(self) -> AsyncIterator[Message]:
        """What the peer says, until it leaves; what is no message is answered with an error and passed over."""
        while True:
            try:
                line = await self._reader.readline()
            except ValueError:  # longer than the limit: where the next line begins is unknown
                self.send({"error": f"a line has at most {MAX_LINE} bytes"})
                return
            except ConnectionError:
                return
            if not line:
                return
            try:
                message = msgspec.json.decode(line)
            except (ValueError, RecursionError) as error:
                self.send({"error": f"not JSON: {error}"})
                continue
            if isinstance(message, dict):
                yield message
            else:
                self.send({"error": "a message is a JSON object"})

    async def flush(self) -> None:
        """Wait until what was sent has left."""
        with suppress(ConnectionError):
            await self._writer.drain()

    def close(self) -> None:
        """Disconnect."""
        self._writer.close()


class LocalServer:
    """Listens on a socket file from `__aenter__` to `__aexit__`; `serve(peer)` runs for each program that connects.

    what: what the socket is for, for the sentence about one that is taken.  Raises `SetupError`.
    """

    def __init__(self, path: Path, serve: Callable[[Peer], Awaitable[None]], what: str) -> None:
        self.path = path
        self._serve = serve
        self._what = what
        self._listening: socket.socket | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._peers: set[asyncio.Task[None]] = set()
        self._accepted: set[socket.socket] = set()
        """of which the tasks have not begun"""
        self._inode = 0

    async def __aenter__(self) -> LocalServer:
        self._listening = bind_local(self.path, self._what)
        self._inode = self.path.stat().st_ino
        self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listening is not None
        asyncio.get_running_loop().remove_reader(self._listening)
        if self._pause is not None:
            self._pause.cancel()
        self._listening.close()
        for task in list(self._peers):
            task.cancel()
        await asyncio.gather(*self._peers, return_exceptions=True)
        for connected in self._accepted:
            connected.close()
        with suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()

    def _listen(self) -> None:
        assert self._listening is not None
        asyncio.get_running_loop().add_reader(self._listening, self._accept, self._listening)

    def _accept(self, listening: socket.socket) -> None:
        """Not by a server of asyncio's, which tells of a lack of files by a traceback for each of its many attempts."""
        loop = asyncio.get_running_loop()
        try:
            connected, _ = listening.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it has gone again
            return
        except OSError:
            loop.remove_reader(listening)
            self._pause = loop.call_later(ACCEPT_PAUSE, self._listen)
            return
        connected.setblocking(False)
        self._accepted.add(connected)
        task = loop.create_task(self._connected(connected))
        self._peers.add(task)
        task.add_done_callback(self._peers.discard)

    async def _connected(self, connected: socket.socket) -> None:
        self._accepted.discard(connected)
        with suppress(asyncio.CancelledError):  # the server ends, and this with it
            peer = Peer(*await asyncio.open_unix_connection(sock=connected, limit=MAX_LINE))
            try:
                if len(self._peers) > MAX_PEERS:
                    peer.send({"error": f"{MAX_PEERS} programs are connected already"})
                else:
                    await self._serve(peer)
            finally:
                peer.close()


def bind_local(path: Path, what: str) -> socket.socket:
    """A listening socket at `path` that only its owner can connect to; raises `SetupError`."""
    if len(os.fsencode(path)) > _MAX_PATH:
        raise SetupError(f"{path} is too long for a socket ({_MAX_PATH} bytes): choose a shorter path.")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(path.parent):
            if (holder := _alive(path)) is not None:
                raise SetupError(f"{what} is taken{holder}: stop that one, or choose another name.")
            with suppress(FileNotFoundError):
                if path.is_socket():
                    path.unlink()
            before = os.umask(0o177)
            try:
                made.bind(str(path))
            finally:
                os.umask(before)
            made.listen(MAX_PEERS)
        made.setblocking(False)
    except OSError as error:
        made.close()
        raise SetupError(f"The socket {path} cannot be made: {error.strerror}.") from error
    except BaseException:
        made.close()
        raise
    return made


def living(folder: Path) -> list[Path]:
    """The sockets in a folder, as NAME.sock, that somebody listens at; those that dead processes left behind are removed."""
    found = []
    with _alone(folder):
        for path in sorted(folder.glob("*.sock")):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
                trial.settimeout(1.0)
                try:
                    trial.connect(str(path))
                except (BlockingIOError, TimeoutError):
                    found.append(path)
                except ConnectionRefusedError:
                    with suppress(OSError):
                        if path.is_socket():
                            path.unlink()
                except OSError:
                    pass
                else:
                    found.append(path)
    return found


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time makes or removes sockets in a folder, since one that is bound and not listened at yet looks dead.

    Only in a folder that is this user's alone: elsewhere another could hold the lock for ever.
    """
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # there is none, or it may only be searched
        yield
        return
    try:
        about = os.fstat(opened)
        if about.st_uid == os.geteuid() and not about.st_mode & 0o077:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _alive(path: Path) -> str | None:
    """A clause about who listens at a socket file; None when nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.settimeout(1.0)
        try:
            trial.connect(str(path))
        except (BlockingIOError, TimeoutError):  # somebody does, who is behind
            return ""
        except OSError:
            return None
        return f" (process {_peer(trial)[0]})"


def _peer(connected: socket.socket) -> tuple[int, int]:
    """The process at the other end, and its user (unix(7), SO_PEERCRED)."""
    size = struct.calcsize("3i")
    process, user, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return process, user


def ask_local(path: Path, message: Mapping[str, Any], timeout: float, absent: str) -> Message:
    """Send one message and return the first answer; for programs without a loop.

    absent: the sentence for the case that nobody listens there.  Raises `LocalError`.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connected:
        connected.settimeout(timeout)
        try:
            connected.connect(str(path))
            if _peer(connected)[1] not in (0, os.geteuid()):
                raise LocalError(f"The process behind {path} is another user's: do not use what it says.")
            connected.sendall(msgspec.json.encode(message) + b"\n")
            with connected.makefile("rb") as answers:
                line = answers.readline(MAX_UNREAD)
        except TimeoutError:
            raise LocalError(
                f"The process behind {path} did not answer within {timeout:g} s: look at what it does."
            ) from None
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
                raise LocalError(absent) from None
            raise LocalError(f"{path} cannot be asked: {error.strerror}.") from error
    if not line.endswith(b"\n"):
        raise LocalError(f"The process behind {path} ended before it answered.")
    try:
        answer = msgspec.json.decode(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise LocalError(f"The process behind {path} answered what is no message.")
    return answer
