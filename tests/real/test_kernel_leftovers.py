"""kill -9 of the owner of a network: the next start removes all of it, and nothing of a living owner's."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compat.kernel import (
    NETNS_DIR,
    Namespace,
    bridge,
    clean_leftovers,
    get_sysctl,
    in_namespace,
    set_sysctl,
    sysctl,
    unnamed_namespace,
    veth,
)
from compat.kernel.ledger import RUN_DIR
from compat.kernel.owner import Owner
from compat.kernel.undo import UNDO
from tests.real.owned import programs

pytestmark = pytest.mark.real
PATIENCE = 60.0

OWNER = """
import asyncio, signal, sys
from contextlib import ExitStack
from compat.kernel import *
from compat.kernel.topology import demo_topology
from compat.programs import run_in

async def main():
    me = Owner.current()
    with Namespace.current() as host, ExitStack() as stack:
        net = stack.enter_context(demo_topology())
        inside, outside = stack.enter_context(veth(net.router, "host", host, me.link_name("host")))
        bridge_ = stack.enter_context(bridge(host, me.link_name("br")))
        stack.enter_context(membership(outside, bridge_))
        stack.enter_context(address(bridge_, "2001:db8:aaaa::1/64"))
        stack.enter_context(route(host, "2001:db8:bbbb::/48", via="2001:db8:aaaa::2"))
        stack.enter_context(sysctl(host, "ipv6/conf/all/forwarding", 1))
        async with run_in(net.server, ["sleep", "1000"]) as child:
            async with run_in(net.server, ["setsid", "--fork", "sleep", "1000"]) as daemon:
                await daemon.wait()
                print(child.pid, flush=True)
                await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

asyncio.run(main())
"""


@pytest.fixture
def host() -> Iterator[Namespace]:
    """What stands for the machine's own namespace, so that the tests leave that one alone."""
    with unnamed_namespace() as made, Namespace(f"/proc/self/fd/{made.fd}") as handle:
        yield handle


class Victim:
    """A process that owns a network, with links, a route and a sysctl in `host`."""

    def __init__(self, host: Namespace) -> None:
        with in_namespace(host):
            self.process = subprocess.Popen(
                [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self.process.stdout is not None
        self.child = int(self.process.stdout.readline())
        self.owner = Owner.of_pid(self.process.pid)
        self.pattern = f"unimux-{self.process.pid}-*"

    def namespaces(self) -> list[str]:
        return sorted(path.name for path in NETNS_DIR.glob(self.pattern))

    def programs(self) -> list[int]:
        """The live processes that carry the victim's tag."""
        assert self.owner is not None
        return programs(self.owner)

    def end(self) -> int:
        """Let it leave its blocks."""
        self.process.communicate("\n", timeout=PATIENCE)
        return self.process.returncode

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE)


@pytest.fixture
def victim(host: Namespace) -> Iterator[Victim]:
    """One that is killed at the end, where the test has not ended it."""
    made = Victim(host)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.kill()
            with in_namespace(host):
                clean_leftovers()


def state_of(host: Namespace) -> tuple[list[str], bool, str]:
    """Our links in the namespace, whether our route is there, and forwarding."""
    links = [name for _, name in host.run(socket.if_nameindex, "list") if name != "lo"]
    routes = host.run(lambda: Path("/proc/thread-self/net/ipv6_route").read_text(), "read")
    return links, "20010db8bbbb" in routes, get_sysctl(host, "ipv6/conf/all/forwarding")


def eventually(condition: Callable[[], bool]) -> bool:
    pause, deadline = threading.Event(), time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.002)
    return True


EMPTY: tuple[list[str], bool, str] = ([], False, "0")


def test_kill_9_then_clean_leaves_nothing(host: Namespace, victim: Victim) -> None:
    assert len(victim.namespaces()) == 4
    links, routed, forwarding = state_of(host)
    assert (len(links), routed, forwarding) == (2, True, "1")
    assert len(victim.programs()) == 2

    victim.kill()
    # The program that did not fork away dies with its owner, without anybody's help.
    assert eventually(lambda: victim.child not in victim.programs())
    assert len(victim.namespaces()) == 4, "nothing was left behind: this test has lost its teeth"
    assert state_of(host) == (links, routed, forwarding)

    with in_namespace(host):
        found = clean_leftovers()
    assert {name for name in found.namespaces if f"-{victim.process.pid}-" in name} == {
        f"{victim.owner.namespace_name(role)}" for role in ("client", "router", "server", "third") if victim.owner
    }
    assert sorted(change.split(":")[0] for change in found.changes) == sorted(
        ["link", "link", "master", "address", "route", "sysctl"]
    )
    assert found.processes or not victim.programs(), "unless another cleaner of this machine was first"
    assert victim.namespaces() == []
    assert not [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if victim.pattern[:-1] in line]
    assert state_of(host) == EMPTY
    assert eventually(lambda: victim.programs() == [])
    assert not list(RUN_DIR.glob(f"{victim.process.pid}-*"))
    with in_namespace(host):
        again = clean_leftovers()
    assert not again.namespaces
    assert not again.changes


def test_the_living_keep_what_they_have(host: Namespace, victim: Victim) -> None:
    before = state_of(host)
    with in_namespace(host):
        found = clean_leftovers()
    assert not [name for name in found.namespaces if f"-{victim.process.pid}-" in name]
    assert len(victim.namespaces()) == 4
    assert state_of(host) == before
    assert before[1:] == (True, "1")
    assert len(victim.programs()) == 2

    assert victim.end() == 0
    assert victim.namespaces() == []
    assert state_of(host) == EMPTY
    with in_namespace(host):
        clean_leftovers()  # what it ran that forked away
    assert eventually(lambda: victim.programs() == [])


HOLDER = """
import sys
from compat.kernel import *
with Namespace.current() as host, sysctl(host, "ipv6/conf/all/forwarding", 1):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(host: Namespace) -> subprocess.Popen[str]:
    with in_namespace(host):
        made = subprocess.Popen(
            [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    assert made.stdout is not None
    assert made.stdout.readline() == "held\n"
    return made


def test_a_setting_of_two_owners_survives_the_death_of_one(host: Namespace) -> None:
    first, second = holder(host), holder(host)
    first.kill()
    first.communicate()
    with in_namespace(host):
        clean_leftovers()
    assert get_sysctl(host, "ipv6/conf/all/forwarding") == "1"
    second.communicate("\n", timeout=PATIENCE)
    assert get_sysctl(host, "ipv6/conf/all/forwarding") == "0"


def test_a_start_that_forgot_to_clean_still_restores_the_first_value(host: Namespace) -> None:
    first = holder(host)
    first.kill()
    first.communicate()
    with sysctl(host, "ipv6/conf/all/forwarding", 1):
        with in_namespace(host):
            clean_leftovers()
        assert get_sysctl(host, "ipv6/conf/all/forwarding") == "1"
    assert get_sysctl(host, "ipv6/conf/all/forwarding") == "0"


def test_a_forked_child_tears_nothing_down(host: Namespace) -> None:
    with sysctl(host, "ipv6/conf/all/forwarding", 1):
        child = subprocess.run(
            [sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=PATIENCE, check=True
        )
    assert child.stdout.splitlines() == ["True", "True"]


FORKED = """
import os, sys
from compat.kernel import *
with namespace("test") as space, bridge(space, "br") as br:
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        print((NETNS_DIR / space.name).exists())
        print(br.index > 0)
"""


def test_a_name_that_is_not_ours_is_never_touched(host: Namespace) -> None:
    """Names that look like ours but carry no owner, and owners whose id was given to another process since."""
    assert Owner.of_namespace("unimux-test") is None
    assert Owner.of_namespace("my-unimux-1-2-x") is None
    assert Owner(os.getpid(), 1).alive() is False
    assert Owner.current().alive()


def test_a_broken_ledger_line_hides_no_other(host: Namespace) -> None:
    """A writer that died in the middle of a line."""
    first = holder(host)
    (path,) = RUN_DIR.glob(f"{first.pid}-*")
    with path.open("a") as file:
        file.write('{"number": 2, "kind": "li')
    first.kill()
    first.communicate()
    with in_namespace(host):
        assert [change for change in clean_leftovers().changes if change.startswith("sysctl")]
    assert get_sysctl(host, "ipv6/conf/all/forwarding") == "0"
    set_sysctl(host, "ipv6/conf/all/forwarding", 0)


def test_a_change_of_a_kind_that_only_another_version_knows_stays_written_down(host: Namespace, victim: Victim) -> None:
    victim.kill()
    assert victim.owner is not None
    ledger = RUN_DIR / f"{victim.owner.tag}.jsonl"
    with ledger.open("a") as file:
        file.write(json.dumps({"number": 99, "kind": "tunnel", "inode": host.inode, "facts": {"name": "x"}}) + "\n")
    try:
        for _ in range(2):  # the second start finds the kind again
            with in_namespace(host):
                clean_leftovers()
        assert state_of(host) == EMPTY, "what it knows is undone"
        assert "tunnel" in ledger.read_text()
    finally:
        ledger.unlink()


def test_cleaning_spares_the_cleaner_that_a_dead_owner_started(host: Namespace) -> None:
    """Who else cleans on this machine may end it, so that it has several lives; by its own hand it would lose each."""
    script = "from compat.kernel import clean_leftovers; clean_leftovers(); print('alive')"
    command, dead_owner = [sys.executable, "-c", script], {**os.environ, "UNIMUX_OWNER": f"{os.getpid()}-1"}
    said: list[str] = []
    while "alive\n" not in said and len(said) < 10:
        with in_namespace(host):
            said.append(subprocess.run(command, env=dead_owner, capture_output=True, text=True, check=False).stdout)
    assert said[-1] == "alive\n", said


def test_cleaning_spares_programs_of_another_pid_namespace(host: Namespace) -> None:
    """Their owner lives there, by an id that here is nobody's, or another's."""
    tag = f"{os.getpid()}-1"
    script = "export UNIMUX_OWNER=$0; exec sh -c 'echo ready; read end'"
    inside = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", script, tag],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert inside.stdout is not None and inside.stdout.readline() == b"ready\n"
        clean_leftovers()
        assert inside.poll() is None
        inside.communicate(b"end\n", timeout=PATIENCE)
        assert inside.returncode == 0
    finally:
        inside.kill()
        inside.wait()


def test_a_handle_closed_too_early_does_not_hinder_the_end(host: Namespace) -> None:
    with in_namespace(host):
        handle = Namespace.current()
    with sysctl(handle, "ipv6/conf/all/forwarding", 1):
        assert get_sysctl(host, "ipv6/conf/all/forwarding") == "1"
        handle.close()
    assert get_sysctl(host, "ipv6/conf/all/forwarding") == "0"


def test_a_port_whose_earlier_bridge_has_gone_meanwhile_is_taken_out_of_ours(host: Namespace) -> None:
    """What is left to undo is to leave our bridge; that the other one has gone must not stop every start from then on."""
    with veth(host, "port", host, "far") as (port, _), bridge(host, "ours") as ours:
        with bridge(host, "theirs") as theirs:
            port.set_master(theirs.index)
            facts = {"name": "port", "before": theirs.index, "master": ours.index}
            port.set_master(ours.index)
        UNDO["master"](host, facts)
        assert port.master == 0
        UNDO["master"](host, facts)


def test_a_program_that_ends_by_itself_in_the_moment_in_which_it_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    left = subprocess.Popen(["sleep", "1000"], env={**os.environ, "UNIMUX_OWNER": f"{os.getpid()}-1"})
    kill = os.kill

    def too_late(pid: int, number: int) -> None:
        if pid == left.pid:
            kill(pid, number)
            left.wait()
        kill(pid, number)

    try:
        monkeypatch.setattr(os, "kill", too_late)
        clean_leftovers()
        assert left.wait(PATIENCE) == -signal.SIGKILL, "by this cleaner or by another one of the machine"
    finally:
        monkeypatch.undo()
        left.kill()
        left.wait()


def test_whose_a_program_is_can_be_told_while_it_executes_another(tmp_path: Path) -> None:
    (tmp_path / "next").write_text('[ "$1" -gt 0 ] && exec sh "$0" $(($1 - 1)); echo done; read wait\n')
    living = Owner.current()  # the program of a dead one is ended by whoever cleans on this machine
    mine = {**os.environ, "UNIMUX_OWNER": living.tag}
    seen = set()
    with subprocess.Popen(
        ["sh", tmp_path / "next", "1000"], env=mine, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        while not select.select([program.stdout], [], [], 0)[0]:
            seen.add(Owner.of_program(program.pid))
        program.kill()
    assert seen == {living}


def test_whose_a_program_is_that_does_not_say() -> None:
    for env in ({}, {"UNIMUX_OWNER": "nobody"}, {"UNIMUX": "12-345"}):
        with subprocess.Popen(["/bin/sleep", "1000"], env=env) as program:
            assert Owner.of_program(program.pid) is None
            program.kill()
        assert Owner.of_program(program.pid) is None, "it has ended"
