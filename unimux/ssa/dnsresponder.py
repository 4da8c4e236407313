"""Delivery by DNS: an authoritative answer that mints an SSA per query, without I/O (UM-SSA-3; RFC 1034, 1035, 8945, 7871).

Model.  A query for the AAAA of a published name is a request for an SSA.  Policy decides who gets one, `mint` makes it, and
the answer carries it with TTL 0: a resolver may hand it to those who wait for this very query and to nobody after them
(RFC 1035 §3.2.1).

* Idempotence.  Resolvers ask again with other ports and ids when an answer is late.  Within `retry_window` the same
  (source, client subnet, name, key) gets the same address, and only one is minted.  An address that a client has taken
  meanwhile is not given again: who asks then is no retry, but the next client of the same resolver.
* Rate.  A token bucket per source, /64 of IPv6 and whole addresses of IPv4, pays for each SSA.  Who has none left is told to
  come over TCP, whose source is no lie; over TCP it is REFUSED.  A truncated answer is no longer than its query.
* Identity.  A TSIG key, or a client subnet (RFC 7871) from a resolver that is believed, says who asks; the SSA can be named
  for that subnet.  A client subnet from anybody else is ignored: everybody can write one.
* All that needs no SSA is answered without one: SOA and NS of the zone, its name server's address, "no such type" and
  "no such name" with the SOA that lets resolvers remember them for `negative_ttl`.

Invariants: nothing in a query raises out of `answer`; no query mints more than one SSA; memory is bounded by `MAX_SOURCES`,
`MAX_REMEMBERED` and what the caller lets in.
"""

from __future__ import annotations

import asyncio
import math
import re
import struct
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.tsigkeyring

from ..dnsstream import UDP_PAYLOAD
from ..errors import UnimuxError, WrongUsage

HEADER_LENGTH = 12
MAX_SOURCES = 4096
MAX_REMEMBERED = 4096
SOA_TTL = 3600
_LABEL = re.compile(rb"(?!-)[A-Za-z0-9_-]+(?<!-)")

Network = IPv4Network | IPv6Network


class NameFor(StrEnum):
    """For whom an SSA that was asked for by DNS is issued (UM-LIS-4)."""

    ANYBODY = "anybody"
    """whoever learns the address; right where resolvers ask for clients that they do not name"""
    SUBNET = "subnet"
    """the client subnet, where one is believed; else anybody"""
    SOURCE = "source"
    """the /64 that the query came from; right where clients ask themselves"""


DEFAULT_RATE = 5.0
DEFAULT_BURST = 20
"""SSAs per second and source, and how many at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsPolicy:
    """What is answered, and for whom; times in seconds.

    zone: the zone's name.  names: names in it that mint, relative; "@" is the zone itself.  server: address of the zone's name
    server, `ns.<zone>`.  rate, burst: SSAs per second and source, and how many at once.  retry_window: UM-SSA-3's 2 s.
    allow: which clients get SSAs, by believed subnet or source; empty for all.  believe: resolvers whose client subnet is
    believed.  keys: TSIG secrets by name; require_key: nobody else is answered.  stream_only: mint over TCP only, against
    queries with forged sources.  name_for: whom SSAs are issued for.  Raises `WrongUsage` for what cannot be answered for.
    """

    zone: str
    names: tuple[str, ...] = ("@",)
    server: str | None = None
    rate: float = DEFAULT_RATE
    burst: int = DEFAULT_BURST
    retry_window: float = 2.0
    allow: tuple[Network, ...] = ()
    believe: tuple[Network, ...] = ()
    keys: Mapping[str, bytes] = field(default_factory=dict)
    require_key: bool = False
    stream_only: bool = False
    name_for: NameFor = NameFor.ANYBODY
    negative_ttl: int = 60

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.burst < 1 or self.retry_window < 0 or self.negative_ttl < 0:
            raise WrongUsage("Rate and burst of the DNS delivery are more than 0, its times not less than 0.")
        if self.require_key and not self.keys:
            raise WrongUsage("The DNS delivery requires a TSIG key and has none: give it one.")
        zone = _host_name(self.zone, dns.name.root)
        _host_name("ns", zone)
        for name in self.names:
            if not _host_name(name, zone).is_subdomain(zone):
                raise WrongUsage(f"{name!r} is no name in the zone {self.zone!r}: write one without the zone, or @.")
        for name in self.keys:
            try:
                dns.name.from_text(name)
            except (dns.exception.DNSException, UnicodeError) as error:
                raise WrongUsage(f"{name!r} cannot be the name of a TSIG key: {error}.") from None


def _host_name(text: str, origin: dns.name.Name) -> dns.name.Name:
    """A name that hosts can have (RFC 1123 §2.1; with underscores), relative to `origin`; raises `WrongUsage`."""
    try:
        name = dns.name.from_text(text, origin)
    except (dns.exception.DNSException, UnicodeError) as error:
        raise WrongUsage(f"{text!r} is no name that DNS could answer for: {error}") from None
    labels = name.labels[:-1]
    if not labels or not all(map(_LABEL.fullmatch, labels)):
        raise WrongUsage(
            f"{text!r} is no name that DNS could answer for: write letters, digits and hyphens between dots, "
            "as in shop.example."
        )
    return name


def networks(texts: list[str]) -> tuple[Network, ...]:
    """Prefixes as the policy takes them; raises `WrongUsage`."""
    try:
        return tuple(ip_network(text) for text in texts)
    except ValueError as error:
        raise WrongUsage(f"This is no prefix: {error}.") from None


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for an SSA, as far as it is known.  client: whom to issue it for, None for anybody."""

    source: str
    subnet: Network | None
    key: str | None
    name: str
    client: IPv6Network | None


Mint = Callable[[Asker], Awaitable[IPv6Address]]
"""Makes an SSA, armed; raises `UnimuxError` where it cannot."""


class _Bucket:
    """Tokens of one source."""

    __slots__ = ("tokens", "when")

    def __init__(self, tokens: float, when: float) -> None:
        self.tokens = tokens
        self.when = when


class Responder:
    """Answers queries under a policy.

    now: a clock in seconds.  free: whether a new client could still connect to an SSA.  counters: answers by what they were.
    """

    def __init__(
        self,
        policy: DnsPolicy,
        mint: Mint,
        now: Callable[[], float],
        free: Callable[[IPv6Address], bool] = lambda ssa: True,
    ) -> None:
        self.policy = policy
        self._free = free
        self.counters: Counter[str] = Counter()
        self._mint = mint
        self._now = now
        self.zone = dns.name.from_text(policy.zone).canonicalize()
        self._minting = {dns.name.from_text(name, self.zone).canonicalize() for name in policy.names}
        self._server_name = dns.name.from_text("ns", self.zone)
        self._keyring = {
            dns.name.from_text(name): dns.tsig.Key(dns.name.from_text(name), secret, dns.tsig.HMAC_SHA256)
            for name, secret in policy.keys.items()
        }
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._recent: OrderedDict[tuple[object, ...], tuple[float, asyncio.Future[IPv6Address]]] = OrderedDict()

    async def answer(self, wire: bytes, source: str, *, stream: bool) -> bytes | None:
        """The response to a message from `source` (an address as text); None for what is best not answered.

        stream: it came over TCP.
        """
        try:
            query, failure = self._parse(wire)
            if query is None:
                self.counters["malformed"] += 1
                return _format_error(wire)
            if query.flags & dns.flags.QR:
                self.counters["not-a-query"] += 1
                return None
            response = dns.message.make_response(query, our_payload=UDP_PAYLOAD)
            await self._fill(query, response, failure, source, stream)
            limit = 65535 if stream else max(512, min(query.payload or 512, UDP_PAYLOAD))
            rendered = response.to_wire(max_size=limit)
            return rendered if failure is None else self._with_tsig_error(rendered, query, failure)
        except dns.exception.TooBig:
            self.counters["too-big"] += 1
            return _header_only(wire, dns.flags.TC, dns.rcode.NOERROR)
        except (dns.exception.DNSException, ValueError, struct.error):  # what dnspython thinks of odd queries
            self.counters["malformed"] += 1
            return _format_error(wire)

    # -- queries -----------------------------------------------------------------------------------

    def _parse(self, wire: bytes) -> tuple[dns.message.Message | None, dns.rcode.Rcode | None]:
        """The query, None where it is not one; and why its signature counts for nothing (RFC 8945 §5.2)."""
        try:
            return dns.message.from_wire(wire, keyring=self._keyring), None
        except (dns.message.UnknownTSIGKey, dns.tsig.BadKey, dns.tsig.BadAlgorithm):
            failure = dns.rcode.BADKEY
        except dns.tsig.BadTime:
            failure = dns.rcode.BADTIME
        except (dns.tsig.BadSignature, dns.tsig.PeerError):
            failure = dns.rcode.BADSIG
        except (dns.exception.DNSException, ValueError, struct.error, IndexError):
            return None, None
        return dns.message.from_wire(wire, keyring=False), failure

    def _with_tsig_error(self, response: bytes, query: dns.message.Message, error: dns.rcode.Rcode) -> bytes:
        """A response with the TSIG record that says why (RFC 8945 §5.2): unsigned, but where only the time is wrong.

        There it is signed for the client's own time, so that the client can believe it, and tells it ours.
        """
        assert query.tsig is not None
        owner, told = query.tsig.name, query.tsig[0].replace(mac=b"", error=error, other=b"")
        if error == dns.rcode.BADTIME:
            told = told.replace(other=int(time.time()).to_bytes(6, "big"))
            sign: Callable[..., tuple[dns.rdata.Rdata, object]] = dns.tsig.sign
            told, _ = sign(response, self._keyring[owner], told, query.tsig[0].time_signed, query.tsig[0].mac)
        data = told.to_wire() or b""
        additional = int.from_bytes(response[10:12], "big") + 1
        record = (
            (owner.to_wire() or b"") + struct.pack("!HHIH", dns.rdatatype.TSIG, dns.rdataclass.ANY, 0, len(data)) + data
        )
        return response[:10] + additional.to_bytes(2, "big") + response[12:] + record

    async def _fill(
        self,
        query: dns.message.Message,
        response: dns.message.Message,
        failure: dns.rcode.Rcode | None,
        source: str,
        stream: bool,
    ) -> None:
        if failure is not None:
            self._end(response, dns.rcode.NOTAUTH, "bad-signature")
        elif query.opcode() != dns.opcode.QUERY:
            self._end(response, dns.rcode.NOTIMP, "other-opcode")
        elif query.edns > 0:
            self._end(response, dns.rcode.BADVERS, "other-edns")
        elif len(query.question) != 1:
            self._end(response, dns.rcode.FORMERR, "malformed")
        elif query.question[0].rdclass != dns.rdataclass.IN or not query.question[0].name.is_subdomain(self.zone):
            self._end(response, dns.rcode.REFUSED, "not-here")
        else:
            await self._zone(query, response, source, stream)

    def _end(self, response: dns.message.Message, rcode: dns.rcode.Rcode, count: str) -> None:
        response.set_rcode(rcode)
        self.counters[count] += 1

    async def _zone(self, query: dns.message.Message, response: dns.message.Message, source: str, stream: bool) -> None:
        question = query.question[0]
        name, kind = question.name, question.rdtype
        plain = name.canonicalize()
        response.flags |= dns.flags.AA
        if kind == dns.rdatatype.AAAA and plain in self._minting:
            await self._service(query, response, source, stream)
        elif kind == dns.rdatatype.SOA and plain == self.zone:
            response.answer.append(self._soa(name, SOA_TTL))
            self.counters["zone"] += 1
        elif kind == dns.rdatatype.NS and plain == self.zone:
            response.answer.append(dns.rrset.from_text(name, SOA_TTL, "IN", "NS", str(self._server_name)))
            self.counters["zone"] += 1
        elif kind == dns.rdatatype.AAAA and plain == self._server_name and self.policy.server is not None:
            response.answer.append(dns.rrset.from_text(name, SOA_TTL, "IN", "AAAA", self.policy.server))
            self.counters["zone"] += 1
        else:
            exists = any(known.is_subdomain(plain) for known in (*self._minting, self.zone, self._server_name))
            response.authority.append(self._soa(self.zone, self.policy.negative_ttl))
            self._end(response, dns.rcode.NOERROR if exists else dns.rcode.NXDOMAIN, "no-type" if exists else "no-name")

    def _soa(self, name: dns.name.Name, ttl: int) -> dns.rrset.RRset:
        text = f"{self._server_name} hostmaster.{self.zone} 1 3600 600 86400 {self.policy.negative_ttl}"
        return dns.rrset.from_text(name, ttl, "IN", "SOA", text)

    # -- SSAs --------------------------------------------------------------------------------------

    async def _service(
        self, query: dns.message.Message, response: dns.message.Message, source: str, stream: bool
    ) -> None:
        asker = self._asker(query, response, source)
        if self.policy.require_key and asker.key is None:
            self._end(response, dns.rcode.REFUSED, "no-key")
            return
        who = asker.subnet or ip_network(source)
        if self.policy.allow and not any(_within(who, allowed) for allowed in self.policy.allow):
            self._end(response, dns.rcode.REFUSED, "not-allowed")
            return
        if self.policy.stream_only and not stream:
            response.flags |= dns.flags.TC
            self.counters["to-stream"] += 1
            return
        minted = self._remembered(asker)
        if minted is None:
            if not self._pay(source):
                self._over_rate(response, stream)
                return
            minted = self._begin(asker)
        else:
            self.counters["repeated"] += 1
        try:
            address = await asyncio.shield(minted)
        except UnimuxError as error:
            if query.edns >= 0:
                said = dns.edns.EDEOption(dns.edns.EDECode.OTHER, str(error)[:200])
                response.use_edns(0, 0, UDP_PAYLOAD, options=[*response.options, said])
            self._end(response, dns.rcode.SERVFAIL, "no-address")
            return
        response.answer.append(dns.rrset.from_text(query.question[0].name, 0, "IN", "AAAA", str(address)))
        self.counters["minted"] += 1

    def _over_rate(self, response: dns.message.Message, stream: bool) -> None:
        if stream:
            self._end(response, dns.rcode.REFUSED, "over-rate")
        else:
            response.flags |= dns.flags.TC
            self.counters["over-rate-to-stream"] += 1

    def _asker(self, query: dns.message.Message, response: dns.message.Message, source: str) -> Asker:
        """Who asks; also answers the client-subnet option (RFC 7871 §7.2.1)."""
        subnet: Network | None = None
        for option in query.options:
            if isinstance(option, dns.edns.ECSOption):
                believed = any(_within(ip_network(source), trusted) for trusted in self.policy.believe)
                if believed and option.srclen:
                    subnet = ip_network((option.address, option.srclen), strict=False)
                scope = option.srclen if subnet is not None else 0
                response.use_edns(0, 0, UDP_PAYLOAD, options=[dns.edns.ECSOption(option.address, option.srclen, scope)])
                break
        client: IPv6Network | None = None
        if self.policy.name_for is NameFor.SUBNET and isinstance(subnet, IPv6Network):
            client = subnet
        elif self.policy.name_for is NameFor.SOURCE and ip_address(source).version == 6:
            client = IPv6Network((source, 64), strict=False)
        key = str(query.keyname) if query.had_tsig and query.keyname is not None else None
        return Asker(source, subnet, key, str(query.question[0].name.canonicalize()), client)

    def _remembered(self, asker: Asker) -> asyncio.Future[IPv6Address] | None:
        """What the same asker was given, or is being given, within the window."""
        oldest = self._now() - self.policy.retry_window
        while self._recent:
            key, (when, minting) = next(iter(self._recent.items()))
            if len(self._recent) <= MAX_REMEMBERED:
                if when >= oldest:
                    break
                if not minting.done():
                    self._renew(key, minting)
                    continue
            del self._recent[key]
        key = (asker.source, asker.subnet, asker.name, asker.key)
        found = self._recent.get(key)
        if found is None:
            return None
        minted = found[1]
        made = minted.done() and not minted.cancelled() and minted.exception() is None
        if made and not self._free(minted.result()):
            del self._recent[key]
            self.counters["taken-meanwhile"] += 1
            return None
        return minted

    def _begin(self, asker: Asker) -> asyncio.Future[IPv6Address]:
        key = (asker.source, asker.subnet, asker.name, asker.key)
        minted = asyncio.ensure_future(self._mint(asker))
        self._recent[key] = self._now(), minted

        def done(future: asyncio.Future[IPv6Address]) -> None:
            failed = future.cancelled() or future.exception() is not None
            found = self._recent.get(key)
            if found is None or found[1] is not future:
                return
            if failed:
                del self._recent[key]  # the next try is not to hear of this one's failure
            else:
                self._renew(key, future)  # only now can a resolver have heard of it

        minted.add_done_callback(done)
        return minted

    def _renew(self, key: tuple[object, ...], minted: asyncio.Future[IPv6Address]) -> None:
        """Remember an address for a retry window from now on."""
        self._recent[key] = self._now(), minted
        self._recent.move_to_end(key)

    def _pay(self, source: str) -> bool:
        """Take a token of the source's bucket; False when it is empty."""
        now = self._now()
        address = ip_address(source)
        whose = source if address.version == 4 else str(IPv6Network((source, 64), strict=False))
        bucket = self._buckets.pop(whose, None) or _Bucket(self.policy.burst, now)
        bucket.tokens = min(float(self.policy.burst), bucket.tokens + (now - bucket.when) * self.policy.rate)
        bucket.when = now
        self._buckets[whose] = bucket
        if len(self._buckets) > MAX_SOURCES:
            self._buckets.popitem(last=False)
        if math.floor(bucket.tokens + 1e-9) < 1:
            return False
        bucket.tokens -= 1
        return True


def _within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network):
        return inner.subnet_of(outer)
    return False


def _header_only(wire: bytes, flags: int, rcode: int) -> bytes | None:
    """A response that echoes id and opcode of what may be a query, and nothing else."""
    if len(wire) < HEADER_LENGTH or wire[2] & 0x80:
        return None
    opcode = int.from_bytes(wire[2:4], "big") & 0x7900  # opcode and RD
    return wire[:2] + (dns.flags.QR | opcode | flags | rcode).to_bytes(2, "big") + bytes(8)


def _format_error(wire: bytes) -> bytes | None:
    return _header_only(wire, 0, dns.rcode.FORMERR)
