"""LISTEN_o from the application's side: accept() arms one, servers that poll keep n armed, leases, named clients, expiry."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from tapstack.events import Event, ListenerChanged
from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.tcp.states import TcpState
from tapstack.types import address_text
from tests.unit.unimux.lan import eventually, in_use, lan, virtual
from unimux import errors
from unimux.accept import Acceptor, AcceptTimeout
from unimux.aio import open_connection, start_server
from unimux.cli.topview import as_text
from unimux.das import AddressNotSet, AgentCaller, DasRequired, Want
from unimux.node import Node
from unimux.poolstate import PoolConfig, WhenEmpty
from unimux.ssa.issue import IssueError, ServiceAddress
from unimux.status import snapshot

from .bed import Bed, bed, shut

POOL = PoolConfig(low=32, high=64)


@pytest.mark.proves("UM-LIS-1", "UM-LIS-2", "UM-DAS-1", "UM-DAS-2", by="api")
def test_accept_arms_one_when_none_is_armed() -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            told: list[ServiceAddress] = []
            acceptor = Acceptor(bob, armed=told.append)

            def state() -> str:
                return str(acceptor.server.state)

            assert state() == "LISTEN_o"
            assert in_use(bob) == [], "listen() fixes no address"
            for round_ in range(3):
                waiting = asyncio.ensure_future(acceptor.accept(timeout=30))
                await eventually(lambda round_=round_: len(told) > round_, 10)  # type: ignore[misc]
                assert state() == "LISTEN"
                assert acceptor.server.armed == [told[-1].address]
                client = await open_connection(alice, told[-1].address, None)
                session = await waiting
                assert session[1].get_extra_info("sockname")[0] == str(told[-1].address)
                assert state() == "LISTEN_o", "nobody waits: nothing is armed"
                shut(client, session)
            assert len({ssa.address for ssa in told}) == 3
            acceptor.close()

    virtual(main())


@pytest.mark.proves("UM-LIS-2", by="api")
def test_accept_arms_nothing_where_something_is_armed() -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            told: list[ServiceAddress] = []
            acceptor = Acceptor(bob, armed=told.append)
            issued = await acceptor.server.issue()
            waiting = asyncio.ensure_future(acceptor.accept(timeout=30))
            await asyncio.sleep(5)
            assert acceptor.server.armed == [issued.address]
            assert told == []
            client = await open_connection(alice, issued.address, None)
            shut(client, await waiting)
            acceptor.close()

    virtual(main())


@pytest.mark.proves("UM-LIS-2", by="api")
def test_several_waiting_accepts_arm_one_after_the_other() -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            told: list[ServiceAddress] = []
            acceptor = Acceptor(bob, armed=told.append)
            accepts = [asyncio.ensure_future(acceptor.accept(timeout=60)) for _ in range(3)]
            for n in range(1, 4):
                await eventually(lambda n=n: len(told) >= n, 10)  # type: ignore[misc]
                await asyncio.sleep(1)
                assert len(told) == n, "one is armed for all who wait"
                shut(await open_connection(alice, told[-1].address, None))
            sessions = await asyncio.gather(*accepts)
            assert {s[1].get_extra_info("sockname")[0] for s in sessions} == {str(ssa.address) for ssa in told}
            shut(*sessions)
            acceptor.close()

    virtual(main())


@pytest.mark.proves("UM-LIS-2", "UM-LIS-5", by="api")
def test_accept_arms_anew_when_its_address_expires() -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            told: list[ServiceAddress] = []
            acceptor = Acceptor(bob, armed=told.append, lifetime=3.0)
            waiting = asyncio.ensure_future(acceptor.accept(timeout=60))
            await eventually(lambda: len(told) >= 3, 30)
            assert acceptor.server.armed == [told[-1].address]
            for ssa in told[:-1]:
                assert ssa.address.packed not in bob.stack.host.addresses
            shut(await open_connection(alice, told[-1].address, None))
            shut(await waiting)
            acceptor.close()

    virtual(main())


@pytest.mark.proves("UM-LIS-2", "UM-DAS-3", by="api")
def test_accept_ends_within_its_time_out_whatever_is_missing() -> None:
    async def main() -> None:
        async with lan() as net:
            bob = await net.node(pool=PoolConfig(low=0, high=1, limit=1, when_empty=WhenEmpty.WAIT))
            acceptor = Acceptor(bob)
            began = bob.now()
            with pytest.raises(AcceptTimeout, match="within 5 s"):
                await acceptor.accept(timeout=5.0)
            assert bob.now() - began == pytest.approx(5.0)
            assert len(acceptor.server.armed) == 1, "what was armed stays: somebody may have been told of it"
            second = Acceptor(bob)
            with pytest.raises((errors.PoolExhausted, AcceptTimeout)):
                await second.accept(timeout=4.0)
            assert bob.now() - began == pytest.approx(9.0)
            second.close()
            acceptor.close()
            assert in_use(bob) == []

    virtual(main())


@pytest.mark.proves("UM-DAS-3", "UM-LIS-2", by="api")
def test_accept_with_das_required_takes_the_agents_address_or_none() -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            das = DasRequired(bob.pool, bob.events)
            bob.das = das
            told: list[ServiceAddress] = []
            acceptor = Acceptor(bob, armed=told.append)
            began = bob.now()
            with pytest.raises((AddressNotSet, AcceptTimeout)):
                await acceptor.accept(timeout=3.0)
            assert bob.now() - began <= 3.1, "no agent: an error in time, never a hang"
            assert not das.needs, "nobody waits for it any more"

            async def agent(want: Want) -> str:
                return "2001:db8:1:0:5afe:0:0:1"

            das.on_need = AgentCaller(das, agent, bob.now, bob.driver.kick)
            waiting = asyncio.ensure_future(acceptor.accept(timeout=30))
            await eventually(lambda: bool(told), 10)
            assert str(told[0]) == "2001:db8:1:0:5afe::1"
            client = await open_connection(alice, told[0].address, None)
            shut(client, await waiting)
            acceptor.close()

    virtual(main())


@pytest.mark.proves("UM-LIS-2", by="api")
def test_auto_arm_keeps_n_armed_whatever_becomes_of_them() -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(pool=POOL), await net.node(pool=POOL)
            seen: list[ListenerChanged] = []
            bob.watch(lambda event: seen.append(event) if isinstance(event, ListenerChanged) else None)
            told: list[ServiceAddress] = []
            acceptor = Acceptor(bob, auto_arm=4, armed=told.append, lifetime=50.0)
            await eventually(lambda: len(acceptor.server.armed) == 4, 10)
            assert acceptor.server.armed == [ssa.address for ssa in told]
            clients = [await open_connection(alice, ssa.address, None) for ssa in told[:3]]
            await eventually(lambda: len(acceptor.server.armed) == 4, 10)
            sessions = [await acceptor.accept(timeout=1) for _ in clients]
            acceptor.server.withdraw(told[3])
            await eventually(lambda: len(acceptor.server.armed) == 4, 10)
            assert told[3].address not in acceptor.server.armed
            await asyncio.sleep(60)
            await eventually(lambda: len(acceptor.server.armed) == 4, 10)
            assert len(told) >= 4 + 3 + 1 + 4
            assert len({ssa.address for ssa in told}) == len(told)
            assert max(event.armed for event in seen) == 4
            shut(*clients, *sessions)
            acceptor.close()
            await asyncio.sleep(5)
            assert acceptor.server.state is TcpState.CLOSED
            await eventually(lambda: not in_use(bob), 30)

    virtual(main())


@pytest.mark.proves("UM-LIS-2", "UM-POOL-3", by="api")
def test_auto_arm_outlives_an_empty_pool() -> None:
    async def main() -> None:
        async with lan() as net:
            bob = await net.node(pool=PoolConfig(low=1, high=2, limit=2, when_empty=WhenEmpty.FAIL))
            await bob.ready(2, 20)
            server = start_server(bob, lambda reader, writer: writer.close())
            held = await server.issue(lifetime=20)
            other = start_server(bob, lambda reader, writer: writer.close())
            other.auto_arm(2)
            await eventually(lambda: len(other.armed) == 1, 30)
            await asyncio.sleep(5)
            assert len(other.armed) == 1
            assert held.address in server.armed
            await eventually(lambda: len(other.armed) == 2, 60)
            other.auto_arm(0)
            server.close()
            other.close()

    virtual(main())


@pytest.mark.proves("UM-LIS-1", "UM-LIS-2", "UM-LIS-5", "UM-LIS-6", by="api")
def test_many_armed_at_once_each_for_one_session_and_the_view_always_tells_which(rng: Random) -> None:
    """A model follows: what was issued, minus what was used, expired or withdrawn, is what is armed, at every step."""

    async def main() -> None:
        async with bed(rng, pool=PoolConfig(low=8, high=8)) as made:
            one, two = made.nodes
            opened = []

            def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                opened.append((reader, writer))

            server = start_server(two, take)
            model: dict[ServiceAddress, float] = {}
            for _ in range(400):
                match rng.choice(("issue", "issue", "use", "use", "withdraw", "wait")):
                    case "issue":
                        lifetime = rng.uniform(1, 30)
                        model[await server.issue(lifetime=lifetime)] = two.now() + lifetime
                    case "use" if model:
                        ssa = rng.choice(list(model))
                        del model[ssa]
                        opened.append(await open_connection(one, ssa.address, None))
                    case "withdraw" if model:
                        ssa = rng.choice(list(model))
                        server.withdraw(ssa)
                        del model[ssa]
                    case "wait":
                        await asyncio.sleep(rng.uniform(0, 3))
                model = {ssa: until for ssa, until in model.items() if until > two.now()}
                await asyncio.sleep(0.01)
                model = {ssa: until for ssa, until in model.items() if until > two.now()}
                assert set(server.armed) == {ssa.address for ssa in model}
                assert server.state is (TcpState.LISTEN if model else TcpState.LISTEN_O)
                assert {ssa.address for ssa in server.outstanding} >= {ssa.address for ssa in model}
                two.stack.check()
            shut(*opened)
            server.close()
            await made.quiet()

    virtual(main())


View = dict[str, tuple[str | None, int | None, float | None]]


def armed_now(node: Node) -> View:
    """What is armed, for whom, for how many sessions, until when: asked of the listeners themselves."""
    found: View = {}
    for listener in node.stack.tcp.listeners:
        for armed in listener.armed.values():
            found[address_text(armed.entry.address)] = (armed.client_text, armed.sessions, armed.expiry.when)
    return found


@pytest.mark.proves("UM-LIS-2", "UM-LIS-4", "UM-LIS-8", "UM-NODE-4", by="api")
def test_events_and_view_always_tell_which_are_armed_for_whom_until_when(rng: Random) -> None:
    """Two observers, one of the events alone and one of `unimux top`, agree with the listeners after every step."""

    async def main() -> None:
        async with bed(rng, pool=POOL) as made:
            one, two = made.nodes
            followed: View = {}
            opened = []

            def follow(event: Event) -> None:
                if not isinstance(event, ListenerChanged) or event.address is None:
                    return
                if event.cause in ("address set", "leased", "a session of several"):
                    followed[event.address] = event.client, event.sessions, event.until
                else:
                    del followed[event.address]
                assert event.service == "shop"

            def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                opened.append((reader, writer))

            two.watch(follow)
            server = start_server(two, take, mode=PortMode.L2, service="shop")
            clients = [None, "2001:db8:a::/64", "2001:db8:c::9"]
            issued: list[ServiceAddress] = []
            for _ in range(150):
                match rng.choice(("issue", "issue", "lease", "use", "use", "withdraw", "wait")):
                    case "issue":
                        made_for = {"sessions": rng.randint(1, 3), "client": rng.choice(clients)}
                        issued.append(await server.issue(lifetime=rng.choice((5.0, 50.0, None)), **made_for))  # type: ignore[arg-type]
                    case "lease":
                        issued.append(await server.issue(lease=True, lifetime=rng.uniform(1, 30)))
                    case "use" if issued:
                        ssa = rng.choice(issued)
                        with contextlib.suppress(errors.ConnectError):
                            opened.append(await open_connection(one, ssa.address, None, timeout=0.5))
                    case "withdraw" if issued:
                        server.withdraw(issued.pop(rng.randrange(len(issued))))
                    case "wait":
                        await asyncio.sleep(rng.uniform(0, 5))
                await asyncio.sleep(0.01)
                truth = armed_now(two)
                assert followed == truth
                view = snapshot(two, rows=200)
                assert view.armed == len(truth)
                shown = {each.address: each for each in view.listening}
                assert {name: (each.client, each.sessions) for name, each in shown.items()} == {
                    name: (client, sessions) for name, (client, sessions, _) in truth.items()
                }
                for name, (_, _, until) in truth.items():
                    seconds = shown[name].seconds
                    assert seconds == (None if until is None else pytest.approx(until - two.now(), abs=0.001))
                    assert shown[name].service == "shop"
                assert as_text(view).count(" shop") == len(truth)
            shut(*opened)
            server.close()
            assert followed == {}

    virtual(main())


def handshakes(made: Bed) -> list[tuple[str, str]]:
    """Source and destination of each SYN and SYN-ACK that is sent from now on."""
    found: list[tuple[str, str]] = []

    def see(when: float, port: int, frame: bytes) -> None:
        packet = Ether(frame)
        if TCP in packet and packet[TCP].flags.S:
            found.append((packet[IPv6].src, packet[IPv6].dst))

    made.switch.observe(see)
    return found


@pytest.mark.proves("UM-LIS-8", "UM-PORT-5")
def test_a_lease_is_for_its_first_client_alone_until_it_expires(rng: Random) -> None:
    async def main() -> None:
        async with bed(rng, pool=POOL) as made:
            one, two = made.nodes
            sessions = []

            def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                sessions.append((reader, writer))

            server = start_server(two, take, mode=PortMode.L2)
            lease = await server.issue(lease=True, lifetime=20)
            assert lease.sessions is None
            assert "lease" in lease.text(two.now())
            legacy = SocketOptions(mode=PortMode.AWARE)
            fixed = await one.take_address(AddressKind.EPHEMERAL, None, timeout=5)
            guest = await one.take_address(AddressKind.EPHEMERAL, None, timeout=5)
            target = lease.address.packed
            syns = handshakes(made)
            service, own, other = (address_text(each) for each in (target, fixed.address, guest.address))
            clients = [one.stack.tcp.connect(fixed, target, 80, one.now(), legacy) for _ in range(5)]
            one.driver.kick()
            await asyncio.sleep(0.1)
            assert [c.state for c in clients] == [TcpState.ESTABLISHED] * 5
            assert syns.count((service, own)) == 5
            assert len(sessions) == 5
            stranger = one.stack.tcp.connect(guest, target, 80, one.now(), legacy)
            one.driver.kick()
            await asyncio.sleep(5)
            assert stranger.state is TcpState.SYN_SENT, "another client gets nothing"
            assert syns.count((other, service)) >= 3
            assert (service, other) not in syns
            for connection in clients[:4]:
                connection.close(one.now())
            shut(*sessions[:4])
            await asyncio.sleep(1)
            again = one.stack.tcp.connect(fixed, target, 81, one.now(), legacy)
            one.driver.kick()
            await asyncio.sleep(0.1)
            assert again.state is TcpState.ESTABLISHED, "the lease goes on after sessions have ended"
            await asyncio.sleep(20)
            assert server.state is TcpState.LISTEN_O
            late = one.stack.tcp.connect(fixed, target, 80, one.now(), legacy)
            one.driver.kick()
            await asyncio.sleep(2)
            assert (syns.count((own, service)), syns.count((service, own))) == (7, 6)
            assert late.state in (TcpState.SYN_SENT, TcpState.CLOSED), "nothing new starts after the lease"
            assert again.state is TcpState.ESTABLISHED, "what stands goes on"
            for connection in (*clients, again, late, stranger):
                connection.abort(one.now())
            shut(*sessions)
            one.driver.kick()
            server.close()
            await made.quiet()
            assert two.stack.host.addresses.get(target) is None

    virtual(main())


@pytest.mark.proves("UM-LIS-8", by="api")
def test_a_lease_needs_a_mode_that_tells_sessions_apart_and_an_end() -> None:
    async def main() -> None:
        async with lan() as net:
            bob = await net.node()
            for mode in (PortMode.L0, PortMode.L1):
                with pytest.raises(IssueError, match="L2"):
                    await bob.listen(asyncio.Protocol, mode=mode).issue(lease=True)
            with pytest.raises(IssueError, match="lifetime"):
                await bob.listen(asyncio.Protocol, mode=PortMode.L2).issue(lease=True, lifetime=None)
            assert in_use(bob) == []

    virtual(main())


@pytest.mark.proves("UM-LIS-8", "UM-LIS-5", by="api")
def test_an_unused_lease_expires_like_any_ssa() -> None:
    async def main() -> None:
        async with lan() as net:
            bob = await net.node()
            told: list[str] = []
            bob.watch(lambda event: told.append(event.cause) if isinstance(event, ListenerChanged) else None)
            server = start_server(bob, lambda reader, writer: writer.close(), mode=PortMode.L2)
            lease = await server.issue(lease=True, lifetime=5)
            await asyncio.sleep(6)
            assert server.armed == []
            assert bob.stack.host.addresses.get(lease.address.packed) is None
            assert "expired unused" in told

    virtual(main())


@pytest.mark.proves("UM-LIS-4")
def test_a_named_client_is_served_and_others_meet_silence_beside_life(rng: Random) -> None:
    async def main() -> None:
        async with bed(rng, pool=POOL) as made:
            one, two = made.nodes
            frames: list[bytes] = []
            server = start_server(two, lambda reader, writer: writer.close())
            named = await one.take_address(AddressKind.EPHEMERAL, None, timeout=5)
            other = await one.take_address(AddressKind.EPHEMERAL, None, timeout=5)
            ssa = await server.issue(client=address_text(named.address))
            made.switch.observe(lambda when, port, frame: frames.append(bytes(frame)))
            options = SocketOptions()
            refused = one.stack.tcp.connect(other, ssa.address.packed, 80, one.now(), options)
            one.driver.kick()
            await asyncio.sleep(3.5)
            assert refused.state is TcpState.SYN_SENT
            assert server.armed == [ssa.address], "a SYN of somebody else uses nothing up"
            served = one.stack.tcp.connect(named, ssa.address.packed, 80, one.now(), options)
            one.driver.kick()
            await asyncio.sleep(0.1)
            assert served.state in (TcpState.ESTABLISHED, TcpState.CLOSE_WAIT)
            about = [f for f in frames if ssa.address.packed in f]
            assert len([f for f in about if f[38:54] == ssa.address.packed and f[22:38] == other.address]) >= 3
            assert [f for f in about if f[38:54] == other.address] == [], "somebody else got an answer"
            assert [f for f in about if f[38:54] == named.address], "the named client was answered"
            served.abort(one.now())
            refused.abort(one.now())
            one.driver.kick()
            server.close()
            await made.quiet()

    virtual(main())
