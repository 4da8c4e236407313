"""How many files this process may open: each connection over the kernel's stack is one."""

from __future__ import annotations

import errno
import resource

from unimux.errors import SetupError

_MOST = 65_536
"""Open files that a command allows itself, where the system lets it."""


def allow_files() -> None:
    """Let this process open as many files as it may, up to 65,536: one for each client."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(_MOST, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def room_for_files(spare: int) -> int | None:
    """How many files connections can have where `spare` are left for everything else; None for any number.

    Raises `SetupError` where there is not one.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    if soft <= spare:
        raise SetupError(f"This process may open only {soft} files: allow it more with `ulimit -n`.")
    return soft - spare


def files_clause() -> str:
    """How many files this process may open, and how to change it, as a clause."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"this process may open only {soft} files, see `ulimit -n`"


def lack_of_files(error: BaseException) -> str | None:
    """What is missing, as a clause, where an error says that no more files can be opened; else None."""
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.EMFILE:
        return files_clause()
    return "this machine can open no more files" if error.errno == errno.ENFILE else None
