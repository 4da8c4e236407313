"""Live view of a running node: addresses by state, pool, rates, drops, its connections, and which SSAs are armed."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def top(
    process: Annotated[
        str | None, typer.Argument(help="Process of the node.", show_default="the only one that runs")
    ] = None,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 1.0,
    json: Annotated[bool, typer.Option("--json", help="Print one snapshot as an object and end.")] = False,
) -> None:
    """Show what a running node does: addresses by state, pool, rates, drops, connections with their modes.

    Keys: q ends, p pauses, s sorts by another column, d shows all drops, a the armed SSAs: for whom and until when.

    Without a terminal one look is printed as text.
    """
    import msgspec

    from unimux.status import ask, choose

    path = choose(process)
    if json:
        typer.echo(msgspec.json.encode(ask(path)).decode())
        return
    if not sys.stdout.isatty():
        from unimux.cli.topview import as_text

        typer.echo(as_text(ask(path)))
        return
    from unimux.cli.topapp import TopApp

    app = TopApp(lambda rows: ask(path, rows), interval)
    app.run()
    if app.failure is not None:
        raise app.failure
