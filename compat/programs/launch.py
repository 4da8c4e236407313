"""Enters a network namespace and becomes another program.

    python -I -S launch.py NAMESPACE-FD PARENT-PID FILES USER PROGRAM ARGUMENTS…

FILES, where it is not empty, is a folder whose files are laid over those of /etc, for this program alone; USER, where it is not
empty, the name of the user that it becomes.

It is a program of its own because the work between fork and exec must not be Python code of a process that may
have threads (locks held by threads that do not exist in the child).  Here the process is fresh and has one thread.
It imports nothing of this project and starts in about 15 ms.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module takes as long to load as all others together
    from typing import NoReturn

CLONE_NEWNET = 0x40000000
CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_BIND, MS_REC, MS_SLAVE = 0x1, 0x1000, 0x4000, 0x80000
PR_SET_PDEATHSIG = 1
CANNOT_START = 126
NAME_CACHES = ("/run/nscd", "/var/run/nscd")
"""Where a cache of names may listen, which would ask for them outside the namespace."""


def main(arguments: list[str]) -> None:
    """Never returns: the process becomes the program, or ends with `CANNOT_START` and a sentence on standard error."""
    namespace, parent, files, user = int(arguments[0]), int(arguments[1]), arguments[2], arguments[3]
    program = arguments[4:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        cannot("enter the network namespace", os.strerror(ctypes.get_errno()))
    os.close(namespace)
    if files:
        own_files(libc, files)
    if user:
        become(user)
    end_with(parent, libc, signal.SIGKILL)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would hand that on
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execv(program[0], program)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError) and os.path.exists(program[0])
        cannot(
            f"run {program[0]}",
            "its interpreter, or its loader, is not there" if missing else os.strerror(error.errno or 0),
        )


def end_with(parent: int, libc: ctypes.CDLL, number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent ends, however that comes."""
    libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os.kill(os.getpid(), number)


def own_files(libc: ctypes.CDLL, folder: str) -> None:
    """A mount namespace of our own, with the files of `folder` over those of /etc, and /sys of the network namespace."""
    if libc.unshare(CLONE_NEWNS) != 0:
        cannot("have mounts of its own", os.strerror(ctypes.get_errno()))
    mount(libc, "none", "/", None, MS_REC | MS_SLAVE)
    targets = {name: os.path.realpath(os.path.join("/etc", name)) for name in os.listdir(folder)}
    if all(map(os.path.exists, targets.values())):
        for name, target in targets.items():
            mount(libc, os.path.join(folder, name), target, None, MS_BIND)
    else:  # nothing to lay it over, or a link that leads nowhere: so both folders in one, for reading
        mount(libc, "overlay", "/etc", "overlay", MS_RDONLY, f"lowerdir={folder}:/etc")
    for cache in NAME_CACHES:
        if os.path.isdir(cache):
            mount(libc, "none", cache, "tmpfs", 0)
    libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None)  # where it may not be, the machine's stays


def mount(libc: ctypes.CDLL, source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2), or the end."""
    words = os.fsencode(source), os.fsencode(target), kind and kind.encode()
    if libc.mount(*words, flags, data and os.fsencode(data)) != 0:
        cannot(f"mount {source} on {target}", os.strerror(ctypes.get_errno()))


def become(user: str) -> None:
    """Another user, with that user's groups."""
    try:
        entry = pwd.getpwnam(user)
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    except (KeyError, OSError) as error:
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else "there is no such user"
        cannot(f"become the user {user}", why)
    os.environ.update(HOME=entry.pw_dir, USER=user, LOGNAME=user)


def cannot(doing: str, why: str) -> NoReturn:
    """End with a sentence."""
    print(f"unimux: Cannot {doing}: {why[:1].lower()}{why[1:]}.", file=sys.stderr)
    sys.exit(CANNOT_START)


if __name__ == "__main__":
    main(sys.argv[1:])
