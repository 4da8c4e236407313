"""An unmodified program in a namespace whose every connection goes over one-time addresses."""

from __future__ import annotations

import json as json_format
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from compat.attachment import NodeSettings
from compat.gateway.gateway import Gateway
from compat.gateway.program import program_path, run_program
from compat.gateway.room import room
from compat.gateway.services import Services
from compat.gateway.sockets import watched_listeners
from compat.publisher import PublishLimits
from compat.publishsettings import LifetimeOption, SessionsOption
from compat.speaker import Speaker
from compat.up import BridgeOption, EventsOption, NetnsOption, PrefixOption, StateOption, node_settings, run_node
from unimux.cli.plugins import for_a_program
from unimux.cli.settings import Configuration
from unimux.node import Node
from unimux.purpose import Purpose
from unimux.ssa.issue import DEFAULT_LIFETIME, check_terms


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The table `[run]` of the settings; times in seconds."""

    user: Annotated[str | None, msgspec.Meta(description="name of the user that the program runs as")] = None
    count: Annotated[int, msgspec.Meta(description="addresses to keep armed for each listening socket", ge=0)] = 1
    sessions: Annotated[
        int | None, msgspec.Meta(description="sessions of one address; without, its first client leases it")
    ] = None
    lifetime: Annotated[float, msgspec.Meta(description="seconds an address waits for its client", gt=0)] = (
        DEFAULT_LIFETIME
    )
    max_sessions: Annotated[int, msgspec.Meta(description="sessions of one listening socket at a time", ge=1)] = (
        PublishLimits().max_sessions
    )

    def check(self) -> None:
        """Raise `IssueError` for terms that no address can be issued on."""
        check_terms(1 if self.sessions is None else self.sessions, self.lifetime)


async def run_here(
    node: Node, argv: list[str], attachment: NodeSettings, settings: RunSettings, *, json: bool = False
) -> int:
    """Run a program on the addresses of a running node; its exit status.  See `run_program`."""

    def tell(event: str, facts: Mapping[str, Any], text: str) -> None:
        speaker.say(json_format.dumps({"event": event, **facts}) if json else f"unimux: {text}", err=True)

    async with AsyncExitStack() as stack:
        speaker = await stack.enter_async_context(Speaker())
        made = stack.enter_context(room(mtu=attachment.mtu, offload=attachment.offload))
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", Path(argv[0]).name).lstrip("_.-")[:40] or "program"
        purpose = Purpose(front_end="run", who=name)
        gateway = Gateway(node, made.link, made.inside, complain=speaker.complain, purpose=purpose)
        await stack.enter_async_context(gateway)
        services = Services(
            gateway,
            name,
            tell,
            speaker.complain,
            count=settings.count,
            sessions=settings.sessions,
            lifetime=settings.lifetime,
            limits=PublishLimits(max_sessions=settings.max_sessions),
        )
        stack.push_async_callback(services.close)
        await stack.enter_async_context(watched_listeners(made.where, services.update, speaker.complain))
        return await run_program(made, argv, user=settings.user)


@for_a_program
def run(
    program: Annotated[list[str], typer.Argument(metavar="-- PROGRAM ARGUMENTS…", help="What to run.")],
    user: Annotated[str | None, typer.Option(help="User that it runs as.", show_default="the one who calls")] = None,
    count: Annotated[
        int | None, typer.Option(help="Addresses to keep armed for each listening socket.", show_default="1")
    ] = None,
    sessions: SessionsOption = None,
    lifetime: LifetimeOption = None,
    bridge: BridgeOption = None,
    prefix: PrefixOption = None,
    netns: NetnsOption = None,
    state: StateOption = None,
    events: EventsOption = None,
    json: Annotated[bool, typer.Option("--json", help="Tell about addresses in objects, one per line.")] = False,
) -> int:
    """Run an unmodified program, client or server, so that each of its connections has an address of its own.

    Its sockets that listen get one-time addresses, which are told on standard error; the exit status is the program's.
    """
    flags = {"user": user, "count": count, "sessions": sessions, "lifetime": lifetime}
    settings = Configuration.here().table("run", RunSettings, flags).value
    settings.check()
    attachment = node_settings(bridge=bridge, prefix=prefix, netns=netns, state=state, events=events)
    program_path(program[0])  # what cannot be run is told before there is a node
    status = 0

    async def work(node: Node) -> None:
        nonlocal status
        status = await run_here(node, program, attachment, settings, json=json)

    return run_node(attachment, work) or status  # a signal before the program ran; later they are the program's
