"""TCP packets for the tests, made and read by scapy: an oracle that shares no code with the stack."""

from __future__ import annotations

from typing import Any

from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6


def read(packet: bytes) -> Any:
    """The TCP layer of an IPv6 packet, as scapy sees it, with `.src` and `.dst` of the packet and `.data`."""
    layer = IPv6(packet)
    tcp = layer[TCP]
    again = IPv6(bytes(layer))
    check = tcp.chksum
    del again[TCP].chksum
    assert IPv6(bytes(again))[TCP].chksum == check, "checksum on the wire is wrong"
    return tcp


def segment(src: str, dst: str, sport: int, dport: int, flags: str, seq: int = 0, ack: int = 0, **fields: Any) -> bytes:
    """One packet; `payload` and `options` among `fields`, everything else goes to scapy's TCP."""
    payload = fields.pop("payload", b"")
    layer = TCP(sport=sport, dport=dport, flags=flags, seq=seq & 0xFFFFFFFF, ack=ack & 0xFFFFFFFF, **fields)
    return bytes(IPv6(src=src, dst=dst) / layer / payload)


def timestamps(packet: bytes) -> tuple[int, int] | None:
    """TSval and TSecr of a packet."""
    for kind, value in read(packet).options:
        if kind == "Timestamp":
            return value[0], value[1]
    return None


def changed(packet: bytes, **fields: Any) -> bytes:
    """The packet with TCP fields replaced and the checksum made right again."""
    layer = IPv6(packet)
    for name, value in fields.items():
        setattr(layer[TCP], name, value)
    del layer[TCP].chksum
    return bytes(layer)
