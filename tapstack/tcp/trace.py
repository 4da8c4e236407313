"""Traces of congestion control, for the reports: a point for each change that an eye could see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..events import CongestionTrace

if TYPE_CHECKING:
    from .connection import Connection

_PER_ROUND_TRIP = 8
UNLIMITED = 1 << 60
"""From here on ssthresh means that nothing was ever lost."""


class Trace:
    """The trace of one connection: at most eight points per round trip, and each change of phase."""

    __slots__ = ("_at", "_cwnd", "_phase")

    def __init__(self) -> None:
        self._at = -1.0
        self._cwnd = 0
        self._phase = ""

    def point(self, connection: Connection, now: float) -> None:
        """Emit a point if there is something to see."""
        sender = connection.sender
        congestion = sender.congestion
        phase = f"{congestion.phase}, {sender.recovery.phase.value}"
        srtt = connection.rtt.srtt or connection.rtt.rto
        if phase == self._phase and (congestion.cwnd == self._cwnd or now - self._at < srtt / _PER_ROUND_TRIP):
            return
        self._at, self._cwnd, self._phase = now, congestion.cwnd, phase
        connection.tcp.events.emit(
            CongestionTrace(
                time=now,
                connection=connection.id,
                controller=connection.options.congestion,
                phase=phase,
                cwnd=congestion.cwnd,
                ssthresh=congestion.ssthresh if congestion.ssthresh < UNLIMITED else None,
                pipe=sender.pipe,
                srtt=srtt,
            )
        )
