"""`Run`: what a scenario's script holds.  It declares the network, starts nodes and hosts, measures, and says what must hold.

Everything random in a run comes from `run.random`, and everything that a node draws from a seed of its own made of the run's
seed and the node's name: adding a node does not change the others.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from pathlib import Path
from random import Random
from typing import Any, TypeAlias, TypeGuard

from scenarios.engine.router import NeighborLimits
from scenarios.witness.judge import TITLES
from scenarios.witness.setup import Explanation, Setup, UnifiedNode, fact
from tapstack.events import AddressChanged, Event
from tapstack.ipv6.config import HostConfig
from tapstack.link.base import Link
from tapstack.link.impairment import NONE, ImpairedLink, Impairment
from tapstack.tcp.options import SocketOptions
from tapstack.types import address_text
from unimux.cli.exits import as_sentence
from unimux.events import EventFile
from unimux.generators import GeneratorError, load_generator
from unimux.node import Node, NodeConfig
from unimux.poolstate import PoolChanged, PoolConfig
from unimux.state import MemoryState

from .addressing import HOST, NO_POOL, POOL, Addressing, TemporaryAddresses, fix
from .backend import Backend, Host, Impairments, RouterControl
from .charts import Chart, number
from .definition import Backend as BackendName
from .definition import known_rule, requirement_ids
from .errors import BackendCannot, ScenarioError
from .measure import Metrics, exact, finite
from .network import Kind, Lan, Network
from .raw import Raw
from .topology import Place, Topology

READY = 20.0
"""Seconds in which a node must have a router, a link-local address and what else it was asked to wait for."""

RELEASE = 200.0
"""Seconds in which nodes must have given back their one-time addresses at the end: full TIME-WAIT and more."""

_LONGEST_NAME = 64
Progress: TypeAlias = Callable[[float, float, str], None]
"""Told how much is done, of how much, in which unit."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that must hold: `require` and `expect` make them."""

    title: str
    holds: bool
    sentence: str
    requirements: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """A measured value beside the one that theory gives."""

    what: str
    measured: float
    theory: float
    low: float
    high: float
    agrees: bool


@dataclass(slots=True)
class _Member:
    """A node and what is needed to judge and end it."""

    node: Node
    lan: Lan
    addressing: Addressing
    mac: bytes
    prefix: str
    own: str | None
    judged: bool
    delay: float
    policy: TemporaryAddresses | None = None


@dataclass(slots=True)
class _Cases:
    requirements: tuple[str, ...]
    count: int = 0
    held: int = 0


def _is_new(event: Event) -> TypeGuard[AddressChanged]:
    """Whether a global address came into the node's table."""
    return isinstance(event, AddressChanged) and event.old == "INVALID" and not event.address.startswith("fe80:")


class Run:
    """One run of a scenario; see the module's docstring."""

    def __init__(self, backend: Backend, seed: int | str, folder: Path | None, stack: AsyncExitStack) -> None:
        self.random = Random(f"scenario {seed}")
        self.metrics = Metrics()
        self.claims: list[Claim] = []
        self.comparisons: list[Comparison] = []
        self.charts: list[Chart] = []
        self.steps: list[str] = []
        self.remarks: list[str] = []
        self.answered = ""
        self.chosen: str | None = None
        self.topology = Topology()
        self.named: list[str] = []
        """classes of a user's own, as nodes were told to use them"""
        self.on_step: Callable[[str], None] = lambda text: None
        self.on_progress: Progress = lambda done, total, unit: None
        self._backend = backend
        self._seed = seed
        self._folder = folder
        self._stack = stack
        self._network = Network()
        self._names: set[str] = set()
        self._members: dict[str, _Member] = {}
        self._ordinary: list[tuple[Lan, str]] = []
        self._witness: dict[str, Any] = {"real_time": not backend.simulated}
        self._cases: dict[str, _Cases] = {}
        self._left_out: list[str] = []

    # -- what a script asks ----------------------------------------------------------------------

    @property
    def backend(self) -> BackendName:
        """ "sim" or "netns"; a good scenario seldom asks."""
        return self._backend.name

    def now(self) -> float:
        """The run's clock, in seconds."""
        return asyncio.get_running_loop().time()

    def entropy(self, name: str, length: int = 32) -> bytes:
        """Bytes that depend on the run's seed and a name only."""
        return hashlib.shake_256(f"{self._seed}/{name}".encode()).digest(length)

    # -- the network, declared first -------------------------------------------------------------

    def lan(
        self,
        name: str,
        *,
        mtu: int = 1500,
        latency: float = 0.0005,
        to_router: Impairment = NONE,
        from_router: Impairment = NONE,
        bits: int = 64,
    ) -> Lan:
        """A LAN.

        latency: seconds through its switch, in sim.  to_router, from_router: what its uplink does to frames.  bits: of an
        address that are left for its hosts, where it has no router (whose prefixes have 64).
        """
        return self._network.add_lan(name, mtu, latency, (to_router, from_router), bits)

    def router(self, *lans: Lan, limits: NeighborLimits | None = None, learns: bool = False) -> None:
        """The router between LANs; limits: of its neighbour cache, learns: as RFC 9131 asks (Linux by default does not)."""
        self._network.add_router(lans, limits, learns)
        self.topology.routed = tuple(lan.name for lan in lans)

    async def routing(self) -> RouterControl:
        """The router while it runs: its neighbour cache, routes."""
        await self._build()
        if self._backend.router is None:
            raise ScenarioError("This scenario has no router: declare one with run.router(…) before anything runs.")
        return self._backend.router

    async def _build(self) -> None:
        if not self._network.built:
            self._network.built = True
            self.topology.lans = list(self._network.lans.values())
            await self._stack.enter_async_context(self._backend.running(self._network, self._folder))

    # -- who is on it ----------------------------------------------------------------------------

    async def node(
        self,
        name: str,
        lan: Lan,
        *,
        addressing: Addressing = Addressing.ONE_TIME,
        pool: PoolConfig | None = None,
        options: SocketOptions | None = None,
        host: HostConfig = HOST,
        outgoing: Impairment = NONE,
        incoming: Impairment = NONE,
        ready: int = 1,
        temporary_lifetime: float = 86_400.0,
        names: Mapping[str, list[str]] | None = None,
        generator: str = "permutation",
        wrap: Callable[[Link], Link] = lambda link: link,
        judged: bool = True,
        trace: bool = True,
    ) -> Node:
        """A running node.

        outgoing, incoming: what its cable does to the frames it sends and gets.  ready: addresses that its pool must have when
        this returns.  temporary_lifetime: seconds after which a temporary address is replaced.  generator: of one-time addresses,
        a built-in name or `module:Class` (`f"{__name__}:Class"` for one in the scenario's own file).  wrap: puts a link of the
        scenario's own around the node's, a middlebox for instance.  judged: False for a node that breaks a rule of the witness
        on purpose, which the script has to say in a remark.  trace: whether a captured run keeps its congestion windows.
        """
        try:
            load_generator(generator)
        except GeneratorError as error:
            raise ScenarioError(as_sentence(str(error))) from error
        await self._build()
        self._name(name)
        mac = lan.next_mac(Kind.NODE)
        link = self._link(name, lan, mac, (outgoing, incoming))
        config = NodeConfig(
            host=host,
            pool=pool or (POOL if addressing is Addressing.ONE_TIME else NO_POOL),
            socket=replace(options or addressing.options(), trace=self._folder is not None and trace),
            names=names or {},
        )
        self.named += [generator, config.socket.congestion]
        state = MemoryState(Random(self.entropy(f"{name} state")).randbytes, generator)
        node = Node(wrap(link), config, state=state, seed=self.entropy(f"{name} node"))
        if self._folder is not None:
            file = EventFile(self._folder / "events.jsonl", node.events, node=name, clock=self._backend.wall)
            self._stack.enter_context(file)
        await self._stack.enter_async_context(node)
        self.topology.places.append(Place(lan.name, name, f"{addressing.value} addresses"))
        member = self._members[name] = _Member(node, lan, addressing, mac, lan.prefix, None, judged, outgoing.longest)
        if not judged:
            node.watch(lambda event: self._ordinary.append((lan, event.address)) if _is_new(event) else None)
        causes = ["it has no router, or no address that passed its test"]
        unwatch = node.watch(lambda event: causes.append(event.cause) if isinstance(event, PoolChanged) else None)
        try:
            await self._settle(member, name, ready, temporary_lifetime)
        except TimeoutError as error:
            raise TimeoutError(f"{name} was not ready within {READY:g} s: {causes[-1]}") from error
        finally:
            unwatch()
        return node

    def _name(self, name: str) -> None:
        """Events, figures and the judge tell who is on the network by name."""
        if not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
            raise ScenarioError(
                f"A host cannot be named {name!r}: take up to {_LONGEST_NAME} letters that can be printed in one line."
            )
        if name in self._names:
            raise ScenarioError(f"There are two hosts named {name!r}: give one another name.")
        self._names.add(name)

    def _link(self, name: str, lan: Lan, mac: bytes, impair: Impairments) -> Link:
        link = self._stack.enter_context(self._backend.link(lan, mac))
        if impair == (NONE, NONE):
            return link
        seed = f"{self._seed}/node {name}"
        cable = ImpairedLink(link, seed=seed, outgoing=impair[0], incoming=impair[1], lingers=True)
        self._stack.push_async_callback(cable.through)  # the captures are to hear what the node says last
        return cable

    async def _settle(self, member: _Member, name: str, ready: int, lifetime: float) -> None:
        """Wait for the router's word and for the first addresses, and see to the addressing."""
        node, lan = member.node, member.lan
        host = node.stack.host
        now = node.now()
        if self._network.router is None or lan not in self._network.router.lans:
            host.prefix_list.add_static(lan.network[0].packed, 128 - lan.bits, autonomous=True, now=now)
            node.pool.start(now)
            node.driver.kick()
            await node.until(lambda: host.link_local is not None, READY)
        else:
            await node.until(lambda: bool(host.routes.default_routers) and host.link_local is not None, READY)
        if member.addressing is Addressing.DEDICATED:
            await self._dedicate(member)
        elif member.addressing is Addressing.FIXED:
            member.own = lan.next_address()
            self._ordinary.append((lan, member.own))
            fix(node, member.own)
        elif member.addressing is Addressing.TEMPORARY:
            policy = TemporaryAddresses(
                node, lan.network[0].packed, Random(self.entropy(f"{name} temporary")), lifetime
            )
            node.das = member.policy = policy
            node.driver.kick()
            await node.until(lambda: policy.ready, READY)
        elif ready:
            await node.ready(ready, READY)

    async def _dedicate(self, member: _Member) -> None:
        node = member.node
        link_local = node.stack.host.link_local
        assert link_local is not None
        number = sum(each.addressing is Addressing.DEDICATED for each in self._members.values())
        member.prefix = f"2001:db8:d000:{number:x}::/64"
        (await self.routing()).route(member.prefix, address_text(link_local), member.lan)
        node.stack.host.prefix_list.add_dedicated(bytes.fromhex(f"20010db8d000{number:04x}") + bytes(8), 64)
        node.pool.start(node.now())
        node.driver.kick()

    async def host(self, name: str, lan: Lan, *, outgoing: Impairment = NONE, incoming: Impairment = NONE) -> Host:
        """An ordinary host: a kernel in a namespace, or in sim a stack with one fixed address and four-value connections."""
        await self._build()
        self._name(name)
        where = lan.next_address()
        self._ordinary.append((lan, where))
        self.topology.places.append(Place(lan.name, name, self._backend.ordinary))
        return await self._stack.enter_async_context(self._backend.host(name, lan, where, (outgoing, incoming)))

    async def kernel(self, name: str, lan: Lan) -> Any:
        """An ordinary host that has to be a kernel (`compat.kernel`), for unmodified programs; only on netns."""
        if self._backend.simulated:
            raise BackendCannot(
                f"{name} has to be a kernel, and {self.backend} has none: "
                "declare backends=('netns',) in @scenario, or use run.host."
            )
        return await self.host(name, lan)

    async def raw(self, name: str, lan: Lan, *, address: str | None = None) -> Raw:
        """Somebody who sends packets made by hand, with an address of the LAN unless another is given."""
        await self._build()
        self._name(name)
        own = address or lan.next_address()
        self._ordinary.append((lan, own))
        self.topology.places.append(Place(lan.name, name, "packets made by hand"))
        return Raw(name, lan, self._link(name, lan, lan.next_mac(Kind.RAW), (NONE, NONE)), own)

    async def observe(self, lan: Lan, observer: Callable[[float, bytes], None]) -> None:
        """Show every frame on a LAN to `observer(seconds, frame)`, each once, from now to the end."""
        await self._build()
        self._stack.enter_context(self._backend.observe(lan, observer))

    def address_of(self, node: Node) -> str:
        """The present ordinary address of a node with fixed or temporary addressing."""
        for member in self._members.values():
            if member.node is node:
                if member.own is not None:
                    return member.own
                if member.policy is not None:
                    return address_text(member.policy.used[-1])
        raise ScenarioError("That node has one-time addresses only: there is no address of the node.")

    # -- what comes of it ------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """One line of the story, for who watches and for the report."""
        self.steps.append(_text(text, "a line of the story"))
        self.on_step(text)

    def answer(self, text: str) -> None:
        """The answer to the scenario's question, in one line with its figures: the first thing that a reader sees."""
        self.answered = _text(text, "an answer")

    def progress(self, done: float, total: float, unit: str = "") -> None:
        """How far the script has come, for who waits: so many of the total, in a unit that a rate can be given in."""
        self.on_progress(done, total, unit)

    def choose(self, address: str) -> None:
        """The connection of this one-time address is the one that the report draws segment by segment."""
        self.chosen = str(IPv6Address(address))

    def measure(self, name: str, value: float, unit: str = "", *, of: str = "") -> None:
        """A sample of something measured; `of` tells variants apart."""
        self.metrics.add(name, value, unit, of)

    def require(self, title: str, holds: bool, *requirements: str, because: str = "") -> None:
        """Something that must hold, else the run has failed; because: figures, in a clause."""
        requirements = requirement_ids(requirements)
        self.claims.append(Claim(title, bool(holds), because or ("it does" if holds else "it does not"), requirements))

    def require_quietly(self, holds: bool, title: str, *requirements: str) -> None:
        """One of many cases of something that must hold: all of them are one line, with how many there were."""
        cases = self._cases.setdefault(title, _Cases(requirement_ids(requirements)))
        cases.count += 1
        cases.held += bool(holds)

    def expect(
        self,
        what: str,
        measured: float,
        theory: float,
        *,
        within: float | None = None,
        interval: tuple[float, float] | None = None,
    ) -> None:
        """A measured value beside the theoretical one, which must agree: within a share of it, or by lying in an interval."""
        if (within is None) is (interval is None):
            raise ValueError(f"{what} agrees with theory within a share, or by an interval: say which")
        low, high = interval or (theory * (1 - (within or 0.0)), theory * (1 + (within or 0.0)))
        for value in (measured, theory, low, high):
            finite(what, value)
        agrees = low <= theory <= high if interval else low <= measured <= high
        self.comparisons.append(Comparison(what, measured, theory, low, high, agrees))
        kind = "interval of the measurement" if interval else "allowed"
        sentence = f"measured {number(measured)}, theory {number(theory)} ({kind}: {number(low)} to {number(high)})"
        self.claims.append(Claim(f"Theory agrees: {what}", agrees, sentence))

    def expect_share(self, what: str, hits: int, tries: int, theory: float) -> None:
        """So many hits in so many tries beside a theoretical probability, which must lie in their 99.9 % interval.

        One comparison in a thousand fails by chance; with 95 %, as figures show it, one in twenty would.
        """
        if not 0 <= hits <= tries or not tries:
            raise ValueError(f"{what}: {hits} of {tries} is no share")
        self.expect(what, hits / tries, theory, interval=exact(hits, tries))

    def show(self, chart: Chart) -> None:
        """A figure or table for the report."""
        if not isinstance(chart, Chart):
            raise ValueError(f"a chart is shown, Curves(…) or Table(…) for instance, not {chart!r}")
        self.charts.append(chart)

    def remark(self, text: str) -> None:
        """What a reader must know to judge the run."""
        self.remarks.append(_text(text, "a remark"))

    def witness(self, **facts: Any) -> None:
        """Tell the judge of the captures who is who: fields of `scenarios.witness.Setup`; tuples add up."""
        for key, value in facts.items():
            value = fact(key, value)
            before = self._witness.get(key)
            if isinstance(before, tuple) and isinstance(value, tuple):
                value = before + value
            elif isinstance(before, dict):
                value = {**before, **value}
            self._witness[key] = value

    def leave_out(self, rule: str, reason: str) -> None:
        """A rule of the witness that the scenario breaks on purpose, and why; the report says so."""
        self._left_out.append(known_rule(rule))
        self.remarks.append(f"Not judged, since {reason}: {TITLES[rule]}.")

    def explain(self, pattern: str, reason: str, where: str | None = None) -> tuple[Explanation, ...]:
        """For `witness(explanations=…)`: a remark of tshark that the scenario provokes on purpose."""
        return (Explanation(pattern, reason, where),)

    # -- the end, for the engine -----------------------------------------------------------------

    async def until_released(self) -> None:
        """Wait until no one-time address is in use any more, and claim that it came to that (UM-REL-1)."""
        for title, cases in self._cases.items():
            because = f"{cases.held:,} of {cases.count:,}"
            self.require(title, cases.held == cases.count, *cases.requirements, because=because)
        exempt = set(self._witness.get("held", ()))
        one_time = {name: member for name, member in self._members.items() if member.addressing.one_time}
        left: list[str] = []
        for name, member in one_time.items():
            node = member.node

            def held(node: Node = node) -> list[str]:
                used = (address_text(entry.address) for entry in node.stack.host.addresses.held())
                return [text for text in used if text not in exempt]

            with suppress(TimeoutError):
                await node.until(lambda held=held: not held(), RELEASE)  # type: ignore[misc]
            left += [f"{name} {text}" for text in held()]
            node.stack.check()
        if one_time:
            because = f"{len(left)} held, among them: {left[0]}" if left else f"none held by {len(one_time)} nodes"
            self.require("No node holds an address when all is over", not left, "UM-REL-1", because=because)

    def setup(self) -> Setup:
        """What the judge is told."""
        nodes = []
        for name, member in self._members.items():
            if member.addressing.one_time and member.judged:
                ordinary = [member.lan.router, *(where for lan, where in self._ordinary if lan is member.lan)]
                for other in self._members.values():
                    if other.policy is not None and other.lan is member.lan:
                        ordinary += map(address_text, other.policy.formed)
                dedicated = member.addressing is Addressing.DEDICATED
                nodes.append(
                    UnifiedNode(
                        name,
                        member.lan.name,
                        (member.mac.hex(":"),),
                        (member.prefix,),
                        () if dedicated else tuple(dict.fromkeys(ordinary)),
                        dedicated,
                        member.delay,
                    )
                )
        rules = tuple(rule for rule in TITLES if rule not in self._left_out) if self._left_out else None
        return replace(Setup(nodes=tuple(nodes), rules=rules), **self._witness)


def _text(text: str, what: str) -> str:
    """The text; ValueError for something else, at the line of the script that says it."""
    if not isinstance(text, str):
        raise ValueError(f"{what} is a text, not {text!r}")
    return text
