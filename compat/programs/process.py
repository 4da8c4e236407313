"""Unmodified programs inside a network namespace, as asyncio subprocesses that never outlive us.

Three nets catch a program: leaving the context manager kills its whole process group; if this process dies, the
kernel kills the program (PR_SET_PDEATHSIG, set by launch.py); what forked away from it carries our tag in its
environment, and the next start's `clean_leftovers` finds it.  The kernel's signal fires when the *thread* that
started the program ends: run the event loop in a thread that lives as long as its programs, the main one as a rule.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..kernel import Namespace, Owner
from ..kernel.owner import OWNER_VARIABLE, stat_fields
from .errors import ProgramFailed, ProgramMissing

PACKAGES = {
    "curl": "curl",
    "dnsmasq": "dnsmasq-base",
    "dumpcap": "wireshark-common",
    "iperf3": "iperf3",
    "nginx": "nginx-light",
    "radvd": "radvd",
    "tshark": "tshark",
}
"""The Debian package of each program that this project runs."""

_LAUNCHER = Path(__file__).with_name("launch.py")
_GRACE = 2.0
_POLL = 0.005


def find_program(name: str) -> str:
    """The absolute path of a program, also from the sbin folders that an ordinary user's PATH leaves out.

    Raises `ProgramMissing` with the name of its Debian package.
    """
    path = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")))
    if path is None:
        package = PACKAGES.get(name, name)
        raise ProgramMissing(f"{name} is not installed; install the Debian package {package} (apt install {package}).")
    return os.path.abspath(path)


def launcher(where: Namespace, *, files: Path | None = None, user: str | None = None) -> list[str]:
    """The command line that, put before a program's, starts it inside a namespace and lets it die with this process.

    files: a folder whose files are laid over those of /etc, for the program alone.  user: name of the one it becomes.
    `where.fd` has to be passed on to the process.
    """
    words = [sys.executable, "-I", "-S", str(_LAUNCHER), str(where.fd), str(os.getpid())]
    return [*words, "" if files is None else str(files), user or ""]


@asynccontextmanager
async def run_in(
    where: Namespace,
    argv: Sequence[str],
    *,
    stdin: int | IO[bytes] = DEVNULL,
    stdout: int | IO[bytes] = DEVNULL,
    stderr: int | IO[bytes] = DEVNULL,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    grace: float = _GRACE,
) -> AsyncIterator[Process]:
    """Run a program inside a namespace, without a shell; its process group is gone when the block ends.

    argv[0] is looked up by `find_program`.  env: additions to our own environment.  The block's end sends SIGTERM,
    and SIGKILL `grace` seconds later; to see how a program ends by itself, `await process.wait()` inside.
    """
    program = find_program(argv[0])
    process = await asyncio.create_subprocess_exec(
        *launcher(where),
        program,
        *argv[1:],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        env={**os.environ, **(env or {}), OWNER_VARIABLE: Owner.current().tag},
        pass_fds=(where.fd,),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        await _end(process, grace)


async def _end(process: Process, grace: float) -> None:
    try:
        if process.returncode is None:
            _signal_group(process, signal.SIGTERM)
            await asyncio.wait_for(process.wait(), grace)
    except TimeoutError:
        pass
    finally:
        _signal_group(process, signal.SIGKILL)  # what is left of the group, its leader included
        try:
            async with asyncio.timeout(grace):
                for stream in (process.stdout, process.stderr):
                    if stream is not None:  # read to the end, so that the pipe's transport closes now
                        await stream.read()
                await process.wait()
        except TimeoutError:  # what has left the group holds a pipe
            process._transport.close()  # type: ignore[attr-defined]  # asyncio has no other way to let go of it


def _signal_group(process: Process, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended and what it said."""

    code: int
    stdout: bytes
    stderr: bytes


async def complete_in(
    where: Namespace, argv: Sequence[str], *, timeout: float = 30.0, env: Mapping[str, str] | None = None
) -> Completed:
    """Run a program inside a namespace to its end; `ProgramFailed` when that takes more than `timeout` seconds."""
    async with run_in(where, argv, stdout=PIPE, stderr=PIPE, env=env) as process:
        try:
            stdout, stderr = await asyncio.wait_for(process.communicate(), timeout)
        except TimeoutError:
            raise ProgramFailed(f"{argv[0]} did not end within {timeout:g} s.") from None
        return Completed(process.returncode or 0, stdout, stderr)


async def until(process: Process, ready: Callable[[], bool], log: Path, *, timeout: float = 30.0) -> None:
    """Wait until `ready()` is true while the program runs; `ProgramFailed` with its last log line when it never gets there."""
    name = log.stem
    deadline = asyncio.get_running_loop().time() + timeout
    while not ready():
        if process.returncode is not None:
            raise ProgramFailed(f"{name} ended with status {process.returncode}: {last_words(log)}")
        if asyncio.get_running_loop().time() > deadline:
            raise ProgramFailed(f"{name} did not get ready within {timeout:g} s: {last_words(log)}")
        await asyncio.sleep(_POLL)


def last_words(log: Path) -> str:
    """The last lines that a program wrote to its log, in one line, or that it wrote nothing."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return " ".join(line.strip() for line in [line for line in lines if line.strip()][-3:]) or "it said nothing"


def require_port(where: Namespace, program: str, kind: socket.SocketKind, port: int) -> None:
    """Raise `ProgramFailed` when something in the namespace has the port already (nginx would retry for seconds)."""

    def attempt() -> OSError | None:
        with socket.socket(socket.AF_INET6, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
            try:
                trial.bind(("::", port))
            except OSError as error:
                return error
            return None

    if (error := where.run(attempt, f"try port {port} in {where.name}")) is not None:
        raise ProgramFailed(f"{program} cannot have port {port} in {where.name}: {error.strerror}.")


def is_bound(process: Process, protocol: str, port: int) -> bool:
    """Whether the program itself listens on (tcp6) or is bound to (udp6) a port; looks, and sends nothing."""
    folder = Path(f"/proc/{process.pid}")
    try:
        rows = folder.joinpath("net", protocol).read_text().splitlines()[1:]
        own = {os.readlink(each) for each in folder.joinpath("fd").iterdir()}
    except OSError:
        return False
    wanted = {"tcp6": "0A", "udp6": "07"}[protocol]  # TCP_LISTEN, TCP_CLOSE
    for fields in map(str.split, rows):
        if fields[3] == wanted and int(fields[1].rpartition(":")[2], 16) == port and f"socket:[{fields[9]}]" in own:
            return True
    return False


def sleeps(process: Process) -> bool:
    """Whether the program waits for something to happen (proc(5)); one that is gone does not."""
    try:
        return stat_fields(process.pid)[0] == "S"
    except OSError:
        return False
