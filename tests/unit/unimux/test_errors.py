"""Errors speak to people in one sentence and to programs in types and errno."""

from __future__ import annotations

import errno
import pickle

import pytest

from unimux import errors

SAMPLES: list[errors.UnimuxError] = [
    errors.SetupError("The port is taken: choose another."),
    errors.ConnectRefused("2001:db8::1", 80, "RST received"),
    errors.HostUnreachable("example.org", 443),
    errors.UnusablePeer("localhost", 80),
    errors.NetworkUnreachable("2001:db8::1", 80),
    errors.HopLimitExceeded("2001:db8::1", 80, "reported by 2001:db8::ff"),
    errors.ConnectProhibited("2001:db8::1", 80),
    errors.ConnectTimeout("2001:db8::1", 80, seconds=12.5),
    errors.ConnectTimeout("2001:db8::1", 80, "SYN sent 5 times"),
    errors.PoolExhausted(3.0, 12.345),
    errors.PoolExhausted(3.0),
    errors.NameNotResolved("nowhere.example", "no such name"),
    errors.NoIpv6Address("old.example"),
]


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_message_is_one_sentence_with_a_remedy(error: errors.UnimuxError) -> None:
    text = str(error)
    assert text.endswith(".") and "\n" not in text and "{" not in text
    assert ": " in text, "what happened, a colon, what to do"
    assert not text.startswith("[Errno")


@pytest.mark.parametrize("error", SAMPLES, ids=lambda e: type(e).__name__)
def test_survives_the_way_between_processes(error: errors.UnimuxError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)


@pytest.mark.parametrize(
    ("error", "builtin", "number"),
    [
        (errors.ConnectRefused("h", 1), ConnectionRefusedError, errno.ECONNREFUSED),
        (errors.HostUnreachable("h", 1), OSError, errno.EHOSTUNREACH),
        (errors.UnusablePeer("h", 1), OSError, errno.EADDRNOTAVAIL),
        (errors.NetworkUnreachable("h", 1), OSError, errno.ENETUNREACH),
        (errors.ConnectProhibited("h", 1), PermissionError, errno.EACCES),
        (errors.ConnectTimeout("h", 1), TimeoutError, errno.ETIMEDOUT),
    ],
)
def test_keeps_the_type_and_errno_that_programs_know(error: OSError, builtin: type, number: int) -> None:
    assert isinstance(error, builtin) and isinstance(error, errors.UnimuxError)
    assert error.errno == number


def test_facts_of_the_far_side_cannot_disturb_the_sentence() -> None:
    assert str(errors.HostUnreachable("{evil}", 1)).startswith("{evil}:1 is unreachable")


def test_a_name_without_ipv6_is_a_name_not_resolved() -> None:
    assert isinstance(errors.NoIpv6Address("x"), errors.NameNotResolved)
