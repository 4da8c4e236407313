"""A run between network namespaces that is told to end leaves its report and captures, and no namespace, program or change."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from compat.kernel import NETNS_DIR
from compat.kernel.ledger import RUN_DIR
from compat.kernel.owner import Owner
from scenarios.witness.pcapng import PcapngFile
from tests.real.owned import programs

ENDLESS = '''"""Does it end when it is told to?"""

import asyncio

from scenarios.engine import Run, scenario
from unimux.aio import open_connection, start_server


@scenario(backends=("netns",))
async def endless(run: Run) -> None:
    client_lan, server_lan = run.lan("client"), run.lan("server")
    run.router(client_lan, server_lan)
    alice = await run.node("alice", client_lan)
    bob = await run.node("bob", server_lan)

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        run.measure("reached", len(await reader.readexactly(20000)), "bytes")
        run.say("It goes on")
        await asyncio.sleep(3600)

    ssa = await start_server(bob, take).issue()
    reader, writer = await open_connection(alice, ssa.address, None)
    writer.write(bytes(20000))
    await asyncio.sleep(3600)
'''


@pytest.mark.real("dumpcap", "tshark", "radvd")
def test_an_interrupted_run_leaves_its_report_and_nothing_else(artefacts: Path) -> None:
    """By SIGTERM, as from a service manager; what each signal means to the command is told in simulation."""
    script, folder = artefacts / "endless.py", artefacts / "out"
    script.write_text(ENDLESS, encoding="utf-8")
    command = [sys.executable, "-u", "-m", "unimux", "scenario", "run", str(script), "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        said = ""
        while "It goes on" not in said:
            said = process.stdout.readline()
            assert said, f"it ended with {process.wait(60)}"
        owner = Owner.of_pid(process.pid)
        assert owner is not None
        named = f"unimux-{process.pid}-*"
        assert list(NETNS_DIR.glob(named)), "nothing stands that could be left behind: this test has lost its teeth"
        assert programs(owner)
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM, rest
    finally:
        process.kill()
        process.wait()
    assert not list(NETNS_DIR.glob(named))
    assert not list(RUN_DIR.glob(f"{process.pid}-*"))
    assert not programs(owner)
    [measured] = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert (measured["name"], measured["samples"]) == ("reached", [20000.0])
    assert "Interrupted after " in (folder / "report.html").read_text(encoding="utf-8")
    capture = PcapngFile(folder / "wire" / "client.pcapng")
    assert sum(len(frame.data) for frame in capture.frames()) > 20000
    assert not capture.faults
