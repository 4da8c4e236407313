"""What a person sees while the demo runs: each address from UNCERTAIN over PREFERRED to its end, and the connections on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tapstack.events import AddressChanged, ConnectionChanged, Event, ListenerChanged
from unimux.node import Node

STATE_COLOURS = {"TENTATIVE": "yellow", "UNCERTAIN": "cyan", "PREFERRED": "green", "DEPRECATED": "magenta"}
_ORDER = ("TENTATIVE", "UNCERTAIN", "PREFERRED", "DEPRECATED")


@dataclass(slots=True)
class _Life:
    """One address as far as it has come."""

    states: list[tuple[str, float]] = field(default_factory=list)
    connection: list[str] = field(default_factory=list)
    peer: str = ""


class LiveView:
    """Prints a line for every address that was used, when it is gone; on a terminal also a status line that moves.

    `watch(name, node)` follows a node while its block runs.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lives: dict[str, _Life] = {}
        self._connections: dict[tuple[str, int], str] = {}
        self._live: Live | None = None
        self._latest = ""

    def __enter__(self) -> LiveView:
        if self._console.is_terminal:
            self._live = Live(self._status(), console=self._console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """One line of the story."""
        self._console.print(
            text, markup=False, highlight=False, style=None if text.startswith(" ") else "bold", soft_wrap=True
        )

    @contextmanager
    def watch(self, name: str, node: Node) -> Iterator[None]:
        """Follow a node's events."""
        unwatch = node.watch(lambda event: self._see(name, event))
        try:
            yield
        finally:
            unwatch()

    def _see(self, name: str, event: Event) -> None:
        if isinstance(event, AddressChanged):
            self._see_address(name, event)
        elif isinstance(event, ConnectionChanged):
            self._see_connection(name, event)
        elif isinstance(event, ListenerChanged):
            self._latest = f"{name}: {event.text()}"
        if self._live is not None:
            self._live.update(self._status())

    def _see_address(self, name: str, event: AddressChanged) -> None:
        life = self._lives.setdefault(event.address, _Life())
        life.states.append((event.new, event.time))
        self._latest = f"{name}: {event.address} {event.old} → {event.new}"
        if event.new in ("INVALID", "DUPLICATED"):
            del self._lives[event.address]
            if any(state == "PREFERRED" for state, _ in life.states) and event.kind in ("ephemeral", "service"):
                self._tell(name, event, life)

    def _see_connection(self, name: str, event: ConnectionChanged) -> None:
        life = self._lives.get(event.local)
        if life is not None:
            life.connection.append(event.new)
            life.peer = f"{event.mode} with {event.remote}"

    def _tell(self, name: str, event: AddressChanged, life: _Life) -> None:
        line = Text("   ")
        line.append(f"{name:5} ", style="dim")
        line.append(f"{event.address:40} ")
        for (state, begin), (_, end) in zip(life.states, [*life.states[1:], ("", event.time)], strict=True):
            if state in STATE_COLOURS and end > begin:
                line.append(f"{state} {end - begin:.2f} s", style=STATE_COLOURS[state])
                line.append(" → ", style="dim")
        line.append("gone", style="dim")
        path = [state for state in life.connection if state not in ("CLOSED", "SYN-SENT", "SYN-RECEIVED")]
        if path:
            line.append(f"   {life.peer}: {' → '.join(path)}", style="dim")
        self._console.print(line, soft_wrap=True)

    def _status(self) -> Text:
        counts = Counter(life.states[-1][0] for life in self._lives.values() if life.states)
        line = Text(" addresses: ")
        for state in _ORDER:
            line.append(f"{counts[state]} {state}  ", style=STATE_COLOURS[state])
        line.append(self._latest[: max(0, self._console.width - len(line.plain) - 4)], style="dim")
        return line
