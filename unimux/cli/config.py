"""Effective settings and where each of them comes from."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from unimux.cli import settings

PIPE_WIDTH = 1000
"""Columns where no terminal says how many there are."""

app = typer.Typer()


@app.callback()
def group() -> None:
    """Effective settings and where each of them comes from."""


@app.command()
def show(
    json: Annotated[bool, typer.Option("--json", help="Print one array of objects for programs.")] = False,
) -> None:
    """Print every setting with its value and its origin: a flag, a variable, the file or the default.  Passwords are left out."""
    import msgspec

    configuration = settings.Configuration.here()
    effective = list(settings.show(configuration, settings.registered()))
    if json:
        rows = [
            {"table": s.table, "key": s.key, "value": s.shown, "origin": s.origin, "meaning": s.meaning}
            for s in effective
        ]
        sys.stdout.write(msgspec.json.encode(rows, enc_hook=str).decode() + "\n")
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("setting", "value", "origin", "meaning"):
        table.add_column(heading, overflow="fold")
    for s in effective:
        origin = f"[dim]{s.origin}[/dim]" if s.origin == settings.DEFAULT else escape(s.origin)
        table.add_row(f"{s.table}.{s.key}", escape(_text(s.shown)), origin, escape(s.meaning))
    console = Console()
    if not console.is_terminal:  # a program that looks for a name wants it in one line
        console = Console(width=PIPE_WIDTH)
    console.print(table)
    console.print(f"file: {configuration.path or 'none'}", style="dim", markup=False)


def _text(value: object) -> str:
    """A value as it would be written in the environment."""
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(str(part) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
