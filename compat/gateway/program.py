"""The program of a run: started in its namespace, signalled, waited for, and whatever it leaves behind ended.

It has our terminal, our standard streams and our process group, so that the keyboard reaches it as without us; a signal that
only we were sent is passed on.  What a program that a signal ended has made of the terminal is put back.  If we are
killed, the kernel kills it; what it started ends with the run, or, after a kill, with the next start of a node
(compat/kernel/leftovers.py).
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import stat
import sys
import termios
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from compat.gateway.room import Room
from compat.kernel import Namespace, Owner
from compat.kernel.owner import OWNER_VARIABLE, variable_of
from compat.programs.process import launcher
from unimux.errors import SetupError

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
ROOM_VARIABLE = "UNIMUX_ROOM"
"""Environment variable that carries the name of its namespace in a program, and in what it starts."""
_FROM_KEYBOARD = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_GRACE = 2.0
_POLL = 0.02


class ProgramNotFound(SetupError):
    """There is no such program."""

    exit_code = 127  # as shells have it


class ProgramCannotRun(SetupError):
    """There is a file of that name, and it is no program that can be run."""

    exit_code = 126  # as shells have it


def program_path(name: str) -> str:
    """The absolute path of the program that a shell would run for `name` (POSIX, Shell Command Language, 2.8.2 and 2.9.1).

    Raises `ProgramNotFound`, `ProgramCannotRun`.
    """
    found = shutil.which(name)
    if found is not None:
        return str(Path(found).absolute())
    if not name or "/" in name:
        places = [Path(name)] if name else []
    else:
        places = [Path(folder, name) for folder in os.environ.get("PATH", os.defpath).split(os.pathsep)]
    for place in places:
        try:
            about = place.stat()
        except OSError as error:
            if "/" in name and error.errno != errno.ENOENT:
                raise ProgramCannotRun(f"{name} cannot be run: {(error.strerror or '').lower()}.") from None
            continue
        if stat.S_ISREG(about.st_mode):
            where = name if "/" in name else place
            raise ProgramCannotRun(f"{where} cannot be run: it is not executable (chmod +x), or its disk is noexec.")
        if "/" in name:
            what = "a folder" if stat.S_ISDIR(about.st_mode) else "no program"
            raise ProgramCannotRun(f"{name} cannot be run: it is {what}.")
    raise ProgramNotFound(f"{name or repr(name)} is not a program that can be run: check its name and the PATH.")


async def run_program(room: Room, argv: Sequence[str], *, user: str | None = None) -> int:
    """Run a program in a room to its end; its exit status, 128 and the signal's number where one ended it.

    user: name of the one it runs as.  Raises what `program_path` raises.  Cancelling ends the program.
    """
    program = program_path(argv[0])
    process = await asyncio.create_subprocess_exec(
        *launcher(room.where, files=room.files, user=user),
        program,
        *argv[1:],
        env={**os.environ, OWNER_VARIABLE: Owner.current().tag, ROOM_VARIABLE: room.where.name},
        pass_fds=(room.where.fd,),
    )
    loop = asyncio.get_running_loop()
    settings = _terminal_settings()
    try:
        for number in PASSED_ON:
            loop.add_signal_handler(number, _pass_on, process, number)
        status = await process.wait()
    finally:
        await _end(process, room.where)
    if status < 0 and settings is not None and _is_foreground():
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)
    return 128 - status if status < 0 else status


def _terminal_settings() -> list[Any] | None:
    try:
        return termios.tcgetattr(sys.stdin)
    except (OSError, ValueError, termios.error):  # no terminal, or a closed standard input
        return None


def _pass_on(process: Process, number: signal.Signals) -> None:
    """Hand a signal to the program, unless the terminal has told it already."""
    if number in _FROM_KEYBOARD and _is_foreground():
        return
    with suppress(ProcessLookupError):
        process.send_signal(number)


def _is_foreground() -> bool:
    """Whether what is typed at our terminal signals our process group."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):  # no terminal, or a closed standard input
        return False


async def _end(process: Process, where: Namespace) -> None:
    """End what still runs of the program: politely, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in processes_of(where):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = asyncio.get_running_loop().time() + _GRACE
        while processes_of(where) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_POLL)
    await process.wait()


def processes_of(where: Namespace) -> list[int]:
    """The processes whose network namespace this is, and those that have gone from it into another; ourselves left out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            pid, inode = int(folder.name), (folder / "ns" / "net").stat().st_ino
            if pid != os.getpid() and (inode == where.inode or variable_of(pid, ROOM_VARIABLE) == where.name):
                found.append(pid)
    return found
