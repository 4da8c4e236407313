"""One name, asked of name servers: the resolver's part without I/O (RFC 1035, RFC 3596, RFC 6891).

Model.  A `Lookup` says what it needs next, an `Ask` (this payload to this server) or nothing any more, an `Outcome`; it
is told what came of it by `received` or `failed`.  AAAA is asked for; the chain of CNAMEs in the answer is followed, and
asked on where it leaves the answer.  A name without AAAA is asked for A, to tell "no such address" from "IPv4 only".

A server gets one try per round; every try is a new query with a new id.  What is not a response to that query (id, opcode,
question) counts as no response.  A truncated response is asked for again over a stream.

Invariants: at most `rounds` tries per server and question, at most `MAX_HOPS` questions along a chain, so a lookup ends
whatever the servers say; no input raises out of `received`.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from tapstack.randomness import KeyedRandom

from .dnsstream import UDP_PAYLOAD
from .errors import NameNotResolved, NoIpv6Address

MAX_HOPS = 8
MAX_TTL = 86_400
MAX_NEGATIVE_TTL = 900

FIRST_TIMEOUT = 2.0
"""Seconds given to a server in the first round; twice as long in each round after it."""

SPECIAL_USE = ("localhost", "invalid", "onion")
"""Top-level names that no name server is asked about (RFC 6761, RFC 7686)."""

UNREACHED = "check that the node can reach its name server"
"""What to do where none answers."""


class NotAName(ValueError):
    """Text that no host can be called; the text of the error is a clause that says why."""


def host_name(text: str) -> dns.name.Name:
    """The DNS name of a host, lower-case and absolute; raises `NotAName`.

    >>> str(host_name("Example.ORG")), str(host_name("bücher.example"))
    ('example.org.', 'xn--bcher-kva.example.')
    """
    if not text or any(c <= " " or c in "\\@\x7f" for c in text):
        raise NotAName("this is not a host name")
    try:
        name = dns.name.from_text(text, dns.name.root)
    except (dns.exception.DNSException, UnicodeError):
        raise NotAName("this is not a host name") from None
    if name == dns.name.root:
        raise NotAName("this is not a host name")
    name = name.canonicalize()
    if name.labels[-2].decode("ascii", "replace") in SPECIAL_USE:
        raise NotAName("this name is not in the DNS")
    return name


@dataclass(frozen=True, slots=True)
class Ask:
    """Send `payload` to port 53 of `server` and wait `timeout` seconds; over TCP if `stream`."""

    server: bytes
    payload: bytes
    timeout: float
    stream: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of a name for `ttl` seconds; 0: for the asker's one use only (RFC 1035 §3.2.1).

    addresses: its IPv6 addresses, 16 bytes each; ipv4: its IPv4 addresses, 4 bytes each, asked for only where it has
    none of the others.  Without addresses `reason` says why.
    """

    addresses: tuple[bytes, ...] = ()
    ttl: int = 0
    ipv4: tuple[bytes, ...] = ()
    reason: str = ""
    remedy: str | None = None

    def error(self, host: str) -> NameNotResolved:
        """The error that stands for no addresses."""
        if self.ipv4:
            return NoIpv6Address(host, ipv4=self.ipv4)
        return NameNotResolved(host, self.reason, self.remedy)


@dataclass(slots=True)
class LookupCounters:
    """Queries that were sent, those over TCP among them, and responses that were not usable, by reason."""

    queries: int = 0
    streams: int = 0
    unusable: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, int]:
        """All by name, the reasons as "unusable.REASON"."""
        reasons = {f"unusable.{reason}": n for reason, n in self.unusable.items()}
        return {"queries": self.queries, "streams": self.streams, **reasons}


@dataclass(slots=True)
class _Question:
    """What is being asked, and how far it has got."""

    name: dns.name.Name
    kind: dns.rdatatype.RdataType
    tries: int = 0
    stream: bool = False
    edns: bool = True
    ttl: int = MAX_TTL
    """the least along the chain so far"""
    hops: int = 0


class Lookup:
    """The way from a name to its addresses.

    servers: name servers, best first.  random: of query ids.  rounds: tries per server.
    """

    def __init__(
        self,
        name: dns.name.Name,
        servers: Sequence[bytes],
        random: KeyedRandom,
        *,
        rounds: int = 2,
        counters: LookupCounters | None = None,
    ) -> None:
        self._name = name
        self._servers = tuple(servers)
        self._random = random
        self._rounds = rounds
        self._counters = counters or LookupCounters()
        self._question = _Question(name, dns.rdatatype.AAAA)
        self._query: dns.message.Message | None = None
        self._outcome: Outcome | None = None
        self._without_ipv6: Outcome | None = None
        self._complaint = "no name server answered"
        if not self._servers:
            self._outcome = Outcome(
                reason="no name server is known",
                remedy="name one in the setting `node.name_servers` (UNIMUX_NODE_NAME_SERVERS), "
                "or let a router announce one (RFC 8106)",
            )

    def step(self) -> Ask | Outcome:
        """What to do next."""
        if self._outcome is not None:
            return self._outcome
        question = self._question
        turn, index = divmod(question.tries, len(self._servers))
        self._query = dns.message.make_query(
            question.name,
            question.kind,
            use_edns=0 if question.edns else None,
            payload=UDP_PAYLOAD if question.edns else None,
            id=self._random.getrandbits(16),
        )
        self._counters.queries += 1
        self._counters.streams += question.stream
        return Ask(self._servers[index], self._query.to_wire(), FIRST_TIMEOUT * 2**turn, question.stream)

    def failed(self) -> None:
        """The server could not be reached, or gave no answer in time."""
        self._next_server("")

    def received(self, wire: bytes) -> None:
        """A response, or something in its place, has come."""
        query, question = self._query, self._question
        assert query is not None
        try:
            response = dns.message.from_wire(wire)
        except (dns.exception.DNSException, ValueError, IndexError):
            if _is_truncated(wire, query.id) and not question.stream:
                self._over_stream()
            else:
                self._next_server("malformed")
            return
        if not query.is_response(response) or not isinstance(response, dns.message.QueryMessage):
            self._next_server("mismatched")
        elif response.flags & dns.flags.TC:
            if question.stream:
                self._next_server("malformed")
            else:
                self._over_stream()
        elif response.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            self._answered(response)
        elif response.rcode() in (dns.rcode.FORMERR, dns.rcode.NOTIMP) and question.edns:
            question.edns = False  # an old server: the same again without extensions (RFC 6891 §6.2.2)
        else:
            self._next_server(dns.rcode.to_text(response.rcode()))

    # -- tries -------------------------------------------------------------------------------------

    def _over_stream(self) -> None:
        self._counters.unusable["truncated"] += 1
        self._question.stream = True

    def _next_server(self, complaint: str) -> None:
        """This try is used up."""
        question = self._question
        if complaint:
            self._counters.unusable[complaint] += 1
            self._complaint = f"the name server's answer was {complaint}"
        question.tries += 1
        question.stream = False
        question.edns = True
        if question.tries >= self._rounds * len(self._servers):
            self._outcome = self._without_ipv6 or Outcome(reason=self._complaint, remedy=UNREACHED)

    # -- answers -------------------------------------------------------------------------------------

    def _answered(self, response: dns.message.QueryMessage) -> None:
        question = self._question
        try:
            chain = response.resolve_chaining()
        except (dns.exception.DNSException, ValueError, IndexError):
            self._next_server("malformed")
            return
        question.ttl = min(question.ttl, chain.minimum_ttl)
        if chain.answer is not None:
            self._found(chain.answer)
        elif response.rcode() == dns.rcode.NXDOMAIN:
            self._absent("no such name", response)
        elif chain.canonical_name != question.name and not _has_soa(response):
            self._follow(chain.canonical_name)
        else:
            self._absent("it has no address", response)

    def _found(self, answer: dns.rrset.RRset) -> None:
        question = self._question
        packed = tuple(dict.fromkeys(ipaddress.ip_address(record.address).packed for record in answer))
        if question.kind == dns.rdatatype.A:
            ttl = min(question.ttl, MAX_NEGATIVE_TTL)
            if self._without_ipv6 is not None:
                ttl = min(ttl, self._without_ipv6.ttl)
            self._outcome = Outcome(ipv4=packed, ttl=ttl)
            return
        usable = tuple(address for address in packed if _is_usable(address))
        reason = "" if usable else "its addresses are not ones to connect to"
        self._outcome = Outcome(usable, question.ttl, reason=reason)

    def _absent(self, reason: str, response: dns.message.QueryMessage) -> None:
        """The answer is that there is nothing; without an SOA record nobody may remember that (RFC 2308 §5)."""
        question = self._question
        ttl = min(question.ttl, MAX_NEGATIVE_TTL) if _has_soa(response) else 0
        outcome = Outcome(ttl=ttl, reason=reason)
        if question.kind == dns.rdatatype.AAAA and response.rcode() != dns.rcode.NXDOMAIN:
            self._without_ipv6 = outcome
            self._question = _Question(self._name, dns.rdatatype.A)
        else:
            self._outcome = self._without_ipv6 or outcome

    def _follow(self, name: dns.name.Name) -> None:
        """The chain leaves the answer: ask on where it leads to."""
        question = self._question
        if question.hops >= MAX_HOPS:
            self._outcome = Outcome(reason="its chain of aliases does not end")
            return
        self._question = _Question(name, question.kind, ttl=question.ttl, hops=question.hops + 1)


def _has_soa(response: dns.message.Message) -> bool:
    return any(rrset.rdtype == dns.rdatatype.SOA for rrset in response.authority)


def _is_truncated(wire: bytes, query_id: int) -> bool:
    """Whether a response that cannot be read was cut off by its sender, as its header says."""
    return len(wire) >= 12 and int.from_bytes(wire[:2]) == query_id and wire[2] & 0x82 == 0x82


def _is_usable(packed: bytes) -> bool:
    """Whether a one-time address can connect there: not to the local host, a group, a link or an IPv4 address."""
    address = ipaddress.IPv6Address(packed)
    local = address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local
    return not local and address.ipv4_mapped is None
