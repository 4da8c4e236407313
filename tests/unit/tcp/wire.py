"""TCP packets for the tests, made and read by scapy: an oracle that shares no code with the stack."""

from __future__ import annotations

from typing import Any

from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6

from tapstack.ipv6.addresses import Trigger

NO_DAD = Trigger.ADD_WITHOUT_DAD


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


def fixed(packet: bytes | bytearray) -> bytes:
    """An IPv6 packet with TCP in it, its checksum computed anew by plain summing; quicker than scapy for floods."""
    data = bytearray(packet)
    data[56:58] = b"\0\0"
    body = data[40:]
    text = bytes(data[8:40]) + len(body).to_bytes(4, "big") + b"\0\0\0\x06" + body + bytes(len(body) % 2)
    total = sum(int.from_bytes(text[i : i + 2], "big") for i in range(0, len(text), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    data[56:58] = (total ^ 0xFFFF).to_bytes(2, "big")
    return bytes(data)
