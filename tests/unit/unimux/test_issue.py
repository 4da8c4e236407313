"""Issuing SSAs: armed before they are disclosed, for whom and for how long, and never back to the pool."""

from __future__ import annotations

import asyncio
import math
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest

from tapstack.events import AddressChanged, ListenerChanged
from tapstack.ipv6.addresses import AddressEntry, AddressKind, AddressState, Trigger
from tapstack.tcp.layer import Tcp
from tapstack.tcp.listener import Listener
from tapstack.tcp.options import SocketOptions
from tapstack.tcp.states import TcpState
from tapstack.types import address, address_text
from tests.unit.ipv6.bench import advertisement
from tests.unit.unimux.lan import Lan, lan, virtual
from tests.unit.unimux.poolbench import PoolBench
from unimux.das import AutoSet, ChosenAddress
from unimux.errors import PoolExhausted, UnimuxError
from unimux.node import Node
from unimux.pool import PoolConfig
from unimux.purpose import Purpose
from unimux.ssa.issue import IssueError, Issuer, ServiceAddress, client_network

SMALL = PoolConfig(low=4, high=4, limit=20)


class Told:
    """Waits for an SSA."""

    def __init__(self) -> None:
        self.outcome: ServiceAddress | UnimuxError | None = None

    def __call__(self, outcome: ServiceAddress | UnimuxError, now: float) -> None:
        assert self.outcome is None
        self.outcome = outcome


class Bed:
    """A pool, a real listener in LISTEN_o, and an issuer."""

    def __init__(self, config: PoolConfig = SMALL) -> None:
        self.bench = PoolBench(config)
        self.bench.settle()
        self.bench.run(3.0)
        self.tcp = Tcp(
            self.bench.host, self.bench.timers, self.bench.stream, self.bench.counters, bytes(32), lambda frame: None
        )
        self.listener: Listener = self.tcp.listen(SocketOptions(), self.bench.now)
        self.issuer = Issuer(
            self.listener, AutoSet(self.bench.pool), self.bench.host.addresses, Purpose(service="files")
        )

    def issue(self, **options: Any) -> ServiceAddress:
        ssa = self.issuer.issue(self.bench.now, Told(), deadline=self.bench.now + 10.0, **options)
        assert isinstance(ssa, ServiceAddress)
        return ssa

    def state_of(self, ssa: ServiceAddress) -> AddressState:
        entry = self.bench.host.addresses.get(ssa.address.packed)
        return AddressState.INVALID if entry is None else entry.state


@pytest.mark.proves("UM-LIS-1", "UM-LIS-2", by="api")
def test_an_ssa_is_armed_when_it_is_returned() -> None:
    bed = Bed()
    states = [bed.listener.state]
    ssa = bed.issue()
    states.append(bed.listener.state)
    assert states == [TcpState.LISTEN_O, TcpState.LISTEN]
    assert list(bed.listener.armed) == [ssa.address.packed]
    assert bed.state_of(ssa) is AddressState.PREFERRED
    assert bed.issuer.outstanding == [ssa]
    assert (ssa.sessions, ssa.service, ssa.client) == (1, "files", None)


@pytest.mark.proves("UM-LIS-2", "UM-POOL-3", by="api")
def test_with_an_empty_pool_it_is_armed_when_it_is_told() -> None:
    bed = Bed()
    while bed.bench.take():
        pass
    told = Told()
    armed_when_told: list[bool] = []

    def issued(outcome: ServiceAddress | UnimuxError, now: float) -> None:
        told(outcome, now)
        armed_when_told.append(bool(bed.listener.armed))

    bed.issuer.issue(bed.bench.now, issued, deadline=bed.bench.now + 10.0)
    bed.bench.run(0.5)
    assert armed_when_told == []
    bed.bench.run(5.0)
    assert isinstance(told.outcome, ServiceAddress)
    assert armed_when_told == [True]


@pytest.mark.proves("UM-POOL-3", by="api")
def test_no_address_by_the_deadline_is_an_error() -> None:
    bed = Bed(PoolConfig(low=1, high=1, limit=1))
    assert bed.bench.take() is not None
    told = Told()
    bed.issuer.issue(bed.bench.now, told, deadline=bed.bench.now + 3.0)
    bed.bench.run(3.1)
    assert isinstance(told.outcome, PoolExhausted)
    assert not bed.listener.armed


def test_issuing_can_be_cancelled() -> None:
    bed = Bed(PoolConfig(low=1, high=1, limit=5))
    assert bed.bench.take() is not None
    told = Told()
    pending = bed.issuer.issue(bed.bench.now, told, deadline=bed.bench.now + 30.0)
    assert not isinstance(pending, ServiceAddress)
    pending.cancel(bed.bench.now)
    bed.bench.run(40.0)
    assert told.outcome is None
    assert not bed.listener.armed


@pytest.mark.proves("UM-LIS-2", by="api")
def test_several_ssas_may_be_armed_at_once() -> None:
    bed = Bed()
    issued = [bed.issue() for _ in range(3)]
    assert len({ssa.address for ssa in issued}) == 3
    assert set(bed.listener.armed) == {ssa.address.packed for ssa in issued}
    assert bed.issuer.outstanding == issued


@pytest.mark.proves("UM-LIS-5", by="api")
def test_unused_it_expires_to_invalid_and_never_returns_to_the_pool() -> None:
    bed = Bed()
    ssa = bed.issue(lifetime=60.0)
    bed.bench.run(59.0)
    assert bed.state_of(ssa) is AddressState.PREFERRED
    bed.bench.run(1.5)
    assert bed.state_of(ssa) is AddressState.INVALID
    assert bed.issuer.outstanding == []
    assert bed.listener.state is TcpState.LISTEN_O
    seen = {entry.address for entry in bed.bench.host.addresses}
    for _ in range(30):
        entry = bed.bench.take()
        if entry is not None:
            seen.add(entry.address)
            bed.bench.host.addresses.release(entry, bed.bench.now, "done")
        bed.bench.run(2.0)
    assert ssa.address.packed not in seen
    assert bed.bench.moves(str(ssa.address)) == [
        ("INVALID", "TENTATIVE"),
        ("TENTATIVE", "UNCERTAIN"),
        ("UNCERTAIN", "PREFERRED"),
        ("PREFERRED", "INVALID"),
    ]


def test_without_lifetime_it_stays() -> None:
    bed = Bed()
    ssa = bed.issue(lifetime=None)
    bed.bench.feed(advertisement(valid=0xFFFFFFFF, preferred=0xFFFFFFFF))
    bed.bench.run(100_000.0)
    assert bed.state_of(ssa) is AddressState.PREFERRED
    assert ssa.expires is None


def test_withdrawing_disarms_and_releases() -> None:
    bed = Bed()
    first, second = bed.issue(), bed.issue()
    bed.issuer.withdraw(first, bed.bench.now)
    bed.issuer.withdraw(first, bed.bench.now)
    assert bed.state_of(first) is AddressState.INVALID
    assert bed.issuer.outstanding == [second]


def test_what_is_over_is_forgotten_without_being_asked() -> None:
    bed = Bed(PoolConfig(low=4, high=8, limit=20))
    for _ in range(300):
        ssa = bed.issue()
        bed.issuer.withdraw(ssa, bed.bench.now)
        bed.bench.run(1.0)
    assert len(bed.issuer._issued) <= 64
    assert bed.issuer.outstanding == []


@pytest.mark.proves("UM-LIS-4", by="api")
@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("2001:db8:5::1", (address("2001:db8:5::1"), 128)),
        ("2001:db8:5::/48", (address("2001:db8:5::"), 48)),
        (IPv6Network("2001:db8:5::/48"), (address("2001:db8:5::"), 48)),
        (IPv6Address("2001:db8:5::1"), (address("2001:db8:5::1"), 128)),
        (None, None),
    ],
)
def test_the_named_client_reaches_the_listener(client: Any, expected: tuple[bytes, int] | None) -> None:
    bed = Bed()
    ssa = bed.issue(client=client, sessions=3)
    armed = bed.listener.armed[ssa.address.packed]
    assert (armed.client, armed.sessions) == (expected, 3)


def test_the_client_decides_the_prefix() -> None:
    bed = Bed()
    bed.bench.feed(advertisement(prefix="fd00:1::"))
    bed.bench.run(5.0)
    assert address_text(bed.issue(client="fd00:9::1").address.packed).startswith("fd00:1:")
    assert address_text(bed.issue(client="2001:db8:9::1").address.packed).startswith("2001:db8:1:")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sessions": 0}, "at least 1 session"),
        ({"lifetime": 0.0}, "more than 0 s"),
        ({"lifetime": math.nan}, "at most 315360000 s, not nan s"),
        ({"lifetime": math.inf}, "at most 315360000 s, not inf s"),
        ({"lifetime": 1e300}, "at most 315360000 s"),
        ({"client": "example.org"}, "no client that an address can be issued for"),
        ({"client": "2001:db8::1/32"}, "write 2001:db8::/32."),
        ({"client": "192.0.2.1"}, "no client"),
    ],
)
def test_what_makes_no_sense_is_one_sentence_and_costs_no_address(options: dict[str, Any], message: str) -> None:
    bed = Bed()
    with pytest.raises(IssueError, match=message):
        bed.issue(**options)
    assert bed.bench.pool_figures() == (4, 0, 0)


@pytest.mark.parametrize("terms", [{"sessions": 0}, {"lifetime": math.nan}, {"client": "example.org"}])
def test_terms_that_make_no_sense_are_told_to_who_wants_addresses_kept_armed(terms: dict[str, Any]) -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node()
            server = node.listen(asyncio.Protocol)
            with pytest.raises(IssueError):
                server.auto_arm(1, **terms)
            server.auto_arm(2)
            await node.until(lambda: len(server.armed) == 2, 10)
            server.close()

    virtual(main())


def test_clients_are_networks() -> None:
    assert client_network(IPv6Network("2001:db8::/32")) == IPv6Network("2001:db8::/32")


class Refusing:
    """A listener that cannot be armed."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def arm(self, entry: AddressEntry, now: float, **options: Any) -> None:
        raise self.error

    def disarm(self, address: bytes, now: float, cause: str) -> None:
        raise AssertionError("never armed")


@pytest.mark.parametrize("error", [OSError("in the way of another listener"), IssueError("no.")])
@pytest.mark.proves("UM-REL-1", by="api")
def test_a_listener_that_refuses_leaks_no_address(error: Exception) -> None:
    bed = Bed()
    issuer = Issuer(Refusing(error), AutoSet(bed.bench.pool), bed.bench.host.addresses)
    with pytest.raises(IssueError):
        issuer.issue(bed.bench.now, Told(), deadline=bed.bench.now + 5.0)
    assert bed.bench.pool.held == 0
    while bed.bench.take():
        pass
    held = bed.bench.pool.held
    told = Told()
    issuer.issue(bed.bench.now, told, deadline=bed.bench.now + 5.0)
    bed.bench.run(5.0)
    assert isinstance(told.outcome, IssueError)
    assert bed.bench.pool.held == held
    assert issuer.outstanding == []


def test_an_ssa_says_what_it_is() -> None:
    bed = Bed()
    ssa = bed.issue(client="2001:db8:5::/48", sessions=2, lifetime=60.0)
    assert ssa.text(bed.bench.now + 15.0) == f"{ssa}, for files, 2 sessions, of 2001:db8:5::/48, for 45 s more"
    single = ServiceAddress(IPv6Address("2001:db8::1"), 1, None, IPv6Network("2001:db8::2/128"))
    assert single.text(0.0) == "2001:db8::1, 1 session, of 2001:db8::2"


# -- with real connections ---------------------------------------------------------------------------


async def pair(made: Lan) -> tuple[Node, Node, Listener, Issuer]:
    server, client = await made.node(), await made.node()
    await server.ready()
    await client.ready()
    listener = server.stack.tcp.listen(SocketOptions(), server.now())
    return server, client, listener, Issuer(listener, AutoSet(server.pool), server.stack.host.addresses)


def issue_now(server: Node, issuer: Issuer, **options: Any) -> ServiceAddress:
    ssa = issuer.issue(server.now(), Told(), deadline=server.now() + 5.0, **options)
    assert isinstance(ssa, ServiceAddress)
    server.driver.kick()
    return ssa


@pytest.mark.proves("UM-LIS-3", "UM-LIS-5", "UM-REL-1", by="api")
def test_the_last_session_consumes_it_and_its_end_releases_it() -> None:
    async def main() -> None:
        async with lan() as made:
            server, client, listener, issuer = await pair(made)
            log: list[str] = []
            server.watch(lambda event: log.append(type(event).__name__ + getattr(event, "cause", "")))
            ssa = issue_now(server, issuer)
            connection = await client.connect(ssa.address, 80)
            await server.until(lambda: not listener.armed, 1.0)
            assert issuer.outstanding == [ssa], "its session stands on it"
            accepted = listener.accept()
            assert accepted is not None
            connection.abort(client.now(), "test")
            client.driver.kick()
            await server.until(lambda: ssa.address.packed not in server.stack.host.addresses, 1.0)
            assert issuer.outstanding == []
            assert any(entry.startswith(ListenerChanged.__name__ + "consumed") for entry in log)
            assert any(entry.startswith(AddressChanged.__name__) for entry in log)

    virtual(main())


@pytest.mark.proves("UM-LIS-4", by="api")
def test_a_named_client_gets_in_and_others_get_nothing() -> None:
    async def main() -> None:
        async with lan() as made:
            server, client, listener, issuer = await pair(made)
            elsewhere = issue_now(server, issuer, client="2001:db8:77::/48")
            with pytest.raises(TimeoutError):
                await client.connect(elsewhere.address, 80, timeout=5.0)
            here = issue_now(server, issuer, client="2001:db8:1::/64")
            await client.connect(here.address, 80, timeout=5.0)
            await server.until(lambda: list(listener.armed) == [elsewhere.address.packed], 1.0)

    virtual(main())


@pytest.mark.proves("UM-LIS-3", by="api")
def test_an_ssa_for_n_sessions_is_consumed_by_the_nth() -> None:
    async def main() -> None:
        async with lan() as made:
            server, client, listener, issuer = await pair(made)
            ssa = issue_now(server, issuer, sessions=3)
            for left in (2, 1):
                await client.connect(ssa.address, 80)
                await asyncio.sleep(0.1)
                assert listener.armed[ssa.address.packed].sessions == left
            await client.connect(ssa.address, 80)
            await server.until(lambda: not listener.armed, 1.0)
            kinds = [entry.kind for entry in server.stack.host.addresses if entry.address == ssa.address.packed]
            assert kinds == [AddressKind.SERVICE]

    virtual(main())


@pytest.mark.proves("UM-DAS-5", by="api")
def test_an_ordinary_address_stays_where_nothing_comes_of_what_it_was_chosen_for() -> None:
    bed = Bed()
    addresses, where = bed.bench.host.addresses, address("2001:db8:1::80")
    stable = addresses.add(where, AddressKind.STABLE, bed.bench.now, trigger=Trigger.ADD_WITHOUT_DAD)
    issuer = Issuer(bed.listener, ChosenAddress(addresses, where), addresses)
    bed.listener.close(bed.bench.now)
    with pytest.raises(IssueError, match="cannot be armed"):
        issuer.issue(bed.bench.now, Told(), deadline=bed.bench.now + 1.0)
    assert addresses.get(where) is stable and stable.state is AddressState.PREFERRED
