"""What a device does with offloaded frames: finishes the checksum, and cuts super-segments (virtio 1.2 §5.1.6)."""

from __future__ import annotations

import struct

HEADER = 10
_NEEDS_CSUM, _GSO_TCPV6 = 1, 4
_FIN_PSH, _CWR = 0x09, 0x80


def finished(frame: bytes, *, cut: bool) -> list[bytes]:
    """The IPv6 packets of a frame that begins with a virtio header."""
    flags, gso_type, header_length, gso_size, start, offset = struct.unpack("=BBHHHH", frame[:HEADER])
    packet = frame[HEADER:]
    if not flags & _NEEDS_CSUM:
        return [packet]
    assert (start, offset) == (40, 16), "the checksum of a TCP header behind a plain IPv6 header"
    length = 40 + (packet[52] >> 4) * 4
    payload = packet[length:]
    if gso_type:
        assert gso_type == _GSO_TCPV6 and header_length == length and len(payload) > gso_size > 0
    else:
        assert length + len(payload) <= 65_535
    partial = int.from_bytes(packet[56:58], "big")
    assert partial % 65_535 == _pseudo(packet), "what the field holds is not the sum of the pseudo-header"
    if not gso_type or not cut:
        return [_summed(packet)]
    out = []
    sequence = int.from_bytes(packet[44:48], "big")
    for at in range(0, len(payload), gso_size):
        part = payload[at : at + gso_size]
        head = bytearray(packet[:length])
        head[4:6] = (length - 40 + len(part)).to_bytes(2, "big")
        head[44:48] = ((sequence + at) & 0xFFFFFFFF).to_bytes(4, "big")
        if at + gso_size < len(payload):
            head[53] &= ~_FIN_PSH & 0xFF
        if at:
            head[53] &= ~_CWR & 0xFF
        out.append(_summed(bytes(head) + part))
    return out


def _pseudo(packet: bytes) -> int:
    """The sum of the pseudo-header of a TCP packet, modulo 65535."""
    return int.from_bytes(packet[8:40] + (len(packet) - 40).to_bytes(4, "big") + b"\0\0\0\x06", "big") % 65_535


def _summed(packet: bytes) -> bytes:
    """The packet with its checksum."""
    body = packet[40:]
    text = body[:16] + b"\0\0" + body[18:] + bytes(len(body) % 2)
    total = (int.from_bytes(text, "big") + _pseudo(packet)) % 65_535
    return packet[:56] + (65_535 - total or 65_535).to_bytes(2, "big") + packet[58:]
