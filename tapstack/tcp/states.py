"""The states of a connection and of a listener, and every move between them (RFC 9293 §3.3.2; slide 20).

The machine is the table `TRANSITIONS`; `Connection` moves only through it.  LISTEN_o is the state of a listener
without an address: it is in no demultiplexing table, so no segment can reach it (UM-LIS-1).
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto


class TcpState(StrEnum):
    """RFC 9293 §3.3.2, with LISTEN_o."""

    CLOSED = "CLOSED"
    LISTEN_O = "LISTEN_o"
    LISTEN = "LISTEN"
    SYN_SENT = "SYN-SENT"
    SYN_RECEIVED = "SYN-RECEIVED"
    ESTABLISHED = "ESTABLISHED"
    FIN_WAIT_1 = "FIN-WAIT-1"
    FIN_WAIT_2 = "FIN-WAIT-2"
    CLOSE_WAIT = "CLOSE-WAIT"
    CLOSING = "CLOSING"
    LAST_ACK = "LAST-ACK"
    TIME_WAIT = "TIME-WAIT"


class TcpTrigger(Enum):
    """What moves a connection or a listener."""

    __hash__ = object.__hash__  # `Enum`'s is a function in Python, and each move looks one up

    ACTIVE_OPEN = auto()
    PASSIVE_OPEN = auto()
    LISTEN_UNBOUND = auto()
    ADDRESS_SET = auto()
    LAST_ADDRESS_GONE = auto()
    SYN_ARRIVES = auto()
    SYN_ACK_ARRIVES = auto()
    ACK_OF_SYN = auto()
    CLOSE = auto()
    FIN_ARRIVES = auto()
    ACK_OF_FIN = auto()
    FIN_AND_ACK_OF_FIN = auto()
    TIME_WAIT_OVER = auto()
    DELETE = auto()


_T = TcpState
TRANSITIONS: dict[tuple[TcpState, TcpTrigger], TcpState] = {
    # listeners
    (_T.CLOSED, TcpTrigger.LISTEN_UNBOUND): _T.LISTEN_O,
    (_T.LISTEN_O, TcpTrigger.ADDRESS_SET): _T.LISTEN,
    (_T.LISTEN, TcpTrigger.ADDRESS_SET): _T.LISTEN,
    (_T.LISTEN, TcpTrigger.LAST_ADDRESS_GONE): _T.LISTEN_O,
    (_T.LISTEN_O, TcpTrigger.DELETE): _T.CLOSED,
    (_T.LISTEN, TcpTrigger.DELETE): _T.CLOSED,
    # opening
    (_T.CLOSED, TcpTrigger.ACTIVE_OPEN): _T.SYN_SENT,
    (_T.CLOSED, TcpTrigger.PASSIVE_OPEN): _T.SYN_RECEIVED,
    (_T.SYN_SENT, TcpTrigger.SYN_ARRIVES): _T.SYN_RECEIVED,
    (_T.SYN_SENT, TcpTrigger.SYN_ACK_ARRIVES): _T.ESTABLISHED,
    (_T.SYN_RECEIVED, TcpTrigger.SYN_ACK_ARRIVES): _T.ESTABLISHED,
    (_T.SYN_RECEIVED, TcpTrigger.ACK_OF_SYN): _T.ESTABLISHED,
    # closing
    (_T.SYN_RECEIVED, TcpTrigger.CLOSE): _T.FIN_WAIT_1,
    (_T.SYN_RECEIVED, TcpTrigger.FIN_ARRIVES): _T.CLOSE_WAIT,
    (_T.ESTABLISHED, TcpTrigger.CLOSE): _T.FIN_WAIT_1,
    (_T.ESTABLISHED, TcpTrigger.FIN_ARRIVES): _T.CLOSE_WAIT,
    (_T.CLOSE_WAIT, TcpTrigger.CLOSE): _T.LAST_ACK,
    (_T.FIN_WAIT_1, TcpTrigger.ACK_OF_FIN): _T.FIN_WAIT_2,
    (_T.FIN_WAIT_1, TcpTrigger.FIN_ARRIVES): _T.CLOSING,
    (_T.FIN_WAIT_1, TcpTrigger.FIN_AND_ACK_OF_FIN): _T.TIME_WAIT,
    (_T.FIN_WAIT_2, TcpTrigger.FIN_ARRIVES): _T.TIME_WAIT,
    (_T.CLOSING, TcpTrigger.ACK_OF_FIN): _T.TIME_WAIT,
    (_T.LAST_ACK, TcpTrigger.ACK_OF_FIN): _T.CLOSED,
    (_T.TIME_WAIT, TcpTrigger.TIME_WAIT_OVER): _T.CLOSED,
}
TRANSITIONS.update(
    {
        (state, TcpTrigger.DELETE): _T.CLOSED
        for state in (
            _T.SYN_SENT,
            _T.SYN_RECEIVED,
            _T.ESTABLISHED,
            _T.FIN_WAIT_1,
            _T.FIN_WAIT_2,
            _T.CLOSE_WAIT,
            _T.CLOSING,
            _T.LAST_ACK,
            _T.TIME_WAIT,
        )
    }
)
"""DELETE stands for a reset either way, an abort, a time-out and an error: the PCB goes from any state."""

SYNCHRONIZED = frozenset(
    {
        _T.ESTABLISHED,
        _T.FIN_WAIT_1,
        _T.FIN_WAIT_2,
        _T.CLOSE_WAIT,
        _T.CLOSING,
        _T.LAST_ACK,
        _T.TIME_WAIT,
    }
)
