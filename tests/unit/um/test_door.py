"""The door for further deliveries: a registrar in a few lines, with nothing but the public interface (unified-multiplex §8).

Signalling (UM-SSA-4) is not built (tests/later.toml).  What it needs is an SSA for an identity, told only when it is armed, to
connect to it, and to learn that the pair was born and has died.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from tapstack.events import AddressChanged, ConnectionChanged, Event
from tests.unit.unimux.lan import lan, virtual
from unimux.aio import open_connection, start_server
from unimux.node import Node
from unimux.purpose import AddressAssigned, Purpose
from unimux.server import Server
from unimux.ssa.issue import ServiceAddress


@dataclass(frozen=True)
class Request:
    """What a client sends to a registrar: who it is and what it wants."""

    identity: str
    service: str


class Registrar:
    """Carries requests to nodes and answers back; it knows identities, and which service is where."""

    def __init__(self, allowed: dict[str, set[str]]) -> None:
        self._allowed = allowed
        self._services: dict[str, Server] = {}

    def register(self, name: str, server: Server) -> None:
        """A node offers a service."""
        self._services[name] = server

    async def ask(self, request: Request) -> ServiceAddress | None:
        """An SSA for an identity that may use the service; None for anybody else."""
        if request.identity not in self._allowed.get(request.service, set()):
            return None
        return await self._services[request.service].issue(lifetime=30, front_end="registrar", who=request.identity)


@pytest.mark.proves("UM-SSA-4", by="api")
def test_a_registrar_needs_no_more_than_there_is() -> None:
    seen: list[Event] = []

    async def main() -> None:
        async with lan() as net:
            client, host = await net.node(), await net.node()
            registrar = Registrar({"files": {"alice"}})
            server = start_server(host, lambda reader, writer: writer.close(), service="files")
            registrar.register("files", server)
            host.watch(seen.append)
            assert await registrar.ask(Request("mallory", "files")) is None
            assert server.state.value == "LISTEN_o"
            answer = await registrar.ask(Request("alice", "files"))
            assert answer is not None
            assert answer.expires is not None
            assert 29 < answer.expires - host.now() <= 30
            assert server.armed == [answer.address], "armed before it is told"
            reader, writer = await open_connection(
                client, answer.address, None, purpose=Purpose(front_end="registrar", service="files")
            )
            assert await reader.read() == b""
            writer.close()
            await gone(host, answer)
            server.close()
            story(str(answer.address))

    async def gone(host: Node, ssa: ServiceAddress) -> None:
        await host.until(lambda: ssa.address.packed not in host.stack.host.addresses, 60)
        await asyncio.sleep(0)

    def story(address: str) -> None:
        """Who it was for, when the pair was born, when it died."""
        (assigned,) = (event for event in seen if isinstance(event, AddressAssigned) and event.address == address)
        assert (assigned.front_end, assigned.who, assigned.service) == ("registrar", "alice", "files")
        born = [
            e.time for e in seen if isinstance(e, ConnectionChanged) and e.local == address and e.new == "ESTABLISHED"
        ]
        died = [e.time for e in seen if isinstance(e, AddressChanged) and e.address == address and e.new == "INVALID"]
        assert assigned.time <= born[0] < died[0]
        assert (len(born), len(died)) == (1, 1)

    virtual(main())
