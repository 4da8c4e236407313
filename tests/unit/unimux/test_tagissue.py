"""Tagged addresses are issued once, whatever happens to the process that issues them (UM-GEN-4, UM-GEN-6, UM-ADDR-9)."""

from __future__ import annotations

from ipaddress import IPv6Network
from pathlib import Path
from random import Random

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6

from tapstack.ipv6.addresses import AddressKind
from tapstack.types import address
from tests.unit.unimux.lan import lan, virtual
from tests.unit.unimux.test_state import Machine, abandon
from unimux.adoption import AddressRefused
from unimux.aio import open_connection, start_server
from unimux.das import AgentCaller, DasRequired, Want
from unimux.generators import GeneratorError
from unimux.state import MemoryState, StateError
from unimux.tagged import Tag, TagLayout, TagVerifier
from unimux.tagissue import BLOCK, TagIssuer

KEY = bytes(range(32))
PREFIX = IPv6Network("2001:db8:1::/64")


class Clock:
    """A wall clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_is_issued_a_verifier_admits_until_its_end() -> None:
    clock = Clock()
    issuer = TagIssuer(MemoryState(), KEY, longest=600.0, wall=clock)
    verifier = TagVerifier(KEY, lifetime=600.0)
    made = issuer.draw(PREFIX, service=3, client=7, lifetime=90.0)
    assert made.address in PREFIX
    assert made.until >= clock.now + 90.0
    assert verifier.admit(made.address.packed, clock.now) == made.tag == Tag(3, 7, 18, 0)
    assert verifier.admit(made.address.packed, made.until - 1) == made.tag
    assert verifier.admit(made.address.packed, made.until) is None


@pytest.mark.proves("UM-GEN-6", "UM-ADDR-9", "UM-GEN-4", by="api")
def test_no_address_comes_twice_however_often_the_process_dies(tmp_path: Path) -> None:
    machine, random, clock = Machine(tmp_path), Random(5), Clock()
    issued = set()
    for life in range(16):
        state = machine.open()
        issuer = TagIssuer(state, KEY, longest=600.0, wall=clock)
        for _ in range(random.randrange(2 * BLOCK)):
            made = issuer.draw(PREFIX, random.randrange(2), random.randrange(2), random.choice((30.0, 500.0)))
            assert made.address not in issued
            issued.add(made.address)
        if life % 2:
            abandon(state)
        else:
            state.close()
        clock.now += random.choice((0.0, 1.0, 70.0))
    assert len(issued) > 150


@pytest.mark.proves("UM-GEN-6", by="api")
def test_leases_are_on_disk_before_use_and_forgotten_when_their_slot_is_over(tmp_path: Path) -> None:
    machine, clock = Machine(tmp_path), Clock()
    state = machine.open()
    issuer = TagIssuer(state, KEY, longest=600.0, wall=clock)
    state._write = failing  # type: ignore[method-assign]
    with pytest.raises(StateError):
        issuer.draw(PREFIX, 1, 1, 60.0)
    abandon(state)
    state = machine.open()
    issuer = TagIssuer(state, KEY, longest=600.0, wall=clock)
    for _ in range(40):
        issuer.draw(PREFIX, 1, 1, 300.0)
        clock.now += 60.0
        # a sequence per slot, and the mark of what was forgotten
        assert len(state.epoch.leased) <= 1 + 300.0 / 60.0 + 1
    state.close()


def failing() -> None:
    """A disk that takes nothing."""
    raise StateError("the disk is full")


@pytest.mark.proves("UM-GEN-6", by="api")
def test_after_the_state_was_lost_nothing_is_issued_that_may_have_been(tmp_path: Path) -> None:
    machine, clock = Machine(tmp_path), Clock()
    state = machine.open(wall=clock)
    before = {TagIssuer(state, KEY, longest=600.0, wall=clock).draw(PREFIX, 1, 1, 600.0).address for _ in range(3)}
    state.close()
    machine.restart()
    state = machine.open(wall=clock)
    assert len(state.epochs) == 2
    issuer = TagIssuer(state, KEY, longest=600.0, wall=clock)
    with pytest.raises(GeneratorError, match="wait 6"):
        issuer.draw(PREFIX, 1, 1, 600.0)
    clock.now += 661.0
    assert issuer.draw(PREFIX, 1, 1, 30.0).address not in before
    state.close()


def test_full_slots_long_lifetimes_and_other_prefixes_are_sentences() -> None:
    layout = TagLayout(service=6, client=12, slot=10, serial=4, redundancy=32)
    issuer = TagIssuer(MemoryState(), KEY, longest=60.0, layout=layout, wall=Clock())
    made = {issuer.draw(PREFIX, 1, 1, 60.0).address for _ in range(16)}
    assert len(made) == 16
    with pytest.raises(GeneratorError, match="all 16 serials"):
        issuer.draw(PREFIX, 1, 1, 60.0)
    issuer.draw(PREFIX, 1, 2, 60.0)
    with pytest.raises(GeneratorError, match="lives up to 60 s"):
        issuer.draw(PREFIX, 1, 1, 61.0)
    with pytest.raises(GeneratorError, match="a /64"):
        issuer.draw(IPv6Network("2001:db8::/48"), 1, 1, 60.0)


@pytest.mark.proves("UM-GEN-4", "UM-DAS-3")
@pytest.mark.proves("UM-ADDR-9", by="api")
def test_an_agent_sets_tagged_service_addresses_on_a_node() -> None:
    """How a tagged address comes into use: an agent beside the firewall makes it, the node tests it and serves one session."""

    async def main() -> None:
        async with lan() as net:
            one, other = await net.node(), await net.node()
            issuer = TagIssuer(MemoryState(), KEY, longest=600.0, wall=other.now)
            verifier = TagVerifier(KEY, lifetime=600.0, services={4}, clients={9})
            das = DasRequired(other.pool, other.events)

            async def agent(want: Want) -> bytes:
                return issuer.draw(PREFIX, 4, 9, 300.0).address.packed

            das.on_need = AgentCaller(das, agent, other.now, other.driver.kick)
            server = start_server(other, lambda reader, writer: writer.close(), das=das)
            ssa = await server.issue(lifetime=300)
            reader, writer = await open_connection(one, ssa.address, None)
            assert await reader.read() == b""
            ((_, syn),) = net.syns()  # what a firewall on the path sees
            assert verifier.admit(address(syn[IPv6].dst), other.now()) == Tag(4, 9, 5, 0)
            assert verifier.admit(address(syn[IPv6].src), other.now()) is None
            tested = [at for at, p in net.packets(ICMPv6ND_NS) if p[ICMPv6ND_NS].tgt == syn[IPv6].dst]
            answered = [at for at, p in net.packets(TCP) if p[IPv6].src == syn[IPv6].dst]
            assert tested[0] + 1.0 <= answered[0]
            writer.close()
            await other.until(lambda: ssa.address.packed not in other.stack.host.addresses, 60)
            das.on_need = None
            das.ask(Want(AddressKind.SERVICE, None, other.now() + 5), other.now(), lambda outcome, now: None)
            with pytest.raises(AddressRefused, match="used on this node before"):
                das.supply(max(das.needs), ssa.address.packed, other.now(), lambda refusal, now: None)
            server.close()

    virtual(main())


@pytest.mark.proves("UM-GEN-6", "UM-ADDR-9", by="api")
@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_goes_back_brings_no_address_back(tmp_path: Path, restarted: bool) -> None:
    """The serials of a slot that was over are forgotten: into such a slot nothing is issued any more."""
    machine, clock = Machine(tmp_path), Clock()
    state = machine.open()
    issuer = TagIssuer(state, KEY, longest=600.0, wall=clock)
    issued = {issuer.draw(PREFIX, 1, 1, 60.0).address for _ in range(3)}
    clock.now += 300.0
    issued |= {issuer.draw(PREFIX, 1, 1, 60.0).address for _ in range(3)}
    clock.now -= 300.0
    if restarted:
        state.close()
        state = machine.open()
        issuer = TagIssuer(state, KEY, longest=600.0, wall=clock)
    with pytest.raises(GeneratorError, match=r"clock was set back.*wait 200 s"):
        issuer.draw(PREFIX, 1, 1, 60.0)
    clock.now += 300.0
    again = {issuer.draw(PREFIX, 1, 1, 60.0).address for _ in range(3)}
    assert len(issued) == 6
    assert not again & issued
    state.close()


@pytest.mark.proves("UM-GEN-6", "UM-ADDR-9", by="api")
@pytest.mark.parametrize("file", ["damaged", "missing, but not the claims"])
def test_a_first_epoch_that_is_not_the_first_waits_as_well(tmp_path: Path, file: str) -> None:
    machine, clock = Machine(tmp_path), Clock()
    with machine.open(wall=clock) as state:
        before = {TagIssuer(state, KEY, longest=600.0, wall=clock).draw(PREFIX, 1, 1, 600.0).address for _ in range(3)}
        state.claim(min(before).packed)
    path = machine.directory / "state.json"
    if file == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    with machine.open(wall=clock) as state:
        assert len(state.epochs) == 1
        issuer = TagIssuer(state, KEY, longest=600.0, wall=clock)
        with pytest.raises(GeneratorError, match=r"state was lost .*: wait 6"):
            issuer.draw(PREFIX, 1, 1, 600.0)
        clock.now += 661.0
        assert issuer.draw(PREFIX, 1, 1, 30.0).address not in before


@pytest.mark.proves("UM-GEN-6", "UM-ADDR-9", by="api")
def test_a_clock_that_goes_back_and_a_restart_bring_no_address_back(tmp_path: Path) -> None:
    """A board without a clock of its own: the new epoch seems to have begun long before what the old one issued."""
    machine, clock = Machine(tmp_path), Clock()
    clock.now = 10_000.0
    with machine.open(wall=clock) as state:
        before = {TagIssuer(state, KEY, longest=600.0, wall=clock).draw(PREFIX, 1, 1, 300.0).address for _ in range(3)}
    clock.now -= 3600.0
    machine.restart()
    with machine.open(wall=clock) as state:
        assert len(state.epochs) == 2
        issuer = TagIssuer(state, KEY, longest=600.0, wall=clock)
        clock.now += 3600.0
        with pytest.raises(GeneratorError, match=r"clock was set back.*wait"):
            issuer.draw(PREFIX, 1, 1, 300.0)
        clock.now += 61.0
        assert issuer.draw(PREFIX, 1, 1, 300.0).address not in before


@pytest.mark.proves("UM-GEN-6", "UM-ADDR-9", by="api")
def test_a_new_key_epoch_in_memory_brings_no_address_back() -> None:
    clock = Clock()
    state = MemoryState(wall=clock)
    issuer = TagIssuer(state, KEY, longest=600.0, wall=clock)
    issued = {issuer.draw(PREFIX, 1, 1, 60.0).address for _ in range(BLOCK)}
    state.rekey("resumed from a snapshot")
    with pytest.raises(GeneratorError, match="may have been issued"):
        issuer.draw(PREFIX, 1, 1, 60.0)
    clock.now += 661.0
    assert issuer.draw(PREFIX, 1, 1, 60.0).address not in issued


@pytest.mark.proves("UM-GEN-6", "UM-ADDR-9", by="api")
def test_serials_that_are_leased_end_with_the_state_and_are_not_a_forked_childs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = Machine(tmp_path).open()
    issuer = TagIssuer(state, KEY, longest=600.0, wall=Clock())
    issuer.draw(PREFIX, 1, 1, 60.0)
    with monkeypatch.context() as forked:
        forked.setattr("unimux.state._process", -1)
        with pytest.raises(StateError, match="forked"):
            issuer.draw(PREFIX, 1, 1, 60.0)
    state.close()
    with pytest.raises(StateError, match="closed"):
        issuer.draw(PREFIX, 1, 1, 60.0)
