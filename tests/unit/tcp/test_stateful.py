"""Random programs on both ends of a random wire, against a model that is two strings of bytes and a few flags.

The model says only what every user of TCP relies on: what is read is a prefix of what was written; the end of the stream comes
after the last byte and only after the writer's shutdown; nothing is lost on a wire that delivers in the end; after both have
closed, or one has aborted, nothing is held.  `Tcp.check` runs after every step of the clock.

TIME-WAIT is long here: on a wire that loses a third, a short one ends before the last FIN is repeated (docs/limits.md).
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tapstack.tcp.congestion import known
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import Ecn, PortMode, SocketOptions

from .pair import End, Pair, read_all
from .path import DATA

sides = st.sampled_from(["client", "server"])


class Conversation(RuleBasedStateMachine):
    """One connection and what its two programs did."""

    def __init__(self) -> None:
        super().__init__()
        self.pair: Pair | None = None
        self.loss = self.reorder = 0.0
        self.random = Random(0)

    @initialize(
        seed=st.integers(0, 1 << 30),
        offload=st.sampled_from([None, "cut", "whole"]),
        mode=st.sampled_from([PortMode.L0, PortMode.L1, PortMode.L2]),
        controller=st.sampled_from(known()),
        sack=st.booleans(),
        timestamps=st.booleans(),
        ecn=st.sampled_from(list(Ecn)),
        buffer=st.sampled_from([1500, 5000, 100_000]),
        nodelay=st.booleans(),
    )
    def connect(self, seed, offload, mode, controller, sack, timestamps, ecn, buffer, nodelay) -> None:  # type: ignore[no-untyped-def]
        """Establish on a perfect wire."""
        self.random = Random(seed)
        self.pair = Pair(offload=offload)
        options = SocketOptions(
            mode=mode, congestion=controller, sack=sack, timestamps=timestamps, ecn=ecn, nodelay=nodelay,
            receive_buffer=buffer, receive_buffer_maximum=4 * buffer, msl=500.0, user_timeout=1e6,
        )  # fmt: skip
        client, server = self.pair.connect(options)
        self.ends: dict[str, Connection] = {"client": client, "server": server}
        self.written = {"client": bytearray(), "server": bytearray()}
        self.arrived = {"client": bytearray(), "server": bytearray()}
        self.ended = {"client": False, "server": False}
        self.aborted = False
        self.pair.meddle = self.meddle

    def meddle(self, end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        """The wire as it is now."""
        if self.random.random() < self.loss:
            return []
        return [(self.random.random() * 0.02 if self.random.random() < self.reorder else 0.0, packet)]

    @rule(loss=st.sampled_from([0.0, 0.05, 0.3]), reorder=st.sampled_from([0.0, 0.3]))
    def weather(self, loss: float, reorder: float) -> None:
        """The wire gets better or worse."""
        self.loss, self.reorder = loss, reorder

    @precondition(lambda self: not self.aborted)
    @rule(side=sides, size=st.sampled_from([1, 7, 1000, 1428, 5000, 30_000]), urgent=st.booleans())
    def write(self, side: str, size: int, urgent: bool) -> None:
        """A program writes."""
        if self.ended[side]:
            return
        start = len(self.written[side]) % 1_000_000
        data = DATA[start : start + size]
        connection = self.ends[side]
        (connection.write_urgent if urgent else connection.write)(data)
        self.written[side] += data

    @rule(side=sides)
    def read(self, side: str) -> None:
        """A program reads all there is."""
        self.arrived[side] += read_all(self.ends[side])

    @precondition(lambda self: not self.aborted)
    @rule(side=sides)
    def end(self, side: str) -> None:
        """A program has nothing more to say."""
        assert self.pair is not None
        self.ends[side].shutdown(self.pair.now)
        self.ended[side] = True

    @precondition(lambda self: not self.aborted)
    @rule(side=sides)
    def abort(self, side: str) -> None:
        """A program gives up; rarely, or there would be little else."""
        if self.random.random() < 0.1:
            assert self.pair is not None
            self.ends[side].abort(self.pair.now)
            self.aborted = True

    @rule(seconds=st.sampled_from([0.0, 0.005, 0.1, 3.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        assert self.pair is not None
        self.pair.run(seconds)

    @invariant()
    def what_is_read_was_written(self) -> None:
        """Streams are prefixes; an end comes after everything."""
        if self.pair is None:
            return
        for side, other in (("client", "server"), ("server", "client")):
            assert self.written[other].startswith(self.arrived[side])
            receiver = self.ends[side].receiver
            if receiver.fin_taken():
                assert self.ended[other]
                assert len(self.arrived[side]) + receiver.queued == len(self.written[other])

    def teardown(self) -> None:
        """The wire is perfect again: everything arrives, and nothing is left."""
        if self.pair is None:
            return
        self.loss = self.reorder = 0.0
        for side, connection in self.ends.items():
            if not self.aborted:
                self.end(side)
            else:
                connection.abort(self.pair.now)  # the reset of the other may have been lost, and nothing repeats it

        def over() -> bool:
            for side in self.ends:
                self.arrived[side] += read_all(self.ends[side])
            assert self.pair is not None
            return not len(self.pair.a.host.addresses) and not len(self.pair.b.host.addresses)

        self.pair.run(5000, until=over)
        assert over(), [repr(connection) for connection in self.ends.values()]
        self.what_is_read_was_written()
        if not self.aborted:
            assert self.arrived["client"] == self.written["server"]
            assert self.arrived["server"] == self.written["client"]
            assert all(connection.error is None for connection in self.ends.values())
        assert self.pair.a.tcp.budget.used == self.pair.b.tcp.budget.used == 0


Conversation.TestCase.settings = settings(
    max_examples=400, stateful_step_count=25, suppress_health_check=list(HealthCheck), derandomize=True
)
TestConversation = pytest.mark.proves("ST-TCP-1", "UM-REL-1", by="api")(Conversation.TestCase)
