"""The blocking socket: a thread of its own for the node, two nodes on a switch in memory, real time."""

from __future__ import annotations

import array
import asyncio
import errno
import hashlib
import http.client
import io
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from ipaddress import IPv6Address

import pytest

from tapstack.tcp.options import PortMode, TimeWait
from tapstack.types import address
from tests.unit.unimux.lan import PREFIX, echo_server, lan
from unimux import errors
from unimux.aio import open_connection, start_server
from unimux.blocking import SOL_UNIMUX, DasMode, NodeThread, Option, Socket, SsaPolicy
from unimux.das import AddressNotSet
from unimux.node import Node
from unimux.poolstate import PoolConfig
from unimux.ssa.issue import ServiceAddress
from unimux.sticky import NamedSession

DATA = random.Random(2).randbytes(3_000_000)


class Pair:
    """Alice, whose node the thread runs, and Bob beside her on the LAN."""

    def __init__(self) -> None:
        self.bob: Node | None = None
        self.net = NodeThread(self._make)

    @asynccontextmanager
    async def _make(self) -> AsyncIterator[Node]:
        async with lan(latency=0.0002) as self.lan:
            net = self.lan
            pool = PoolConfig(low=40, high=48, pace=0.001)
            self.bob, alice = await net.node(pool=pool), await net.node(pool=pool)
            await alice.ready(20, 20)
            await self.bob.ready(20, 20)
            yield alice

    def serve(self, mode: PortMode = PortMode.L1) -> ServiceAddress:
        """An SSA of Bob's, behind which everything is sent back."""

        async def issue() -> ServiceAddress:
            assert self.bob is not None
            return await echo_server(self.bob, mode=mode).issue()

        return self.net.run(issue())

    def visit(self, host: IPv6Address, said: bytes) -> threading.Thread:
        """Bob connects to `host`, says something, and wants it back in capitals."""

        async def inside() -> None:
            assert self.bob is not None
            reader, writer = await open_connection(self.bob, host, None)
            writer.write(said)
            assert await reader.readexactly(len(said)) == said.upper()
            writer.close()

        thread = threading.Thread(target=lambda: self.net.run(inside()))
        thread.start()
        return thread


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something in another thread."""
    pause, deadline = threading.Event(), time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.001)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    made = Pair()
    with made.net:
        yield made


@contextmanager
def connected(pair: Pair) -> Iterator[Socket]:
    with pair.net.socket() as made:
        made.settimeout(10)
        made.connect((str(pair.serve()), 0))
        yield made


@pytest.mark.proves("UM-DAS-1", by="api")
def test_the_address_is_unspecified_until_it_is_set(pair: Pair) -> None:
    with pair.net.socket() as s:
        s.bind(("", 0))
        assert s.getsockname() == ("::", 0, 0, 0)
        ssa = pair.serve()
        s.settimeout(10)
        s.connect((str(ssa), 0))
        assert s.getsockname()[0].startswith("2001:db8:1:")
        assert s.getpeername()[0] == str(ssa)
        with pytest.raises(OSError, match="connected already"):
            s.connect((str(ssa), 0))


def test_everything_comes_back_and_each_direction_ends_by_itself(pair: Pair) -> None:
    with connected(pair) as s:

        def send() -> None:
            s.sendall(DATA)
            s.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        with s.makefile("rb") as file:
            received = file.read()
        sender.join()
        assert hashlib.sha256(received).digest() == hashlib.sha256(DATA).digest()
        assert s.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            s.send(b"more")


def test_timeouts_and_sockets_that_do_not_block(pair: Pair) -> None:
    with connected(pair) as s:
        s.settimeout(0.05)
        with pytest.raises(TimeoutError):
            s.recv(1)
        s.setblocking(False)
        assert (s.gettimeout(), s.getblocking()) == (0.0, False)
        with pytest.raises(BlockingIOError):
            s.recv(1)
        s.settimeout(10)
        s.sendall(b"abcdef")
        assert s.recv(3, socket.MSG_PEEK)[:1] == b"a"
        buffer = bytearray(6)
        read = s.recv_into(buffer)
        while read < 6:
            read += s.recv_into(memoryview(buffer)[read:])
        assert buffer == b"abcdef"
        with pytest.raises(OSError, match="no flags"):
            s.recv(1, socket.MSG_OOB)
        with pytest.raises(io.UnsupportedOperation):
            s.fileno()


def test_a_peer_that_does_not_read_is_a_timeout_and_memory_is_bounded(pair: Pair) -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async def issue() -> ServiceAddress:
        assert pair.bob is not None
        return await start_server(pair.bob, deaf).issue()

    with pair.net.socket() as s:
        s.settimeout(10)
        s.connect((str(pair.net.run(issue())), 0))
        s.settimeout(0.3)
        with pytest.raises(TimeoutError):
            s.sendall(bytes(64 << 20))


def test_text_files_and_the_end_after_the_last_of_them(pair: Pair) -> None:
    with connected(pair) as s:
        file = s.makefile("rw", encoding="utf-8", newline="\n")
    file.write("grüß dich\n")
    file.flush()
    assert file.readline() == "grüß dich\n"
    file.close()
    with pytest.raises(OSError, match="closed"):
        s.recv(1)
    with pytest.raises(ValueError, match="invalid mode"):
        s.makefile("x")


def test_refused_unknown_and_late_are_the_errors_of_the_api(pair: Pair) -> None:
    assert pair.bob is not None
    with pair.net.socket() as s:
        s.settimeout(30)
        with pytest.raises(errors.NameNotResolved):
            s.connect(("nowhere.example", 80))
        s.settimeout(0.2)
        assert s.connect_ex(("2001:db8:1::dead", 80)) in (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ECONNREFUSED)
        with pytest.raises(OSError, match="not connected"):
            s.send(b"x")
        with pytest.raises(OSError, match="does not listen"):
            s.accept()


def test_options(pair: Pair) -> None:
    with pair.net.socket() as s:
        assert s.getsockopt(SOL_UNIMUX, Option.PORT_MODE) is PortMode.L1
        s.setsockopt(SOL_UNIMUX, Option.PORT_MODE, "L2")
        s.setsockopt(SOL_UNIMUX, Option.TIME_WAIT, TimeWait.SHARP)
        s.setsockopt(SOL_UNIMUX, Option.DAS_MODE, DasMode.AUTO)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 12_500)
        assert s.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 12_500
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
        assert s.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 300_000, (
            "0 brings the default back, as in Linux"
        )
        assert s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        for wrong in (lambda: s.setsockopt(socket.SOL_SOCKET, 9999, 1), lambda: s.getsockopt(socket.SOL_SOCKET, 9999)):
            with pytest.raises(OSError, match="no option"):
                wrong()
        with pytest.raises(ValueError, match="L9"):
            s.setsockopt(SOL_UNIMUX, Option.PORT_MODE, "L9")
        s.settimeout(10)
        ssa = pair.serve(PortMode.L2)
        s.connect((str(ssa), 80))
        where = address(s.getsockname()[0])
        with pytest.raises(OSError, match="before the socket"):
            s.setsockopt(SOL_UNIMUX, Option.PORT_MODE, PortMode.L0)
        s.sendall(b"x")
        assert s.recv(1) == b"x"
        modes = pair.net.call(lambda: {pcb.mode for pcb in pair.net.node.stack.tcp.demux if pcb.local == where})
        assert modes == {PortMode.L2}


@pytest.mark.proves("UM-DAS-4", by="api")
def test_sockets_of_a_sticky_session_share_an_address_and_others_do_not(pair: Pair) -> None:
    names: list[str | NamedSession | None] = ["shop", NamedSession("shop", ttl=60), "mail", None]
    seen = []
    for name in names:
        with pair.net.socket() as s:
            s.setsockopt(SOL_UNIMUX, Option.STICKY_SESSION, name)
            s.settimeout(10)
            s.connect((str(pair.serve()), 0))
            seen.append(s.getsockname()[0])
            s.sendall(b"x")
            assert s.recv(1) == b"x"
            told = s.getsockopt(SOL_UNIMUX, Option.STICKY_SESSION)
            assert told == (NamedSession(name) if isinstance(name, str) else name)
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3


@pytest.mark.proves("UM-DAS-3", by="api")
def test_das_required_waits_for_the_application(pair: Pair) -> None:
    ssa = pair.serve()
    with pair.net.socket() as s:
        s.setsockopt(SOL_UNIMUX, Option.DAS_MODE, DasMode.REQUIRED)
        s.settimeout(0.2)
        with pytest.raises(AddressNotSet):
            s.connect((str(ssa), 0))
        s.settimeout(10)
        threading.Timer(0.1, s.set_address, ["2001:db8:1::5e7"]).start()
        s.connect((str(ssa), 0))
        assert s.getsockname()[0] == "2001:db8:1::5e7"
        s.sendall(b"x")
        assert s.recv(1) == b"x"


@pytest.mark.proves("UM-LIS-2", by="api")
def test_accept_arms_an_ssa_and_the_accepted_socket_gives_it(pair: Pair) -> None:
    with pair.net.socket() as listening:
        listening.listen()
        assert listening.armed == []
        listening.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listening.accept()
        (ssa,) = listening.armed
        assert listening.getsockname()[0] == "::"
        listening.settimeout(10)
        visitor = pair.visit(ssa, b"hello")
        accepted, peer = listening.accept()
        with accepted:
            assert accepted.getsockname()[0] == str(ssa)
            assert accepted.getpeername() == peer
            accepted.sendall(accepted.recv(100).upper())
            visitor.join()
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()


@pytest.mark.proves("UM-LIS-2", by="api")
def test_a_policy_keeps_ssas_armed(pair: Pair) -> None:
    with pair.net.socket() as listening:
        listening.setsockopt(SOL_UNIMUX, Option.SSA_POLICY, SsaPolicy(auto_arm=3, lifetime=None))
        listening.listen()
        listening.settimeout(10)
        seen = set()
        for said in (b"one", b"two", b"six"):
            armed = listening.armed
            assert len(armed) == 3
            visitor = pair.visit(armed[0], said)
            accepted, _ = listening.accept()
            with accepted:
                seen.add(accepted.getsockname()[0])
                accepted.sendall(accepted.recv(3).upper())
                visitor.join()
            assert armed[0] not in listening.armed
        assert len(seen) == 3
        named = listening.issue(SsaPolicy(client=PREFIX + "/64"))
        assert str(named.client) == PREFIX + "/64"


def test_a_thread_that_is_late_for_the_only_connection_does_not_block(pair: Pair) -> None:
    """Both threads see one connection waiting, while the node's thread is busy; the one that does not get it is told."""
    with pair.net.socket() as listening:
        listening.listen()
        listening.settimeout(0)
        ssa = listening.issue()
        visitor = pair.visit(ssa.address, b"hello")
        eventually(lambda: bool(listening._listening and listening._listening.accepted))
        outcomes: list[object] = []

        def accept() -> None:
            try:
                outcomes.append(listening.accept()[0])
            except OSError as error:
                outcomes.append(error)

        busy, free = threading.Event(), threading.Event()

        def work() -> None:
            busy.set()
            free.wait(20)

        pair.net.loop.call_soon_threadsafe(work)
        assert busy.wait(10)
        before = len(pair.net._waited_for)  # the visitor's
        threads = [threading.Thread(target=accept, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(pair.net._waited_for) == before + 2)
        free.set()
        for thread in threads:
            thread.join(10)
        assert sorted(type(each).__name__ for each in outcomes) == ["BlockingIOError", "Socket"]
        accepted = next(each for each in outcomes if isinstance(each, Socket))
        with accepted:
            accepted.settimeout(10)
            accepted.sendall(accepted.recv(100).upper())
            visitor.join()


def test_what_send_took_is_sent_before_the_end_that_another_thread_asks_for(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(pair) as s:
        exchange = s._exchange
        assert exchange is not None
        ending: list[threading.Thread] = []
        call = exchange._call

        def overtaken(function: Callable[..., None], *arguments: object) -> None:
            if not ending:
                ending.append(threading.Thread(target=lambda: s.shutdown(socket.SHUT_WR)))
                ending[0].start()
                ending[0].join(0.5)  # either it is through by then, or it waits for us
            call(function, *arguments)

        monkeypatch.setattr(exchange, "_call", overtaken)
        assert s.send(b"said") == 4
        ending[0].join(10)
        assert s.makefile("rb").read() == b"said"


def test_what_is_no_bytes_is_refused_as_by_the_standard_library(pair: Pair) -> None:
    with connected(pair) as s:
        for wrong in (5, "text", None, [1, 2]):
            with pytest.raises(TypeError):
                s.send(wrong)
            with pytest.raises(TypeError):
                s.sendall(wrong)
        s.sendall(memoryview(array.array("H", [1, 2])))
        assert s.recv(4) == array.array("H", [1, 2]).tobytes()


def test_a_socket_that_nobody_holds_any_more_is_closed(pair: Pair) -> None:
    """As the standard library's is, with a warning: no path keeps an address for ever (UM-REL-1)."""
    ssa = pair.serve()
    made = pair.net.create_connection((str(ssa), 0), timeout=10)
    own = address(made.getsockname()[0])
    listening = pair.net.socket()
    listening.listen()
    armed = listening.issue().address.packed
    addresses = pair.net.node.stack.host.addresses
    assert pair.net.call(lambda: own in addresses and armed in addresses)
    with pytest.warns(ResourceWarning, match="unclosed"):
        del made
    with pytest.warns(ResourceWarning, match="unclosed"):
        del listening
    pair.net.run(pair.net.node.until(lambda: armed not in addresses and own not in addresses, 10))


@pytest.mark.proves("UM-REL-1", by="api")
@pytest.mark.parametrize("way", ["connect", "listen"])
def test_a_socket_that_is_closed_while_it_connects_or_begins_to_listen_leaves_nothing(pair: Pair, way: str) -> None:
    """A watchdog closes it in another thread; what comes about all the same is ended."""
    made = pair.net.socket()
    made.setsockopt(SOL_UNIMUX, Option.SSA_POLICY, SsaPolicy(auto_arm=1))
    where = str(pair.serve()), 0
    node = pair.net.node
    held = pair.net.call(lambda: node.pool.held)
    busy, free = threading.Event(), threading.Event()

    def work() -> None:
        busy.set()
        free.wait(20)

    raised: list[BaseException] = []

    def begin() -> None:
        try:
            made.connect(where) if way == "connect" else made.listen()
        except OSError as error:
            raised.append(error)

    pair.net.loop.call_soon_threadsafe(work)
    assert busy.wait(10)
    beginning = threading.Thread(target=begin)
    beginning.start()
    eventually(lambda: bool(pair.net._waited_for))
    made.close()
    free.set()
    beginning.join(20)
    assert [getattr(error, "errno", None) for error in raised] == [errno.EBADF]
    pair.net.run(node.until(lambda: node.pool.held <= held, 10))


def test_an_unmodified_http_client_of_the_standard_library(pair: Pair) -> None:
    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA))
        writer.write(DATA)
        await writer.drain()

    async def issue() -> ServiceAddress:
        assert pair.bob is not None
        return await start_server(pair.bob, page).issue()

    ssa = str(pair.net.run(issue()))
    client = http.client.HTTPConnection(ssa, 80)
    client.sock = pair.net.create_connection((ssa, 80), timeout=10)
    client.request("GET", "/")
    assert client.getresponse().read() == DATA
    client.close()


def test_a_node_that_cannot_start_says_so_and_one_that_stopped_too() -> None:
    class Broken(AbstractAsyncContextManager[Node]):
        async def __aenter__(self) -> Node:
            raise errors.SetupError("no link")

        async def __aexit__(self, *_: object) -> None:
            pass

    with pytest.raises(errors.SetupError, match="no link"):
        NodeThread(Broken).start()
    made = Pair()
    with made.net:
        s = made.net.create_connection((str(made.serve()), 0), timeout=10)
    with pytest.raises(ConnectionError):
        s.send(b"x")
    with pytest.raises(OSError, match="stopped"):
        made.net.create_connection(("2001:db8::1", 1), timeout=1)
    s.close()
