"""What must hold of every codec: values survive the wire, and no bytes bring anything but a value or `WireError`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapstack.wire import icmpv6, ipv6, mld, nd
from tapstack.wire.error import WireError
from tests.unit.wire.strategies import CODECS, Codec

every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())


def parsed(codec: Codec, data: bytes) -> Any:
    """The value in `data`; None when the parser refuses it with `WireError`."""
    try:
        return codec.parse(memoryview(data))
    except WireError:
        return None


@every_codec
@given(data=st.data())
def test_a_value_survives_the_wire(codec: Codec, data: st.DataObject) -> None:
    value = data.draw(codec.values)
    packed = codec.pack(value)
    assert codec.parse(memoryview(packed)) == value
    assert codec.parse(packed) == value


@every_codec
@given(data=st.data())
def test_cut_short_at_each_byte_it_is_refused_or_says_no_more_than_is_there(codec: Codec, data: st.DataObject) -> None:
    whole = codec.pack(data.draw(codec.values))
    for end in range(len(whole)):
        value = parsed(codec, whole[:end])
        assert value is None or codec.pack(value) == whole[:end]


@every_codec
@given(data=st.binary(max_size=120))
def test_arbitrary_bytes(codec: Codec, data: bytes) -> None:
    value = parsed(codec, data)
    assert value is None or codec.parse(codec.pack(value)) == value


@every_codec
@given(data=st.data())
def test_a_valid_packet_with_some_bytes_changed(codec: Codec, data: st.DataObject) -> None:
    packet = bytearray(codec.pack(data.draw(codec.values)))
    for at, new in data.draw(st.lists(st.tuples(st.integers(0, len(packet) - 1), st.integers(0, 255)), max_size=4)):
        packet[at] = new
    value = parsed(codec, bytes(packet))
    assert value is None or codec.parse(codec.pack(value)) == value


@every_codec
@given(data=st.data())
def test_a_value_owns_its_bytes(codec: Codec, data: st.DataObject) -> None:
    """A parsed value must not change when the frame buffer it was read from is used again."""
    value = data.draw(codec.values)
    frame = bytearray(codec.pack(value))
    from_frame = codec.parse(memoryview(frame))
    frame[:] = b"\xff" * len(frame)
    assert from_frame == value
    hash(from_frame)


@given(st.integers(0, 255), st.binary(max_size=120))
def test_any_message_type_with_any_body(kind: int, body: bytes) -> None:
    for parse in (nd.parse, mld.parse):
        try:
            message = parse(kind, memoryview(body))
        except WireError:
            continue
        assert kind == message.TYPE


@given(st.binary(max_size=120))
def test_any_icmpv6_message(data: bytes) -> None:
    try:
        message = icmpv6.parse(data)
    except WireError:
        assert len(data) < 4
        return
    assert bytes((message.type, message.code)) + data[2:4] + bytes(message.body) == data
    if message.is_error and len(data) >= 8:
        assert data[8:].startswith(icmpv6.parse_error(message).quoted)
    else:
        with pytest.raises(WireError):
            icmpv6.parse_error(message)


@given(st.integers(0, 255), st.binary(max_size=120))
def test_any_chain_of_extension_headers_ends(next_header: int, rest: bytes) -> None:
    packet = ipv6.pack_header(bytes(16), bytes(16), next_header, len(rest)) + rest
    try:
        upper = ipv6.find_upper_layer(packet)
    except WireError:
        return
    assert 40 <= upper.offset <= len(packet)
    assert packet[upper.named_at] == upper.next_header


@given(st.integers(0, 255), st.binary(max_size=40))
def test_the_length_of_any_extension_header_fits(next_header: int, data: bytes) -> None:
    try:
        length = ipv6.extension_length(next_header, data)
    except WireError:
        return
    assert 8 <= length <= len(data)
