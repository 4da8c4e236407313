"""Unmodified daemons of Debian in a namespace, ready when they are bound to their ports."""

from __future__ import annotations

import os
import subprocess
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from compat.kernel import Namespace
from compat.programs import run_in
from compat.programs.process import is_bound, until

READY = 20.0
_PRIVILEGE_SEPARATION = "/run/sshd"
_HOST = "the-server"


@asynccontextmanager
async def daemon(
    where: Namespace, folder: Path, name: str, argv: Sequence[str], protocol: str, port: int
) -> AsyncIterator[Process]:
    """A daemon that stays in the foreground; what it says is in `folder`, under its name."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        async with run_in(where, argv, stdout=output, stderr=output) as process:
            await until(process, lambda: is_bound(process, protocol, port), log, timeout=READY)
            yield process


@asynccontextmanager
async def sshd(where: Namespace, folder: Path, address: str, port: int) -> AsyncIterator[list[str]]:
    """An sshd with keys of its own; yields the options by which ssh and scp know it, under whatever name they reach it."""
    options = _sshd_files(folder, address, port)
    async with daemon(where, folder, "sshd", ("sshd", "-D", "-e", "-f", str(folder / "sshd_config")), "tcp6", port):
        yield options


def _sshd_files(folder: Path, address: str, port: int) -> list[str]:
    """Make the keys of both sides and the server's settings; the client's settings as options."""
    folder.mkdir(mode=0o700)
    for key in ("host", "user"):
        subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key), check=True)
    (folder / "authorized").write_bytes((folder / "user.pub").read_bytes())
    kind, public = (folder / "host.pub").read_text().split()[:2]
    (folder / "known").write_text(f"{_HOST} {kind} {public}\n")
    (folder / "sshd_config").write_text(
        f"ListenAddress [{address}]:{port}\nHostKey {folder}/host\nPidFile none\nAuthorizedKeysFile {folder}/authorized\n"
        "StrictModes no\nUsePAM no\nUseDNS no\nPermitRootLogin yes\nPasswordAuthentication no\n"
        "AcceptEnv NONE\nSubsystem sftp internal-sftp\n"
    )
    os.makedirs(_PRIVILEGE_SEPARATION, mode=0o755, exist_ok=True)  # sshd wants it; Debian's service would make it
    settings = {
        "IdentityFile": folder / "user",
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": folder / "known",
        "HostKeyAlias": _HOST,
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "LogLevel": "ERROR",
    }
    return ["-F", "none", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]
