"""The few SVG shapes that the figures are made of, as text with everything escaped.

Figures are drawn by hand rather than by a plotting library: they stay small, their text can be selected and read out, they
follow the reader's light or dark setting, and states differ by pattern as well as by colour.
"""

from __future__ import annotations

from html import escape


def number(value: float) -> str:
    """A coordinate, as short as it can be.

    >>> number(3.0), number(2.345)
    ('3', '2.3')
    """
    return f"{value:.1f}".rstrip("0").rstrip(".")


def attributes(**values: object) -> str:
    """Attributes of one element; `class_` is `class`, other underscores become dashes.

    >>> attributes(class_="a", stroke_width=2, x=1.25)
    ' class="a" stroke-width="2" x="1.2"'
    """
    parts = []
    for key, value in values.items():
        name = key.rstrip("_").replace("_", "-")
        shown = number(value) if isinstance(value, (int, float)) else escape(str(value), quote=True)
        parts.append(f' {name}="{shown}"')
    return "".join(parts)


def rect(x: float, y: float, width: float, height: float, hint: str = "", **more: object) -> str:
    """A rectangle; `hint` is shown by browsers on hover and read out."""
    inside = f"<title>{escape(hint)}</title>" if hint else ""
    return f"<rect{attributes(x=x, y=y, width=max(0.5, width), height=height, **more)}>{inside}</rect>"


def line(x1: float, y1: float, x2: float, y2: float, **more: object) -> str:
    """A straight line."""
    return f"<line{attributes(x1=x1, y1=y1, x2=x2, y2=y2, **more)}/>"


def words(x: float, y: float, content: str, hint: str = "", **more: object) -> str:
    """Text with its baseline at `y`."""
    inside = f"<title>{escape(hint)}</title>" if hint else ""
    return f"<text{attributes(x=x, y=y, **more)}>{escape(content)}{inside}</text>"


def path(d: str, hint: str = "", **more: object) -> str:
    """A path."""
    inside = f"<title>{escape(hint)}</title>" if hint else ""
    return f'<path d="{d}"{attributes(**more)}>{inside}</path>'


def figure(width: float, height: float, title: str, style: str, content: list[str], class_: str = "") -> str:
    """A whole figure, usable inside HTML and as a file of its own."""
    head = attributes(xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {number(width)} {number(height)}", role="img")
    size = attributes(width=width, height=height, class_=f"figure {class_}".strip())
    body = "\n".join(content)
    return f"<svg{head}{size}><title>{escape(title)}</title><style>{style}</style>\n{body}\n</svg>"


def nice_step(span: float, most: int) -> float:
    """A step of 1, 2 or 5 times a power of ten that divides `span` into at most `most` parts.

    >>> nice_step(60, 8), nice_step(2.4, 8)
    (10.0, 0.5)
    """
    step = 10.0**-6
    while True:
        for factor in (1, 2, 5):
            if span / (step * factor) <= most:
                return step * factor
        step *= 10


def seconds(value: float, step: float) -> str:
    """A time on an axis with the decimals that its step needs.

    >>> seconds(1.5, 0.5), seconds(20, 10)
    ('1.5 s', '20 s')
    """
    decimals = 0
    while decimals < 6 and abs(step * 10**decimals - round(step * 10**decimals)) > 1e-9:
        decimals += 1
    return f"{value:.{decimals}f} s"
