"""A unified node on a TAP until stopped: bridged to a link, or with a routed prefix of its own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Annotated, Any

import msgspec
import typer

from tapstack.events import Event
from tapstack.garbage import settled
from tapstack.link.errors import LinkLost
from unimux.cli.settings import Configuration
from unimux.errors import NodeStopped
from unimux.node import Node

from .attachment import NodeSettings, attached_node
from .speaker import Speaker

BridgeOption = Annotated[
    str | None, typer.Option(help="Bridge that the node's TAP becomes a port of.", show_default=False)
]
PrefixOption = Annotated[
    str | None, typer.Option(help="Prefix to route to the node, in place of a bridge.", show_default=False)
]
NetnsOption = Annotated[
    str | None, typer.Option(help="Network namespace of the bridge or route, by name.", show_default=False)
]
StateOption = Annotated[
    str | None, typer.Option(help="Folder of keys and counters; without, every start has new keys.", show_default=False)
]
EventsOption = Annotated[str | None, typer.Option(help="File to write events to as JSON lines.", show_default=False)]

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a node in order; SIGHUP is that its terminal has gone."""


def node_settings(**flags: Any) -> NodeSettings:
    """The effective settings of the node, flags first; a flag for one of bridge and prefix takes the other's place."""
    value = Configuration.here().table("node", NodeSettings, flags).value
    given = [name for name in ("bridge", "prefix") if flags.get(name) is not None]
    if given == ["bridge"]:
        return msgspec.structs.replace(value, prefix=None)
    if given == ["prefix"]:
        return msgspec.structs.replace(value, bridge=None)
    return value


def cancel_on(
    numbers: Iterable[signal.Signals], task: asyncio.Task[None], note: Callable[[signal.Signals], None]
) -> None:
    """Let each of the signals cancel `task`, after `note`; SIGHUP not where it is ignored, as by nohup."""

    def end(number: signal.Signals) -> None:
        note(number)
        task.cancel()

    for number in numbers:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, end, number)


def run_node(settings: NodeSettings, work: Callable[[Node], Awaitable[None]]) -> int:
    """Attach a node, do `work` with it, and undo everything; SIGINT, SIGTERM and SIGHUP end it in order.

    0 where the work was done, 128 and the signal's number where that came first: a status for a command that has work to end.
    """
    status, done = 0, False
    lost: LinkLost | None = None

    async def main() -> None:
        nonlocal done, lost
        task = asyncio.current_task()
        assert task is not None

        def note(number: signal.Signals) -> None:
            nonlocal status
            status = 0 if done else 128 + number

        cancel_on(ENDING, task, note)
        with suppress(asyncio.CancelledError):
            async with attached_node(settings) as node, asyncio.TaskGroup() as group:
                watching = group.create_task(node.failed())
                try:
                    with settled():
                        await work(node)
                        done = True
                finally:
                    lost = node.failure
                watching.cancel()

    try:
        asyncio.run(main())
    except BaseExceptionGroup as failed:  # of the link as of the work: a sentence is told for what went wrong first
        first: BaseException = failed  # not `except*`, which wraps what it raises in a group again before Python 3.11.4
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, NodeStopped) and lost is not None:
            first = lost  # it is why the node has stopped
        raise first from first.__cause__
    return status


def run_service(settings: NodeSettings, work: Callable[[Node, Callable[[], None]], Awaitable[None]]) -> int:
    """As `run_node` for work that serves until it is stopped: 0 once it has called its second argument, to say that it does."""
    begun = False

    def begin() -> None:
        nonlocal begun
        begun = True

    status = run_node(settings, lambda node: work(node, begin))
    return 0 if begun else status


def up(
    bridge: BridgeOption = None,
    prefix: PrefixOption = None,
    netns: NetnsOption = None,
    state: StateOption = None,
    events: EventsOption = None,
) -> int:
    """Run a node on a TAP until stopped; print what its addresses do."""
    settings = node_settings(bridge=bridge, prefix=prefix, netns=netns, state=state, events=events)

    async def work(node: Node, begin: Callable[[], None]) -> None:
        async with Speaker() as speaker:
            begin()
            await tell_events(node, speaker)

    return run_service(settings, work)


async def tell_events(node: Node, speaker: Speaker) -> None:
    """Say what happens to a node, until cancelled; raises the OSError by which the speaker tells that nobody reads any more."""

    def seen(event: Event) -> None:
        with suppress(OSError):  # which ends this soon
            speaker.say(f"{event.time:12.3f}  {event.text()}")

    unwatch = node.watch(seen)
    try:
        await speaker.failed()
    finally:
        unwatch()
