"""Multicast Listener Discovery (RFC 3810, RFC 2710)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapstack.types import UNSPECIFIED, address
from tapstack.wire import icmpv6, ipv6, mld
from tapstack.wire.error import WireError
from tests.unit.wire import frames

GROUP = address("ff02::1:ff00:b")
SOURCE = address("2001:db8::1")


def test_a_captured_report() -> None:
    message = icmpv6.parse(frames.MLD_REPORT[62:])
    report = mld.parse(message.type, message.body)
    groups = ["ff02::1:ff00:a", "ff02::1:ff00:0", "ff02::1:ff00:1", "ff05::2", "ff02::2"]
    assert report == mld.ReportV2(
        tuple(mld.Record(mld.RecordType.CHANGE_TO_EXCLUDE, address(group)) for group in groups)
    )
    packed = icmpv6.pack(frames.MLD_REPORT[22:38], frames.MLD_REPORT[38:54], report.TYPE, 0, report.pack())
    assert packed == frames.MLD_REPORT[62:]


def test_the_router_alert_header_is_the_one_that_linux_writes() -> None:
    assert frames.MLD_REPORT[54:62] == mld.ROUTER_ALERT_HEADER
    assert frames.MLD_REPORT[21] == mld.HOP_LIMIT
    assert frames.MLD_REPORT[20] == ipv6.HOP_BY_HOP


# -- queries -------------------------------------------------------------------------------------


def test_a_version_1_query_is_told_by_its_length() -> None:
    query = mld.parse(130, bytes.fromhex("2710" + "0000") + UNSPECIFIED)
    assert query == mld.Query(10_000, version=1)
    assert query.maximum_response_delay == 10.0


def test_the_delay_of_a_version_1_query_is_not_a_floating_point_number() -> None:
    assert mld.Query(0xFFFF, version=1).maximum_response_delay == 65.535


def test_a_version_2_query_with_all_its_fields() -> None:
    body = bytes.fromhex("8123" + "0000") + GROUP + bytes.fromhex("fa" + "81" + "0002") + SOURCE + GROUP
    query = mld.parse(130, body)
    assert query == mld.Query(0x8123, GROUP, 2, True, 2, 0x81, (SOURCE, GROUP))
    assert query.maximum_response_delay == ((0x123 | 0x1000) << 3) / 1000
    assert query.query_interval == 17 << 3
    assert query.pack() == body[:20] + b"\x0a" + body[21:]  # the reserved bits are gone


@pytest.mark.parametrize("length", [*range(20), 21, 22, 23])
def test_a_query_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(WireError):
        mld.Query.parse(bytes(length))


def test_what_follows_the_sources_of_a_query_is_ignored() -> None:
    query = mld.Query(1000, GROUP, sources=(SOURCE,))
    assert mld.Query.parse(query.pack() + b"more") == query


def test_a_query_with_fewer_sources_than_it_says_is_refused() -> None:
    packed = mld.Query(1000, GROUP, sources=(SOURCE, SOURCE)).pack()
    with pytest.raises(WireError, match="2 source addresses"):
        mld.Query.parse(packed[:-1])


# -- the floating-point codes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "milliseconds"),
    [
        (0, 0),
        (32_767, 32_767),
        (0x8000, 32_768),
        (0x8001, 32_776),
        (0x8FFF, 65_528),
        (0x9000, 65_536),
        (0xFFFF, 8_387_584),
    ],
)
def test_response_codes(code: int, milliseconds: int) -> None:
    assert mld.Query(code).maximum_response_delay == milliseconds / 1000
    assert mld.response_code(milliseconds) == code


@pytest.mark.parametrize(
    ("code", "seconds"), [(125, 125), (127, 127), (0x80, 128), (0x8F, 248), (0x90, 256), (0xFF, 31_744)]
)
def test_interval_codes(code: int, seconds: int) -> None:
    assert mld.Query(0, interval_code=code).query_interval == seconds
    assert mld.interval_code(seconds) == code


@given(st.integers(-10, 10_000_000))
def test_a_code_is_the_nearest_below(milliseconds: int) -> None:
    code = mld.response_code(milliseconds)
    delay = round(mld.Query(code).maximum_response_delay * 1000)
    assert delay <= max(milliseconds, 0)
    if code < 0xFFFF:
        assert round(mld.Query(code + 1).maximum_response_delay * 1000) > milliseconds


# -- reports -------------------------------------------------------------------------------------


def test_records_with_sources_and_auxiliary_data() -> None:
    body = (
        bytes.fromhex("0000" + "0002")
        + bytes.fromhex("06" + "02" + "0001")
        + GROUP
        + SOURCE
        + b"auxilary"
        + bytes.fromhex("63" + "00" + "0000")
        + SOURCE
        + b"more"
    )
    report = mld.ReportV2.parse(body)
    assert report.records == (mld.Record(mld.RecordType.BLOCK_OLD_SOURCES, GROUP, (SOURCE,)), mld.Record(0x63, SOURCE))


def test_a_report_that_ends_within_auxiliary_data_is_refused() -> None:
    with pytest.raises(WireError, match="auxiliary"):
        mld.ReportV2.parse(bytes.fromhex("00000001" + "04010000") + GROUP + b"abc")


def test_a_report_that_promises_more_records_is_refused() -> None:
    with pytest.raises(WireError, match="record"):
        mld.ReportV2.parse(bytes.fromhex("0000ffff" + "04000000") + GROUP)


@pytest.mark.parametrize(("kind", "message"), [(131, mld.ReportV1(GROUP)), (132, mld.DoneV1(GROUP))])
def test_version_1_messages(kind: int, message: mld.ReportV1 | mld.DoneV1) -> None:
    assert message.pack() == bytes(4) + GROUP
    assert mld.parse(kind, message.pack()) == message
    assert kind == message.TYPE


def test_other_types_are_not_mld() -> None:
    with pytest.raises(WireError, match="135"):
        mld.parse(135, bytes(40))
