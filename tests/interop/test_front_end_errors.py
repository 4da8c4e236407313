"""What a machine lacks, as the user of a front end is told: one sentence that says how to mend it, and a status that is not 0."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from compat.kernel import Interface, KernelUnavailable, Namespace, capabilities, namespace, route

COMMAND = (sys.executable, "-m", "unimux")
PREFIX = "2001:db8:77::/64"
FRONT_ENDS = {
    "up": ("up",),
    "socks": ("socks", "--port", "0"),
    "publish": ("publish", "errors-web", "--to", "[::1]:80"),
    "run": ("run",),
}


def told(*argv: str) -> tuple[int, str]:
    """The status and the complaint of a command that cannot do its work; it must be one sentence, and nothing else."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("unimux: ") and line.endswith(".") and "Traceback" not in line
    return done.returncode, line


@pytest.mark.real("unshare", "mount")
@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_without_the_tun_device(front_end: str) -> None:
    command = (*COMMAND, *FRONT_ENDS[front_end], "--prefix", PREFIX, *(("--", "true") if front_end == "run" else ()))
    hidden = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")
    status, line = told(*hidden, *command)
    assert status == 3
    assert "There is no /dev/net/tun; load the tun module (modprobe tun)" in line


@pytest.mark.real
def test_a_prefix_that_is_in_use() -> None:
    with namespace("errors") as space, route(space, PREFIX, dev=Interface(space, "lo")):
        status, line = told(*COMMAND, "run", "--netns", space.name, "--prefix", PREFIX, "--", "true")
    assert status != 0
    assert f"Cannot add the route {PREFIX}" in line and "already in use; choose another or remove it first" in line


@pytest.mark.real
def test_a_bridge_or_a_namespace_that_is_not_there() -> None:
    with namespace("errors") as space:
        assert "there is no such interface" in told(*COMMAND, "up", "--netns", space.name, "--bridge", "lan")[1]
        status, line = told(*COMMAND, "up", "--netns", space.name, "--bridge", "lo")
        assert status == 3
        assert "lo is no bridge: make one with the network card in it" in line and "--prefix" in line
    assert "nowhere" in told(*COMMAND, "up", "--netns", "nowhere", "--prefix", PREFIX)[1]


@pytest.mark.real
def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(self: Namespace, work: Callable[[], Any], doing: str) -> Any:
        return False if doing == "look for IPv6" else run(self, work, doing)

    run = Namespace.run
    monkeypatch.setattr(Namespace, "run", without)
    with pytest.raises(KernelUnavailable, match=r"^This kernel runs without IPv6; start it without ipv6\.disable=1"):
        capabilities().require()
