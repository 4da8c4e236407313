"""Addresses set by a process outside the stack, between real kernels (UM-DAS-3)."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest

from compat.kernel import topology
from compat.programs import complete_in, run_in, web_server
from scenarios.witness.frames import Kind
from tests.real.publish.place import COMMAND, PROGRAMS, Place, radvd

from ..wire import frames, sources

BODY = b"a page" * 1000
ASK = 'printf "GET /file HTTP/1.0\\r\\n\\r\\n" | "$@"'
AGENT = """
import sys
from pathlib import Path
from unimux.agent import serve_needs

def choose(need):
    return f"2001:db8:1:0:a9e:2:7:{need['wanted']:x}"

serve_needs(Path(sys.argv[1]), choose, lambda text: print(text, flush=True))
"""
CHOSEN = "2001:db8:1:0:a9e:2:7:1"


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """Where the agent's socket is to be: its path may have a hundred bytes only."""
    with tempfile.TemporaryDirectory(prefix="um-") as folder:
        yield Path(folder) / "agent.sock"


async def exists(path: Path) -> None:
    """Wait until a file is there."""
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(path.exists):
            await asyncio.sleep(0.05)


@pytest.mark.real(*PROGRAMS, "nginx")
@pytest.mark.proves("UM-DAS-3", "UM-DAS-1", "UM-NODE-1")
def test_an_agent_sets_the_address_and_its_absence_is_an_error_in_time(here: Place, socket_path: Path) -> None:
    capture = here.folder / "router.pcapng"
    command = (*COMMAND, "connect", topology.SERVER_ADDRESS, "80", "--json", "--bridge", here.top.client_bridge.name)
    environment = here.environment(UNIMUX_NODE_DAS_AGENT=str(socket_path))

    async def main() -> None:
        async with (
            radvd(here),
            web_server(here.top.server, here.folder / "www", port=80),
            here.captured(capture),
        ):
            began = time.monotonic()
            alone = await complete_in(here.top.client, (*command, "--timeout", "2"), env=environment)
            assert (alone.code, b"No address was set within" in alone.stderr) == (4, True), alone.stderr
            assert time.monotonic() - began < 30, "an error in time, never a hang"
            argv = ("sh", "-c", ASK, "connect", *command, "--timeout", "20")
            async with run_in(here.top.client, argv, stdout=PIPE, stderr=PIPE, env=environment) as connecting:
                await exists(socket_path)
                async with run_in(
                    here.top.client, (sys.executable, "-c", AGENT, str(socket_path)), stdout=PIPE
                ) as agent:
                    page, said = await asyncio.wait_for(connecting.communicate(), 30)
                    assert agent.stdout is not None
                    told = (await asyncio.wait_for(agent.stdout.read(), 10)).decode()
            assert page.endswith(BODY)
            assert json.loads(said)["local"].startswith(f"[{CHOSEN}]")
            assert [line for line in told.splitlines() if line.startswith("need 1")] == [
                f"need 1: {CHOSEN}",
                "need 1: set",
            ]

    asyncio.run(main())
    (source,) = {address for _, address in sources(frames(capture), Kind.TCP, 80)}
    assert source == CHOSEN, "nothing was sent from any other address, nor before it was set"
    assert IPv6Address(CHOSEN) in IPv6Network(topology.CLIENT_PREFIX)
