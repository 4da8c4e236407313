"""The limits are said where users will read them (UM-NODE-5), and what is named as their measure exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scenarios.engine.definition import load

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
ITEMS = [" ".join(item.split()) for item in re.split(r"^- |^#.*$", PAGE, flags=re.MULTILINE)]

LIMITS = {
    "the prefix still identifies the site": r"prefix still names the site.*lower 64 bits.*network it belongs to",
    "hiding is from observers off the path only": r"hide from observers who are off the path.*on the path.*on the same link",
    "an on-link router is an oracle (UM-REL-3)": r"router can be asked.*address unreachable.*cannot close",
    "the cost in a router's neighbour cache": r"neighbour cache.*Linux router holds 1,024 entries.*all its interfaces",
    "ports that change break firewalls and equal-cost paths": r"Ports that change in mid-connection.*firewall.*equal-cost path",
    "programs that tell their own address": r"tell their peer an address.*Active FTP, SIP.*unless it asks for a service address",
    "peers of a crashed node (UM-REL-4)": r"After a crash, silence.*never uses their addresses again.*own time-outs",
    "sharp TIME-WAIT (UM-REL-2)": r"`sharp` TIME-WAIT strands peers.*LAST-ACK",
}


@pytest.mark.proves("UM-NODE-5", by="api")
@pytest.mark.parametrize("limit", LIMITS)
def test_each_known_limit_is_an_item_of_the_page(limit: str) -> None:
    assert sum(re.search(LIMITS[limit], item) is not None for item in ITEMS) == 1


@pytest.mark.proves("UM-NODE-5", by="api")
@pytest.mark.parametrize("page", ["README.md", "docs/unified-multiplex.md"])
def test_users_are_led_to_it(page: str) -> None:
    assert re.search(r"\[[^\]]+\]\((docs/)?limits\.md\)", (ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.proves("UM-NODE-5", by="api")
@pytest.mark.parametrize("name", sorted(set(re.findall(r"\(`([a-z-]+)`\)", PAGE))))
def test_the_scenario_that_measures_it_exists(name: str) -> None:
    assert load(name).name == name


@pytest.mark.proves("UM-NODE-5", by="api")
def test_most_limits_can_be_measured() -> None:
    named = set(re.findall(r"\(`([a-z-]+)`\)", PAGE))
    assert {"scan", "linkability", "neighbor-cost", "rebinding", "pool-exhaustion", "time-wait"} <= named
