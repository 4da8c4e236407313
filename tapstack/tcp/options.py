"""What a socket can be told: port mode, TIME-WAIT option, buffers, time-outs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from math import inf
from typing import Any

from .congestion import load_controller

LEGACY_COMPAT = 1024
"""RP, the reduced port: written where the application names no port (slide 23; UM-PORT-11). Reserved by IANA, not zero."""


class PortMode(StrEnum):
    """How far port numbers are ignored (unified-multiplex §6, slides 22 and 23)."""

    L0 = "L0"
    L1 = "L1"
    L2 = "L2"
    AWARE = "Aware"


class TimeWait(StrEnum):
    """How long TIME-WAIT keeps the address (UM-REL-2).

    FULL: 2 MSL (RFC 9293 MUST-13).  SHORT: a few RTOs; a one-time pair has no old incarnation, only the lost last ACK
    remains to be repaired.  SHARP: none; non-conformant, can strand a legacy peer in LAST-ACK.
    """

    FULL = "full"
    SHORT = "short"
    SHARP = "sharp"


class Ecn(StrEnum):
    """Explicit congestion notification (RFC 3168): never, where the peer asks for it, or asked for by this side."""

    OFF = "off"
    ACCEPT = "accept"
    REQUEST = "request"


LARGEST_BUFFER = 65535 << 14
"""Bytes: the largest window that can be told (RFC 7323 §2.3)."""
_ALWAYS = 1e9
"""Seconds, thirty years: timers are set by these times, and a time without an end would stand in their queue for ever."""
_KINDS: dict[str, type[StrEnum]] = {"mode": PortMode, "time_wait": TimeWait, "ecn": Ecn}
_SWITCHES = ("nodelay", "tell_user_timeout", "pacing", "trace", "sack", "timestamps", "cookies")
_COUNTS = {
    "reduced_port": (1, 65535),
    "send_buffer": (1, LARGEST_BUFFER),
    "send_buffer_maximum": (1, LARGEST_BUFFER),
    "receive_buffer": (1, LARGEST_BUFFER),
    "receive_buffer_maximum": (1, LARGEST_BUFFER),
    "backlog": (1, 1 << 31),
    "hop_limit": (1, 255),
    "dscp": (0, 63),
}
_TIMES = {"msl": _ALWAYS, "user_timeout": inf, "syn_timeout": inf, "fin_wait_2_timeout": _ALWAYS, "keep_alive": _ALWAYS}
"""The longest of each; to wait for data to be acknowledged without an end must be possible (RFC 9293 MUST-21)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketOptions:
    """Options of one socket; times in seconds, buffers in bytes.

    nodelay: send small segments at once, without Nagle's algorithm (RFC 9293 §3.7.4); None: as the API has it, on asyncio's
    transports at once, on sockets not.
    user_timeout: how long data may stay unacknowledged before the connection is aborted (RFC 9293 R2); `math.inf` for ever.
    tell_user_timeout: advertise it, and let what the peer advertises prolong it (RFC 5482; off by default, as there).
    syn_timeout: the same for a SYN (RFC 9293 MUST-23: at least 3 minutes); connect() time-outs are the caller's.
    fin_wait_2_timeout: how long a fully closed socket waits for the peer's FIN.
    keep_alive: idle time before the first probe; None for no probes (RFC 9293 MUST-25: off by default).
    send_buffer, send_buffer_maximum, receive_buffer, receive_buffer_maximum: where autotuning starts and ends.
    sack, timestamps: offer and accept these (RFC 2018, RFC 7323); ecn: see `Ecn`.
    backlog: handshakes that may stand half-open on one address before cookies are sent, and connections that wait for accept();
    cookies: False refuses further SYNs instead, as servers without SYN cookies do (for comparisons; RFC 4987 §3.6).
    hop_limit: of the packets sent, None for the router's advice; dscp: their Differentiated Services code point.
    congestion: the controller, a built-in name (`congestion.known`) or `module:Class`; pacing: spread its window over the
    round trip; trace: emit `CongestionTrace` events.
    """

    mode: PortMode = PortMode.L1
    time_wait: TimeWait = TimeWait.FULL
    msl: float = 30.0
    reduced_port: int = LEGACY_COMPAT
    nodelay: bool | None = None
    user_timeout: float = 300.0
    tell_user_timeout: bool = False
    syn_timeout: float = 180.0
    fin_wait_2_timeout: float = 60.0
    keep_alive: float | None = None
    send_buffer: int = 1024 * 1024
    send_buffer_maximum: int = 8 * 1024 * 1024
    receive_buffer: int = 1024 * 1024
    receive_buffer_maximum: int = 8 * 1024 * 1024
    congestion: str = "cubic"
    pacing: bool = False
    trace: bool = False
    sack: bool = True
    timestamps: bool = True
    ecn: Ecn = Ecn.ACCEPT
    backlog: int = 128
    cookies: bool = True
    hop_limit: int | None = None
    dscp: int = 0

    def __post_init__(self) -> None:
        """Take modes by name as well, as settings do (`"L2"`, `"short"`).

        Raises `ValueError` for a mode or a controller that there is not, and for what is no number of its kind: here, where it is
        written, and not in the middle of a connection, where it would be everybody's error.
        """
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if type(value) is not kind:
                object.__setattr__(self, name, _named(name, value, kind))
        for name in _SWITCHES:
            if type(getattr(self, name)) is not bool and (name != "nodelay" or self.nodelay is not None):
                raise ValueError(f"{name} is True or False, not {getattr(self, name)!r}")
        for name, (least, most) in _COUNTS.items():
            value = getattr(self, name)
            if value is None and name == "hop_limit":
                continue
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{name} is a whole number from {least} to {most}, not {value!r}")
        for name, longest in _TIMES.items():
            value = getattr(self, name)
            if value is None and name == "keep_alive":
                continue
            if type(value) not in (int, float) or not 0 < value <= longest:
                raise ValueError(f"{name} is a time in seconds, above 0 and at most {longest:g}, not {value!r}")
        for name in ("send_buffer", "receive_buffer"):
            first, last = getattr(self, name), getattr(self, f"{name}_maximum")
            if first > last:
                raise ValueError(
                    f"{name} begins at {first} bytes and ends at {last} ({name}_maximum): raise that as well"
                )
        if type(self.congestion) is not str:
            raise ValueError(f"congestion is the name of a controller, not {self.congestion!r}")
        load_controller(self.congestion)


@lru_cache(maxsize=256)
def in_mode(options: SocketOptions, mode: PortMode) -> SocketOptions:
    """The same options in another mode; a connection may ask for them as often as it likes, since they are made once."""
    return replace(options, mode=mode)


def _named(option: str, value: Any, kind: type[StrEnum]) -> StrEnum:
    """The member of a kind that a value names; `ValueError` lists them all."""
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{option} is one of {', '.join(kind)}, not {value!r}") from None
