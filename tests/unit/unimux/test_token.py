"""Tokens: what is written can be read, what cannot be read is said in a sentence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapstack.tcp.options import PortMode
from unimux.ssa.token import Token, TokenError

ADDRESS = IPv6Address("2001:db8::1")
FULL = "unimux://[2001:db8::1]:443/files?until=2026-03-01T12:00:00Z&sessions=2&mode=L1"

tokens = st.builds(
    Token,
    address=st.integers(1, (0xFF << 120) - 1).map(IPv6Address),
    port=st.none() | st.integers(1, 65535),
    service=st.none() | st.text(st.characters(codec="utf-8"), min_size=1, max_size=30),
    until=st.none() | st.datetimes(timezones=st.just(UTC)),
    sessions=st.none() | st.integers(1, 999_999_999),
    mode=st.none() | st.sampled_from(PortMode),
)


@pytest.mark.proves("UM-SSA-1", by="api")
@given(tokens)
def test_what_is_written_can_be_read(token: Token) -> None:
    assert Token.parse(str(token)) == token
    assert str(token).isascii()


@given(st.text(max_size=200) | st.text(max_size=60).map(lambda tail: "unimux://[2001:db8::1]" + tail))
def test_any_text_is_a_token_or_a_sentence(text: str) -> None:
    token = sentence = None
    try:
        token = Token.parse(text)
    except TokenError as error:
        sentence = str(error)
    if token is None:
        assert sentence is not None
        assert sentence.endswith(".")
    else:
        assert Token.parse(str(token)) == token


@pytest.mark.proves("UM-SSA-1", by="api")
def test_every_part_is_read() -> None:
    until = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert Token.parse(FULL) == Token(ADDRESS, 443, "files", until, 2, PortMode.L1)
    assert str(Token.parse(FULL)) == FULL


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2001:db8::1", Token(ADDRESS)),
        ("  2001:DB8:0::1\n", Token(ADDRESS)),
        ("[2001:db8::1]", Token(ADDRESS)),
        ("[2001:db8::1]:80", Token(ADDRESS, 80)),
        ("UNIMUX://[2001:db8::1]", Token(ADDRESS)),
        ("unimux://[2001:db8::1]/", Token(ADDRESS)),
        ("unimux://[2001:db8::1]/a%2Fb", Token(ADDRESS, service="a/b")),
        ("unimux://[2001:db8::1]?colour=blue&sessions=3", Token(ADDRESS, sessions=3)),
        ("unimux://[2001:db8::1]?until=2026-03-01T13:00:00%2B01:00",
         Token(ADDRESS, until=datetime(2026, 3, 1, 12, tzinfo=UTC))),
        ("unimux://[2001:db8::1]?mode=aware", Token(ADDRESS, mode=PortMode.AWARE)),
    ],
)  # fmt: skip
def test_forms_that_are_read_too(text: str, expected: Token) -> None:
    assert Token.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no IPv6 address"),
        ("192.0.2.1", "'192.0.2.1' is no IPv6 address"),
        ("example.org", "is no IPv6 address"),
        ("https://[2001:db8::1]/", "begins with https://, not unimux://"),
        ("unimux://2001:db8::1/", "needs an IPv6 address in brackets"),
        ("unimux://user@[2001:db8::1]/", "needs an IPv6 address in brackets"),
        ("unimux://[192.0.2.1]/", "is not a token"),
        ("unimux://[2001:db8::1", "is not a token"),
        ("unimux://[2001:db8::1]x", "is not a token"),
        ("unimux://[2001:db8::1]:0", "0 is not a port"),
        ("unimux://[2001:db8::1]:65536", "65536 is not a port"),
        ("unimux://[2001:db8::1]:99999999999", "is not a port"),
        ("unimux://[ff02::1]", "not an address that a service can have"),
        ("unimux://[::]", "not an address that a service can have"),
        ("fe80::1%eth0", "not an address that a service can have"),
        ("unimux://[2001:db8::1]/a/b", "a / in its name"),
        ("unimux://[2001:db8::1]/%ff", "not UTF-8"),
        ("unimux://[2001:db8::1]/a\udcff", "not UTF-8"),
        ("unimux://[2001:db8::1]#x", "a part after #"),
        ("unimux://[2001:db8::1]?sessions=0", "at least 1 session"),
        ("unimux://[2001:db8::1]?sessions=-1", "not a number of sessions"),
        ("unimux://[2001:db8::1]?sessions=1&sessions=2", "a parameter twice"),
        ("unimux://[2001:db8::1]?sessions", "cannot be read"),
        ("unimux://[2001:db8::1]?until=tomorrow", "not a time such as"),
        ("unimux://[2001:db8::1]?until=2026-03-01T12:00:00", "not a time such as"),
        ("unimux://[2001:db8::1]?until=506-03-01T12:00:00Z", "not a time such as"),
        ("unimux://[2001:db8::1]?until=9999-12-31T23:00:00-09:00", "not a time such as"),
        ("unimux://[2001:db8::1]?mode=L3", "not a port mode"),
        ("x" * 3000, "at most 2048 characters, not 3000"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(text: str, message: str) -> None:
    with pytest.raises(TokenError) as caught:
        Token.parse(text)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


def test_expiry_is_by_the_wall_clock() -> None:
    token = Token(ADDRESS, until=datetime(2026, 3, 1, 12, 0, 0, 999, tzinfo=UTC))
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
    assert (token.expired(moment - 0.1), token.expired(moment)) == (False, True)
    assert not Token(ADDRESS).expired(1e12)


def test_times_without_zone_are_refused_and_others_become_utc() -> None:
    with pytest.raises(TokenError, match="no time zone"):
        Token(ADDRESS, until=datetime(2026, 3, 1))
    east = timezone(timedelta(hours=9))
    assert str(Token(ADDRESS, until=datetime(2026, 3, 1, 21, tzinfo=east))).endswith("2026-03-01T12:00:00Z")
    with pytest.raises(TokenError, match="outside the years 1 to 9999 of UTC"):
        Token(ADDRESS, until=datetime(1, 1, 1, 8, tzinfo=east))


def test_a_year_has_four_digits() -> None:
    token = Token(ADDRESS, until=datetime(506, 3, 1, 12, tzinfo=UTC))
    assert str(token).endswith("until=0506-03-01T12:00:00Z")
    assert Token.parse(str(token)) == token
