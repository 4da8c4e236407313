"""The soak's judge finds what grows, and lets be what only varies."""

from __future__ import annotations

import pytest

from tests.soak import MEMORY, SLACK, judge

STEADY = {"memory": 70 << 20, "files": 20, "addresses": 33, "groups": 33, "timers": 3, "pcbs": 0, "tasks": 2}


def test_what_varies_within_its_slack_is_flat() -> None:
    assert judge([{**STEADY, "timers": 3 + number % 4} for number in range(12)]) == []


@pytest.mark.parametrize(("name", "step"), [("memory", MEMORY // 6), *((name, slack) for name, slack in SLACK.items())])
def test_whatever_grows_with_every_round_is_found(name: str, step: int) -> None:
    found = judge([{**STEADY, name: STEADY[name] + number * step} for number in range(12)])
    assert [sentence.split()[0] for sentence in found] == [name]


def test_a_few_rounds_are_no_verdict() -> None:
    with pytest.raises(ValueError, match="too few"):
        judge([STEADY] * 5)
