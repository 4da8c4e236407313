"""The whole stack as a state machine: hypothesis chooses the steps of `tests.fuzz.world` and what is in them."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tapstack.tcp.demux import Demux
from tapstack.tcp.options import PortMode
from tests.fuzz.script import Script
from tests.fuzz.world import STEPS, World

SETTINGS = settings(max_examples=60, stateful_step_count=40)


class Life(RuleBasedStateMachine):
    """A host with connections and listeners, to which anything may happen; after each step the invariants hold."""

    world: World

    @initialize(mode=st.sampled_from(PortMode))
    def begin(self, mode: PortMode) -> None:
        self.world = World(mode)

    @rule(step=st.sampled_from(STEPS), script=st.binary(max_size=60))
    def step(self, step: object, script: bytes) -> None:
        assert callable(step)
        step(self.world, Script(script))

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.pass_time(300.0)
            self.world.check()
            self.world.stack.stop(self.world.now)
            self.world.flush()


def test_whatever_happens_in_whatever_order_the_invariants_hold() -> None:
    run_state_machine_as_test(Life, settings=SETTINGS)


def test_a_table_that_keeps_what_has_ended_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Demux, "remove", lambda self, *_: None)
    first = settings(SETTINGS, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Life, settings=first)
