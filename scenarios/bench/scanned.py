"""P-18: what the node still does for its own while its /64 is scanned, from on-link and from off-link (RFC 6583)."""

from __future__ import annotations

import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from compat.programs.errors import ProgramFailed
from compat.programs.process import run_in
from tapstack.types import address_text
from unimux.node import Node

from .connections import connections
from .figures import Figure, Goal, figure
from .rig import ADDRESS, DEDICATED, ON_LINK, PORT, Helper, Rig, rig, rss
from .setting import MIB, Setting, take_turns

RATE = 3_000
"""Frames per second of the scan."""
_SCANNER = Path(__file__).with_name("scanner.py")


def scanned(setting: Setting) -> list[Figure]:
    """P-18: connections while the prefix is scanned; the baseline is the same without a scan."""
    return setting.run(_scanned(setting))


async def _scanned(setting: Setting) -> list[Figure]:
    count = setting.many(1_500, 20)
    paces: dict[str, list[float]] = {"on-link": [], "off-link": []}
    lost = dict.fromkeys(paces, 0)
    with rig() as net:
        async with net.node(time_wait=setting.time_wait) as node, net.helper(net.peer, "echo", ADDRESS, PORT):

            async def quietly() -> float:
                return (await connections(node, count, 4)).rate  # a baseline that lost some would be easier to reach

            async def under(kind: str) -> float:
                async with _scan(net, node, kind) as helper:
                    series = await connections(node, count, 4, may_fail=True)
                    helper.finish()
                    facts = await helper.line()
                lost[kind] += series.failed
                paces[kind].append(facts["sent"] / facts["seconds"])
                return series.rate

            await connections(node, min(count, 50), 1)
            before = rss()
            quiet, near, far = await take_turns(
                setting.repeats, quietly, lambda: under("on-link"), lambda: under("off-link")
            )
            grown = (rss() - before) / MIB
            neighbours, bound = len(node.stack.host.neighbors), node.config.host.neighbors
    figures, option = [], f"TIME-WAIT {setting.time_wait}"
    for kind, values in (("on-link", near), ("off-link", far)):
        of = f"while the /64 is scanned {kind}, {option}; baseline without a scan"
        figures.append(
            figure("P-18", f"connections per second {of}", "1/s", values, quiet, Goal(at_least=0.5, of_ratio=True))
        )
        figures.append(
            figure(
                "P-18", f"connections that failed meanwhile, {kind}, {option}", "", [lost[kind]], goal=Goal(at_most=0)
            )
        )
        figures.append(figure("P-18", f"pace of the {kind} scan, {option}", "frames/s", paces[kind]))
    figures.append(
        figure("P-18", f"neighbour cache afterwards, {option}", "entries", [neighbours], goal=Goal(at_most=bound))
    )
    figures.append(figure("P-18", f"growth of memory meanwhile, {option}", "MiB", [grown], goal=Goal(at_most=32)))
    return figures


@asynccontextmanager
async def _scan(net: Rig, node: Node, kind: str) -> AsyncIterator[Helper]:
    """The scanner, on the peer's end of the node's link, at work while the block runs."""
    mac, local = node.link.properties.mac, node.stack.host.link_local
    assert mac is not None and local is not None
    prefix = ON_LINK if kind == "on-link" else DEDICATED
    argv = [sys.executable, "-I", "-S", str(_SCANNER), "node", kind, str(RATE), mac.hex(), address_text(local), prefix]
    async with run_in(net.peer, argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, grace=0.2) as process:
        helper = Helper(process)
        if not (await helper.line()).get("begun"):
            raise ProgramFailed("the scanner did not begin.")
        yield helper
