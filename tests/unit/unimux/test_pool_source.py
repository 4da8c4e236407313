"""The pool where addresses cannot be generated: the state's disk is full, or a prefix is used up."""

from __future__ import annotations

from random import Random

import pytest

from tapstack.types import address, address_text
from tests.unit.unimux.poolbench import SECOND, filled
from unimux.generators import GeneratorError
from unimux.state import MemoryState, StateError


class BrokenState(MemoryState):
    """State whose disk is full for a while."""

    broken = False

    def lease(self, sequence: str, count: int) -> range:
        if self.broken:
            raise StateError("the state cannot be written: No space left on device")
        return super().lease(sequence, 1)


def test_addresses_that_cannot_be_generated_are_said_so_and_tried_again() -> None:
    state = BrokenState(Random(2).randbytes)
    bench = filled(state=state)
    bench.pool.source._ready.clear()
    bench.pool.source._leased.clear()
    state.broken = True
    while bench.take():
        pass
    answer = bench.ask(wait=100.0)
    bench.run(1.0)
    assert "No space left" in str(answer.error)
    assert any("No space left" in cause for cause in bench.causes())
    state.broken = False
    bench.run(70.0)
    assert bench.pool.ready == 8


def test_a_prefix_that_is_used_up_leaves_the_others_to_connections() -> None:
    bench = filled()
    prefixes = bench.host.prefix_list
    narrow = prefixes.add_dedicated(address("2001:db8:dd::"), 112)
    wide = prefixes.add_dedicated(address("2001:db8:ee::"), 64)
    bench.run(0.1)
    assert (first := bench.take()) is not None
    assert first.address in narrow
    bench.state.lease("16", (1 << 16) - bench.state.epoch.reached("16"))
    bench.pool.source._ready.clear()
    bench.pool.source._leased.clear()
    for _ in range(2):  # the first finds out, the second knows
        entry = bench.take()
        assert entry is not None
        assert entry.address in wide
    prefixes.remove(wide, bench.now)
    bench.run(0.1)
    entry = bench.take()
    assert entry is not None
    assert address_text(entry.address).startswith("2001:db8:1:")
    # Where there is no other, it is said why.
    for prefix in [prefix for prefix in prefixes if prefix is not narrow]:
        prefixes.remove(prefix, bench.now)
    bench.run(0.1)
    with pytest.raises(GeneratorError, match="all 65536 addresses of 16 bits have been used"):
        bench.take()


def test_a_request_goes_on_to_a_prefix_that_has_addresses() -> None:
    bench = filled()
    prefixes = bench.host.prefix_list
    for prefix in list(prefixes):
        prefixes.remove(prefix, bench.now)
    bench.run(0.1)
    answer = bench.ask()
    bench.state.lease("16", 1 << 16)
    prefixes.add_dedicated(address("2001:db8:dd::"), 112)
    shared = prefixes.add_static(address(SECOND), 64, autonomous=True, now=bench.now)
    bench.pool.start(bench.now)
    bench.run(10.0)
    assert answer.entry.address in shared
