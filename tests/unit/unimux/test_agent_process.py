"""An agent in a process of its own sets the addresses of a node, over the documented socket (UM-DAS-3)."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from tapstack.ipv6.addresses import AddressKind
from tests.unit.unimux.lan import PREFIX, Hello, eventually, lan
from unimux.agent import AgentGone, random_address, serve_needs
from unimux.aio import open_connection
from unimux.das import AddressNotSet
from unimux.dasocket import AT_ONCE, AgentSocket
from unimux.errors import SetupError
from unimux.node import Node

NETWORK = IPv6Network(f"{PREFIX}/64")

STUBBORN = f"""
import json, socket, sys
node = socket.socket(socket.AF_UNIX)
node.connect(sys.argv[1])
tried = iter({["2001:db8:99::1", "2001:db8:1::7777", "nonsense", "2001:db8:1::abcd"]!r})
for line in node.makefile("rb"):
    message = json.loads(line)
    print(line.decode(), end="", flush=True)
    number = message.get("wanted", message.get("refused"))
    if number is not None:
        node.sendall(json.dumps(dict(set=number, address=next(tried))).encode() + b"\\n")
"""


@asynccontextmanager
async def stage(path: Path) -> AsyncIterator[tuple[Node, Node, AgentSocket]]:
    """A node whose addresses an agent sets, and a peer with a service; real time."""
    async with lan(latency=0.0001) as net:
        alice, bob = await net.node(), await net.node()
        async with AgentSocket(alice, path) as agents:
            yield alice, bob, agents


@asynccontextmanager
async def process(*argv: str) -> AsyncIterator[asyncio.subprocess.Process]:
    running = await asyncio.create_subprocess_exec(sys.executable, *argv, stdout=asyncio.subprocess.PIPE)
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        assert running.stdout is not None
        await running.stdout.read()
        await running.wait()


async def fetch(node: Node, where: IPv6Address, **options: Any) -> tuple[bytes, IPv6Address]:
    reader, writer = await open_connection(node, where, None, **options)
    data = await reader.read()
    writer.close()
    return data, IPv6Address(writer.get_extra_info("sockname")[0])


@pytest.mark.proves("UM-DAS-3", by="api")
def test_the_example_agent_sets_the_address_of_a_connection_and_of_a_service(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"

    async def main() -> None:
        async with (
            stage(path) as (alice, bob, agents),
            process("-m", "unimux", "das-agent", str(path)) as running,
        ):
            await eventually(lambda: agents.agents == 1)
            ssa = await bob.listen(Hello).issue()
            data, source = await fetch(alice, ssa.address, timeout=10)
            assert data == b"hello"
            assert source in NETWORK
            assert alice.source.locate(source.packed) is None, "no generator of the node made it"
            assert source.packed in alice.source.state.claimed
            own = await alice.listen(Hello).issue(timeout=10)
            assert (await fetch(bob, own.address))[0] == b"hello"
            assert running.stdout is not None
            await agents.__aexit__()
            said = (await running.stdout.read()).decode()
            assert await running.wait() == 0, "the agent ends with the node's socket"
            assert f"need 1: {source}" in said
            assert "need 1: set" in said
            await agents.__aenter__()

    asyncio.run(main())


@pytest.mark.proves("UM-DAS-3", by="api")
def test_what_an_agent_supplies_is_tested_and_it_may_try_again(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"

    async def main() -> None:
        async with stage(path) as (alice, bob, agents):
            bob.stack.host.addresses.add(IPv6Address("2001:db8:1::7777").packed, AddressKind.STABLE, bob.now())
            bob.driver.kick()
            ssa = await bob.listen(Hello).issue()
            connecting = asyncio.create_task(fetch(alice, ssa.address, timeout=20))
            await eventually(lambda: len(agents.das.needs) == 1)
            async with process("-c", STUBBORN, str(path)) as running:
                data, source = await connecting
                assert (data, str(source)) == (b"hello", "2001:db8:1::abcd")
                assert running.stdout is not None
                heard = [json.loads(await running.stdout.readline()) for _ in range(6)]
            assert heard[0] == {"prefixes": [str(NETWORK)]}
            assert (heard[1]["wanted"], heard[1]["kind"], heard[1]["destination"]) == (1, "ephemeral", str(ssa.address))
            assert 0 < heard[1]["seconds"] <= 20
            reasons = [each["reason"] for each in heard[2:5]]
            assert reasons[:2] == ["it lies in no prefix of this node", "another node on the link has it"]
            assert "no IPv6 address" in reasons[2]
            assert heard[5] == {"closed": 1, "outcome": "set"}

    asyncio.run(main())


@pytest.mark.proves("UM-DAS-3", by="api")
@pytest.mark.parametrize("agent", ["none", "silent", "dies"])
def test_without_an_answer_it_is_a_time_out_and_never_a_hang(tmp_path: Path, agent: str) -> None:
    path = tmp_path / "agent.sock"
    waits = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)"
    code = {
        "silent": waits + "; [s.recv(4096) for _ in range(99)]",
        "dies": waits + "\nwhile b'wanted' not in s.recv(4096): pass",
    }

    async def main() -> None:
        async with stage(path) as (alice, bob, agents):
            ssa = await bob.listen(Hello).issue()
            loop = asyncio.get_running_loop()
            if agent == "none":
                await attempt(alice, ssa.address, loop)
                return
            async with process("-c", code[agent], str(path)):
                await eventually(lambda: agents.agents == 1)
                await attempt(alice, ssa.address, loop)

    async def attempt(alice: Node, where: IPv6Address, loop: asyncio.AbstractEventLoop) -> None:
        began = loop.time()
        with pytest.raises(AddressNotSet, match="agent that sets addresses is running"):
            await fetch(alice, where, timeout=0.6)
        assert 0.5 < loop.time() - began < 30
        assert isinstance(AddressNotSet(1.0), TimeoutError)

    asyncio.run(main())


@pytest.mark.proves("UM-DAS-3", by="api")
def test_a_refusal_is_the_sockets_error_at_once_and_rubbish_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"

    async def main() -> None:
        async with stage(path) as (alice, _, agents):
            reader, writer = await asyncio.open_unix_connection(str(path))
            assert json.loads(await reader.readline())["prefixes"] == [str(NETWORK)]
            for rubbish in (
                b"\xff\n",
                b"[]\n",
                b'{"set": 1}\n',
                b'{"set": "x", "address": "::1"}\n',
                b'{"hello": 1}\n',
            ):
                writer.write(rubbish)
                assert "error" in json.loads(await reader.readline())
            writer.write(b'{"set": 99, "address": "2001:db8:1::1"}\n')
            assert json.loads(await reader.readline()) == {"closed": 99, "outcome": "nobody waits for it"}
            connecting = asyncio.create_task(fetch(alice, IPv6Address("2001:db8:1::9"), timeout=20))
            assert json.loads(await reader.readline())["wanted"] == 1
            writer.write(b'{"refuse": 1, "reason": "not on Sundays"}\n')
            with pytest.raises(AddressNotSet, match="not on Sundays"):
                await connecting
            writer.write(b"x" * 70_000 + b"\n")
            said = b""
            while line := await reader.readline():
                said += line
            assert b"at most" in said
            await eventually(lambda: agents.agents == 0)
            writer.close()

    asyncio.run(main())


@pytest.mark.proves("UM-DAS-3", by="api")
def test_what_is_wanted_before_there_is_a_prefix_is_answered_when_there_is_one(tmp_path: Path) -> None:
    """A node that has just started hears its router a little later; the agent is told the prefix, and the socket has waited."""
    path = tmp_path / "agent.sock"

    async def main() -> None:
        async with lan(latency=0.0001) as net:
            bob = await net.node()
            ssa = await bob.listen(Hello).issue()
            link = net.switch.connect(bytes([2, 0, 0, 0, 0, 77]))
            async with Node(link) as early, AgentSocket(early, path) as agents:
                connecting = asyncio.create_task(fetch(early, ssa.address, timeout=20))
                async with process("-m", "unimux", "das-agent", str(path)) as running:
                    assert running.stdout is not None
                    assert await running.stdout.readline() == b"agent for the prefixes (none yet)\n"
                    await eventually(lambda: len(agents.das.needs) == 1)
                    assert not connecting.done()
                    early.stack.host.prefix_list.add_static(
                        NETWORK.network_address.packed, 64, autonomous=True, now=0.0
                    )
                    early.pool.start(early.now())
                    early.driver.kick()
                    data, source = await connecting
                    assert (data, source in NETWORK) == (b"hello", True)
                    assert await running.stdout.readline() == f"agent for the prefixes {NETWORK}\n".encode()

    asyncio.run(main())


def test_a_second_node_at_the_same_socket_is_refused_and_a_dead_ones_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"

    async def main() -> None:
        async with stage(path) as (_, bob, _agents):
            with pytest.raises(SetupError, match="is taken"):
                async with AgentSocket(bob, path):
                    pass
        assert not path.exists()
        import socket

        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        async with stage(path) as (_, bob, agents):
            assert agents.agents == 0
            assert path.stat().st_mode & 0o777 == 0o600

    asyncio.run(main())


def test_the_example_chooses_inside_the_prefix_and_says_when_no_node_is_there(tmp_path: Path) -> None:
    chosen = random_address({"prefixes": [str(NETWORK)]})
    assert chosen is not None
    assert IPv6Address(chosen) in NETWORK
    assert random_address({"prefixes": []}) is None
    with pytest.raises(AgentGone, match="No node waits"):
        serve_needs(tmp_path / "missing", lambda need: None, lambda text: None)


CONTRARY = """
import json, socket, sys
node = socket.socket(socket.AF_UNIX)
node.connect(sys.argv[1])
for line in node.makefile("rb"):
    message = json.loads(line)
    number = message.get("wanted", message.get("refused"))
    if number is not None:
        print(line.decode(), end="", flush=True)
        node.sendall(json.dumps(dict(set=number, address="2001:db8:99::1")).encode() + b"\\n")
"""


@pytest.mark.proves("UM-DAS-3", by="api")
def test_an_agent_that_is_wrong_each_time_is_asked_once_a_second(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"

    async def main() -> list[dict[str, Any]]:
        async with stage(path) as (alice, bob, agents), process("-c", CONTRARY, str(path)) as running:
            await eventually(lambda: agents.agents == 1)
            ssa = await bob.listen(Hello).issue()
            with pytest.raises(AddressNotSet):
                await fetch(alice, ssa.address, timeout=2.5)
            running.kill()
            assert running.stdout is not None
            return [json.loads(line) for line in (await running.stdout.read()).splitlines()]

    asked = asyncio.run(main())
    assert [next(iter(message)) for message in asked[:4]] == ["wanted", *["refused"] * 3]
    assert len(asked) <= 1 + AT_ONCE + 2  # two seconds begin within two and a half
