"""Whatever happens to a pool, its books are right and no address comes twice."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tapstack.ipv6.addresses import AddressState
from tapstack.types import address
from tests.unit.ipv6.bench import PREFIX, advertisement
from tests.unit.unimux.poolbench import PEER, SECOND, PoolBench, filled
from unimux.pool import PoolConfig, WhenEmpty


class PoolMachine(RuleBasedStateMachine):
    """Any order of uses, claims, prefixes and time: the invariants hold, nothing leaks, and peace brings a full pool."""

    bench: PoolBench

    @initialize(optimistic=st.booleans(), limit=st.sampled_from([6, 12]))
    def begin(self, optimistic: bool, limit: int) -> None:
        policy = WhenEmpty.OPTIMISTIC if optimistic else WhenEmpty.WAIT
        self.hostile = 0
        self.answers: list[Any] = []
        self.seen: set[bytes] = set()
        self.bench = PoolBench(
            PoolConfig(low=2, high=4, limit=limit, max_age=300.0, when_empty=policy), claims=self.claims
        )
        self.bench.settle()

    def claims(self, target: str) -> bool:
        self.hostile = max(0, self.hostile - 1)
        return self.hostile > 0

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.5, 3.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.bench.run(seconds)

    @rule(seconds=st.sampled_from([0.5, 5.0, 50.0]))
    def connect(self, seconds: float) -> None:
        entry = self.bench.take()
        if entry is not None:
            assert entry.address not in self.seen
            self.seen.add(entry.address)
            self.bench.hold(entry, seconds)
        else:
            answer = self.bench.ask(wait=seconds)
            self.answers.append((answer, self.bench.now + seconds))

    @rule(count=st.integers(1, 5))
    def neighbour_claims_the_next(self, count: int) -> None:
        self.hostile = count + 1

    @rule()
    def neighbour_claims_a_reservation(self) -> None:
        for entry in self.bench.host.addresses:
            if entry.state is AddressState.UNCERTAIN:
                self.bench.claim(entry.address)
                return

    @rule(prefix=st.sampled_from([PREFIX, SECOND]), preferred=st.sampled_from([0, 30, 14400]))
    def router_speaks(self, prefix: str, preferred: int) -> None:
        self.bench.feed(advertisement(prefix=prefix, preferred=preferred, valid=86400))

    @rule()
    def link_comes_up(self) -> None:
        self.bench.pool.link_up(self.bench.now)

    @rule()
    def cancel_a_request(self) -> None:
        if self.answers:
            answer, _ = self.answers.pop()
            answer.ticket.cancel(self.bench.now)

    @invariant()
    def everything_fits(self) -> None:
        if hasattr(self, "bench"):
            self.bench.check()
            for answer, deadline in self.answers:
                assert answer.outcome is not None or self.bench.now <= deadline
            self._use_answers()

    def _use_answers(self) -> None:
        for answer, _ in list(self.answers):
            if answer.outcome is not None:
                if not isinstance(answer.outcome, Exception):
                    assert answer.entry.address not in self.seen
                    self.seen.add(answer.entry.address)
                    if answer.entry.state in (AddressState.PREFERRED, AddressState.DEPRECATED):
                        self.bench.hold(answer.entry, 1.0)
                self.answers = [pair for pair in self.answers if pair[0] is not answer]

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        self.hostile = 0
        self.bench.feed(advertisement(prefix=PREFIX, valid=86400, preferred=14400))
        self.bench.run(200.0)
        self._use_answers()
        self.bench.run(4000.0)
        self.bench.check()
        assert self.bench.pool.held == 0
        for _ in range(10):  # this may be the moment at which several have reached their age: their heirs need a DAD
            if self.bench.pool.ready < 2:
                self.bench.run(1.0)
        assert self.bench.pool.ready >= 2


PoolMachine.TestCase.settings = settings(max_examples=12, stateful_step_count=20)
TestPoolMachine = pytest.mark.proves("UM-POOL-1", "UM-ADDR-6", "UM-ADDR-10", by="api")(PoolMachine.TestCase)


@given(count=st.integers(1, 40))
@settings(max_examples=10)
def test_parallel_requests_all_get_different_addresses(count: int) -> None:
    bench = filled(PoolConfig(low=2, high=4, limit=64))
    answers = [bench.ask(wait=30.0) for _ in range(count)]
    bench.run(30.0)
    assert len({answer.entry.address for answer in answers}) == count
    assert all(answer.entry.address[:8] == address(PREFIX)[:8] and PEER for answer in answers)
