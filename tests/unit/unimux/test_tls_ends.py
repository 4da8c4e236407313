"""TLS with peers that end, or speak, as soon as the connection stands: what they send comes in one batch with the handshake."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from tapstack.types import address
from tapstack.wire import ethernet, icmpv6, ipv6, nd, tcp
from tests.unit.unimux.lan import Lan, handled, lan, virtual
from unimux.tls import _Starting, connect_tls, tls_factory

MAC, HERE = bytes.fromhex("020000000099"), "2001:db8:1::99"
ME = address(HERE)


class Hasty:
    """A host on the switch that answers each SYN with a SYN-ACK and one more segment."""

    def __init__(self, net: Lan, flags: int, data: bytes = b"") -> None:
        self.flags = flags
        self.data = data
        self.link = net.switch.connect(MAC)
        self.link.attach(asyncio.get_running_loop(), self.wake)

    def wake(self) -> None:
        while (frame := self.link.receive()) is not None:
            source, next_header, payload = bytes(frame[22:38]), frame[20], bytes(frame[54:])
            if next_header == ipv6.ICMPV6 and payload[0] == icmpv6.Type.NEIGHBOR_SOLICITATION and any(source):
                if payload[8:24] == ME:
                    body = nd.NeighborAdvertisement(ME, False, True, True, (nd.TargetLinkLayer(MAC),)).pack()
                    kind = icmpv6.Type.NEIGHBOR_ADVERTISEMENT
                    self.send(bytes(frame[6:12]), source, ipv6.ICMPV6, icmpv6.pack(ME, source, kind, 0, body))
            elif next_header == ipv6.TCP and (header := tcp.TcpHeader.parse(payload)).flags & tcp.SYN:
                ports, ack = (header.destination_port, header.source_port), (header.sequence + 1) % 2**32
                for sequence, flags, data in ((1000, tcp.SYN, b""), (1001, self.flags, self.data)):
                    segment = tcp.pack(ME, source, *ports, sequence, ack, flags | tcp.ACK, 65535, payload=data)
                    self.send(bytes(frame[6:12]), source, ipv6.TCP, segment + data)

    def send(self, mac: bytes, destination: bytes, next_header: int, payload: bytes) -> None:
        header = ipv6.pack_header(ME, destination, next_header, len(payload), 255)
        self.link.send([ethernet.header(mac, MAC), header, payload])


def anybody() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.parametrize("ending", [tcp.RST, tcp.FIN], ids=["RST", "FIN"])
def test_a_server_that_ends_at_once_has_reset_the_connection(ending: int) -> None:
    async def main() -> None:
        async with lan() as net:
            Hasty(net, ending)
            node = await net.node()
            await node.ready()
            with pytest.raises(ConnectionResetError):
                async with asyncio.timeout(1):
                    await connect_tls(node, asyncio.Protocol, HERE, 443, anybody())

    virtual(main())


def test_what_came_before_the_handshake_is_not_taken_for_what_it_protects() -> None:
    async def main() -> None:
        async with lan() as net:
            Hasty(net, tcp.PSH, b"injected")
            node = await net.node()
            await node.ready()
            with pytest.raises(ssl.SSLError):
                async with asyncio.timeout(1):
                    await connect_tls(node, asyncio.Protocol, HERE, 443, anybody())

    virtual(main())


@pytest.mark.parametrize("how", ["abort", "close"])
def test_a_client_that_ends_at_once_leaves_nothing_of_its_handshake(how: str) -> None:
    async def main() -> None:
        async with lan() as net:
            client, server = await net.node(), await net.node()
            await asyncio.gather(client.ready(), server.ready())
            before = asyncio.all_tasks()
            service = server.listen(tls_factory(asyncio.Protocol, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)))
            ssa = await service.issue()
            transport, _ = await client.create_connection(asyncio.Protocol, ssa.address, None)
            await asyncio.sleep(0)  # the acknowledgement leaves, and behind it
            getattr(transport, how)()
            await asyncio.sleep(1)
            assert asyncio.all_tasks() <= before

    virtual(main())


class Bare(asyncio.Transport):
    """Remembers that it was aborted."""

    aborted = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


class Lender(asyncio.BufferedProtocol):
    """Lends a buffer of `room` bytes at a time."""

    def __init__(self, room: int) -> None:
        self.buffer = bytearray(room)
        self.got = b""
        self.lost: list[Exception | None] = []

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.got += self.buffer[:nbytes]

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


@pytest.mark.parametrize(("room", "failures"), [(3, []), (0, ["get_buffer() returned an empty buffer"])])
def test_what_came_with_the_handshake_goes_through_the_buffers_that_a_protocol_lends(
    room: int, failures: list[str]
) -> None:
    async def main() -> None:
        told = handled()
        starting, transport, protocol = _Starting(), Bare(), Lender(room)
        starting.data_received(b"early words")
        starting.connection_lost(None)
        starting.hand_over(transport, protocol)
        assert [str(each["exception"]) for each in told] == failures
        assert transport.aborted is bool(failures)
        assert protocol.got == (b"" if failures else b"early words") and protocol.lost == [None]

    asyncio.run(main())
