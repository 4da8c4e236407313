"""What front ends and deliveries read from strangers, under arbitrary bytes: handshakes, tokens, tagged addresses, DNS.

Each target ends with a value or with the error that its parser names, never with another one; and what it says of a value holds.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Coroutine
from ipaddress import IPv6Address, ip_network
from typing import Any

import dns.name

from compat.socks.handshake import MAX_HTTP_HEAD, Handshake
from compat.socks.messages import MalformedError, pack_datagram, parse_datagram
from compat.socks.session import PasswordTable
from tapstack.randomness import KeyedRandom
from unimux.dnsstream import UDP_PAYLOAD
from unimux.generators import GeneratorError
from unimux.lookup import MAX_HOPS, Ask, Lookup, NotAName, Outcome, host_name
from unimux.ssa.dnsresponder import Asker, DnsPolicy, NameFor, Responder
from unimux.ssa.token import Token, TokenError
from unimux.tagged import Tag, TagCodec, TagLayout, TagVerifier

from .script import Script

_KEY = bytes(range(32))
_SERVERS = (bytes(15) + b"\x01", bytes(15) + b"\x02")
_SSA = IPv6Address("2001:db8::5a")
_POLICY = DnsPolicy(
    zone="example.org",
    names=("@", "www"),
    server="2001:db8::53",
    believe=(ip_network("2001:db8:1::/48"),),
    keys={"client": bytes(32)},
    name_for=NameFor.SUBNET,
)
_SOURCES = ("2001:db8:1::1", "2001:db8:2::1", "192.0.2.1")


def _handshake(data: bytes) -> None:
    """The client's bytes in pieces and at once: the same request, the same answers, and the rest untouched."""
    script = Script(data)
    table = PasswordTable({"alice": "wonder"}) if script.byte() & 1 else None
    sizes = [script.byte() & 31 for _ in range(4)]
    said = script.rest()
    whole, cut = Handshake(table), Handshake(table)
    whole.feed(said)
    at = 0
    for size in [*sizes, len(said)]:
        cut.feed(said[at : at + size])
        at += size
        assert cut.request is not None or cut.buffered <= MAX_HTTP_HEAD + len(said)
    seen = [(each.request, each.failure, each.take_output(), each.early_data()) for each in (whole, cut)]
    assert seen[0] == seen[1], seen
    request, failure, _, early = seen[0]
    assert request is None or failure is None
    if request is not None:
        assert said.endswith(early) and request.host and 0 <= request.port < 1 << 16


def _datagram(data: bytes) -> None:
    """A datagram of a SOCKS association; what is read survives being written."""
    try:
        read = parse_datagram(data)
    except MalformedError:
        return
    again = parse_datagram(pack_datagram(read.host, read.port, read.data))
    assert (again.host, again.port, bytes(again.data)) == (read.host, read.port, bytes(read.data))


def _token(data: bytes) -> None:
    try:
        token = Token.parse(data.decode("utf-8", "surrogateescape"))
    except TokenError:
        return
    assert Token.parse(str(token)) == token


def _name(data: bytes) -> None:
    try:
        name = host_name(data.decode("utf-8", "surrogateescape"))
    except NotAName:
        return
    assert name.is_absolute() and name == name.canonicalize()


def _tag(data: bytes) -> None:
    """Any layout, any tag, any identifier: what the codec makes it opens, and a verifier admits what it should and no more."""
    script = Script(data)
    service, client, slots, serial = (script.byte() % 33 for _ in range(4))
    redundancy = 64 - service - client - slots - serial
    now, lifetime = float(script.word()), float(script.word() & 0x3FF)
    try:
        layout = TagLayout(service, client, slots, serial, redundancy, 1.0 + script.byte())
        verifier = TagVerifier(_KEY, lifetime, layout, services={0, 1})
    except GeneratorError:
        return
    number = int(now // layout.slot_length)
    codec = TagCodec(_KEY, layout, number >> layout.slot)
    slot = number & (1 << layout.slot) - 1
    tag = Tag(script.word(), script.word(), slot, script.word())
    try:
        identifier = codec.seal(tag)
    except GeneratorError:
        return
    assert codec.open(identifier) == tag
    address = bytes(8) + identifier.to_bytes(8, "big")
    assert (verifier.admit(address, now) is None) == (tag.service > 1)
    other = script.take(8).ljust(8, b"\0")
    opened = codec.open(int.from_bytes(other, "big"))
    assert opened is None or codec.seal(opened) == int.from_bytes(other, "big")
    admitted = verifier.admit(bytes(8) + other, now)
    assert admitted is None or admitted.service <= 1


def _finish(work: Coroutine[Any, Any, bytes | None]) -> bytes | None:
    with asyncio.Runner() as runner:
        return runner.run(work)


def _query(data: bytes) -> None:
    """A message to the responder: an answer that its asker takes for one, in what a datagram holds, and one SSA at most."""
    script = Script(data)
    choice = script.byte()
    wire = script.rest()
    minted: list[Asker] = []

    async def mint(asker: Asker) -> IPv6Address:
        minted.append(asker)
        return _SSA

    responder = Responder(_POLICY, mint, lambda: 1000.0)
    stream = bool(choice & 4)
    answer = _finish(responder.answer(wire, _SOURCES[choice & 3 if choice & 3 < 3 else 0], stream=stream))
    assert len(minted) <= 1
    assert all(asker.client is None or asker.subnet == asker.client for asker in minted)
    if answer is None:
        return
    assert answer[:2] == wire[:2] and answer[2] & 0x80, "no answer to this message"
    assert len(answer) <= (65535 if stream else UDP_PAYLOAD + 512)  # a TSIG record comes on top
    assert minted or _SSA.packed not in answer


def _response(data: bytes) -> None:
    """Messages of name servers to a lookup, each with the id and the question that it waits for, or as it is."""
    script = Script(data)
    lookup = Lookup(dns.name.from_text("www.example.org"), _SERVERS, KeyedRandom(bytes(32), "fuzz"))
    for _ in range(2 * 2 * len(_SERVERS) * 3 * (MAX_HOPS + 1)):
        step = lookup.step()
        if isinstance(step, Outcome):
            _check(step)
            return
        wire = _reply(step, script)
        if wire is None:
            lookup.failed()
        else:
            lookup.received(wire)
    raise AssertionError("the lookup does not end")


def _reply(ask: Ask, script: Script) -> bytes | None:
    if script.over:
        return None
    how, body = script.byte(), script.take(script.byte())
    match how & 3:
        case 0:
            return body
        case 1:  # header and question as asked, flags and counts of the script, and records of it
            question = ask.payload[12:].split(b"\0", 1)[0] + b"\0" + ask.payload[12:].split(b"\0", 1)[1][:4]
            counts = struct.pack("!HHHH", 1, script.byte() & 3, script.byte() & 3, script.byte() & 1)
            return ask.payload[:2] + bytes((0x80 | how >> 2 & 2, how >> 4 & 7)) + counts + question + body
        case 2:
            return ask.payload[:2] + body
        case _:
            return None


def _check(outcome: Outcome) -> None:
    for address in outcome.addresses:
        assert len(address) == 16 and not IPv6Address(address).is_multicast and not IPv6Address(address).is_loopback
    assert all(len(address) == 4 for address in outcome.ipv4)
    assert outcome.ttl >= 0
    assert outcome.addresses or outcome.ipv4 or outcome.reason


TARGETS: tuple[tuple[str, Callable[[bytes], None]], ...] = (
    ("handshake", _handshake),
    ("datagram", _datagram),
    ("token", _token),
    ("name", _name),
    ("tag", _tag),
    ("query", _query),
    ("response", _response),
)


def one_input(data: bytes) -> None:
    """The first byte chooses the parser, all others are its input."""
    script = Script(data)
    _, target = TARGETS[script.byte() % len(TARGETS)]
    target(script.rest())
