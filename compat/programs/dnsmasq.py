"""An unmodified name server, dnsmasq, that answers for a few names and for nothing else."""

from __future__ import annotations

import signal
import socket
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv6Address
from pathlib import Path

from ..kernel import Namespace, scratch_folder
from .process import is_bound, require_port, run_in, until


class NameServer:
    """A running name server; `hosts` is what it answers now."""

    def __init__(self, process: Process, file: Path, hosts: Mapping[str, Sequence[str]]) -> None:
        self._process = process
        self._file = file
        self.hosts = dict(hosts)

    def set_hosts(self, hosts: Mapping[str, Sequence[str]]) -> None:
        """Answer for these names from now on (within a few milliseconds)."""
        self._file.write_text(_lines(hosts))
        self._process.send_signal(signal.SIGHUP)
        self.hosts = dict(hosts)


def _lines(hosts: Mapping[str, Sequence[str]]) -> str:
    """A hosts file."""
    return "".join(f"{IPv6Address(address)} {name}\n" for name, addresses in hosts.items() for address in addresses)


@asynccontextmanager
async def name_server(
    where: Namespace, hosts: Mapping[str, Sequence[str]], *, port: int = 53, ttl: int = 0
) -> AsyncIterator[NameServer]:
    """Answer AAAA queries on every address of a namespace, over UDP and TCP, until the block ends.

    hosts: name → IPv6 addresses.  Any other name does not exist (NXDOMAIN), nothing is forwarded.  ttl in seconds.
    """
    require_port(where, "dnsmasq", socket.SOCK_DGRAM, port)
    with scratch_folder("dnsmasq") as folder:
        file = folder / "hosts"
        file.write_text(_lines(hosts))
        log = folder / "dnsmasq.log"
        argv = (
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            f"--addn-hosts={file}",
            "--local=/#/",
            f"--port={port}",
            f"--local-ttl={ttl}",
            "--cache-size=0",
            "--log-facility=-",
            "--pid-file=",
            "--user=root",  # it reads the hosts file again, which is ours
        )
        with log.open("wb") as output:
            async with run_in(where, argv, stdout=output, stderr=output) as process:
                await until(process, lambda: is_bound(process, "udp6", port), log)
                yield NameServer(process, file, hosts)
