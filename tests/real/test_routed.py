"""A node with a prefix that the kernel routes to it: what it makes of a link that goes, and of a machine without IPv6."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest

from compat.attachment import NodeSettings, attached_node
from compat.kernel import (
    Interface,
    KernelError,
    KernelUnavailable,
    Namespace,
    address,
    forwarding,
    get_sysctl,
    in_namespace,
    namespace,
    route,
    set_sysctl,
    sysctl,
    veth,
)
from compat.kernel.owner import Owner
from compat.routed import KERNEL_END
from scenarios.witness.frames import Kind
from unimux.aio import open_connection
from unimux.errors import SetupError
from unimux.node import Node

from .wire import capturing, frames

SERVER = "2001:db8:5::1"
PREFIX = "2001:db8:8c::/64"
PATIENCE = 60.0


@pytest.fixture
def space() -> Iterator[Namespace]:
    """What stands for the machine's own namespace: not ours, so that every change in it is written down and undone."""
    with namespace("routed") as made, Namespace.named(made.name) as shared:
        yield shared


class Place:
    """A running node, a server on the kernel's stack beside it, and the node's device."""

    def __init__(self, space: Namespace, node: Node, port: int, peers: list[str]) -> None:
        self.space = space
        self.node = node
        self.device = Interface(space, Owner.current().link_name("node"))
        self._port = port
        self._peers = peers

    async def ask(self) -> str:
        """Connect to the server, which tells whom it sees; the node's end must be that, and of the prefix."""
        reader, writer = await open_connection(self.node, SERVER, self._port, timeout=PATIENCE)
        assert await reader.read() == self._peers[-1].encode() == writer.get_extra_info("sockname")[0].encode()
        writer.close()
        assert IPv6Address(self._peers[-1]) in IPv6Network(PREFIX)
        return self._peers[-1]

    def routes(self) -> list[list[str]]:
        """What the kernel's table says of the prefix: rows whose last word is the device."""
        table = self.space.run(lambda: Path("/proc/thread-self/net/ipv6_route").read_text(), "read the routes")
        hexadecimal = IPv6Network(PREFIX).network_address.packed.hex()
        return [row.split() for row in table.splitlines() if row.startswith(f"{hexadecimal} 40 ")]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.005)


@asynccontextmanager
async def place(space: Namespace) -> AsyncIterator[Place]:
    peers: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer.get_extra_info("peername")[0])
        writer.write(peers[-1].encode())
        writer.close()

    with in_namespace(space):
        listening = socket.create_server((SERVER, 0), family=socket.AF_INET6)
    async with (
        await asyncio.start_server(serve, sock=listening) as server,
        attached_node(NodeSettings(prefix=PREFIX, netns=space.name)) as node,
    ):
        yield Place(space, node, server.sockets[0].getsockname()[1], peers)


def links(space: Namespace) -> list[str]:
    return [name for _, name in space.run(socket.if_nameindex, "list the links")]


@pytest.mark.real("dumpcap")
@pytest.mark.proves("UM-POOL-4", "UM-NODE-2")
def test_a_link_that_was_down_has_its_address_and_route_again(
    space: Namespace, artefacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = artefacts / "after.pcapng"

    async def main() -> None:
        async with place(space) as here:
            before = await here.ask()
            (first,) = here.routes()
            for _ in range(3):
                here.device.down()
                await here.until(lambda: here.routes() == [])
                here.device.up()
                await here.until(lambda: here.routes() != [])
            async with capturing(here.device, path):
                after.append(await here.ask())
                after.append(await here.ask())
            assert len({before, *after}) == 3
            (again,) = here.routes()
            assert (again[4], again[-1]) == (first[4], here.device.name), "by the node's link-local address"
            assert KERNEL_END in {str(each.ip) for each in here.device.addresses}

    after: list[str] = []
    with address(Interface(space, "lo"), f"{SERVER}/128"):
        asyncio.run(main())
    assert links(space) == ["lo"]
    assert get_sysctl(space, "ipv6/conf/all/forwarding") == "0"
    assert capsys.readouterr().err == ""
    seen = frames(path)
    for each in after:
        assert [f for f in seen if f.kind is Kind.TCP and f.dst == IPv6Address(each).packed], (
            "the server's answers came"
        )


def settings(space: Namespace) -> dict[str, tuple[str, str]]:
    """`forwarding` and `accept_ra` of "all", "default" and each link of the test."""
    return {
        name: (get_sysctl(space, f"ipv6/conf/{name}/forwarding"), get_sysctl(space, f"ipv6/conf/{name}/accept_ra"))
        for name in ("all", "default", "up", "lan")
    }


@pytest.fixture
def uplink(space: Namespace) -> Iterator[None]:
    """A link that autoconfigures, and one that forwards alone."""
    with veth(space, "up", space, "lan"), address(Interface(space, "lo"), f"{SERVER}/128"):
        set_sysctl(space, "ipv6/conf/default/accept_ra", 1)
        set_sysctl(space, "ipv6/conf/up/accept_ra", 1)
        set_sysctl(space, "ipv6/conf/lan/accept_ra", 1)
        set_sysctl(space, "ipv6/conf/lan/forwarding", 1)
        yield


@pytest.mark.real
@pytest.mark.usefixtures("uplink")
def test_each_interface_listens_to_routers_meanwhile_and_has_its_own_settings_again(space: Namespace) -> None:
    before = settings(space)
    assert before == {"all": ("0", "1"), "default": ("0", "1"), "up": ("0", "1"), "lan": ("1", "1")}

    async def main() -> None:
        async with place(space) as here:
            await here.ask()
            assert settings(space) == {"all": ("1", "1"), "default": ("1", "2"), "up": ("1", "2"), "lan": ("1", "1")}

    asyncio.run(main())
    assert settings(space) == before


@pytest.mark.real
@pytest.mark.usefixtures("uplink")
def test_the_node_that_remains_keeps_the_interfaces_listening_to_routers(space: Namespace) -> None:
    before = settings(space)

    async def main() -> None:
        with ExitStack() as first:  # what another node does that began before
            for name in ("default", "up"):
                first.enter_context(sysctl(space, f"ipv6/conf/{name}/accept_ra", 2))
            first.enter_context(forwarding(space))
            async with place(space) as here:
                first.close()
                await here.ask()
                assert (settings(space)["up"], settings(space)["default"]) == (("1", "2"), ("1", "2"))

    asyncio.run(main())
    assert settings(space) == before


@pytest.mark.real
@pytest.mark.usefixtures("uplink")
def test_on_a_router_no_setting_is_touched(space: Namespace) -> None:
    set_sysctl(space, "ipv6/conf/all/forwarding", 1)
    set_sysctl(space, "ipv6/conf/up/forwarding", 0)
    before = settings(space)

    async def main() -> None:
        async with place(space) as here:
            await here.ask()
            assert settings(space) == before

    asyncio.run(main())
    assert settings(space) == before


@pytest.mark.real
def test_a_start_that_is_refused_begins_no_key_epoch(space: Namespace, tmp_path: Path) -> None:
    async def main() -> None:
        settings = NodeSettings(bridge="nowhere", netns=space.name, state=str(tmp_path / "state"))
        with pytest.raises(KernelError):
            async with attached_node(settings):
                pytest.fail("there is no such bridge")

    asyncio.run(main())
    assert not (tmp_path / "state").exists()


@pytest.mark.real
def test_a_link_that_ends_down_leaves_nothing_written_down(space: Namespace) -> None:
    async def main() -> None:
        async with place(space) as here:
            await here.ask()
            here.device.down()
            await here.until(lambda: here.routes() == [])

    with address(Interface(space, "lo"), f"{SERVER}/128"):
        asyncio.run(main())
    assert links(space) == ["lo"]
    assert get_sysctl(space, "ipv6/conf/all/forwarding") == "0"


@pytest.mark.real
def test_a_route_that_somebody_else_has_set_meanwhile_is_told_and_left(
    space: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with place(space) as here:
            here.device.down()
            await here.until(lambda: here.routes() == [])
            with route(space, PREFIX, dev=Interface(space, "lo"), metric=1024):
                here.device.up()
                await here.until(lambda: "is not routed to the node" in said())
                assert [row[-1] for row in here.routes()] == ["lo"]
            here.device.down()
            here.device.up()
            await here.ask()

    def said() -> str:
        told.append(capsys.readouterr().err)
        return "".join(told)

    told: list[str] = []
    with address(Interface(space, "lo"), f"{SERVER}/128"):
        asyncio.run(main())
    (line,) = said().splitlines()
    assert line.startswith(
        "unimux: The link was down and is up again, but 2001:db8:8c::/64 is not routed to the node: "
    )
    assert line.endswith("is already in use; choose another or remove it first.")


@pytest.mark.real
@pytest.mark.parametrize("which", ["all", "default"])
def test_a_machine_that_has_ipv6_off_for_new_links_gives_the_node_its_own(
    space: Namespace, which: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As hardened machines and containers have it: the node's TAP is ours to switch on, what is the machine's stays."""

    async def main() -> None:
        async with place(space) as here:
            assert await here.ask() != await here.ask()
            assert get_sysctl(space, f"ipv6/conf/{here.device.name}/disable_ipv6") == "0"
            assert get_sysctl(space, f"ipv6/conf/{which}/disable_ipv6") == "1"

    set_sysctl(space, f"ipv6/conf/{which}/disable_ipv6", 1)
    set_sysctl(space, "ipv6/conf/lo/disable_ipv6", 0)
    with address(Interface(space, "lo"), f"{SERVER}/128"):
        asyncio.run(main())
    assert get_sysctl(space, f"ipv6/conf/{which}/disable_ipv6") == "1"
    assert links(space) == ["lo"]
    assert capsys.readouterr().err == ""


@pytest.mark.real
def test_a_machine_that_has_ipv6_off_altogether_is_told_that_nobody_is_reached(
    space: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with attached_node(NodeSettings(prefix=PREFIX, netns=space.name)) as node:
            await node.ready(timeout=PATIENCE)

    set_sysctl(space, "ipv6/conf/all/disable_ipv6", 1)
    asyncio.run(main())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "unimux: IPv6 is switched off on lo, so the node reaches nobody there: switch it on (sysctl "
    )


@pytest.mark.real
def test_an_address_where_ipv6_is_off_is_not_a_matter_of_rights(space: Namespace) -> None:
    set_sysctl(space, "ipv6/conf/lo/disable_ipv6", 1)
    with (
        pytest.raises(
            KernelUnavailable, match=r"IPv6 is switched off there; switch it on \(sysctl net\.ipv6\.conf\.lo\."
        ),
        address(Interface(space, "lo"), f"{SERVER}/128"),
    ):
        pass


@pytest.mark.real("unshare", "mount")
def test_sysctls_that_are_read_only_are_told_as_that(space: Namespace) -> None:
    """As in a container without privileges over /proc."""
    hidden = 'mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec "$@"'
    command = (sys.executable, "-m", "unimux", "up", "--prefix", PREFIX)
    with in_namespace(space):
        done = subprocess.run(
            ("unshare", "--mount", "sh", "-c", hidden, "sh", *command), capture_output=True, text=True, timeout=PATIENCE
        )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 3 and "Traceback" not in line
    assert line.endswith("it is mounted read-only here; mount it for writing, or run outside the container.")
    assert links(space) == ["lo"]


@pytest.mark.real
def test_a_node_that_finds_no_link_local_address_says_so(space: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its test for duplicates takes a second at least."""

    async def main() -> None:
        with pytest.raises(SetupError, match="found no link-local address of its own on um"):
            async with attached_node(NodeSettings(prefix=PREFIX, netns=space.name)):
                pass

    monkeypatch.setattr("compat.routed.LINK_LOCAL_TIMEOUT", 0.0)
    asyncio.run(main())
    assert links(space) == ["lo"]
