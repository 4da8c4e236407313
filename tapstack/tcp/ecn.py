"""Explicit congestion notification of one connection (RFC 3168 §6.1).

As receiver: a packet marked CE makes every acknowledgement carry ECE until the peer says CWR.  As sender: the first ECE of a
window of data reduces cwnd as a loss would, unless one of that window has done it (`Recovery.reduced`), and the next new data
after any reduction says CWR; data that is sent for the first time is ECT(0), acknowledgements, repetitions and probes are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..wire.tcp import ACK, CWR, ECE, SYN
from .options import Ecn

if TYPE_CHECKING:
    from .sender import Sender

CE = 3
"""Congestion experienced, in the two low bits of the traffic class."""


class EcnState:
    """Whether ECN is used, what is to be echoed, what was answered.

    usable: both sides asked for it or agreed, so marks are echoed.  marks: new data is ECT(0); never so where either side
    also sent a SYN that asked for nothing.  echo: acknowledgements carry ECE.  announce: the next new data carries CWR.
    """

    __slots__ = ("announce", "echo", "marks", "reductions", "usable")

    def __init__(self) -> None:
        self.usable = False
        self.marks = False
        self.echo = False
        self.announce = False
        self.reductions = 0

    def agree(self, flags: int, wanted: Ecn, bare: bool) -> None:
        """Take the flags of the peer's SYN or SYN-ACK (§6.1.1).  `bare`: a SYN of ours went without asking or agreeing."""
        bits = flags & (ECE | CWR)
        if flags & ACK:
            self.usable = wanted is Ecn.REQUEST and bits == ECE
        else:
            self.usable = wanted is not Ecn.OFF and bits == ECE | CWR
        self.marks = self.usable and not bare

    def syn_again(self, flags: int) -> None:
        """The peer repeats its SYN: if it no longer asks, nothing that we send is marked."""
        if flags & (ECE | CWR) != ECE | CWR:
            self.marks = False

    def syn_flags(self, answering: bool, wanted: Ecn, repeated: bool) -> int:
        """The bits for our SYN or SYN-ACK; a repeated SYN asks for nothing, since the bits may be why it was lost."""
        if answering:
            return ECE if self.usable else 0
        return ECE | CWR if wanted is Ecn.REQUEST and not repeated else 0

    def data_arrives(self, flags: int, traffic_class: int) -> bool:
        """A segment with data; True when it must be acknowledged at once."""
        if not self.usable:
            return False
        if flags & CWR:
            self.echo = False
        if traffic_class & CE == CE:
            self.echo = True
            return True
        return False

    def ack_arrives(self, flags: int, ack: int, una: int, sender: Sender, now: float) -> None:
        """An acknowledgement: ECE reduces cwnd once per window of data (§6.1.2).

        una: SND.UNA before it; what it acknowledges was part of the flight that met the congestion.
        """
        if not self.marks or flags & (ECE | SYN) != ECE:
            return
        recovery = sender.recovery
        if recovery.repairing:
            recovery.confirm()  # it has reduced; should the echo go on after it, that is of another window
        elif ack > recovery.reduced:
            recovery.reduce(sender.snd_nxt - una, now)
            self.reductions += 1
