"""Which addresses live and die with what a router says of a prefix, and which do not (RFC 4862 §5.5.3, UM-POOL-4)."""

from __future__ import annotations

import pytest

from tapstack.ipv6.addresses import AddressKind, Trigger
from tapstack.ipv6.config import HostConfig
from tapstack.types import address
from tests.unit.ipv6.bench import OFF_LINK, PREFIX, Bench, User, advertisement, settled

ROUTED = "2001:db8:aa00::"
PART = "2001:db8:aa00:1::"


@pytest.fixture
def bench() -> Bench:
    return settled()


@pytest.mark.proves("UM-POOL-4", by="api")
@pytest.mark.parametrize("length", [48, 56, 64])
def test_no_router_takes_a_part_of_a_routed_prefix_away(bench: Bench, length: int) -> None:
    routed = bench.host.prefix_list.add_dedicated(address(ROUTED if length < 64 else PART), length)
    entry = bench.host.reserve(address(PART + "5"), routed, bench.now, AddressKind.EPHEMERAL)
    bench.host.addresses.acquire(entry, User(OFF_LINK))
    bench.feed(advertisement(prefix=PART, valid=1, preferred=1))
    bench.run(0.5)
    bench.feed(advertisement(prefix=PART, valid=1, preferred=0))
    bench.run(60)
    assert entry.state == "PREFERRED"
    bench.host.prefix_list.remove(routed, bench.now)
    assert entry.address not in bench.host.addresses


def test_what_a_router_says_of_a_part_holds_for_the_address_that_was_formed_there(bench: Bench) -> None:
    bench.host.prefix_list.add_dedicated(address(ROUTED), 56)
    bench.feed(advertisement(prefix=PART, valid=600, preferred=300))
    bench.run(5)
    (formed,) = (entry for entry in bench.host.addresses if entry.address[:8] == address(PART)[:8])
    bench.run(300)
    assert formed.state == "DEPRECATED"
    bench.run(300)
    assert formed.state == "INVALID"


@pytest.mark.parametrize("trigger", [Trigger.ADD, Trigger.ADD_WITHOUT_DAD])
def test_an_address_given_by_hand_has_its_own_lifetimes(bench: Bench, trigger: Trigger) -> None:
    """RFC 4862 §5.5.3 (d), (e) speak of addresses that were formed from what a router said."""
    now, add = bench.now, bench.host.addresses.add
    ever = add(address(PREFIX + "53"), AddressKind.STABLE, now, trigger=trigger)
    a_while = add(address(PREFIX + "54"), AddressKind.STABLE, now, trigger=trigger, preferred_until=now + 20)
    formed = bench.stable
    bench.run(5)
    bench.feed(advertisement(preferred=0))
    bench.run(20)
    assert (ever.state, a_while.state, formed.state) == ("PREFERRED", "DEPRECATED", "DEPRECATED")
    bench.feed(advertisement())
    assert (ever.state, a_while.state, formed.state) == ("PREFERRED", "DEPRECATED", "PREFERRED")
    bench.feed(advertisement(valid=7000, preferred=0))
    bench.run(8000)
    assert (ever.state, formed.state) == ("PREFERRED", "INVALID")


@pytest.mark.proves("RFC8504-6.3/1")
def test_a_prefix_that_comes_deprecated_forms_an_address_all_the_same() -> None:
    """RFC 4862 §5.5.3 (d) asks for a valid lifetime only; nothing else could be a source towards that network."""
    bench = Bench()
    bench.settle(preferred=0)
    formed = bench.stable
    assert formed.state == "DEPRECATED"
    assert bench.host.source_for(address(OFF_LINK)) == formed.address
    bench.feed(advertisement())
    assert formed.state == "PREFERRED"


@pytest.mark.parametrize("pause", [0.0, 0.001, 5.0])
def test_a_host_that_has_stopped_forms_no_address(pause: float) -> None:
    """Nor does a lifetime end: at once after the advertisement, with its address tentative, and later."""
    bench = Bench(HostConfig())
    bench.run(3.0)
    bench.feed(advertisement())
    bench.run(pause)
    bench.host.stop(bench.now)
    bench.out.clear()
    assert bench.run(90_000) == []
    assert (len(bench.host.addresses), bench.host.link_local, bench.host.prefixes) == (0, None, [])
