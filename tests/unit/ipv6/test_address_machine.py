"""The state machine of an address: every cell of the table, and the answers that follow (unified-multiplex §1)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from tapstack.events import AddressChanged, Event, EventStream
from tapstack.ipv6.addresses import (
    ANSWERS,
    TRANSITIONS,
    AddressEntry,
    AddressError,
    AddressKind,
    AddressState,
    AddressTable,
    Answers,
    Trigger,
)
from tapstack.types import address
from tests.unit.ipv6.bench import User
from tools import life_cycle

S, T = AddressState, Trigger
ADDRESS = address("2001:db8::1")

WAYS: dict[AddressState, list[Trigger]] = {
    S.INVALID: [],
    S.TENTATIVE: [T.ADD],
    S.OPTIMISTIC: [T.ADD_OPTIMISTIC],
    S.UNCERTAIN: [T.ADD, T.DAD_PASSED_RESERVED],
    S.PREFERRED: [T.ADD, T.DAD_PASSED],
    S.DEPRECATED: [T.ADD, T.DAD_PASSED, T.DEPRECATE],
    S.DUPLICATED: [T.ADD, T.DAD_FAILED],
}
"""How a test brings an address into each state."""


class Table:
    """An address table with its events."""

    def __init__(self) -> None:
        self.events: list[AddressChanged] = []
        stream = EventStream()
        stream.subscribe(self._note)
        self.table = AddressTable(stream)
        self.seen: list[tuple[AddressState, AddressState, Trigger]] = []
        self.table.observe(lambda entry, old, trigger, now: self.seen.append((old, entry.state, trigger)))
        self.entry: AddressEntry | None = None

    def _note(self, event: Event) -> None:
        assert isinstance(event, AddressChanged)
        self.events.append(event)

    def fire(self, trigger: Trigger) -> None:
        """Do what causes a trigger, through the public API."""
        table = self.table
        if trigger in (T.ADD, T.ADD_WITHOUT_DAD, T.ADD_OPTIMISTIC):
            self.entry = table.add(ADDRESS, AddressKind.STABLE, 0.0, trigger=trigger)
            return
        entry = self.entry or AddressEntry(ADDRESS, AddressKind.STABLE, 0.0)
        actions: dict[Trigger, Callable[[], None]] = {
            T.DAD_PASSED: lambda: table.dad_passed(entry, 0.0),
            T.DAD_PASSED_RESERVED: lambda: table.dad_passed(entry, 0.0),
            T.DAD_FAILED: lambda: table.dad_failed(entry, 0.0, "test"),
            T.TAKE: lambda: table.take(entry, AddressKind.EPHEMERAL, 0.0, "test"),
            T.DISCARD: lambda: table.discard(entry, 0.0, "test"),
            T.DEPRECATE: lambda: table.deprecate(entry, 0.0, "test"),
            T.REFRESH: lambda: table.refresh(entry, 0.0, "test"),
            T.RELEASE: lambda: table.release(entry, 0.0, "test"),
            T.EXPIRE: lambda: table.expire(entry, 0.0, "test"),
        }
        entry.kind = AddressKind.RESERVED if trigger is T.DAD_PASSED_RESERVED else AddressKind.STABLE
        actions[trigger]()


@pytest.mark.proves("UM-ADDR-1", "UM-NODE-4", by="api")
@pytest.mark.parametrize("trigger", list(Trigger), ids=lambda trigger: trigger.name)
@pytest.mark.parametrize("state", list(AddressState))
def test_every_cell(state: AddressState, trigger: Trigger) -> None:
    bench = Table()
    for step in WAYS[state]:
        bench.fire(step)
    before = len(bench.events)
    if trigger in (T.ADD, T.ADD_WITHOUT_DAD, T.ADD_OPTIMISTIC) and state is S.DUPLICATED:
        state = S.INVALID  # a duplicate is gone from the table; adding it again begins a new life
    if (state, trigger) == (S.OPTIMISTIC, T.DAD_PASSED_RESERVED):
        trigger = T.DAD_PASSED  # what is optimistic is in use, so it passes DAD like any other
    if (state, trigger) not in TRANSITIONS:
        with pytest.raises(AddressError):
            bench.fire(trigger)
        assert len(bench.events) == before
        assert bench.entry is None or bench.entry.state is state
        return
    bench.fire(trigger)
    new = TRANSITIONS[state, trigger]
    assert bench.entry is not None
    assert bench.entry.state is new
    assert bench.entry.answers == ANSWERS[new]
    assert (ADDRESS in bench.table) == (new not in (S.INVALID, S.DUPLICATED))
    assert [(event.old, event.new) for event in bench.events[before:]] == [(state.value, new.value)]
    assert bench.seen[-1] == (state, new, trigger)
    bench.table.check()


def test_the_table_of_answers_is_the_specification() -> None:
    """UM-ADDR-2 … 4; RFC 4862 §5.4 for TENTATIVE; RFC 4429 §3.3 for OPTIMISTIC."""
    everything = Answers.DAD | Answers.RESOLUTION | Answers.TRAFFIC
    assert {
        S.INVALID: Answers.NOTHING,
        S.TENTATIVE: Answers.NOTHING,
        S.OPTIMISTIC: Answers.RESOLUTION | Answers.TRAFFIC,
        S.UNCERTAIN: Answers.DAD,
        S.PREFERRED: everything,
        S.DEPRECATED: everything,
        S.DUPLICATED: Answers.NOTHING,
    } == ANSWERS
    assert set(ANSWERS) == set(AddressState)


def test_every_state_is_reached_and_every_life_ends() -> None:
    for state in AddressState:
        assert state is S.INVALID or state in TRANSITIONS.values()
    ends = {S.INVALID, S.DUPLICATED}
    for _ in AddressState:
        ends |= {old for (old, _), new in TRANSITIONS.items() if new in ends}
    assert ends == set(AddressState)


@pytest.mark.proves("UM-REL-1", by="api")
def test_users_keep_a_one_time_address_and_the_last_one_releases_it() -> None:
    bench = Table()
    entry = bench.table.add(ADDRESS, AddressKind.EPHEMERAL, 0.0, trigger=T.ADD_WITHOUT_DAD)
    one, other = User("2001:db8::a"), User("2001:db8::b")
    bench.table.acquire(entry, one)
    bench.table.acquire(entry, other)
    assert entry.speaks_to(address("2001:db8::a"))
    assert not entry.speaks_to(address("2001:db8::c"))
    with pytest.raises(AddressError, match="2 users"):
        bench.table.release(entry, 0.0, "test")
    bench.table.drop(entry, one, 0.0, "closed")
    assert not entry.speaks_to(address("2001:db8::a"))
    assert ADDRESS in bench.table
    with pytest.raises(AddressError, match="not held"):
        bench.table.drop(entry, one, 0.0, "closed")
    bench.table.drop(entry, other, 0.0, "closed")
    assert ADDRESS not in bench.table
    with pytest.raises(AddressError, match="INVALID"):
        bench.table.acquire(entry, one)


def test_a_stable_address_outlives_its_users_and_speaks_to_all() -> None:
    bench = Table()
    entry = bench.table.add(ADDRESS, AddressKind.STABLE, 0.0, trigger=T.ADD_WITHOUT_DAD)
    user = User(None)
    bench.table.acquire(entry, user)
    bench.table.drop(entry, user, 0.0, "closed")
    assert entry.state is S.PREFERRED
    assert entry.speaks_to(address("2001:db8::c"))


def test_users_of_an_address_that_is_gone_can_still_be_dropped() -> None:
    for end in (T.EXPIRE, T.DAD_FAILED):
        bench = Table()
        entry = bench.table.add(ADDRESS, AddressKind.EPHEMERAL, 0.0, trigger=T.ADD_OPTIMISTIC)
        user = User(None)
        bench.table.acquire(entry, user)
        if end is T.EXPIRE:
            bench.table.expire(entry, 0.0, "test")
        else:
            bench.table.dad_failed(entry, 0.0, "test")
        events = len(bench.events)
        bench.table.drop(entry, user, 0.0, "aborted")
        assert not entry.users
        assert len(bench.events) == events


class Lives(RuleBasedStateMachine):
    """Many addresses under any sequence of calls: whatever is refused changes nothing, and the invariants hold."""

    entries = Bundle("entries")

    @initialize()
    def begin(self) -> None:
        self.table = AddressTable(EventStream())
        self.serial = 0
        self.now = 0.0

    @rule(target=entries, kind=st.sampled_from(AddressKind), trigger=st.sampled_from(Trigger))
    def add(self, kind: AddressKind, trigger: Trigger) -> object:
        self.serial += 1
        try:
            return self.table.add(self.serial.to_bytes(16, "big"), kind, self.now, trigger=trigger)
        except AddressError:
            assert (S.INVALID, trigger) not in TRANSITIONS
            assert self.serial.to_bytes(16, "big") not in self.table
            return multiple()

    @rule(entry=entries, action=st.sampled_from(["dad_passed", "discard", "deprecate", "refresh", "release", "expire"]))
    def act(self, entry: AddressEntry, action: str) -> None:
        before = entry.state, entry.kind, len(entry.users)
        try:
            if action == "dad_passed":
                self.table.dad_passed(entry, self.now)
            else:
                getattr(self.table, action)(entry, self.now, "test")
        except AddressError:
            assert (entry.state, entry.kind, len(entry.users)) == before

    @rule(entry=entries, kind=st.sampled_from(AddressKind))
    def take(self, entry: AddressEntry, kind: AddressKind) -> None:
        try:
            self.table.take(entry, kind, self.now, "test")
        except AddressError:
            assert entry.state is not S.UNCERTAIN

    @rule(entry=entries)
    def acquire(self, entry: AddressEntry) -> None:
        try:
            self.table.acquire(entry, User(None))
        except AddressError:
            assert not entry.answers & Answers.TRAFFIC

    @rule(entry=entries)
    def drop(self, entry: AddressEntry) -> None:
        if entry.users:
            self.table.drop(entry, next(iter(entry.users)), self.now, "test")
            assert entry.users or not entry.kind.one_time or entry.address not in self.table

    @invariant()
    def invariants_hold(self) -> None:
        if hasattr(self, "table"):
            self.table.check()


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=40)


def test_the_diagram_in_the_documentation_is_the_table_of_the_code() -> None:
    page = life_cycle.PAGE.read_text(encoding="utf-8")
    assert life_cycle.renewed(page) == page, "run: python tools/life_cycle.py"


def test_a_changed_table_makes_the_page_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    page = life_cycle.PAGE.read_text(encoding="utf-8")
    changed = {**TRANSITIONS, (S.UNCERTAIN, T.EXPIRE): S.INVALID}
    monkeypatch.setattr(life_cycle, "TRANSITIONS", changed)
    assert life_cycle.renewed(page) != page
