"""`unimux run` where people use it: typed at a shell, at a terminal, with its keys, its size and its jobs."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from compat.programs import run_in
from tests.interop.site import NAME, SERVERS, Site, site
from tests.interop.test_run import BODY, DIGEST, SETTINGS

_PATIENCE = 20.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("terminal")
    with site(folder, socks=False) as made:
        (made.www / "file").write_bytes(BODY)
        yield made


class Terminal:
    """A terminal with an interactive shell; `said` is what has been shown since the last `until`."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._said = ""
        self.shell = 0
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            self._said += os.read(self._master, 65536).decode(errors="replace")
        except OSError:  # the shell has ended
            asyncio.get_running_loop().remove_reader(self._master)
        self._news.set()

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    async def is_busy(self) -> None:
        """Wait until a job has the terminal, and no longer the shell."""
        async with asyncio.timeout(_PATIENCE):
            while os.tcgetpgrp(self._master) == self.shell:
                await asyncio.sleep(0.02)

    async def until(self, text: str) -> str:
        """What is shown up to and with `text`."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while text not in self._said:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{text!r} was not shown: {self._said!r}") from None
        shown, _, self._said = self._said.partition(text)
        return shown + text


@asynccontextmanager
async def terminal(place: Site) -> AsyncIterator[Terminal]:
    """A shell at a terminal in the client's namespace, in which `u` is `unimux run` on the LAN."""
    master, slave = pty.openpty()
    try:
        command = ("setsid", "--ctty", "--wait", "bash", "--norc", "--noprofile", "--noediting", "-i")
        env = {**SETTINGS, "HOME": str(place.folder), "LC_ALL": "C.UTF-8", "PS1": "$ ", "TERM": "dumb"}
        options = {"stdin": slave, "stdout": slave, "stderr": slave}
        async with run_in(place.top.client, command, env=env, cwd=place.folder, **options):
            there = Terminal(master)
            there.resize(33, 101)
            bridge = place.top.client_bridge.name
            there.type(f'u() {{ {sys.executable} -m unimux run --bridge {bridge} -- "$@"; }}; echo it-\\is\n')
            await there.until("it-is")
            there.shell = os.tcgetpgrp(master)
            yield there
    finally:
        asyncio.get_running_loop().remove_reader(master)  # or the next terminal, with the same number, were never read
        os.close(slave)
        os.close(master)


@pytest.mark.real(*SERVERS)
def test_keys_jobs_and_the_size_of_the_window_reach_the_program(place: Site) -> None:
    (place.folder / "waits.sh").write_text(
        """\
stty size
trap 'echo size $(stty size)' WINCH
trap 'echo tol"d"; exit 9' INT
echo read"y"
while :; do sleep 0.02; done
"""
    )

    nap = f"1000.{os.getpid()}"  # nobody else's

    async def body() -> None:
        async with terminal(place) as there:
            there.type("u bash waits.sh\n")
            assert "33 101" in await there.until("ready")
            there.resize(40, 120)
            await there.until("size 40 120")
            there.type("\x1a")
            await there.until("Stopped")
            there.type("jobs; echo ye\\s\n")
            assert "Stopped" in await there.until("yes")
            there.type("fg\n")
            await there.is_busy()
            there.resize(41, 121)
            await there.until("size 41 121")
            there.type("\x03")
            await there.until("told")
            there.type("echo status=$?\n")
            await there.until("status=9")
            there.type(f"u sleep {nap}\n")
            await _started("sleep", nap)
            there.type("\x03")
            there.type("echo status=$?\n")
            await there.until("status=130")

    place.run(body())


def _command_lines() -> Iterator[tuple[str, ...]]:
    """Program, without its folder, and arguments of all processes."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            program, *arguments = path.read_text().split("\0")[:-1]
        except (OSError, ValueError):  # it has ended; or a thread of the kernel
            continue
        yield Path(program).name, *arguments


async def _started(*argv: str) -> None:
    """Wait until a program runs whose command line is this."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            if argv in _command_lines():
                return
            await asyncio.sleep(0.02)


@pytest.mark.real(*SERVERS)
def test_the_terminal_is_as_it_was_whatever_ended_the_program(place: Site) -> None:
    async def body() -> None:
        async with terminal(place) as there:
            there.type("before=$(stty -g)\n")
            for end, status in (("kill -9 $$", 137), ("kill -INT $$", 130)):
                there.type(
                    f"u sh -c 'stty raw -echo; {end}'; echo status=$?; [ $before = $(stty -g) ] && echo sa\\me\n"
                )
                await there.until(f"status={status}")
                await there.until("same")

    place.run(body())


@pytest.mark.real(*SERVERS, "curl")
def test_names_on_a_machine_without_a_resolver_of_its_own(place: Site) -> None:
    """No /etc/resolv.conf, as in a small container: the run has one all the same."""
    etc = place.folder / "etc"
    etc.mkdir()
    for name in ("passwd", "group", "hosts", "nsswitch.conf"):
        if (here := Path("/etc", name)).exists():  # a small container may have no hosts
            (etc / name).write_bytes(here.read_bytes())

    async def body() -> None:
        inner = (sys.executable, "-m", "unimux", "run", "--bridge", place.top.client_bridge.name, "--")
        fetch = ("curl", "-q", "-sS", "-f", "-o", str(place.folder / "got"), f"http://{NAME}/file")
        script = f'mount --bind {etc} /etc && exec "$@"'
        done = await place.program("unshare", "--mount", "sh", "-c", script, "sh", *inner, *fetch, env=SETTINGS)
        assert done.code == 0, done.stderr
        assert not (etc / "resolv.conf").exists()

    place.run(body())
    assert sha256((place.folder / "got").read_bytes()).hexdigest() == DIGEST
