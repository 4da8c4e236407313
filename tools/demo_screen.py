"""Draws the screen of a demo run as docs/demo.svg: `FORCE_COLOR=1 COLUMNS=132 unimux demo | python tools/demo_screen.py`."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 132
LIVES_SHOWN = 3
"""Lines about single addresses that are kept of each chapter; the rest is counted."""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-ln-z]|\r")
"""Cursor movements of the live line; colours stay."""
_STATUS = re.compile(r" addresses: ")


def shortened(lines: list[str]) -> list[str]:
    """The lines, with long runs of address lines cut."""
    kept: list[str] = []
    run = 0
    for line in [*(_ESCAPES.sub("", line) for line in lines if not _STATUS.search(line)), ""]:
        if "Seen by the programs" in line:
            break
        is_life = "gone" in line and "PREFERRED" in line
        run = run + 1 if is_life else run
        if is_life and run > LIVES_SHOWN:
            continue
        if not is_life and run > LIVES_SHOWN:
            kept.append(f"   … and {run - LIVES_SHOWN} more addresses")
        run = run if is_life else 0
        kept.append(line)
    return [*(line for line in kept if line.strip()), lines[-1]]


def main() -> None:
    """Read ANSI text from standard input, write the picture."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for line in shortened(sys.stdin.read().splitlines()):
        console.print(Text.from_ansi(line), soft_wrap=False, no_wrap=True, overflow="ellipsis")
    picture = console.export_svg(title="make demo")
    picture = re.sub(
        r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL
    )  # nothing from elsewhere: any monospaced font does
    Path("docs/demo.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
