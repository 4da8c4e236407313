"""A prefix that is used up gives the addresses that it has reserved before another one is asked."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import pytest

from tapstack.types import address
from unimux.generators import GeneratorError

from .poolbench import EA, PoolBench, filled

NARROW = IPv6Network("2001:db8:99::/112")
PEER = address("2001:db8:99::77")


def narrow_bench() -> PoolBench:
    """A host whose only prefix is narrow, with its pool full."""
    bench = filled()
    prefixes = bench.host.prefix_list
    for prefix in list(prefixes):
        prefixes.remove(prefix, bench.now)
    prefixes.add_static(NARROW.network_address.packed, NARROW.prefixlen, autonomous=True, now=bench.now)
    bench.pool.start(bench.now)
    bench.run(10.0)
    return bench


def use_up(bench: PoolBench) -> None:
    """No counter is left for identifiers of 16 bits."""
    bench.state.lease("16", (1 << 16) - bench.state.epoch.reached("16"))
    bench.pool.source._ready.clear()
    bench.pool.source._leased.clear()
    assert bench.pool.take(EA, PEER, bench.now) is not None
    for _ in range(bench.pool.ready):  # until the pool has looked for more
        if any(bench.now < shelf.broken_until for shelf in bench.pool.stock.shelves.values()):
            break
        assert bench.pool.take(EA, PEER, bench.now) is not None
        bench.run(0.2)
    assert bench.pool.ready


def test_what_is_reserved_in_a_used_up_prefix_goes_before_a_prefix_that_reaches_less() -> None:
    bench = narrow_bench()
    bench.host.prefix_list.add_static(address("fd00:1:2:3::"), 64, autonomous=True, now=bench.now)
    use_up(bench)
    entry = bench.pool.take(EA, PEER, bench.now)
    assert entry is not None
    assert IPv6Address(entry.address) in NARROW


def test_what_is_reserved_in_a_used_up_prefix_is_given_though_another_is_used_up_too() -> None:
    bench = narrow_bench()
    use_up(bench)
    bench.host.prefix_list.add_dedicated(address("2001:db8:dd::"), 112)
    ready = bench.pool.ready
    for _ in range(ready):
        assert bench.pool.take(EA, PEER, bench.now) is not None
    with pytest.raises(GeneratorError):
        bench.pool.take(EA, PEER, bench.now)
