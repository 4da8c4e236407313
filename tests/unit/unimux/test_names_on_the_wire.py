"""Which server of names a node asks, and how, as its packets show it (RFC 8106, RFC 6891, RFC 7766); in virtual time."""

from __future__ import annotations

from functools import partial
from ipaddress import IPv6Address

import dns.flags
import dns.message
import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import IPv6

from tests.unit.ipv6.bench import ROUTER_MAC, advertisement
from tests.unit.unimux.dnsstage import NS, Stage, run
from tests.unit.unimux.lan import eventually
from unimux.errors import NameNotResolved

DNS = 53


def questions(stage: Stage) -> list[dns.message.Message]:
    """What was asked of the server over UDP so far."""
    sent = [packet for _, packet in stage.net.packets(UDP) if packet[IPv6].dst == str(NS) and packet[UDP].dport == DNS]
    return [dns.message.from_wire(bytes(packet[UDP].payload)) for packet in sent]


def knows(stage: Stage, server: bool) -> bool:
    """Whether the node knows a server of names, or none, as asked."""
    return bool(stage.alice.name_servers) == server


@pytest.mark.proves("RFC8504-8.3")
def test_the_server_that_a_router_announces_is_asked_until_it_is_withdrawn() -> None:
    async def scene(stage: Stage) -> None:
        router = stage.net.switch.connect(bytes.fromhex(ROUTER_MAC.replace(":", "")))
        asked = 0
        for lifetime in (None, 600, 0, 600):
            if lifetime is not None:
                packet = advertisement(prefix=None, rdnss=(str(NS),), rdnss_lifetime=lifetime)
                assert router.send([bytes(packet)])
                await eventually(partial(knows, stage, bool(lifetime)))
            if lifetime:
                (found,) = await stage.alice.resolve("shop.example", timeout=20)
                assert IPv6Address(found) in stage.service.armed
                asked += 1
            else:
                with pytest.raises(NameNotResolved, match="no name server is known"):
                    await stage.alice.resolve("shop.example", timeout=20)
            assert len(questions(stage)) == asked

    run(scene)


@pytest.mark.proves("RFC8504-7/1")
def test_addresses_are_asked_for_with_edns_and_over_tcp_where_the_answer_is_cut() -> None:
    async def scene(stage: Stage) -> None:
        router = stage.net.switch.connect(bytes.fromhex(ROUTER_MAC.replace(":", "")))
        assert router.send([bytes(advertisement(prefix=None, rdnss=(str(NS),)))])
        await eventually(lambda: bool(stage.alice.name_servers))
        (found,) = await stage.alice.resolve("shop.example", timeout=20)

        (query,) = questions(stage)
        assert str(query.question[0]) == "shop.example. IN AAAA"
        assert query.edns == 0 and query.payload >= 1220
        (cut,) = (packet for _, packet in stage.net.packets(UDP) if packet[IPv6].src == str(NS))
        assert dns.message.from_wire(bytes(cut[UDP].payload)).flags & dns.flags.TC

        segments = [packet for _, packet in stage.net.packets(TCP)]
        again = [bytes(p[TCP].payload) for p in segments if p[TCP].dport == DNS and p[IPv6].dst == str(NS)]
        told = [bytes(p[TCP].payload) for p in segments if p[TCP].sport == DNS and p[IPv6].src == str(NS)]
        assert dns.message.from_wire(b"".join(again)[2:]).question == query.question
        answer = dns.message.from_wire(b"".join(told)[2:])
        assert [record.address for record in answer.answer[0]] == [str(IPv6Address(found))]

    run(scene, stream_only=True)
