"""The local interface to an agent that sets addresses: JSON lines over a Unix socket (UM-DAS-3).

The node listens (setting `node.das_agent`), agents connect, at any time and as often as they like.  Every address that a
socket of the node needs is told to all agents; the first usable answer is taken.

    node → agent
    {"prefixes": ["2001:db8:1::/64"]}                        on connecting, and when they have changed; empty before there is one
    {"wanted": 7, "kind": "ephemeral", "destination": "2001:db8:2::80", "front_end": "socks5", "who": "alice",
     "service": null, "cause": …, "seconds": 29.8}
    {"refused": 7, "address": "2001:db8:1::5", "reason": "another node on the link has it", "seconds": 28.1}
    {"closed": 7, "outcome": "set"}                          or why nobody needs it any more

    agent → node
    {"set": 7, "address": "2001:db8:1::abcd"}
    {"refuse": 7, "reason": "not on Sundays"}                 the socket gets this as its error, now

`kind` is `ephemeral` or `service`; `front_end`, `who` and `service` say what for, as far as that is known
(`unimux.purpose`); `seconds` is how long the socket still waits.  An address must lie in a prefix of the node, be new
to it, and pass DAD; `refused` leaves the need open for another try, and comes a second later from the fourth one on.  What is
no such message is answered with `{"error": …}`.  A need without an agent, or without an answer, ends at its own time-out with
`AddressNotSet`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from ipaddress import IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tapstack.events import Event
from tapstack.types import address as to_bytes
from tapstack.types import address_text

from .adoption import AddressRefused
from .das import AddressNotSet, AddressWanted, DasRequired, Need
from .errors import UnimuxError
from .localsocket import LocalServer, Message, Peer
from .poolstate import PoolChanged

if TYPE_CHECKING:
    from .node import Node


AT_ONCE = 3
"""Refused answers to one need of which agents hear at once."""
REFUSAL_PAUSE = 1.0
"""Seconds after which they hear of each one more."""


class _Set(msgspec.Struct, forbid_unknown_fields=True):
    set: int
    address: str


class _Refuse(msgspec.Struct, forbid_unknown_fields=True):
    refuse: int
    reason: str = "the agent has no address for it"


class AgentSocket:
    """Makes a node wait for agents at a socket, from `__aenter__` to `__aexit__`.

    From then on every socket of the node gets its address from an agent, or `AddressNotSet` at its time-out.
    Raises `SetupError` where the socket cannot be made.
    """

    def __init__(self, node: Node, path: Path) -> None:
        self._node = node
        self.das = DasRequired(node.pool, node.events, self._wanted)
        self._server = LocalServer(path, self._serve, f"The agent socket {path}")
        self._agents: dict[Peer, list[str]] = {}
        self._refusals: Counter[int] = Counter()
        """need → how many answers were refused"""
        self._before = node.das

    @property
    def agents(self) -> int:
        """How many agents are connected."""
        return len(self._agents)

    async def __aenter__(self) -> AgentSocket:
        await self._server.__aenter__()
        self._before = self._node.das
        self._node.das = self.das
        self._unwatch = self._node.watch(self._seen)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._unwatch()
        self._node.das = self._before
        for number in list(self.das.needs):
            self.das.give_up(number, AddressNotSet(0.0, "the agent socket was closed"), self._node.now())
        await self._server.__aexit__()

    # -- to agents -------------------------------------------------------------------------------

    def _prefixes(self) -> list[str]:
        usable = (p for p in self._node.stack.host.prefixes if p.preferred and (p.autonomous or p.dedicated))
        return [str(IPv6Network((p.prefix, p.length))) for p in usable]

    def _say_prefixes(self, agent: Peer) -> None:
        prefixes = self._prefixes()
        if self._agents.get(agent) != prefixes:
            self._agents[agent] = prefixes
            agent.send({"prefixes": prefixes})

    def _wanted(self, need: Need) -> None:
        for agent in list(self._agents):
            self._say_prefixes(agent)
            agent.send(self._describe(need))

    def _describe(self, need: Need) -> dict[str, Any]:
        want = need.want
        return {
            "wanted": need.number,
            "kind": want.kind.value,
            "destination": None if want.destination is None else address_text(want.destination),
            "front_end": want.purpose.front_end,
            "who": want.purpose.who,
            "service": want.purpose.service,
            "cause": want.cause,
            "seconds": self._left(need),
        }

    def _left(self, need: Need) -> float:
        return round(max(0.0, need.want.deadline - self._node.now()), 3)

    def _seen(self, event: Event) -> None:
        if isinstance(event, PoolChanged):  # which says so when a prefix can be used, or no longer
            for agent in list(self._agents):
                self._say_prefixes(agent)
        if isinstance(event, AddressWanted) and event.outcome != "wanted":
            self._refusals.pop(event.need, None)
            for agent in list(self._agents):
                agent.send({"closed": event.need, "outcome": event.outcome})

    # -- from agents -----------------------------------------------------------------------------

    async def _serve(self, agent: Peer) -> None:
        self._say_prefixes(agent)
        self._agents.setdefault(agent, [])
        try:
            for need in list(self.das.needs.values()):
                agent.send(self._describe(need))
            async for message in agent.messages():
                self._take(agent, message)
        finally:
            del self._agents[agent]

    def _take(self, agent: Peer, message: Message) -> None:
        now = self._node.now()
        try:
            if "refuse" in message:
                refusal = msgspec.convert(message, _Refuse)
                waited = 0.0 if (need := self.das.needs.get(refusal.refuse)) is None else now - need.since
                self.das.give_up(refusal.refuse, AddressNotSet(waited, f"the agent refused ({refusal.reason})"), now)
            else:
                self._set(agent, msgspec.convert(message, _Set), now)
        except msgspec.ValidationError as error:
            agent.send({"error": f"not a message of an agent: {error}"})
        self._node.driver.kick()

    def _set(self, agent: Peer, answer: _Set, now: float) -> None:
        try:
            address = to_bytes(answer.address)
        except ValueError as error:
            self._refused(agent, answer.set, answer.address, f"it is no IPv6 address ({error})")
            return

        def verdict(refusal: AddressRefused | None, at: float) -> None:
            if refusal is not None:
                self._refused(agent, answer.set, answer.address, refusal.reason)

        try:
            self.das.supply(answer.set, address, now, verdict)
        except AddressRefused as refusal:
            self._refused(agent, answer.set, answer.address, refusal.reason)
        except UnimuxError as error:  # the node cannot keep account of it, and so has no use for any
            self.das.give_up(answer.set, error, now)

    def _refused(self, agent: Peer, number: int, address: str, reason: str) -> None:
        """Ask again, at once the first few times: an agent may answer as fast as it is asked, and be wrong each time."""
        self._refusals[number] += 1
        if self._refusals[number] <= AT_ONCE:
            self._ask_again(agent, number, address, reason)
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(REFUSAL_PAUSE, self._ask_again, agent, number, address, reason)

    def _ask_again(self, agent: Peer, number: int, address: str, reason: str) -> None:
        need = self.das.needs.get(number)
        if need is None:
            agent.send({"closed": number, "outcome": "nobody waits for it"})
        elif agent in self._agents:
            agent.send({"refused": number, "address": address, "reason": reason, "seconds": self._left(need)})
