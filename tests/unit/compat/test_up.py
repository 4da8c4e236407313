"""What commands say while their node runs: `up`, `publish` and `run` go on when their reader stands still."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import typer

from compat import publish, speaker
from compat.attachment import NodeSettings
from compat.publisher import Backend
from compat.publishsettings import PublishSettings
from compat.speaker import Speaker
from compat.up import run_node, tell_events
from tapstack.ipv6.addresses import AddressKind
from tapstack.link.errors import LinkLost
from tests.unit.unimux.lan import handled, lan
from unimux.cli import main
from unimux.errors import SetupError, WrongUsage
from unimux.node import Node, NodeConfig


def test_what_happens_is_said_until_nobody_reads_it() -> None:
    said: list[str] = []

    def write(text: str, err: bool) -> None:
        if len(said) == 3:
            raise BrokenPipeError("nobody reads")
        said.append(text)

    async def main() -> None:
        async with lan(latency=0.0002) as net:
            node = await net.node()
            told = handled()
            with pytest.raises(BrokenPipeError):
                async with asyncio.timeout(20), Speaker(write) as speaker:
                    await tell_events(node, speaker)
            await node.ready(4, 20)
            assert not told
            with pytest.raises(BrokenPipeError):
                speaker.say("more")
            speaker.complain("which nobody hears, and which does no harm")

    asyncio.run(main())
    assert len(said) == 3


class Held:
    """A reader that stands still until it is let go on."""

    def __init__(self) -> None:
        self.going_on = threading.Event()
        self.said: list[str] = []

    def write(self, text: str, err: bool) -> None:
        self.said.append(text)
        assert self.going_on.wait(20), "the loop waits for its reader"


async def happens(node: Node) -> None:
    """Something that is worth a line."""
    entry = await node.take_address(AddressKind.EPHEMERAL, None, timeout=5)
    node.stack.host.addresses.release(entry, node.now(), "test")
    await asyncio.sleep(0.001)


def test_a_reader_that_stands_still_stops_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """`unimux up | less`, or a terminal that is held: the node goes on, and what finds no room is counted."""
    monkeypatch.setattr(speaker, "UNREAD", 10)
    held = Held()

    async def main() -> None:
        async with lan(latency=0.0002) as net, asyncio.timeout(20), Speaker(held.write) as speaking:
            node = await net.node(dedicated="2001:db8:a::")
            telling = asyncio.ensure_future(tell_events(node, speaking))
            while not held.said:
                await happens(node)
            for _ in range(50):
                await happens(node)
            assert len(held.said) == 1
            held.going_on.set()
            while not any(line.endswith(" lines were left out: nobody read them.") for line in held.said):
                await happens(node)
            assert len(held.said) >= 11
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    asyncio.run(main())


def test_a_publisher_whose_addresses_nobody_reads_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that starts it, reads the first address and then no more: its pipe is full one day."""
    held = Held()
    monkeypatch.setattr(typer, "echo", lambda text, err=False: held.write(text, err))

    def run_node(settings: NodeSettings, work: Callable[[Node], Awaitable[None]]) -> int:
        async def main() -> None:
            async with lan(latency=0.0002) as net:
                node = await net.node(dedicated="2001:db8:a::")
                working = asyncio.ensure_future(work(node))
                async with asyncio.timeout(20):
                    while not held.said:
                        await asyncio.sleep(0.001)
                    for _ in range(100):
                        await happens(node)
                assert len(held.said) == 1 and not working.done()
                held.going_on.set()
                async with asyncio.timeout(20):
                    while len(held.said) < 3:
                        await asyncio.sleep(0.001)
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)

        asyncio.run(main())
        return 0

    monkeypatch.setattr("compat.up.run_node", run_node)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
    monkeypatch.setattr(publish, "control_server", lambda publisher: NoSocket())
    attachment = NodeSettings(prefix="2001:db8:a::/64")
    publish._publish("shop", Backend("::1", 9), PublishSettings(lifetime=0.1), attachment, json=False)
    assert held.said[0].startswith("unimux: shop at [::1]:9")
    assert any(line.startswith("unimux://[2001:db8:a:") for line in held.said)
    assert held.said[-1].endswith(" issued, 0 sessions, 0 bytes in, 0 out.")


def test_a_publisher_whose_addresses_cannot_be_written_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk there is nobody who could use what it issues; the next address may be long in coming."""

    def full(text: str, err: bool = False) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    @asynccontextmanager
    async def attached(settings: NodeSettings) -> AsyncIterator[Node]:
        async with lan(latency=0.0002) as net, asyncio.timeout(10) as bound:
            bounds.append(bound)
            yield await net.node(dedicated="2001:db8:a::")

    bounds: list[asyncio.Timeout] = []
    monkeypatch.setattr(typer, "echo", full)
    monkeypatch.setattr("compat.up.attached_node", attached)
    monkeypatch.setattr(publish, "control_server", lambda publisher: NoSocket())
    with pytest.raises(OSError, match="No space left"):
        publish._publish("shop", Backend("::1", 9), PublishSettings(), NodeSettings(), json=False)
    assert not bounds[0].expired()


@pytest.mark.parametrize("what", ["control_server", "_dns"])
def test_a_publisher_that_cannot_begin_does_not_say_that_it_does(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Taken(NoSocket):
        async def __aenter__(self) -> None:
            raise SetupError("That is taken.")

    @asynccontextmanager
    async def attached(settings: NodeSettings) -> AsyncIterator[Node]:
        async with lan(latency=0.0002) as net:
            yield await net.node(dedicated="2001:db8:a::")

    said: list[str] = []
    monkeypatch.setattr(typer, "echo", lambda text, err=False: said.append(text))
    monkeypatch.setattr("compat.up.attached_node", attached)
    monkeypatch.setattr(publish, "control_server", lambda publisher: NoSocket())
    monkeypatch.setattr(publish, what, lambda *arguments: Taken())
    settings = PublishSettings(dns="shop.example", dns_address="2001:db8:a::53")
    with pytest.raises(SetupError, match="That is taken"):
        publish._publish("shop", Backend("::1", 9), settings, NodeSettings(), json=False)
    assert said == []


def test_an_address_for_dns_lies_in_the_prefix_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    dns = ["--dns", "shop.example", "--dns-address", "2001:db8:e::53"]
    assert main.run(["publish", "shop", "--to", "[::1]:9", "--prefix", "2001:db8:d::/64", *dns]) == 2
    assert "2001:db8:e::53 does not lie in 2001:db8:d::/64" in capsys.readouterr().err
    for prefix, said in (("2001:db8:e::1/64", "write 2001:db8:e::/64."), ("::/200", "write it like 2001:db8::/64.")):
        assert main.run(["publish", "shop", "--to", "[::1]:9", "--prefix", prefix, *dns]) == 2
        assert capsys.readouterr().err == f"unimux: {prefix!r} is not an IPv6 prefix: {said}\n"


class NoSocket:
    """In place of the control socket, which is the kernel's."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


def test_a_prefix_that_is_written_wrongly_is_told_how_to_write_it(capsys: pytest.CaptureFixture[str]) -> None:
    for prefix, said in (("192.0.2.0", "write it like 2001:db8::/64."), ("2001:db8::1/64", "write 2001:db8::/64.")):
        assert main.run(["up", "--prefix", prefix]) == 2
        assert capsys.readouterr().err == f"unimux: {prefix!r} is not an IPv6 prefix: {said}\n"


@pytest.mark.parametrize("command", [["up"], ["socks"], ["run", "--", "true"], ["connect", "www.example", "80"]])
@pytest.mark.parametrize(
    "server", ["foo", "10.0.0.1", "::ffff:10.0.0.1", "::1", "::", "ff02::fb", "fe80::1%eth0", "[::1]:53"]
)
def test_a_name_server_that_is_none_is_wrong_usage(
    server: str, command: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before anything is set up, and by every command that has a node."""
    monkeypatch.setenv("UNIMUX_NODE_NAME_SERVERS", f"2001:db8::53,{server}")
    verb, *rest = command
    assert main.run([verb, "--prefix", "2001:db8:92::/64", *rest]) == 2
    out, said = capfd.readouterr()
    assert out == "" and said.startswith(f"unimux: {server!r} cannot be a name server: ") and said.count("\n") == 1
    with pytest.raises(WrongUsage, match="cannot be a name server"):
        NodeConfig(name_servers=["2001:db8::53", server])


def test_a_name_server_on_the_link_may_be_configured_as_routers_may_announce_one() -> None:
    NodeSettings(prefix="2001:db8::/64", name_servers=["2001:db8::53", "fe80::1"]).check()


@pytest.mark.parametrize("nat64", ["64:ff9b::/95", "x", "64:ff9b::1/96"])
def test_a_prefix_that_is_none_of_nat64_is_wrong_usage(
    nat64: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNIMUX_NODE_NAT64", nat64)
    assert main.run(["up", "--prefix", "2001:db8:92::/64"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(WrongUsage):
        NodeConfig(nat64=nat64)


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ({"pool_low": 50, "pool_high": 20}, "pool_low = 50 and pool_high = 20"),
        ({"pool_low": 50, "pool_limit": 20}, "pool_low = 50 and pool_limit = 20"),
        ({"pool_high": 50, "pool_limit": 20}, "pool_high = 50 and pool_limit = 20"),
        ({"pool_low": 1, "pool_high": 50, "pool_limit": 20}, "pool_high = 50 and pool_limit = 20"),
    ],
)
def test_marks_of_the_pool_that_were_set_and_contradict_each_other_are_refused(
    marks: dict[str, int], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in marks.items():
        monkeypatch.setenv(f"UNIMUX_NODE_{name.upper()}", str(value))
    assert main.run(["up", "--prefix", "2001:db8:92::/64"]) == 2
    assert f"The settings {said} contradict each other" in capsys.readouterr().err


@pytest.mark.parametrize("prefix", ["ff00::/8", "ff02::/64", "fe80::/64", "fe00::/7", "::/0", "::/64"])
def test_a_prefix_that_no_node_can_have_is_wrong_usage(prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["up", "--prefix", prefix]) == 2
    assert f"{prefix} cannot be routed to a node" in capsys.readouterr().err
    for usable in ("2001:db8::/64", "fd00::/48", "64:ff9b:1::/64"):
        NodeSettings(prefix=usable).check()


@pytest.mark.parametrize(
    "command",
    [["run", "--", "true"], ["connect", "2001:db8::1", "80"], ["listen", "files"]],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_there_is_a_node_ends_a_command_with_its_number(
    command: list[str], number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    @asynccontextmanager
    async def never(settings: NodeSettings) -> AsyncIterator[Node]:
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()
        yield Node.__new__(Node)

    monkeypatch.setattr("compat.up.attached_node", never)
    assert main.run(command) == 128 + number
    assert capfd.readouterr() == ("", "")


def test_who_has_the_hangup_ignored_keeps_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `nohup unimux up` does."""

    class Sound:
        failure = None

        async def failed(self) -> None:
            await asyncio.Event().wait()

    @asynccontextmanager
    async def attached(settings: NodeSettings) -> AsyncIterator[Sound]:
        yield Sound()

    async def work(node: Node) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.01)

    monkeypatch.setattr("compat.up.attached_node", attached)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_node(NodeSettings(), work) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_while_what_was_done_is_being_undone_changes_no_status(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sound:
        failure = None

        async def failed(self) -> None:
            await asyncio.Event().wait()

    undone: list[bool] = []

    @asynccontextmanager
    async def slow_to_go(settings: NodeSettings) -> AsyncIterator[Sound]:
        yield Sound()
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(1)
        finally:
            undone.append(True)

    async def work(node: Node) -> None:
        pass

    monkeypatch.setattr("compat.up.attached_node", slow_to_go)
    assert run_node(NodeSettings(), work) == 0
    assert undone


def test_work_that_ends_with_the_node_tells_why_the_node_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def attached(settings: NodeSettings) -> AsyncIterator[Node]:
        async with lan(latency=0.0002) as net:
            yield await net.node()

    async def work(node: Node) -> None:
        asyncio.get_running_loop().call_soon(node.driver._lose, LinkLost("the device is gone"))
        await node.ready(500)

    monkeypatch.setattr("compat.up.attached_node", attached)
    with pytest.raises(LinkLost, match="the device is gone"):
        run_node(NodeSettings(), work)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize(
    "command",
    [["up"], ["socks", "--port", "0"], ["publish", "shop", "--to", "[::1]:9"]],
    ids=lambda command: command[0],
)
def test_what_serves_has_done_its_work_only_when_it_has_begun(
    command: list[str], begun: bool, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that starts it must not take for a success that it was stopped before."""

    @asynccontextmanager
    async def attached(settings: NodeSettings) -> AsyncIterator[Node]:
        async with lan(latency=0.0002) as net:
            node = await net.node(dedicated="2001:db8:a::")
            if begun:
                asyncio.get_running_loop().call_later(0.5, signal.raise_signal, number)
            else:
                signal.raise_signal(number)
                await asyncio.sleep(60)  # where it is heard
            yield node

    monkeypatch.setattr("compat.up.attached_node", attached)
    monkeypatch.setattr(publish, "control_server", lambda publisher: NoSocket())
    assert main.run([*command, "--prefix", "2001:db8:a::/64"]) == (0 if begun else 128 + number)


def test_what_follows_a_program_is_the_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["run", "--prefix", "nonsense", "curl", "-sS", "--prefix", "http://[::1]/"]) == 2
    assert "'nonsense' is not an IPv6 prefix" in capsys.readouterr().err
