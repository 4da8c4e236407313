"""Draw who imports whom into docs/imports.svg, from the sources.

    python tools/import_graph.py

A box is a room, in the floor it belongs to; its number is how many files it has.  An arrow is at least one import, also one for
type checking only; it is the thicker the more files import.  A test fails when the picture is stale.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "imports.svg"

FLOORS = (
    ("scenarios", "scenarios.bench", "scenarios.conformance", "scenarios.demo", "scenarios.engine", "scenarios.report",
     "scenarios.witness"),
    ("compat", "compat.gateway", "compat.kernel", "compat.programs", "compat.socks"),
    ("unimux.cli", "unimux", "unimux.ssa"),
    ("tapstack", "tapstack.tcp", "tapstack.udp", "tapstack.ipv6", "tapstack.link"),
    ("tapstack.wire",),
)  # fmt: skip
"""The rooms of each floor, the highest first; files of a deeper folder belong to the room around it."""

COLOURS = ("#e8d5f2", "#d5e3f5", "#d6efd9", "#fbeec9", "#f6d9d3")
_TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto" '
    'markerUnits="userSpaceOnUse"><path d="M0,0 L8,4 L0,8 z" fill="#555"/></marker></defs>'
)
_WIDTH, _ROW, _BOX, _HEIGHT, _MARGIN = 1320, 170, 150, 44, 30


def room_of(module: str) -> str | None:
    """The innermost room that a module (dotted) is in; None for what is not ours."""
    rooms = [room for floor in FLOORS for room in floor if module == room or module.startswith(room + ".")]
    if rooms:
        return max(rooms, key=len)
    top = module.partition(".")[0]
    return top if any(top == room for floor in FLOORS for room in floor) else None


def _modules() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    found = {}
    for package in ("tapstack", "unimux", "compat", "scenarios"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports(name: str, path: Path) -> set[str]:
    """The modules that one module imports, dotted; of `from a import b` both a and a.b."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            found.add(base)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def arrows() -> Counter[tuple[str, str]]:
    """(importing room, imported room) → how many files do so."""
    modules = _modules()
    counted: Counter[tuple[str, str]] = Counter()
    for name, path in modules.items():
        begin = room_of(name)
        assert begin is not None
        ends = {room_of(each) for each in _imports(name, path) if each in modules and path != modules[each]}
        counted.update((begin, end) for end in ends if end is not None and end != begin)
    return counted


def _places() -> dict[str, tuple[float, float]]:
    """The middle of each room's box."""
    places: dict[str, tuple[float, float]] = {}
    for number, floor in enumerate(FLOORS):
        step = (_WIDTH - 2 * _MARGIN - 110) / len(floor)
        for index, room in enumerate(floor):
            places[room] = (_MARGIN + 110 + step * (index + 0.5), _MARGIN + 50 + number * _ROW)
    return places


def _arrow(begin: tuple[float, float], end: tuple[float, float], files: int) -> str:
    """A curve between floors, or an arc above the boxes of one floor."""
    width = min(0.8 + files / 12, 4.0)
    (x1, y1), (x2, y2) = begin, end
    if y1 == y2:
        y1 = y2 = y1 - _HEIGHT / 2
        rise = 14 + abs(x2 - x1) / 26
        shift = 14 if x2 > x1 else -14
        x1, x2, top = x1 + shift, x2 - shift, y1 - rise
        path = f"M{x1:.0f},{y1:.0f} C{x1:.0f},{top:.0f} {x2:.0f},{top:.0f} {x2:.0f},{y2 - 4:.0f}"
    else:
        x2 += max(-50.0, min(50.0, (x1 - x2) / 12))
        y1, y2 = y1 + _HEIGHT / 2, y2 - _HEIGHT / 2 - 4
        bend = (y2 - y1) * 0.5
        path = f"M{x1:.0f},{y1:.0f} C{x1:.0f},{y1 + bend:.0f} {x2:.0f},{y2 - bend:.0f} {x2:.0f},{y2:.0f}"
    return f'<path d="{path}" stroke-width="{width:.1f}" marker-end="url(#tip)"/>'


def drawing() -> str:
    """The picture as the sources are now, as SVG."""
    places, files = _places(), Counter(room_of(name) for name in _modules())
    height = 2 * _MARGIN + (len(FLOORS) - 1) * _ROW + 100
    out = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
            'font-family="Helvetica, Arial, sans-serif" font-size="12">'
        ),
        "<title>Who imports whom</title>",
        _TIP,
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    names = ("scenarios", "compat", "unimux", "tapstack", "wire")
    for number, (name, colour) in enumerate(zip(names, COLOURS, strict=True)):
        top = _MARGIN + number * _ROW
        out.append(
            f'<rect x="{_MARGIN / 2}" y="{top}" width="{_WIDTH - _MARGIN}" height="100" rx="8" '
            f'fill="{colour}" opacity="0.45"/>'
        )
        out.append(f'<text x="{_MARGIN}" y="{top + 55}" font-weight="bold">{name}</text>')
    out.append('<g fill="none" stroke="#555" stroke-opacity="0.65">')
    out += [_arrow(places[begin], places[end], count) for (begin, end), count in sorted(arrows().items())]
    out.append("</g>")
    for floor, colour in zip(FLOORS, COLOURS, strict=True):
        for room in floor:
            x, y = places[room]
            out.append(
                f'<rect x="{x - _BOX / 2:.0f}" y="{y - _HEIGHT / 2:.0f}" width="{_BOX}" height="{_HEIGHT}" rx="6" '
                f'fill="{colour}" stroke="#444"/>'
                f'<text x="{x:.0f}" y="{y - 2:.0f}" text-anchor="middle">{room}</text>'
                f'<text x="{x:.0f}" y="{y + 14:.0f}" text-anchor="middle" font-size="11" fill="#555">'
                f"{files[room]} files</text>"
            )
    return "\n".join([*out, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(drawing(), encoding="utf-8")
    print(f"{PICTURE.relative_to(ROOT)}: {len(arrows())} arrows between {sum(map(len, FLOORS))} rooms")
