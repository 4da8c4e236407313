"""Options and bind() of the blocking socket: what may be combined, and what an option does whenever it is set."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Address
from math import inf, nan
from typing import Any

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6

from tapstack.ipv6.addresses import AddressEntry
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import LARGEST_BUFFER, PortMode
from tapstack.types import address
from tests.unit.unimux.lan import OPTIONS, lan, virtual
from tests.unit.unimux.test_blocking import Pair
from unimux.blocking import SOL_UNIMUX, Option, Socket
from unimux.das import Done, Pending, Policy, Want
from unimux.errors import PoolExhausted, UnimuxError
from unimux.poolstate import NoPrefix
from unimux.socketoptions import SMALLEST_BUFFER
from unimux.ssa.dnsserver import hold_address
from unimux.sticky import NamedSession

STABLE = "2001:db8:1::53"


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    made = Pair()
    with made.net:
        made.net.run(hold_address(made.net.node, IPv6Address(STABLE)))
        yield made


@pytest.mark.proves("UM-DAS-5")
def test_an_address_that_was_chosen_is_that_of_no_session(pair: Pair) -> None:
    ssa = pair.serve(PortMode.L2)
    with pair.net.socket() as s:
        s.bind((STABLE, 0))
        s.setsockopt(SOL_UNIMUX, Option.STICKY_SESSION, "shop")
        with pytest.raises(OSError, match="session") as refused:
            s.connect((str(ssa), 80))
        assert refused.value.errno == errno.EINVAL
        s.setsockopt(SOL_UNIMUX, Option.STICKY_SESSION, None)
        s.settimeout(10)
        s.connect((str(ssa), 80))
        assert s.getsockname()[0] == STABLE
        _, syn = pair.net.call(lambda: pair.lan.syns()[-1])
        assert (syn[IPv6].src, syn[IPv6].dst) == (STABLE, str(ssa))


@pytest.mark.proves("UM-DAS-5", by="api")
def test_a_port_that_was_bound_is_connected_from_in_aware_mode(pair: Pair) -> None:
    ssa = pair.serve(PortMode.L2)
    with pair.net.socket() as s:
        s.setsockopt(SOL_UNIMUX, Option.PORT_MODE, PortMode.AWARE)
        s.bind((STABLE, 5000))
        s.settimeout(10)
        s.connect((str(ssa), 80))
        assert s.getsockname()[:2] == (STABLE, 5000)


def test_a_port_that_was_bound_is_passed_over_where_ports_are(pair: Pair) -> None:
    with pair.net.socket() as s:
        s.bind(("", 8080))
        s.listen()
        assert pair.net.call(lambda: s._listener().server.listener.port) is None


@pytest.mark.parametrize("error", [PoolExhausted(1.0), NoPrefix(1.0)], ids=lambda error: type(error).__name__)
def test_connect_ex_has_a_number_where_no_address_is_to_be_had(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, error: UnimuxError
) -> None:
    class Empty(Policy):
        def ask(self, want: Want, now: float, done: Done) -> AddressEntry | Pending:
            raise error

    monkeypatch.setattr(pair.net.node, "das", Empty())
    with pair.net.socket() as s:
        assert s.connect_ex(("2001:db8:1::99", 80)) == errno.EADDRNOTAVAIL


def pcb_of(pair: Pair, s: Socket) -> Connection:
    """The connection behind a socket."""
    where = address(s.getsockname()[0])
    return pair.net.call(
        lambda: next(
            each for each in pair.net.node.stack.tcp.demux if isinstance(each, Connection) and each.local == where
        )
    )


def test_options_of_a_connected_socket_change_its_connection(pair: Pair) -> None:
    """What http.client does after connect(), and servers after accept()."""
    with pair.net.create_connection((str(pair.serve()), 0), timeout=10) as s:
        pcb = pcb_of(pair, s)
        for wanted in (0, 1, 0):  # off at first, as of a kernel's socket
            assert pcb.sender.nodelay == s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == wanted
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1 - wanted)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 5000)
        assert pcb.user_timeout == 5.0
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        assert (pcb.high_water, pcb.low_water) == (4096, 2048)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert (pcb.timers.slow.armed, pcb.options.keep_alive) == (True, 7200.0)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
        assert pcb.options.keep_alive is None
        told = s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        with pytest.raises(OSError, match="before connecting") as refused:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert refused.value.errno == errno.EISCONN
        assert s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == told
        s.sendall(b"x")
        assert s.recv(1) == b"x"


def test_options_of_a_listening_socket_are_those_of_who_comes_later(pair: Pair) -> None:
    with pair.net.socket() as listening:
        listening.listen(7)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listening.settimeout(10)
        visitor = pair.visit(listening.issue().address, b"hello")
        accepted, _ = listening.accept()
        with accepted:
            options = pcb_of(pair, accepted).options
            assert (options.keep_alive, options.backlog) == (7200.0, 7)
            accepted.sendall(accepted.recv(5).upper())
            visitor.join()


def test_keep_alive_that_is_asked_for_late_ends_a_connection_to_nobody() -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            ssa = await bob.listen(asyncio.Protocol).issue()
            transport, _ = await alice.create_connection(asyncio.Protocol, str(ssa), None)
            net.unplug(bob)
            transport.set_options(replace(OPTIONS, keep_alive=100.0))
            began = alice.now()
            await alice.until(transport.is_closing, 3600)
            assert alice.now() - began == pytest.approx(100 + 9 * 75, abs=1)
            transport.set_options(OPTIONS)  # too late, and harmless

    virtual(main())


@pytest.mark.parametrize("wanted", [-5, 0, 1, 1 << 40])
def test_buffers_are_no_smaller_than_a_connection_needs_and_no_larger_than_a_window(pair: Pair, wanted: int) -> None:
    """As a kernel's: SO_RCVBUF of 0 let nothing be read, and of 1 three bytes a second."""
    given = SMALLEST_BUFFER if wanted < SMALLEST_BUFFER else LARGEST_BUFFER
    with pair.net.socket() as s:
        for name in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            s.setsockopt(socket.SOL_SOCKET, name, wanted)
            assert s.getsockopt(socket.SOL_SOCKET, name) == given
        s.settimeout(30)
        s.connect((str(pair.serve()), 0))
        begun = time.monotonic()
        for _ in range(20):
            s.sendall(bytes(5000))
            left = 5000
            while left:
                left -= len(s.recv(left))
        assert time.monotonic() - begun < 20, "a hundred thousand bytes each way"
        pcb = pcb_of(pair, s)
        assert (pcb.high_water, pcb.receiver.capacity) == (given, given), "what was set by hand does not grow"
        mine = pair.net.call(lambda: [p[TCP] for _, p in pair.lan.packets(TCP) if p[IPv6].src == s.getsockname()[0]])
        shifts = [dict(p.options)["WScale"] for p in mine if p.flags == "S"]
        windows = [p.window << shifts[0] for p in mine if p.flags != "S"]
        assert 0 < max(windows) <= given


class Lasting:
    """A session whose time is what a test says."""

    def __init__(self, ttl: Any) -> None:
        self.ttl = ttl


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (5, TypeError),
        ([], TypeError),
        (b"shop", TypeError),
        (Lasting("1"), TypeError),
        (Lasting(-1), ValueError),
        (NamedSession("shop", ttl=nan), ValueError),
        (NamedSession("shop", ttl=inf), ValueError),
    ],
    ids=lambda value: getattr(value, "__name__", None) or str(getattr(value, "ttl", value)),
)
def test_what_names_no_session_is_refused_where_it_is_written(pair: Pair, wrong: Any, kind: type[Exception]) -> None:
    """It was told by connect(), after an address had been taken that nobody gave back."""
    with pair.net.socket() as s:
        with pytest.raises(kind):
            s.setsockopt(SOL_UNIMUX, Option.STICKY_SESSION, wrong)
        assert s.getsockopt(SOL_UNIMUX, Option.STICKY_SESSION) is None
    with pytest.raises(kind):
        pair.net.run(pair.net.node.connect(STABLE, 80, session=wrong))
    assert not pair.net.node.sticky._holds


def test_modes_times_and_ports_that_there_are_not_are_refused(pair: Pair) -> None:
    with pair.net.socket() as s:
        s.setsockopt(SOL_UNIMUX, Option.PORT_MODE, "L2")
        for option in (Option.PORT_MODE, Option.TIME_WAIT):
            with pytest.raises(ValueError, match="is one of"):
                s.setsockopt(SOL_UNIMUX, option, "l2")
        assert s.getsockopt(SOL_UNIMUX, Option.PORT_MODE) is PortMode.L2
        with pytest.raises(OSError, match="no negative time") as refused:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, -1000)
        assert refused.value.errno == errno.EINVAL
        for seconds in (nan, -1):
            with pytest.raises(ValueError, match="time-out"):
                s.settimeout(seconds)
        for port in (-1, 65536):
            with pytest.raises(OverflowError):
                s.bind(("", port))
