"""The report folder of a run: a self-contained page, figures as SVG, annotated captures, findings for programs."""

from __future__ import annotations

from .lifetimes_figure import lifetimes_figure
from .render import Report, Section, html, write_report
from .sequence_figure import choose, sequence_figure

__all__ = ["Report", "Section", "choose", "html", "lifetimes_figure", "sequence_figure", "write_report"]
