"""Colours and patterns of the figures.

The hues are those of Okabe and Ito, which readers with any common colour vision tell apart; beside its hue each state
has a pattern of its own (dots, stripes, solid, crosses), so the figures also hold in grey and on paper.
"""

from __future__ import annotations

from importlib import resources

STYLE = (resources.files(__package__) / "figure.css").read_text(encoding="utf-8").replace("\n", "")
"""What every figure carries inside, so that it stands alone: colours for light, dark and paper."""

STATES = ("TENTATIVE", "UNCERTAIN", "PREFERRED", "DUPLICATED")


def patterns(prefix: str) -> str:
    """The definitions of the fills, with ids of their own so that several figures can stand on one page."""
    return (
        "<defs>"
        f'<pattern id="{prefix}-tentative" width="5" height="5" patternUnits="userSpaceOnUse">'
        '<rect width="5" height="5" style="fill:var(--tentative-ground)"/>'
        '<circle cx="1.6" cy="1.6" r="1.1" style="fill:var(--tentative)"/></pattern>'
        f'<pattern id="{prefix}-uncertain" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="6" height="6" style="fill:var(--uncertain-ground)"/>'
        '<rect width="2" height="6" style="fill:var(--uncertain)"/></pattern>'
        f'<pattern id="{prefix}-duplicated" width="7" height="7" patternUnits="userSpaceOnUse">'
        '<rect width="7" height="7" style="fill:var(--duplicated-ground)"/>'
        '<path d="M0 0 7 7M7 0 0 7" style="stroke:var(--duplicated);stroke-width:1.4"/></pattern>'
        f'<pattern id="{prefix}-preferred" width="8" height="8" patternUnits="userSpaceOnUse">'
        '<rect width="8" height="8" style="fill:var(--preferred)"/></pattern>'
        "</defs>"
    )


def fill(prefix: str, state: str) -> str:
    """The fill attribute of a state."""
    return f"url(#{prefix}-{state.lower()})"
