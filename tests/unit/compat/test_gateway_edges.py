"""The gateway of `unimux run` where two things happen in one moment, or too late; what a long run keeps."""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Address
from typing import Any

import pytest

from compat.gateway import calls
from compat.gateway.services import Services
from compat.gateway.sockets import Listening
from compat.publisher import PublishLimits
from tapstack.ipv6.packet import Packet
from tapstack.signals import Signal
from tests.unit.compat.test_gateway import Collector, place
from tests.unit.unimux.lan import virtual
from tests.unit.unimux.test_failing_applications import handled


def test_a_syn_that_comes_as_the_patience_ends_is_too_late_and_no_more() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        told = handled()
        call = calls._Call(Packet(bytes(16), bytes(16), None, memoryview(bytes(60))), loop.time())

        async def answer() -> None:
            async with asyncio.timeout(call.patience) as call.scope:
                await asyncio.sleep(1000)

        answering = asyncio.create_task(answer())
        await asyncio.sleep(0)
        loop.call_at(loop.time() + call.patience, lambda: call.again(loop.time()))
        with pytest.raises(TimeoutError):
            await answering
        assert not told

    virtual(main())


def test_a_handshake_that_completes_when_nobody_expects_it_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with place() as here:
            told = handled()
            ssa = await here.peer.listen(Collector).issue(sessions=3)
            assert (
                await here.outcome(here.connect(str(ssa.address), 80)) & Signal.ESTABLISHED
            )  # the neighbours are known
            monkeypatch.setattr(calls, "HANDSHAKE_TIMEOUT", 0.00015)  # the program's kernel takes 0.0002 s
            first = here.connect(str(ssa.address), 80)
            await asyncio.sleep(0.0001)
            second = here.connect(str(ssa.address), 80)  # keeps the door open for a moment longer
            assert await here.outcome(first) & Signal.ESTABLISHED
            assert await here.outcome(first) & Signal.CLOSED, "its stream leads nowhere: it hears so"
            await asyncio.sleep(10)
            assert not told and (here.gateway.calls.doors, len(here.gateway.calls.relays)) == (0, 1)
            assert len(list(here.gateway.stack.tcp.demux)) == 1
            second.abort(here.driver.now())

    virtual(main())


def test_a_program_that_listens_anew_again_and_again_leaves_no_services_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoSocket:
        """In place of the control socket, which is the kernel's."""

        def __init__(self, service: object) -> None: ...

        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *_: object) -> None: ...

    monkeypatch.setattr("compat.gateway.services.control_server", NoSocket)

    async def main() -> None:
        async with place() as here:
            told: list[str] = []
            options: dict[str, Any] = {"count": 1, "sessions": 1, "lifetime": 30.0, "limits": PublishLimits()}
            services = Services(here.gateway, "ftpd", lambda event, facts, text: told.append(event), print, **options)
            for port in range(20_000, 20_050):
                services.update(frozenset({Listening(IPv6Address("::"), port, port)}))
                await asyncio.sleep(1)
            assert told.count("issued") == 50
            assert len(services._publishers) <= 2
            await services.close()

    virtual(main())
