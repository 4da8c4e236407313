"""Each session has `/run/netns`, `/run/unimux` and a folder for temporary files of its own, so that two on a machine never meet.

The names of namespaces carry their owner, but those of services do not (`web` is `/run/unimux/services/web.sock`), and whoever
lists a folder sees what others put there.  As root a session therefore begins by leaving the machine's mount namespace for one of
its own, where both folders are empty.  Its programs inherit that, and when it ends, even by `kill -9`, all that was
mounted there goes.  Without root there is nothing to share.

Temporary files of the tests lie in a folder that is gone with the session: pytest's own numbered folders are shared by all
sessions of a user, and two that sweep them at the same time fail each other.

Its programs can be interrupted as well: a shell without job control starts what runs in the background with SIGINT ignored, and
that would be inherited by each program that a test interrupts.
"""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from compat.kernel import scratch_folder

FOLDERS = (Path("/run/netns"), Path("/run/unimux"))
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x20000, 0x4000, 0x40000


def leave() -> bool:
    """Give this process, and all it starts from now on, folders of its own; False where that is not permitted."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None):
        return False
    for folder in FOLDERS:
        folder.mkdir(parents=True, exist_ok=True)
        if libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, b"mode=755"):
            return False
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.geteuid() == 0:
        leave()
    if config.option.basetemp is None:  # a worker of xdist has a part of the session's
        stack = ExitStack()
        config.option.basetemp = str(stack.enter_context(scratch_folder("tests")) / "t")
        config.add_cleanup(stack.close)
