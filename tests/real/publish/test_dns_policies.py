"""The policies of DNS delivery, asked for by unmodified programs: TSIG by dig, client subnets by dnsmasq."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from compat.kernel import Namespace, topology
from compat.programs import complete_in, web_server
from tests.real.publish.place import NS, PROGRAMS, ZONE, Place, radvd

from ..daemons import daemon

BODY = b"from behind an address of its own"
SECRET = base64.b64encode(bytes(range(32))).decode()
OTHER = base64.b64encode(bytes(32)).decode()


@asynccontextmanager
async def published(here: Place, path: Path, **policy: str) -> AsyncIterator[None]:
    """The service, told by DNS under a policy, and captured."""
    settings = {f"UNIMUX_PUBLISH_DNS_{name.upper()}": value for name, value in policy.items()}
    async with (
        radvd(here),
        web_server(here.top.server, here.folder / "www", port=8080),
        here.captured(path),
        here.publish("web", "[::1]:8080", "--dns", ZONE, "--dns-address", NS, **settings),
    ):
        yield


async def dig(here: Place, *options: str, server: str = NS) -> list[str]:
    """The addresses that dig is told, or the status of the answer."""
    argv = ("dig", "-r", "+tries=1", "+time=20", *options, f"@{server}", ZONE, "AAAA")
    said = (await complete_in(here.top.client, argv)).stdout.decode()
    answers = [
        line.split()[-1] for line in said.splitlines() if line.startswith(ZONE) and line.split()[3:4] == ["AAAA"]
    ]
    statuses = [line.split("status: ")[1].split(",")[0] for line in said.splitlines() if "status: " in line]
    return answers or statuses or [said]


async def told(here: Place, *options: str, server: str = NS) -> str:
    """The address that dig is told; SERVFAIL may come first, until a router has announced a prefix to form addresses in."""
    async with asyncio.timeout(60):
        while (said := await dig(here, *options, server=server)) == ["SERVFAIL"]:
            await asyncio.sleep(0.2)
    (ssa,) = said
    assert ":" in ssa, f"no address: {said}"
    return ssa


async def fetch(where: Namespace, ssa: str, patience: int = 30) -> tuple[int, bytes]:
    """What curl gets at an address within `patience` seconds; status 28 is its time-out, 7 a refusal."""
    argv = ("curl", "-sS", "-g", "--noproxy", "*", "--max-time", str(patience), f"http://[{ssa}]/file")
    done = await complete_in(where, argv, timeout=patience + 30)
    return done.code, done.stdout


@pytest.mark.real(*PROGRAMS, "nginx", "dig")
@pytest.mark.proves("UM-SSA-3")
def test_only_the_holder_of_a_key_is_told_an_address(here: Place) -> None:
    path = here.folder / "capture.pcapng"
    key = here.folder / "shop.key"
    key.touch(mode=0o600)
    key.write_text(SECRET + "\n")

    async def main() -> None:
        async with published(here, path, keys=f"client:{key}", require_key="true"):
            assert await dig(here) == ["REFUSED"]
            assert await dig(here, "-y", f"hmac-sha256:client:{OTHER}") == ["NOTAUTH"]
            assert await dig(here, "-y", f"hmac-sha256:stranger:{SECRET}") == ["NOTAUTH"]
            ssa = await told(here, "-y", f"hmac-sha256:client:{SECRET}")
            assert await fetch(here.top.client, ssa) == (0, BODY)

    asyncio.run(main())
    here.judge(path, None, NS)


@pytest.mark.real(*PROGRAMS, "nginx", "dig", "dnsmasq")
@pytest.mark.proves("UM-SSA-3", "UM-LIS-4")
@pytest.mark.parametrize("believed", [True, False], ids=["believed", "anybody's"])
def test_an_address_is_for_the_subnet_that_a_believed_resolver_names(here: Place, believed: bool) -> None:
    """The resolver names the client's LAN.  Where it is believed, the third node, which was told the address, gets silence."""
    path = here.folder / "capture.pcapng"
    resolver = (
        "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", f"--server=/{ZONE}/{NS}",
        "--local=/#/", "--log-facility=-", "--pid-file=", "--user=root", f"--add-subnet=0,{topology.CLIENT_PREFIX}",
    )  # fmt: skip
    policy = {"name_for": "subnet", "believe": f"{topology.CLIENT_ADDRESS}/128"} if believed else {"name_for": "subnet"}

    async def main() -> None:
        async with (
            published(here, path, **policy),
            daemon(here.top.client, here.folder, "dnsmasq", resolver, "udp6", 53),
        ):
            ssa = await told(here, server="::1")
            stranger = await fetch(here.top.third, ssa, 3 if believed else 30)
            assert stranger == ((28, b"") if believed else (0, BODY)), "a time-out: nobody answered"
            if believed:
                assert await fetch(here.top.client, ssa) == (0, BODY)

    asyncio.run(main())
    if believed:  # else nothing crossed the router
        here.judge(path, None, NS)
