"""`unimux top` on a terminal."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.events import Resize
from textual.widgets import DataTable, Footer, Static

from unimux.errors import UnimuxError
from unimux.status import MOST_ROWS, Ask, Snapshot

from .topview import (
    HEADINGS,
    SORTS,
    address_lines,
    cells,
    connection_lines,
    drop_text,
    drops,
    ordered,
    pool_lines,
    rate_lines,
    rates,
)

_FIXED = 64
"""Columns that a line needs beside its two addresses."""


class TopApp(App[None]):
    """Asks for a snapshot every `interval` seconds and shows it; ends with `failure` when the node does."""

    CSS = """
    Screen { layers: base; }
    #title { height: 1; background: $primary; color: $text; }
    #boxes { height: 8; }
    #boxes Static { border: round $primary; padding: 0 1; width: 1fr; height: 8; }
    #drops { height: auto; max-height: 10; padding: 0 1; }
    DataTable { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("p", "pause", "Pause"),
        Binding("s", "sort", "Sort"),
        Binding("d", "drops", "Drops"),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, ask: Ask, interval: float) -> None:
        super().__init__()
        self._ask = ask
        self._interval = interval
        self._before: Snapshot | None = None
        self._now: Snapshot | None = None
        self._per_second: dict[str, float] = {}
        self._paused = False
        self._all_drops = False
        self._sort = next(iter(SORTS))
        self.failure: UnimuxError | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        with Horizontal(id="boxes"):
            for name in ("addresses", "pool", "rates", "connections"):
                box = Static(id=name)
                box.border_title = name
                yield box
        yield Static(id="drops")
        yield DataTable(id="table", cursor_type="row", zebra_stripes=True)
        yield Footer()

    async def on_mount(self) -> None:
        """Look at once, then every interval."""
        self.query_one(DataTable).focus()
        await self.look()
        self.set_interval(self._interval, self.look)

    async def look(self) -> None:
        """Ask once more and show the answer."""
        if self._paused or self.failure is not None:
            return
        try:
            fresh = await asyncio.to_thread(self._ask, MOST_ROWS)
        except UnimuxError as error:
            self.failure = error
            self.exit()
            return
        self._before, self._now = self._now, fresh
        self._per_second = rates(self._before, fresh)
        self._show()

    def on_resize(self, event: Resize) -> None:
        """Fit the columns anew."""
        self.call_after_refresh(self._show)

    def action_pause(self) -> None:
        """Stop or go on looking."""
        self._paused = not self._paused
        self._show()

    def action_sort(self) -> None:
        """Sort by the next column of `SORTS`."""
        names = list(SORTS)
        self._sort = names[(names.index(self._sort) + 1) % len(names)]
        self._show()

    def action_drops(self) -> None:
        """All drops, one a line, or one line of them."""
        self._all_drops = not self._all_drops
        self._show()

    def _show(self) -> None:
        now = self._now
        if now is None:
            return
        total = sum(now.connections.values())
        paused = "  PAUSED" if self._paused else ""
        self._put("title", f" unimux {now.process}  {now.what}  {total} connections, by {self._sort}{paused}")
        self._put("addresses", "\n".join(address_lines(now)))
        self._put("pool", "\n".join(pool_lines(now)))
        self._put("rates", "\n".join(rate_lines(self._per_second)))
        self._put("connections", "\n".join(connection_lines(now)))
        if self._all_drops:
            told = "\n".join(f"{n:>9}  {name}" for name, n in drops(now).items()) or "no drops"
        else:
            told = f"drops: {drop_text(now)}"
        self._put("drops", told)
        self._show_table(now)

    def _put(self, name: str, text: str) -> None:
        self.query_one(f"#{name}", Static).update(Text(text, no_wrap=name != "drops", overflow="ellipsis"))

    def _show_table(self, now: Snapshot) -> None:
        table = self.query_one(DataTable)
        width = max(14, min(48, (self.size.width - _FIXED) // 2))
        row_of_cursor, left, above = table.cursor_row, table.scroll_x, table.scroll_y
        with self.batch_update():
            table.clear(columns=True)
            for heading in HEADINGS:
                table.add_column(heading)
            for row in ordered(now.rows, self._sort):
                table.add_row(*cells(row, width), key=str(row.connection))
            table.move_cursor(row=row_of_cursor, animate=False, scroll=False)
            table.scroll_to(left, above, animate=False)
