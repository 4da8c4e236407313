"""Draw the life-cycle of an address into docs/address-life-cycle.md, from the tables of the code.

    python tools/life_cycle.py

What stands between the markers of the page is generated from `TRANSITIONS` and `ANSWERS` of `tapstack/ipv6/addresses.py`; a
test fails when it is stale.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tapstack.ipv6.addresses import ANSWERS, TRANSITIONS, AddressState, Answers, Trigger

PAGE = Path(__file__).parents[1] / "docs" / "address-life-cycle.md"

LABELS: dict[Trigger, str] = {
    Trigger.ADD: "add",
    Trigger.ADD_WITHOUT_DAD: "add, dedicated prefix",
    Trigger.ADD_OPTIMISTIC: "add, optimistic",
    Trigger.DAD_PASSED: "DAD passes",
    Trigger.DAD_PASSED_RESERVED: "DAD passes, reserved",
    Trigger.DAD_FAILED: "DAD fails",
    Trigger.TAKE: "take",
    Trigger.DISCARD: "discard",
    Trigger.DEPRECATE: "preferred lifetime over",
    Trigger.REFRESH: "preferred again",
    Trigger.RELEASE: "release",
    Trigger.EXPIRE: "valid lifetime over",
}


def diagram() -> str:
    """The state diagram, in Mermaid."""
    arrows: dict[tuple[AddressState, AddressState], list[str]] = {}
    for (old, trigger), new in TRANSITIONS.items():
        arrows.setdefault((old, new), []).append(LABELS[trigger])
    lines = ["```mermaid", "stateDiagram-v2"]
    for (old, new), labels in arrows.items():
        begin = "[*]" if old is AddressState.INVALID else old.value
        end = "[*]" if new is AddressState.INVALID else new.value
        lines.append(f"    {begin} --> {end}: {' / '.join(labels)}")
    return "\n".join([*lines, "```"])


def answers() -> str:
    """What is answered in which state, as a Markdown table."""
    lines = ["| state | DAD probe (from `::`) | address resolution, NUD | any other packet |", "|---|---|---|---|"]
    for state in AddressState:
        cells = [
            "answered" if ANSWERS[state] & kind else "–" for kind in (Answers.DAD, Answers.RESOLUTION, Answers.TRAFFIC)
        ]
        lines.append(f"| {state.value} | {' | '.join(cells)} |")
    return "\n".join(lines)


def renewed(page: str) -> str:
    """The page with its generated parts as the code has them now."""
    for name, text in (("diagram", diagram()), ("answers", answers())):
        parts = re.split(rf"(?<=<!-- generated: {name} -->\n)(?:.*?)(?=<!-- end -->)", page, flags=re.DOTALL)
        if len(parts) != 2:
            raise ValueError(f"the page has {len(parts) - 1} places for the {name}, not one")
        page = f"{parts[0]}{text}\n{parts[1]}"
    return page


def main() -> int:
    """Rewrite the page; returns the exit status."""
    old = PAGE.read_text(encoding="utf-8")
    new = renewed(old)
    if new != old:
        PAGE.write_text(new, encoding="utf-8")
        print(f"{PAGE.name} is renewed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
