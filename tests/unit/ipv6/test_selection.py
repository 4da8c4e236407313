"""Default address selection: the examples of RFC 6724 §10 and its rules one by one."""

from __future__ import annotations

import pytest

from tapstack.ipv6.selection import (
    Candidate,
    choose_source,
    common_prefix_length,
    policy_of,
    scope_of,
    sort_destinations,
)
from tapstack.types import address, address_text


def source(destination: str, *candidates: str | Candidate) -> str | None:
    rows = [row if isinstance(row, Candidate) else Candidate(address(row)) for row in candidates]
    chosen = choose_source(rows, address(destination))
    return address_text(chosen.address) if chosen else None


@pytest.mark.proves("ST-IP6-10", by="api")
@pytest.mark.parametrize(
    ("destination", "candidates", "best"),
    [
        # RFC 6724 §10.1, but for home and temporary addresses
        ("2001:db8:1::1", ["2001:db8:3::1", "fe80::1"], "2001:db8:3::1"),
        ("ff05::1", ["2001:db8:3::1", "fe80::1"], "2001:db8:3::1"),
        ("2001:db8:1::1", ["2001:db8:1::1", "2001:db8:2::1"], "2001:db8:1::1"),  # rule 1
        ("fe80::1", ["fe80::2", "2001:db8:1::1"], "fe80::2"),  # rule 2
        ("2001:db8:1::1", ["2001:db8:1::2", "2001:db8:3::2"], "2001:db8:1::2"),  # rule 8
        (
            "2002:c633:6401::1",
            ["2002:c633:6401::d5e3:7953:13eb:22e8", "2001:db8:1::2"],
            "2002:c633:6401::d5e3:7953:13eb:22e8",
        ),
        ("fd00:2::1", ["fd00:1::1", "2001:db8::1"], "fd00:1::1"),  # rule 6
        ("2001:db8::1", ["fd00:1::1", "2001:dead::1"], "2001:dead::1"),
    ],
)
def test_sources(destination: str, candidates: list[str], best: str) -> None:
    best = address_text(address(best))
    assert source(destination, *candidates) == best
    assert source(destination, *reversed(candidates)) == best


def test_bits_behind_the_prefix_do_not_count_and_of_equals_the_first_is_taken() -> None:
    """RFC 6724 §2.2 and §10.1: the common prefix stops at the length of the source's prefix."""
    near, far = "2001:db8:1:0:d5e3:7953:13eb:22e8", "2001:db8:1::2"
    assert source("2001:db8:1:0:d5e3::1", far, near) == far
    assert source("2001:db8:1:0:d5e3::1", near, far) == near


def test_no_candidate_no_source() -> None:
    assert source("2001:db8::1") is None


@pytest.mark.proves("ST-IP6-10", by="api")
def test_deprecated_addresses_are_avoided_but_not_at_the_cost_of_scope() -> None:
    old = Candidate(address("2001:db8:1::1"), deprecated=True)
    assert source("2001:db8:1::9", old, "2001:db8:2::1") == "2001:db8:2::1"
    assert source("2001:db8:1::9", "fe80::1", old) == "2001:db8:1::1"
    assert source("fe80::9", old, "fe80::1") == "fe80::1"


def test_temporary_addresses_are_preferred() -> None:
    temporary = Candidate(address("2001:db8:2::1"), temporary=True)
    assert source("2001:db8:1::9", "2001:db8:1::1", temporary) == "2001:db8:2::1"


def sources_of(*candidates: str) -> list[Candidate]:
    return [Candidate(address(text)) for text in candidates]


@pytest.mark.proves("ST-IP6-10", by="api")
@pytest.mark.parametrize(
    ("candidates", "destinations"),
    [
        # RFC 6724 §10.2, destinations given worst first
        (["2001:db8:1::2", "fe80::1", "::ffff:169.254.13.78"], ["::ffff:198.51.100.121", "2001:db8:1::1"]),
        (["fe80::1", "::ffff:198.51.100.117"], ["2001:db8:1::1", "::ffff:198.51.100.121"]),
        (["2001:db8:1::2", "fe80::1", "::ffff:10.1.2.4"], ["::ffff:10.1.2.3", "2001:db8:1::1"]),
        (["2001:db8:1::2", "fe80::2"], ["2001:db8:1::1", "fe80::1"]),
        (["2001:db8:1::2", "2001:db8:3f44::2", "fe80::2"], ["2001:db8:3ffe::1", "2001:db8:1::1"]),
        (["2002:c633:6401::2", "fe80::2"], ["2001:db8:1::1", "2002:c633:6401::1"]),
        (["2002:c633:6401::2", "2001:db8:1::2", "fe80::2"], ["2002:c633:6401::1", "2001:db8:1::1"]),
    ],
)
def test_destinations(candidates: list[str], destinations: list[str]) -> None:
    rows = sources_of(*candidates)
    packed = [address(text) for text in destinations]
    # The table of §10.2 keeps IPv4 apart, so each family has its own candidates.
    mapped = bytes(10) + b"\xff\xff"

    def source_for(destination: bytes) -> Candidate | None:
        family = [row for row in rows if (row.address[:12] == mapped) == (destination[:12] == mapped)]
        usable = [row for row in family if not (scope_of(row.address) < scope_of(destination))]
        return choose_source(usable, destination)

    assert sort_destinations(packed, source_for) == packed[::-1]
    assert sort_destinations(packed[::-1], source_for) == packed[::-1]


def test_unreachable_destinations_come_last_and_equals_keep_their_order() -> None:
    one, other = address("2001:db8:1::1"), address("2001:db8:1::1:0")
    chosen = Candidate(address("2001:db8:1::2"))
    assert sort_destinations([one, other], lambda _: chosen) == [one, other]
    assert sort_destinations([other, one], lambda _: chosen) == [other, one]
    assert sort_destinations([one, other], lambda _: chosen, lambda d: d != one) == [other, one]
    assert sort_destinations([one, other], lambda d: None if d == one else chosen) == [other, one]


@pytest.mark.parametrize(
    ("text", "label", "precedence"),
    [
        ("::1", 0, 50),
        ("2001:db8::1", 1, 40),
        ("::ffff:1.2.3.4", 4, 35),
        ("2002::1", 2, 30),
        ("2001::1", 5, 5),
        ("fd00::1", 13, 3),
        ("::1.2.3.4", 3, 1),
        ("fec0::1", 11, 1),
        ("3ffe::1", 12, 1),
    ],
)
def test_the_policy_table(text: str, label: int, precedence: int) -> None:
    row = policy_of(address(text))
    assert (row.label, row.precedence) == (label, precedence)


@pytest.mark.proves("RFC8504-6.1/1", by="api")
@pytest.mark.parametrize(
    ("text", "scope"),
    [("ff02::1", 2), ("ff0e::1", 14), ("fe80::1", 2), ("::1", 2), ("fec0::1", 5), ("2001:db8::1", 14)],
)
def test_scopes(text: str, scope: int) -> None:
    assert scope_of(address(text)) == scope


def test_common_prefix_stops_at_the_prefix_length() -> None:
    same = address("2001:db8::1")
    assert common_prefix_length(same, same) == 64
    assert common_prefix_length(same, address("2001:db8::2"), 128) == 126
    assert common_prefix_length(same, address("3001:db8::1")) == 3
