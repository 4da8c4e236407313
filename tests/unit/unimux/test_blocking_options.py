"""Options and bind() of the blocking socket: what may be combined, and what an option does whenever it is set."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest

from tapstack.ipv6.addresses import AddressEntry
from tapstack.tcp.options import PortMode
from tests.unit.unimux.test_blocking import Pair
from unimux.blocking import SOL_UNIMUX, Option
from unimux.das import Done, Pending, Policy, Want
from unimux.errors import PoolExhausted, UnimuxError
from unimux.poolstate import NoPrefix
from unimux.ssa.dnsserver import hold_address

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


@pytest.mark.proves("UM-DAS-5")
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
