"""The SOCKS front end on a link-local address, which needs the interface beside it (RFC 4007 §11)."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

import pytest

from compat.kernel import in_namespace, namespace, set_sysctl, veth
from compat.socks.messages import pack_datagram, parse_datagram
from compat.socks.server import SocksServer
from compat.socks.services import Services
from compat.socks.session import PasswordTable
from tests.unit.compat.socks_requests import UdpClient
from tests.unit.compat.socks_support import EchoDatagrams, LoopbackDialler

_LOG_IN = b"\x05\x01\x02\x01\x01a\x01b"
_ASSOCIATE = b"\x05\x03\x00\x01" + bytes(6)


@pytest.mark.real
def test_datagrams_are_relayed_on_a_link_local_address() -> None:
    async def main(address: str, index: int) -> bytes:
        services = Services(
            dialler=LoopbackDialler(), datagrams=EchoDatagrams(), authenticator=PasswordTable({"a": "b"})
        )
        async with SocksServer(services) as server:
            await server.start(f"{address}%{index}", 0)
            reader, writer = await asyncio.open_connection(f"{address}%{index}", server.addresses[0][1])
            writer.write(_LOG_IN + _ASSOCIATE)
            async with asyncio.timeout(60):
                answer = (await reader.readexactly(2 + 2 + 4 + 16 + 2))[4:]
                assert answer[:4] == b"\x05\x00\x00\x04"
                assert answer[4:20] == socket.inet_pton(socket.AF_INET6, address)
                udp, inbox = await asyncio.get_running_loop().create_datagram_endpoint(
                    UdpClient, remote_addr=(f"{address}%{index}", int.from_bytes(answer[20:]))
                )
                udp.sendto(pack_datagram("2001:db8::2", 99, b"hello"))
                heard = parse_datagram(await inbox.received.get())
            udp.close()
            writer.close()
            return bytes(heard.data)

    with namespace("socks") as space, ExitStack() as stack:
        for name in ("accept_dad", "dad_transmits"):
            set_sysctl(space, f"ipv6/conf/default/{name}", 0)
        here, _ = stack.enter_context(veth(space, "here", space, "there"))
        here.until_answering()
        (own,) = (each.ip for each in here.addresses if each.ip.is_link_local)
        with in_namespace(space):
            assert asyncio.run(main(str(own), here.index)) == b"re: hello"
