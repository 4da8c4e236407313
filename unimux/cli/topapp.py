"""`unimux top` on a terminal."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.events import Resize
from textual.widgets import DataTable, Footer, Static

from unimux.errors import UnimuxError
from unimux.status import MOST_ROWS, Ask, Snapshot

from .topview import (
    ARMED_HEADINGS,
    HEADINGS,
    SORTS,
    address_lines,
    armed_cells,
    cells,
    connection_lines,
    drop_text,
    drops,
    ordered,
    pool_lines,
    rate_lines,
    rates,
)

_WIDTHS = {"mode": 5, "state": 12, "age": 6, "rtt": 6, "sent": 6, "rcvd": 6}
_WIDTHS |= {"sessions": 8, "until": 6, "opening": 7, "service": 10}
_PADDING, _SCROLL_BAR = 2, 2
_NARROW = 120
"""Below so many columns the boxes stand in two rows, and the table does without the column of the round-trip time."""


class TopApp(App[None]):
    """Asks for a snapshot every `interval` seconds and shows it; ends with `failure` when the node does."""

    CSS = """
    #title { height: 1; background: $primary; color: $text; }
    #boxes { layout: grid; grid-size: 4 1; height: 8; }
    #boxes Static { border: round $primary; padding: 0 1; height: 100%; text-wrap: nowrap; text-overflow: ellipsis; }
    .narrow #boxes { grid-size: 2 2; height: 12; }
    #title, #drops { text-wrap: nowrap; text-overflow: ellipsis; }
    #drops.all { text-wrap: wrap; }
    #drops { height: auto; max-height: 10; padding: 0 1; }
    DataTable { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("p", "pause", "Pause"),
        Binding("s", "sort", "Sort"),
        Binding("d", "drops", "Drops"),
        Binding("a", "armed", "Armed SSAs"),
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
        self._armed = False
        self._sort = next(iter(SORTS))
        self._fitted = 0
        self._address_width = 0
        self.failure: UnimuxError | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        with Container(id="boxes"):
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
        """Fit boxes and columns anew."""
        self.screen.set_class(event.size.width < _NARROW, "narrow")
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

    def action_armed(self) -> None:
        """The addresses that can be connected to in place of the connections, or these again."""
        self._armed = not self._armed
        self._fitted = 0
        self._show()

    def _show(self) -> None:
        now = self._now
        if now is None:
            return
        total = sum(now.connections.values())
        paused = "  PAUSED" if self._paused else ""
        shown = f"{now.armed} armed, the next to expire first" if self._armed else f"by {self._sort}"
        self._put("title", f" unimux {now.process}  {now.what}  {total} connections, {shown}{paused}")
        self._put("addresses", "\n".join(address_lines(now)))
        self._put("pool", "\n".join(pool_lines(now)))
        self._put("rates", "\n".join(rate_lines(self._per_second)))
        self._put("connections", "\n".join(connection_lines(now)))
        if self._all_drops:
            told = "\n".join(f"{n:>9}  {name}" for name, n in drops(now).items()) or "no drops"
        else:
            told = f"drops: {drop_text(now)}"
        self.query_one("#drops").set_class(self._all_drops, "all")
        self._put("drops", told)
        self._show_table(now)

    def _put(self, name: str, text: str) -> None:
        self.query_one(f"#{name}", Static).update(Text(text))

    def _show_table(self, now: Snapshot) -> None:
        table = self.query_one(DataTable)
        narrow = self.size.width < _NARROW
        headings = ARMED_HEADINGS if self._armed else HEADINGS
        left_out = {"rtt", "service"} if narrow else set()
        if self._fitted != self.size.width:
            self._fit(table, [name for name in headings if name not in left_out])
        if self._armed:
            rows = [(str(n), armed_cells(each, self._address_width)) for n, each in enumerate(now.listening)]
        else:
            rows = [(str(row.connection), cells(row, self._address_width)) for row in ordered(now.rows, self._sort)]
        row_of_cursor, above = table.cursor_row, table.scroll_y
        with self.batch_update():
            table.clear()
            for key, texts in rows:
                told = zip(headings, texts, strict=True)
                table.add_row(*(text for name, text in told if name not in left_out), key=key)
            table.move_cursor(row=row_of_cursor, animate=False, scroll=False)
            table.scroll_to(y=above, animate=False)

    def _fit(self, table: DataTable[str], shown: list[str]) -> None:
        """Columns as wide as the screen has room for."""
        self._fitted = self.size.width
        fixed = sum(_WIDTHS.get(name, 0) + _PADDING for name in shown) + _SCROLL_BAR
        self._address_width = max(10, min(47, (self._fitted - fixed) // 2))
        table.clear(columns=True)
        for name in shown:
            table.add_column(name, width=_WIDTHS.get(name, self._address_width))
