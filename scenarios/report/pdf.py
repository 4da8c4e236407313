"""Figures made of the shapes of `svg.py` as PDF, for papers.

Not a converter for any SVG: it knows rectangles, lines, paths of straight pieces and text, the classes and colours of
`figure.css` as they are for print, and the fills of `palette.py`, which become hatches.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.patheffects import Stroke

from .palette import STYLE

_POINT = 0.75
"""points per pixel"""
_TEXT = 0.9
"""DejaVu Sans, which matplotlib brings along, is wider than the fonts of browsers by about this"""
_HATCHES = {"tentative": "......", "uncertain": "//////", "duplicated": "xxxxx", "preferred": ""}
_SETTINGS: dict[Any, Any] = {"pdf.fonttype": 42, "hatch.linewidth": 0.7, "font.family": "sans-serif"}
_TOKENS = re.compile(r"[A-Za-z]|-?\d+(?:\.\d+)?")


def pdf(svg: str) -> bytes:
    """The PDF of a figure of `svg.figure`; equal figures give equal files."""
    root = ElementTree.fromstring(svg)
    width, height = (float(value) for value in root.attrib["viewBox"].split()[2:])
    variables, classes = _print_style()
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(width * _POINT / 72, height * _POINT / 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.axis("off")
        for place, element in enumerate(root):
            tag = element.tag.rpartition("}")[2]
            if tag in _SHAPES:
                _SHAPES[tag](axes, element, _look(element, tag, variables, classes), place + 1)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return buffer.getvalue()


def _print_style() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The variables as for print, and what each class sets."""
    printed = STYLE.partition("@media print{")[2].partition("}}")[0].partition("{")[2]
    variables = {name.removeprefix("--"): value for name, value in _declarations(printed).items()}
    rules = re.findall(r"\.figure ([.\w-]+)\{([^}]*)\}", STYLE)
    return variables, {name.removeprefix("."): _declarations(text) for name, text in rules}


def _declarations(text: str) -> dict[str, str]:
    return dict(part.split(":", 1) for part in text.split(";") if ":" in part)


def _look(
    element: ElementTree.Element, tag: str, variables: Mapping[str, str], classes: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """What an element looks like: its tag's, its classes' and its own declarations, variables resolved."""
    look: dict[str, str] = {}
    for name in (tag, *element.get("class", "").split()):
        look |= classes.get(name, {})
    if fill := element.get("fill"):
        look["fill"] = fill
    look |= _declarations(element.get("style", ""))
    return {
        key: re.sub(r"var\(--([\w-]+)\)", lambda found: variables[found[1]], value).removesuffix("px")
        for key, value in look.items()
    } | {"paper": variables["paper"], "state": "", **_state(look.get("fill", ""), variables)}


def _state(fill: str, variables: Mapping[str, str]) -> dict[str, str]:
    """A fill by pattern: its state, its ground and its colour."""
    found = re.fullmatch(r"url\(#.*-(\w+)\)", fill)
    if not found:
        return {}
    state = found[1]
    ground = variables.get(f"{state}-ground", variables[state])
    return {"state": state, "fill": ground, "hatch": variables[state]}


def _patch(axes: Axes, patch: Any, look: Mapping[str, str], place: int) -> None:
    fill = look.get("fill", "none" if "stroke" in look else "#000")
    patch.set(facecolor=fill, linewidth=0, zorder=place)
    if _HATCHES.get(look["state"]):
        patch.set(hatch=_HATCHES[look["state"]], edgecolor=look["hatch"])
    elif "stroke" in look:
        patch.set(edgecolor=look["stroke"], linewidth=float(look.get("stroke-width", "1")) * _POINT)
    else:
        patch.set(edgecolor="none")
    axes.add_patch(patch)


def _rect(axes: Axes, element: ElementTree.Element, look: Mapping[str, str], place: int) -> None:
    x, y, width, height = (float(element.attrib[name]) for name in ("x", "y", "width", "height"))
    _patch(axes, Rectangle((x, y), width, height), look, place)


def _path(axes: Axes, element: ElementTree.Element, look: Mapping[str, str], place: int) -> None:
    vertices, codes = _outline(element.attrib["d"])
    _patch(axes, PathPatch(Path(vertices, codes)), look, place)


def _outline(text: str) -> tuple[list[tuple[float, float]], list[Any]]:
    """Vertices and codes of a path of straight pieces.

    >>> _outline("M1 2h3v-1z")[0]
    [(1.0, 2.0), (4.0, 2.0), (4.0, 1.0), (1.0, 2.0)]
    """
    tokens = _TOKENS.findall(text)
    vertices: list[tuple[float, float]] = []
    codes: list[Any] = []
    x = y = 0.0
    begin = (x, y)
    command, at = "", 0
    while at < len(tokens):
        if tokens[at].isalpha():
            command, at = tokens[at], at + 1
        wide = {"M": 2, "L": 2, "H": 1, "V": 1, "Z": 0}[command.upper()]
        values = [float(token) for token in tokens[at : at + wide]]
        at += wide
        base_x, base_y = (x, y) if command.islower() else (0.0, 0.0)
        if command in "Zz":
            x, y = begin
        elif command in "Hh":
            x = base_x + values[0]
        elif command in "Vv":
            y = base_y + values[0]
        else:
            x, y = base_x + values[0], base_y + values[1]
        if command in "Mm":
            begin = (x, y)
        vertices.append((x, y))
        codes.append(Path.MOVETO if command in "Mm" else Path.CLOSEPOLY if command in "Zz" else Path.LINETO)
    return vertices, codes


def _line(axes: Axes, element: ElementTree.Element, look: Mapping[str, str], place: int) -> None:
    x1, y1, x2, y2 = (float(element.attrib[name]) for name in ("x1", "y1", "x2", "y2"))
    dashes: Any = "-"
    if "stroke-dasharray" in look:
        dashes = (0, tuple(float(part) for part in look["stroke-dasharray"].split()))
    width = float(look.get("stroke-width", "1")) * _POINT
    axes.add_line(
        Line2D([x1, x2], [y1, y2], color=look.get("stroke", "#000"), linewidth=width, linestyle=dashes, zorder=place)
    )


def _text(axes: Axes, element: ElementTree.Element, look: Mapping[str, str], place: int) -> None:
    anchor = {"start": "left", "middle": "center", "end": "right"}[element.get("text-anchor", "start")]
    halo = [[Stroke(linewidth=3 * _POINT, foreground=look["paper"])]] if "paint-order" in look else []
    for effects in (*halo, []):  # the halo is an outline; the words themselves stay words, to be selected and searched
        axes.text(
            float(element.attrib["x"]),
            float(element.attrib["y"]),
            (element.text or "").replace("$", r"\$"),
            ha=anchor,
            va="baseline",
            fontsize=float(look.get("font-size", "11")) * _POINT * _TEXT,
            fontfamily="monospace" if "monospace" in look.get("font-family", "") else "sans-serif",
            fontweight="bold" if look.get("font-weight") == "600" else "normal",
            color=look.get("fill", "#000"),
            zorder=place,
            path_effects=effects,
        )


_SHAPES = {"rect": _rect, "path": _path, "line": _line, "text": _text}
