"""One fetch by an unmodified curl, and what came of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from dataclasses import dataclass

from ..kernel import Namespace
from .errors import ProgramFailed
from .process import run_in

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Fetch:
    """What curl reports, and what it received.

    code: curl's exit status; 0 is success, 7 could not connect, 28 timed out, 97 the SOCKS proxy refused.
    status: HTTP status, 0 when there was no answer.
    connect_seconds, total_seconds: from the start; connect is 0 when there was no connection.
    local, remote: the connection's addresses as curl saw them (of the proxy, through a proxy).
    error: curl's own words, empty on success.
    """

    code: int
    status: int
    size: int
    sha256: str
    connect_seconds: float
    total_seconds: float
    local: str
    remote: str
    error: str

    @property
    def ok(self) -> bool:
        """Whether the transfer succeeded with a 2xx status."""
        return self.code == 0 and 200 <= self.status < 300


async def curl(where: Namespace, url: str, *options: str, timeout: float = 30.0) -> Fetch:
    """Fetch a URL inside a namespace; the body is hashed as it comes and kept nowhere.

    options: further curl options, as "--socks5-hostname", "[::1]:1080".  timeout in seconds for the whole transfer.
    A transfer that fails is a result, not an exception; `ProgramFailed` is raised only where curl itself cannot work.
    """
    argv = _arguments(url, options, timeout)
    async with run_in(where, argv, stdout=PIPE, stderr=PIPE, env=_NO_PROXIES) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        (size, digest), report = await asyncio.gather(_hash(process.stdout), process.stderr.read())
        code = await process.wait()
    try:
        facts = json.loads(report.splitlines()[-1])
    except (ValueError, IndexError):
        raise ProgramFailed(f"curl gave no report (status {code}): {report.decode(errors='replace').strip()}") from None
    return Fetch(
        code=code,
        status=int(facts["http_code"]),
        size=size,
        sha256=digest,
        connect_seconds=float(facts["time_connect"]),
        total_seconds=float(facts["time_total"]),
        local=facts["local_ip"] or "",
        remote=facts["remote_ip"] or "",
        error=facts["errormsg"] or "",
    )


_NO_PROXIES = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"), "")


def _arguments(url: str, options: Sequence[str], timeout: float) -> tuple[str, ...]:
    fixed = ("--disable", "--silent", "--show-error", "--globoff", "--max-time", f"{timeout:g}")
    return ("curl", *fixed, "--write-out", "%{stderr}%{json}\n", *options, "--", url)


async def _hash(stream: asyncio.StreamReader) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while chunk := await stream.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()
