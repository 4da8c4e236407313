"""Who owns a piece of kernel state, so that leftovers of the dead go and those of the living stay.

An owner is a process: its id and its start time (clock ticks since boot, field 22 of /proc/pid/stat), which
together are never reused.  Whatever is visible to the whole machine carries its owner in its name:

    namespaces   unimux-<pid>-<start>-<role>            under /run/netns
    links        um<pid><start><role>                   15 characters at most: base 36, start time modulo 36**3
    ledgers      /run/unimux/<pid>-<start>.jsonl        see ledger.py
    folders      unimux-<pid>-<start>-<role>-<random>   under /tmp or what stands in for it, see scratch.py

Invariant: a name belongs to exactly one owner for as long as the machine runs.
"""

from __future__ import annotations

import os
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

PREFIX = "unimux"
"""First part of every namespace name this project makes."""

OWNER_VARIABLE = "UNIMUX_OWNER"
"""Environment variable that carries the owner's tag in every program it runs."""

LINK_PREFIX = "um"
_NAMESPACE = re.compile(rf"{PREFIX}-(\d+)-(\d+)-[\w.-]+")
_NO_NAME = re.compile(r"[^\w.-]+", re.ASCII)
_LONGEST_ROLE = 64
"""A file's name has 255 bytes at most."""
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_PID_WIDTH = 5
_START_WIDTH = 3
_EXEC_SECONDS = 1.0
_POLL = 0.001
_LOOKS = 10
_ROLE_WIDTH = 15 - len(LINK_PREFIX) - _PID_WIDTH - _START_WIDTH


@dataclass(frozen=True, slots=True)
class Owner:
    """One process, told apart from later ones with the same id by its start time in clock ticks since boot."""

    pid: int
    started: int

    @classmethod
    def current(cls) -> Owner:
        """This process."""
        owner = cls.of_pid(os.getpid())
        if owner is None:
            raise RuntimeError("/proc is not mounted")
        return owner

    @classmethod
    def of_pid(cls, pid: int) -> Owner | None:
        """The live process `pid`, None when there is none."""
        started = _started(pid)
        return None if started is None else cls(pid, started)

    @classmethod
    def of_tag(cls, tag: str) -> Owner | None:
        """The owner written in a tag, None when the text is no tag.

        >>> Owner.of_tag("12-345")
        Owner(pid=12, started=345)
        >>> Owner.of_tag("something-else") is None
        True
        """
        pid, _, started = tag.partition("-")
        return cls(int(pid), int(started)) if pid.isdecimal() and started.isdecimal() else None

    @classmethod
    def of_namespace(cls, name: str) -> Owner | None:
        """The owner written in a namespace's name, None when the name is not one of ours."""
        found = _NAMESPACE.fullmatch(name)
        return cls(int(found[1]), int(found[2])) if found else None

    @classmethod
    def of_program(cls, pid: int) -> Owner | None:
        """Who started the program `pid`, as its environment says; None where it does not say, or there is no such process."""
        tag = variable_of(pid, OWNER_VARIABLE)
        return None if tag is None else cls.of_tag(tag)

    @property
    def tag(self) -> str:
        """The owner as text, `of_tag` reads it back."""
        return f"{self.pid}-{self.started}"

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie counts as dead."""
        return _started(self.pid) == self.started

    def namespace_name(self, role: str, number: int = 1) -> str:
        """The name of this owner's namespace for `role`, of the second such one and so on.

        >>> Owner(12, 345).namespace_name("router"), Owner(12, 345).namespace_name("my host/1")
        ('unimux-12-345-router', 'unimux-12-345-my-host-1')
        >>> Owner(12, 345).namespace_name("router", 2)
        'unimux-12-345-router.2'
        """
        which = "" if number == 1 else f".{number}"
        return f"{PREFIX}-{self.tag}-{_NO_NAME.sub('-', role)[: _LONGEST_ROLE - len(which)]}{which}"

    def link_name(self, role: str) -> str:
        """The name of this owner's link for `role` (5 characters at most) in a namespace that others share.

        >>> Owner(12, 345).link_name("lan")
        'um0000c09llan'
        """
        if not 1 <= len(role) <= _ROLE_WIDTH:
            raise ValueError(f"a link's role has 1 to {_ROLE_WIDTH} characters, {role!r} has {len(role)}")
        return LINK_PREFIX + _base36(self.pid, _PID_WIDTH) + _base36(self.started, _START_WIDTH) + role


def _base36(number: int, width: int) -> str:
    text = ""
    for _ in range(width):
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text


def variable_of(pid: int, name: str) -> str | None:
    """A variable of a process's environment as it was begun with; None where it has none, or there is no such process.

    In `execve` a process has no environment for a moment, and no command line: that is waited out.
    """
    folder = Path(f"/proc/{pid}")
    pause, deadline, looks = threading.Event(), time.monotonic() + _EXEC_SECONDS, 0
    try:
        while not (variables := (folder / "environ").read_bytes()):
            os.readlink(folder / "exe")  # a thread of the kernel or a zombie has none
            if not (folder / "cmdline").read_bytes():
                pause.wait(_POLL)
            elif (looks := looks + 1) == _LOOKS:  # not once each time between two of its programs
                return None
            if time.monotonic() > deadline:
                return None
    except OSError:  # it has just ended, or is somebody else's
        return None
    begin = f"{name}=".encode()
    found = next((each for each in variables.split(b"\0") if each.startswith(begin)), None)
    return None if found is None else found[len(begin) :].decode(errors="replace")


def _started(pid: int) -> int | None:
    """Start time of a live process; None when there is none, or only its zombie."""
    try:
        fields = stat_fields(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def stat_fields(pid: int) -> list[str]:
    """What /proc/PID/stat tells from the process's state on (proc(5), field 3).  Raises OSError."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()  # the command name in front may hold spaces and parentheses
