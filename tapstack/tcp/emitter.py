"""From what a connection wants to say to frames on the link.

The constant parts of a connection's headers (addresses, flow label, checksum residue of the pseudo-header) are
kept ready; one `struct` call writes IPv6 and TCP header together.  The checksum of the header is arithmetic on
the fields themselves: a 32-bit word counts modulo 65535 like its two halves (see `wire.checksum`).

With an offloading link one frame carries up to `gso_size` bytes and the link cuts it into segments of MSS.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from ..link.base import LinkProperties
from ..types import Frame
from ..wire import checksum, virtio
from ..wire.ipv6 import HEADER_LENGTH as IPV6_HEADER_LENGTH
from ..wire.tcp import FIN, HEADER_LENGTH, PROTOCOL, PSH, TIMESTAMP_LENGTH, TIMESTAMP_WORD, URG
from .sequence import MASK

if TYPE_CHECKING:
    from ..ipv6.host import Host, Path

_SEQUENCE_AT = IPV6_HEADER_LENGTH + 4
_CHECKSUM_AT = IPV6_HEADER_LENGTH + 16
_ECT0 = 2 << 20
_LAST_ONLY = FIN | PSH
_ipv6_tcp_timestamp = struct.Struct("!IHBB32sHHIIBBHHHIII")
_ipv6_tcp = struct.Struct("!IHBB32sHHIIBBHHH")


@lru_cache(maxsize=1024)
def _virtio_header(start: int, tcp_length: int, gso_size: int) -> bytes:
    """Has the link complete the checksum of a segment whose TCP header begins at `start`; gso_size: where to cut it, or 0."""
    if gso_size:
        return virtio.VirtioHeader(virtio.NEEDS_CSUM, virtio.GSO_TCPV6, start + tcp_length, gso_size, start, 16).pack()
    return virtio.VirtioHeader(virtio.NEEDS_CSUM, virtio.GSO_NONE, 0, 0, start, 16).pack()


class SegmentTransform(Protocol):
    """A hook between TCP and IPv6 output that may rewrite the packets of one address pair.

    It is the door for what stands between the two (per-connection protection, a port that changes on the way).
    """

    def outbound(self, header: bytearray) -> None:
        """Change the TCP header (20 bytes and options, checksum field zero) in place; its length stays."""


class Emitter:
    """Writes the segments of one connection.

    first_word: version, traffic class without ECN, and flow label.  hop_limit: None for that of the path.
    """

    __slots__ = (
        "_host",
        "_pair",
        "_pair_residue",
        "_path",
        "_properties",
        "_transmit",
        "first_word",
        "hop_limit",
        "transform",
    )

    def __init__(
        self,
        host: Host,
        path: Path,
        transmit: Callable[[Frame], None],
        local: bytes,
        remote: bytes,
        flow_label: int,
        hop_limit: int | None,
    ) -> None:
        self._host = host
        self._path = path
        self._transmit = transmit
        self._properties: LinkProperties = host.properties
        self._pair = local + remote
        self._pair_residue = checksum.pseudo_header(local, remote, 0, PROTOCOL)
        self.first_word = 6 << 28 | flow_label
        self.transform: SegmentTransform | None = None
        self.hop_limit = hop_limit

    def set_dscp(self, dscp: int) -> None:
        """Write this Differentiated Services code point from now on; ValueError unless it is 0 to 63."""
        if not 0 <= dscp <= 63:
            raise ValueError(f"a Differentiated Services code point is 0 to 63, not {dscp}")
        self.first_word = self.first_word & ~(63 << 22) | dscp << 22

    def emit(
        self,
        source_port: int,
        destination_port: int,
        sequence: int,
        acknowledgment: int,
        flags: int,
        window: int,
        timestamp: tuple[int, int] | None,
        pieces: Frame,
        length: int,
        mss: int,
        now: float,
        options: bytes = b"",
        ect: bool = False,
        urgent: int = 0,
    ) -> None:
        """Send one segment, or a super-segment when `length` exceeds `mss`.

        `sequence` and `acknowledgment` may be unwrapped; `options` are packed options beside the timestamp, a
        multiple of 4 bytes; `pieces` hold `length` bytes of payload; `ect` marks the packet ECT(0) (RFC 3168).
        """
        path = self._path
        link_header = path.ready(now)
        properties = self._properties
        if length > mss and (link_header is None or urgent or not properties.gso_size):
            self._emit_cut(
                source_port, destination_port, sequence, acknowledgment, flags, window, timestamp, pieces, mss, now,
                options, ect, urgent,
            )  # fmt: skip
            return
        offload = link_header is not None and properties.checksum_offload
        header = self._headers(
            source_port, destination_port, sequence & MASK, acknowledgment & MASK, flags, window, timestamp, pieces, length,
            options, offload, ect, urgent,
        )  # fmt: skip
        if self.transform is not None:
            header = self._transformed(header, pieces, length, offload)
        if link_header is None:
            self._host.transmit_queued(path, [header, *pieces], now)
        elif offload:
            self._transmit([self._virtio(header, length, mss) + link_header + header, *pieces])
        elif properties.vnet_header:
            self._transmit([virtio.PLAIN + link_header + header, *pieces])
        else:
            self._transmit([link_header + header, *pieces])

    def emit_run(
        self,
        source_port: int,
        destination_port: int,
        sequence: int,
        acknowledgment: int,
        flags: int,
        window: int,
        timestamp: tuple[int, int] | None,
        run: list[Frame],
        length: int,
        mss: int,
        now: float,
        ect: bool,
    ) -> None:
        """`emit` for segments of `length` bytes each that follow one another; the first has `sequence`.

        Where nothing stands in the way, one header is written and the sequence number put into it, and the checksum where
        the link does not finish it.
        """
        link_header = self._path.ready(now)
        properties = self._properties
        if link_header is None or self.transform is not None or (length > mss and not properties.gso_size):
            for pieces in run:
                self.emit(
                    source_port, destination_port, sequence, acknowledgment, flags, window, timestamp, pieces, length, mss,
                    now, b"", ect,
                )  # fmt: skip
                sequence += length
            return
        header = self._headers(
            source_port, destination_port, 0, acknowledgment & MASK, flags, window, timestamp, [], length, b"",
            properties.checksum_offload, ect, 0,
        )  # fmt: skip
        front, middle, back = header[:_SEQUENCE_AT], header[_SEQUENCE_AT + 4 : _CHECKSUM_AT], header[_CHECKSUM_AT + 2 :]
        transmit = self._transmit
        if properties.checksum_offload:
            front = self._virtio(header, length, mss) + link_header + front
            back = header[_SEQUENCE_AT + 4 :]
            for pieces in run:
                transmit([front + (sequence & MASK).to_bytes(4, "big") + back, *pieces])
                sequence += length
            return
        front = (virtio.PLAIN if properties.vnet_header else b"") + link_header + front
        residue = 65535 - int.from_bytes(header[_CHECKSUM_AT : _CHECKSUM_AT + 2], "big")
        for pieces in run:
            sequence &= MASK
            check = 65535 - ((residue + sequence + checksum.residue_of(pieces)) % 65535 or 65535)
            transmit([front + sequence.to_bytes(4, "big") + middle + check.to_bytes(2, "big") + back, *pieces])
            sequence += length

    def _headers(
        self,
        source_port: int,
        destination_port: int,
        sequence: int,
        acknowledgment: int,
        flags: int,
        window: int,
        timestamp: tuple[int, int] | None,
        pieces: Frame,
        length: int,
        options: bytes,
        offload: bool,
        ect: bool,
        urgent: int,
    ) -> bytes:
        """IPv6 and TCP header; with `offload` the checksum field holds the pseudo-header's sum only."""
        header_length = HEADER_LENGTH + len(options) + (TIMESTAMP_LENGTH if timestamp else 0)
        total_length = header_length + length
        offset = header_length << 2
        pseudo = self._pair_residue + total_length
        if offload:
            check = pseudo % 65535
        else:
            total = pseudo + source_port + destination_port + sequence + acknowledgment
            total += (offset << 8 | flags) + window + urgent
            if timestamp:
                total += TIMESTAMP_WORD + timestamp[0] + timestamp[1]
            if options:
                total += checksum.residue(options)
            if pieces:
                total += checksum.residue_of(pieces)
            check = 65535 - (total % 65535 or 65535)
        hop_limit = self._path.hop_limit if self.hop_limit is None else self.hop_limit
        first_word = self.first_word | _ECT0 if ect else self.first_word
        if timestamp:
            packed = _ipv6_tcp_timestamp.pack(
                first_word, total_length, PROTOCOL, hop_limit, self._pair,
                source_port, destination_port, sequence, acknowledgment, offset, flags, window, check, urgent,
                TIMESTAMP_WORD, timestamp[0], timestamp[1],
            )  # fmt: skip
        else:
            packed = _ipv6_tcp.pack(
                first_word, total_length, PROTOCOL, hop_limit, self._pair,
                source_port, destination_port, sequence, acknowledgment, offset, flags, window, check, urgent,
            )  # fmt: skip
        return packed + options if options else packed

    def _transformed(self, packed: bytes, pieces: Frame, length: int, offload: bool) -> bytes:
        """The headers with the hook applied; the checksum is that of what leaves."""
        assert self.transform is not None
        tcp = bytearray(packed[IPV6_HEADER_LENGTH:])
        tcp[16:18] = b"\0\0"
        self.transform.outbound(tcp)
        pseudo = self._pair_residue + len(tcp) + length
        check = pseudo % 65535 if offload else checksum.field(pseudo + checksum.residue_of([tcp, *pieces]))
        tcp[16:18] = check.to_bytes(2, "big")
        return packed[:IPV6_HEADER_LENGTH] + bytes(tcp)

    def _virtio(self, header: bytes, length: int, mss: int) -> bytes:
        """The virtio header of an offloaded frame."""
        start = 54 if self._properties.mac is not None else IPV6_HEADER_LENGTH
        return _virtio_header(start, len(header) - IPV6_HEADER_LENGTH, mss if length > mss else 0)

    def _emit_cut(
        self,
        source_port: int,
        destination_port: int,
        sequence: int,
        acknowledgment: int,
        flags: int,
        window: int,
        timestamp: tuple[int, int] | None,
        pieces: Frame,
        mss: int,
        now: float,
        options: bytes,
        ect: bool,
        urgent: int,
    ) -> None:
        """Send a super-segment as segments of MSS, where the link cannot cut it now, or would give all one urgent pointer.

        FIN and PSH go with the last; the pointer counts from each one's own number, and ends with the urgent data.
        """
        payload = b"".join(pieces)
        for start in range(0, len(payload), mss):
            part = payload[start : start + mss]
            own = flags & ~_LAST_ONLY if start + mss < len(payload) else flags
            left = max(0, urgent - start)
            if not left:
                own &= ~URG
            self.emit(
                source_port, destination_port, sequence + start, acknowledgment, own, window, timestamp, [part], len(part),
                mss, now, options, ect, left,
            )  # fmt: skip
