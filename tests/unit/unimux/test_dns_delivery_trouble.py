"""What goes wrong with SSAs by DNS: no address, bad queries, TCP connections that trickle or squat, and settings."""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Address
from random import Random
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.tsig
import dns.tsigkeyring
import pytest

from tapstack.ipv6.addresses import AddressKind
from tests.unit.unimux.dnsstage import KEY, NS, Stage, aaaa, only, run
from tests.unit.unimux.lan import lan, virtual
from unimux.aio import open_connection
from unimux.errors import PoolExhausted, SetupError, WrongUsage
from unimux.ssa.dnsresponder import Asker, DnsPolicy, Responder, networks
from unimux.ssa.dnsserver import MAX_STREAMS, STREAM_IDLE, hold_address


def test_no_address_is_a_server_failure_that_says_why_and_the_next_try_is_a_new_one() -> None:
    async def main() -> None:
        fail = True

        async def mint(asker: Asker) -> IPv6Address:
            if fail:
                raise PoolExhausted(2.0)
            return IPv6Address("2001:db8:1::5")

        clock = asyncio.get_running_loop().time
        responder = Responder(DnsPolicy(zone="shop.example"), mint, clock)
        wire = await responder.answer(aaaa(use_edns=0).to_wire(), "2001:db8:1::1", stream=False)
        assert wire is not None
        response = dns.message.from_wire(wire)
        assert response.rcode() == dns.rcode.SERVFAIL
        (said,) = response.options
        assert isinstance(said, dns.edns.EDEOption)
        assert said.text is not None
        assert said.text.startswith("No one-time address was ready")
        fail = False
        wire = await responder.answer(aaaa().to_wire(), "2001:db8:1::1", stream=False)
        assert wire is not None
        assert only(dns.message.from_wire(wire)) == "2001:db8:1::5"

    virtual(main())


def test_other_opcodes_classes_zones_and_versions_are_refused_by_name() -> None:
    async def scene(s: Stage) -> None:
        notify = aaaa()
        notify.set_opcode(dns.opcode.NOTIFY)
        chaos = dns.message.make_query("version.bind", "TXT", "CH")
        elsewhere = aaaa("www.example.org")
        later = aaaa(use_edns=1)
        wanted = [dns.rcode.NOTIMP, dns.rcode.REFUSED, dns.rcode.REFUSED, dns.rcode.BADVERS]
        for query, rcode in zip((notify, chaos, elsewhere, later), wanted, strict=True):
            response = await s.udp(query)
            assert response is not None
            assert response.rcode() == rcode
        assert await s.udp(dns.message.make_response(aaaa()).to_wire(), timeout=0.5) is None, (
            "responses are not answered"
        )
        assert s.asked == []

    run(scene)


def test_garbage_never_raises_and_mints_nothing() -> None:
    async def main() -> None:
        random = Random(5)
        asked: list[Asker] = []

        async def mint(asker: Asker) -> IPv6Address:
            asked.append(asker)
            return IPv6Address("2001:db8:1::5")

        policy = DnsPolicy(zone="shop.example", keys={"alice": KEY}, require_key=True)
        responder = Responder(policy, mint, asyncio.get_running_loop().time)
        whole = aaaa(use_edns=0, options=[dns.edns.ECSOption("2001:db8::", 32)]).to_wire()
        for _ in range(3000):
            data = bytearray(whole)
            for _ in range(random.randrange(1, 6)):
                data[random.randrange(len(data))] = random.randrange(256)
            cut = bytes(data[: random.randrange(len(data) + 1)])
            for wire in (cut, random.randbytes(random.randrange(80))):
                response = await responder.answer(wire, "2001:db8:1::1", stream=bool(random.getrandbits(1)))
                assert response is None or response[:2] == wire[:2]
        assert asked == []

    virtual(main())


def test_a_silent_tcp_connection_ends_and_too_many_are_turned_away() -> None:
    async def scene(s: Stage) -> None:
        reader, writer = await open_connection(s.alice, NS, 53)
        writer.write(b"\x00")
        began = s.alice.now()
        with pytest.raises(ConnectionError):
            await reader.read()
        assert 9 < s.alice.now() - began < 12

    run(scene)


def test_a_message_that_comes_in_drops_is_not_waited_for() -> None:
    """One octet now and then is no sign of life: with 64 such connections nobody else would be served."""

    async def scene(s: Stage) -> None:
        reader, writer = await open_connection(s.alice, NS, 53)
        ended = asyncio.ensure_future(reader.read())
        began = s.alice.now()
        for octet in b"\x00\x20" + bytes(30):
            writer.write(bytes([octet]))
            await asyncio.wait([ended], timeout=3)
            if ended.done():
                break
        assert STREAM_IDLE - 1 < s.alice.now() - began < STREAM_IDLE + 4
        assert isinstance(ended.exception(), ConnectionError)

    run(scene)


@pytest.mark.proves("UM-SSA-3", by="api")
def test_who_has_nothing_to_ask_gives_way_to_who_has() -> None:
    async def scene(s: Stage) -> None:
        squatters = []
        for _ in range(MAX_STREAMS):
            squatters.append(await open_connection(s.alice, NS, 53))
            await asyncio.sleep(0.01)
        assert len(s.server.streams) == MAX_STREAMS
        (answer,) = await s.tcp(aaaa())
        only(answer)
        assert s.counters["stream-gave-way"] == 1
        with pytest.raises(ConnectionError):  # the one that was silent for longest
            await squatters[0][0].read()
        assert not squatters[1][0].at_eof()
        for _, writer in squatters:
            writer.transport.abort()

    run(scene)


def test_answers_that_nobody_reads_are_not_heaped_up() -> None:
    async def scene(s: Stage) -> None:
        query = dns.message.make_query("shop.example", "SOA").to_wire()
        reader, writer = await open_connection(s.alice, NS, 53)
        assert isinstance(writer.transport, asyncio.Transport)
        await asyncio.sleep(0.1)
        (stream,) = s.server.streams
        assert stream._transport is not None
        stream._transport.set_write_buffer_limits(high=10_000)
        writer.transport.pause_reading()
        writer.write((len(query).to_bytes(2, "big") + query) * 30_000)
        most = 0
        for _ in range(300):
            await asyncio.sleep(0.1)
            most = max(most, stream._transport.get_write_buffer_size())
            if writer.transport.get_write_buffer_size() == 0:
                break
        assert s.counters["zone"] > 1000
        assert most < 20_000
        writer.transport.resume_reading()
        for _ in range(30_000):
            await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        assert s.counters["zone"] == 30_000, "and all are answered once they are read"
        writer.transport.abort()

    run(scene)


def test_a_tcp_connection_that_waits_for_its_answer_is_not_idle() -> None:
    async def scene(s: Stage) -> None:
        (answer,) = await s.tcp(aaaa())
        only(answer)

    run(scene, delay=2.5 * STREAM_IDLE)


def test_an_address_of_another_prefix_or_of_somebody_else_cannot_be_the_servers() -> None:
    async def main() -> None:
        async with lan() as net:
            bob, alice = await net.node(), await net.node()
            with pytest.raises(WrongUsage, match="lies in no prefix"):
                await hold_address(bob, IPv6Address("2001:db8:99::1"), timeout=2)
            await hold_address(alice, NS)
            with pytest.raises(SetupError, match="belongs to another node"):
                await hold_address(bob, NS)
            entry = alice.stack.host.addresses.get(NS.packed)
            assert entry is not None
            assert entry.kind is AddressKind.STABLE

    virtual(main())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"zone": "a..b"}, "'a..b' is no name that DNS could answer for: A DNS label is empty"),
        ({"zone": "bad name"}, "'bad name' is no name that DNS could answer for: write letters"),
        ({"zone": "."}, "'.' is no name"),
        ({"zone": ""}, "'' is no name"),
        ({"zone": "a\\.b.example"}, "is no name"),
        ({"zone": "-a.example"}, "is no name"),
        ({"zone": "*.example"}, "is no name"),
        ({"zone": ".".join(["x" * 63] * 3 + ["y" * 61])}, "'ns' is no name that DNS could answer for"),
        ({"zone": "shop.example", "names": ("@", "a b")}, "'a b' is no name"),
        ({"zone": "shop.example", "names": ("www.other.example.",)}, "is no name in the zone 'shop.example'"),
        ({"zone": "x", "keys": {"a..b": b"secret"}}, "'a..b' cannot be the name of a TSIG key"),
        ({"zone": "x", "rate": 0.0}, "more than 0"),
        ({"zone": "x", "require_key": True}, "requires a TSIG key"),
    ],
)
def test_a_policy_that_makes_no_sense_is_a_sentence(options: dict[str, Any], why: str) -> None:
    async def mint(asker: Asker) -> IPv6Address:
        raise AssertionError

    with pytest.raises(SetupError, match=why):
        Responder(DnsPolicy(**options), mint, lambda: 0.0)
    with pytest.raises(SetupError, match="no prefix"):
        networks(["2001:db8::1/32"])


def test_zones_that_are_ones_are_taken() -> None:
    for zone in ("shop.example", "shop.example.", "x", "_dns.Shop-1.example", "bücher.example"):
        DnsPolicy(zone=zone, names=("@", "www", "a.b", f"mail.{zone.rstrip('.')}."))


@pytest.mark.proves("UM-SSA-3", by="api")
def test_an_address_that_is_long_in_coming_is_minted_once() -> None:
    """Retries while it is being made, and within two seconds of its answer, get the same."""

    async def main() -> None:
        loop, minted = asyncio.get_running_loop(), 0

        async def mint(asker: Asker) -> IPv6Address:
            nonlocal minted
            minted += 1
            number = minted
            await asyncio.sleep(4.0)
            return IPv6Address(f"2001:db8:1::{number}")

        responder = Responder(DnsPolicy(zone="shop.example"), mint, loop.time)

        async def ask(at: float, source: str = "2001:db8::53") -> str | None:
            await asyncio.sleep(at)
            wire = await responder.answer(aaaa().to_wire(), source, stream=False)
            assert wire is not None
            return only(dns.message.from_wire(wire))

        asked = asyncio.gather(*map(ask, (0.0, 1.0, 2.5, 3.9, 4.1, 5.9, 6.1)))
        await asyncio.sleep(3.0)
        assert await ask(0.0, "2001:db8::54") == "2001:db8:1::2"
        assert await asked == 6 * ["2001:db8:1::1"] + ["2001:db8:1::3"]

    virtual(main())
