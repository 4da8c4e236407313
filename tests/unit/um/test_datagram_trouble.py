"""UDP flows that get no address because something is wrong with who asks: they are told, and the next datagram tries again."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from tapstack.types import address
from tests.unit.unimux.lan import handled, virtual
from unimux.das import DasRequired, Want
from unimux.sticky import NamedSession

from .bed import bed
from .test_datagram import POOL, Peer, open_socket


class Mistake(Exception):
    """What the policy raises."""


@pytest.mark.proves("UM-DAS-6")
def test_a_policy_that_raises_fails_what_waits_and_nothing_later(rng: Random) -> None:
    class Faulty(DasRequired):
        def ask(self, want: Want, now: float, answered: Any) -> Any:
            raise Mistake

    async def main() -> None:
        told = handled()
        async with bed(rng, pool=POOL) as made:
            alice, bob = made.nodes
            peer = Peer(made, bob)
            sound, alice.das = alice.das, Faulty(alice.pool, alice.events)
            sock, heard = await open_socket(alice, peer.text, 53)
            for _ in range(3):
                sock.sendto(b"lost")
                await asyncio.sleep(1)
            assert [type(error) for error in heard.errors] == [Mistake] * 3
            assert [type(each["exception"]) for each in told] == [Mistake] * 3
            alice.das = sound
            sock.sendto(b"hello")
            await asyncio.sleep(1)
            assert [data for data, _ in heard.received] == [b"HELLO"]
            sock.close()

    virtual(main())


@pytest.mark.proves("UM-DAS-4", "UM-DAS-6", by="api")
@pytest.mark.parametrize("session", [NamedSession("x", ttl=-1), "word", NamedSession("x", ttl=1e10)])
def test_what_names_no_session_is_refused_where_it_is_written(session: Any, rng: Random) -> None:
    async def main() -> None:
        async with bed(rng, pool=POOL) as made:
            alice, _ = made.nodes
            for way in (
                alice.create_datagram_endpoint(asyncio.DatagramProtocol, "2001:db8:1::77", 9, session=session),
                alice.datagrams.open_flow("2001:db8:1::77", 9, lambda data: None, session=session),
            ):
                with pytest.raises((TypeError, ValueError), match="ttl"):
                    await way
            with pytest.raises((TypeError, ValueError), match="ttl"):
                alice.datagrams.flow(address("2001:db8:1::77"), 9, lambda data: None, session=session)
            assert not alice.datagrams.sockets

    virtual(main())
