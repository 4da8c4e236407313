"""The codecs under arbitrary bytes: a value or `WireError`, and a value survives being packed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tapstack.wire import WireError, checksum, ethernet, icmpv6, ipv6, mld, nd, tcp, udp, virtio

from .script import Script


def _survives(parse: Callable[[Any], Any], pack: Callable[[Any], bytes]) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        value = parse(memoryview(data))
        packed = pack(value)
        assert parse(memoryview(packed)) == value, (value, packed)

    return target


def _method(kind: Any) -> Callable[[bytes], None]:
    return _survives(kind.parse, lambda value: value.pack())


def _icmp(data: bytes) -> None:
    message = icmpv6.parse(data)
    assert bytes((message.type, message.code)) + data[2:4] + bytes(message.body) == data
    if message.is_error:
        icmpv6.parse_error(message)


def _typed(parse: Callable[[int, memoryview], Any]) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        kind, body = data[0] if data else 0, memoryview(data[1:])
        message = parse(kind, body)
        packed = message.pack()
        assert parse(kind, memoryview(packed)) == message, (message, packed)

    return target


def _tcp(data: bytes) -> None:
    header = tcp.TcpHeader.parse(memoryview(data))
    assert tcp.HEADER_LENGTH <= header.length <= len(data)
    payload = data[header.length :]
    packed = tcp.pack(
        bytes(16),
        bytes(16),
        header.source_port,
        header.destination_port,
        header.sequence,
        header.acknowledgment,
        header.flags,
        header.window,
        options=header.options.pack(),
        urgent=header.urgent,
        payload=payload,
    )
    again = tcp.TcpHeader.parse(memoryview(packed))
    assert again.length == len(packed)
    assert checksum.valid(bytes(16), bytes(16), tcp.PROTOCOL, packed + payload)
    assert replace(again, length=header.length, checksum=header.checksum) == header, (header, again)


def _udp(data: bytes) -> None:
    header = udp.parse(memoryview(data))
    payload = data[udp.HEADER_LENGTH : header.length]
    assert udp.parse(memoryview(header.pack() + payload)) == header
    packed = udp.pack(bytes(16), bytes(16), header.src_port, header.dst_port, payload) + payload
    again = udp.parse(memoryview(packed))
    assert again.checksum and checksum.valid(bytes(16), bytes(16), ipv6.UDP, packed)
    assert replace(again, checksum=header.checksum) == header, (header, again)


def _virtio(data: bytes) -> None:
    _method(virtio.VirtioHeader)(data)
    header = virtio.VirtioHeader.parse(data)
    assert virtio.read(data) == (header.checksum_trusted, header.gso_size), header
    assert len(virtio.completed(data)) == len(data) - virtio.HEADER_LENGTH


def _upper(data: bytes) -> None:
    packet = ipv6.pack_header(bytes(16), bytes(16), data[0] if data else 0, max(0, len(data) - 1)) + data[1:]
    upper = ipv6.find_upper_layer(packet)
    assert ipv6.HEADER_LENGTH <= upper.offset <= len(packet)


def _options(data: bytes) -> None:
    known = [option for option in ipv6.parse_options(data) if option.type > 1]
    again = [option for option in ipv6.parse_options(ipv6.pack_options(known)) if option.type > 1]
    assert [(option.type, bytes(option.data)) for option in again] == [(o.type, bytes(o.data)) for o in known]


TARGETS: tuple[tuple[str, Callable[[bytes], None]], ...] = (
    ("ipv6", _method(ipv6.Ipv6Header)),
    ("hop-by-hop", _method(ipv6.HopByHop)),
    ("routing", _method(ipv6.Routing)),
    ("fragment", _method(ipv6.Fragment)),
    ("options", _options),
    ("chain", _upper),
    ("icmpv6", _icmp),
    ("nd", _typed(nd.parse)),
    ("mld", _typed(mld.parse)),
    ("tcp", _tcp),
    ("udp", _udp),
    ("virtio", _virtio),
    ("ethernet", _method(ethernet.EthernetHeader)),
)


def one_input(data: bytes) -> None:
    """The first byte chooses the codec, all others are its input."""
    script = Script(data)
    _, target = TARGETS[script.byte() % len(TARGETS)]
    try:
        target(script.rest())
    except WireError:
        pass
