"""`@pytest.mark.real`: tests on real TAP devices, namespaces and kernels.

They need root, `/dev/net/tun`, IPv6 in the kernel and the programs the marker names (`real("tshark", "nginx")`).  A
machine without them skips these tests and says so at the end; where skips are forbidden (`tests.plugins.skips`) that is a
failure.

Real tests mostly wait.  Under xdist they are two groups, so that two of them run at a time at most, each in a worker of its own:
what workers share of the kernel is bounded, its neighbour table above all (`net.ipv6.neigh.default.gc_thresh3`, 1,024
entries for all namespaces).  The tests of one file are in the same group and run one after another.
"""

from __future__ import annotations

import os
import shutil
import zlib
from functools import cache

import pytest

SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
"""Where programs are looked for: daemons live in sbin, which an ordinary user's PATH leaves out."""

_PREFIX = "real: "  # of the reason of a skip that this plug-in made


@cache
def missing_privilege() -> str | None:
    """What this process lacks for a TAP in a namespace, as a sentence; None when it has everything."""
    if os.geteuid() != 0:
        return "real networking needs root"
    if not os.path.exists("/proc/net/if_inet6"):
        return "the kernel has no IPv6"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"/dev/net/tun cannot be opened ({error.strerror}); `modprobe tun` may help"
    return None


def missing(commands: tuple[str, ...]) -> str | None:
    """Why a real test that uses `commands` cannot run here; None when it can."""
    if (why := missing_privilege()) is not None:
        return why
    absent = [command for command in commands if shutil.which(command, path=SYSTEM_PATH) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


class Loudness:
    """Remembers which real tests were skipped, and says so where nobody can miss it."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            _, marked, why = str(report.longrepr[2]).partition(_PREFIX)
            if marked:
                self.reasons.append(why)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.reasons:
            why = "; ".join(dict.fromkeys(self.reasons))
            terminalreporter.section("REAL TESTS NOT RUN", sep="!", red=True, bold=True)
            terminalreporter.write_line(
                f"{len(self.reasons)} tests against real kernels were skipped: {why}.", red=True
            )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Loudness(), "unimux-real-loudness")


GROUPS = ("real-a", "real-b")


def group(file: str) -> str:
    """The group of the real tests in `file`, a path relative to the project: half of the files are in each.

    >>> group("tests/real/test_tap.py"), group("tests/real/test_bench.py")
    ('real-a', 'real-b')
    """
    return GROUPS[zlib.crc32(file.encode()) & 1]


def plain(nodeid: str) -> str:
    """A node id without the group that xdist appends to it.

    >>> plain("tests/real/test_tap.py::test_echo@real-a")
    'tests/real/test_tap.py::test_echo'
    """
    name, _, suffix = nodeid.rpartition("@")
    return name if suffix in GROUPS else nodeid


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("real") is not None:
            item.add_marker(pytest.mark.xdist_group(group(item.location[0])))


def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("real")
    if marker is not None and (why := missing(marker.args)) is not None:
        pytest.skip(_PREFIX + why)
