"""One received segment, parsed, for the paths that are not the fast one."""

from __future__ import annotations

from ..types import Buffer
from ..wire.tcp import ACK, FIN, RST, SYN, Options, TcpHeader


class Segment:
    """A segment from the wire; sequence numbers are those of the wire, 32 bits.

    `gso_size` is the payload size of the frames that the link merged into this one, 0 where it merged none.
    """

    __slots__ = (
        "acknowledgment",
        "destination_port",
        "flags",
        "gso_size",
        "local",
        "options",
        "payload",
        "remote",
        "sequence",
        "source_port",
        "traffic_class",
        "urgent",
        "window",
    )

    def __init__(
        self,
        remote: bytes,
        local: bytes,
        header: TcpHeader,
        payload: Buffer,
        traffic_class: int = 0,
        gso_size: int = 0,
    ) -> None:
        self.remote = remote
        self.local = local
        self.source_port = header.source_port
        self.destination_port = header.destination_port
        self.sequence = header.sequence
        self.acknowledgment = header.acknowledgment
        self.flags = header.flags
        self.window = header.window
        self.urgent = header.urgent
        self.options: Options = header.options
        self.payload = payload
        self.traffic_class = traffic_class
        self.gso_size = gso_size

    @property
    def length(self) -> int:
        """SEG.LEN: payload bytes, one more for SYN and one for FIN (RFC 9293 §3.4)."""
        return len(self.payload) + bool(self.flags & SYN) + bool(self.flags & FIN)

    @property
    def is_syn(self) -> bool:
        """SYN without ACK and RST: the start of a handshake."""
        return self.flags & (SYN | ACK | RST) == SYN

    def __repr__(self) -> str:
        names = "".join(name for bit, name in ((SYN, "S"), (FIN, "F"), (RST, "R"), (ACK, ".")) if self.flags & bit)
        return f"<{names} seq={self.sequence} ack={self.acknowledgment} len={len(self.payload)} win={self.window}>"
