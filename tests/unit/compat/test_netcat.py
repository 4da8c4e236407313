"""connect and listen: where they connect to, and how standard input and output are carried."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest

from compat.attachment import NodeSettings
from compat.kernel.errors import refusal
from compat.netcat import Interrupted, Target, _to_place, converse
from compat.publishsettings import PublishSettings
from compat.standard import Standard
from compat.up import node_settings
from tapstack.tcp.options import SocketOptions
from tests.unit.unimux.lan import lan
from unimux.aio import open_connection, start_server
from unimux.cli.exits import ExitCode, status
from unimux.cli.main import run
from unimux.cli.settings import SettingsError
from unimux.errors import SetupError, UnusablePeer
from unimux.node import CLOSE_TIMEOUT
from unimux.ssa.issue import IssueError
from unimux.ssa.token import TokenError


@pytest.mark.parametrize(
    ("text", "port", "host", "wanted"),
    [
        ("unimux://[2001:db8::1]:443/files", None, "2001:db8::1", 443),
        ("unimux://[2001:db8::1]:443/files", 80, "2001:db8::1", 80),
        ("2001:db8::1", None, "2001:db8::1", None),
        ("2001:db8::1", 22, "2001:db8::1", 22),
        ("[2001:db8::1]:8080", None, "2001:db8::1", 8080),
        ("www.example:80", None, "www.example", 80),
        ("www.example", 80, "www.example", 80),
    ],
)
def test_every_way_to_name_a_place(text: str, port: int | None, host: str, wanted: int | None) -> None:
    target = Target.parse(text, port, 0.0)
    assert (target.host, target.port) == (host, wanted)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "www.example",
        "a:b:c",
        "[2001:db8::1",
        "www.example:http",
        "www.example:99999",
        "[::1]:80",
        "::1",
        "[::]:80",
        "[ff02::1]:80",
        "unimux://[::1]:80/",
    ],
)
def test_what_names_no_place_is_a_sentence(text: str) -> None:
    with pytest.raises(SetupError, match="names no place"):
        Target.parse(text, None, 0.0)


PUBLISH = ["publish", "web", "--to", "[::1]:80", "--bridge", "lan"]


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "0"])
@pytest.mark.parametrize("command", [["connect", "[2001:db8::1]:80", "--timeout"], ["listen", "x", "--lifetime"]])
def test_what_is_no_time_to_wait_is_wrong_usage(
    command: list[str], seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, seconds, "--bridge", "no-such"]) == ExitCode.USAGE
    assert "is no time to wait" in capsys.readouterr().err


def test_a_name_of_the_machine_itself_is_a_sentence() -> None:
    async def main() -> None:
        async with lan(latency=0.0001) as net:
            node = await net.node(dedicated="2001:db8:a::")
            with pytest.raises(UnusablePeer, match="cannot be the address of a peer"):
                await _to_place(node, Target("::1", 80), asyncio.Protocol(), 5)

    asyncio.run(main())


def test_a_token_that_is_over_is_not_tried() -> None:
    with pytest.raises(TokenError, match="was over"):
        Target.parse("unimux://[2001:db8::1]?until=2026-01-01T00:00:00Z", None, 1.8e9)


async def talk(
    given: bytes, serve: Any, tmp_path: Path, *, pipe: bool, until: Callable[[], object] = lambda: True
) -> tuple[Any, bytes]:
    """A session with `serve`; standard input is a pipe, or a file.  The nodes live until `until()`, 5 s at most."""
    async with lan(latency=0.0001) as net:
        alice, bob = await net.node(), await net.node()
        ssa = await start_server(bob, serve).issue()
        reader, writer = await open_connection(alice, IPv6Address(ssa.address), None)
        out = tmp_path / "out"
        (tmp_path / "in").write_bytes(given)
        if pipe:
            source, feed = os.pipe()
            feeding = asyncio.create_task(asyncio.to_thread(_feed, feed, given))
        else:
            source = os.open(tmp_path / "in", os.O_RDONLY)
            feeding = asyncio.create_task(asyncio.sleep(0))
        sink = os.open(out, os.O_WRONLY | os.O_CREAT, 0o600)
        standard = Standard(source, sink)
        try:
            report = await converse(reader, writer, standard, alice.now)
            await feeding
            async with asyncio.timeout(5):
                while not until():
                    await asyncio.sleep(0.01)
        finally:
            while await standard.read():
                pass  # else its thread may read what next has the descriptor's number
            os.close(source)
            os.close(sink)
        return report, out.read_bytes()


def _feed(feed: int, data: bytes) -> None:
    with os.fdopen(feed, "wb") as file:
        file.write(data)


@pytest.mark.parametrize("pipe", [True, False], ids=["pipe", "file"])
def test_both_streams_end_for_themselves(tmp_path: Path, pipe: bool) -> None:
    data = os.urandom(700_000)

    async def answer_after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = await reader.read()
        writer.write(got[::-1])
        writer.close()

    report, out = asyncio.run(talk(data, answer_after_the_end, tmp_path, pipe=pipe))
    assert out == data[::-1]
    assert (report.sent, report.received, report.ended) == (len(data), len(data), "complete")


def test_a_peer_that_ends_its_stream_first_still_gets_ours(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    got: list[bytes] = []

    async def end_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"that was all")
        writer.write_eof()
        got.append(await reader.read())
        writer.close()

    report, out = asyncio.run(talk(data, end_first, tmp_path, pipe=True, until=lambda: got))
    assert (out, got) == (b"that was all", [data])
    assert report.ended == "complete"


def test_what_a_slow_peer_has_not_taken_yet_is_waited_for(tmp_path: Path) -> None:
    """The peer has ended its stream and takes ours only later than a node waits when it is closed."""
    data = os.urandom(SocketOptions().receive_buffer + 200_000)
    got: list[bytes] = []
    rested = asyncio.Event()

    async def end_first_read_later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        await asyncio.sleep(CLOSE_TIMEOUT + 1)
        with suppress(ConnectionError):
            got.append(await reader.read())
        writer.close()
        rested.set()

    async def main() -> Any:
        async with lan(latency=0.0001) as net:
            alice, bob = await net.node(), await net.node()
            ssa = await start_server(bob, end_first_read_later, limit=1).issue()
            reader, writer = await open_connection(alice, IPv6Address(ssa.address), None)
            (tmp_path / "in").write_bytes(data)
            source, sink = os.open(tmp_path / "in", os.O_RDONLY), os.open(os.devnull, os.O_WRONLY)
            try:
                report = await converse(reader, writer, Standard(source, sink), alice.now)  # to the end of its input
                await alice.close()
                await asyncio.wait_for(rested.wait(), 10)
            finally:
                os.close(source)
                os.close(sink)
            return report

    report = asyncio.run(main())
    assert got == [data]
    assert (report.sent, report.ended) == (len(data), "complete")


def test_a_reset_is_an_error_that_says_how_much_came(tmp_path: Path) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    with pytest.raises(Interrupted, match="ended the session early"):
        asyncio.run(talk(b"hello", reset, tmp_path, pipe=False))


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["publish", "web", "--to", "nowhere", "--bridge", "lan"], "not HOST:PORT"),
        (["publish", "a/b", "--to", "[::1]:80", "--bridge", "lan"], "cannot be the name"),
        (["publish", "web", "--to", "[::1]:80", "--bridge", "lan", "--dns", "x.example"], "--dns-address"),
        (["connect", "web", "--bridge", "lan", "--secret-file", "/dev/null"], "--server-prefix"),
        (["connect", "nowhere", "--bridge", "lan"], "names no place"),
        (["connect", "", "--bridge", "lan"], "names no place"),
        (["connect", "http://[2001:db8::1]/", "--bridge", "lan"], "is not a token"),
        (["listen", "a/b", "--bridge", "lan"], "cannot be the name"),
        (["ssa", "list", "../x"], "cannot be the name"),
        ([*PUBLISH, "--sessions", "0"], "at least 1 session"),
        ([*PUBLISH, "--lifetime", "-1"], "--lifetime is not usable"),
        ([*PUBLISH, "--count", "-5"], "--count is not usable"),
        ([*PUBLISH, "--client", "nobody"], "is no client"),
        ([*PUBLISH, "--dns-address", "2001:db8::53"], "--dns ZONE"),
        ([*PUBLISH, "--dns", "x.example", "--dns-address", "foo"], "'foo' is no IPv6 address"),
        ([*PUBLISH, "--secret-client", "a"], "--secret-file"),
        (["ssa", "whois", "2001:db8::1"], "--state DIR"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_before_anything_is_set_up(
    argv: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(argv) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert why in said
    assert "fault of unimux" not in said


def test_a_secret_that_is_not_there_and_a_client_named_twice_are_told_before_anything_is_set_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "secret"
    assert run([*PUBLISH, "--secret-file", str(file)]) == ExitCode.MACHINE
    assert run(["ssa", "keygen", str(file)]) == ExitCode.DONE
    capsys.readouterr()
    twice = ["--secret-client", "a", "--secret-client", "a", "--state", str(tmp_path / "state")]
    assert run([*PUBLISH, "--secret-file", str(file), *twice]) == ExitCode.USAGE
    assert "'a' is named twice" in capsys.readouterr().err
    assert run([*PUBLISH, "--secret-file", str(file), *twice[:2]]) == ExitCode.USAGE
    assert "--state DIR" in capsys.readouterr().err


def test_an_address_for_dns_in_the_configuration_waits_for_a_zone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNIMUX_PUBLISH_DNS_ADDRESS", "2001:db8::53")
    assert run([*PUBLISH, "--client", "nobody"]) == ExitCode.USAGE
    assert "is no client" in capsys.readouterr().err, "and not about DNS"


def test_a_flag_takes_the_place_of_what_the_file_says_of_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMUX_NODE_PREFIX", "2001:db8::/64")
    settings = node_settings(bridge="lan", prefix=None)
    assert (settings.bridge, settings.prefix) == ("lan", None)
    monkeypatch.delenv("UNIMUX_NODE_PREFIX")
    monkeypatch.setenv("UNIMUX_NODE_BRIDGE", "lan")
    settings = node_settings(bridge=None, prefix="2001:db8::/64")
    assert (settings.bridge, settings.prefix) == (None, "2001:db8::/64")


def test_a_bridge_and_a_prefix_beside_each_other_are_told_with_the_way_to_where_they_come_from() -> None:
    with pytest.raises(SettingsError, match=r"here are both \(lan, 2001:db8::/64\): leave one .*`unimux config show`"):
        NodeSettings(bridge="lan", prefix="2001:db8::/64").check()
    with pytest.raises(SettingsError, match="give --bridge NAME or --prefix PREFIX"):
        NodeSettings().check()


def test_what_is_written_well_and_is_not_there_is_no_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ssa", "new", "no-such-service"]) == ExitCode.MACHINE
    assert "No service 'no-such-service' runs" in capsys.readouterr().err
    assert run(["connect", "unimux://[2001:db8::1]?until=2020-01-01T00:00:00Z", "--bridge", "lan"]) == ExitCode.NETWORK
    assert status(refusal("find the interface lan", errno.ENODEV)) == ExitCode.MACHINE
    assert status(IssueError("0 sessions")) == ExitCode.USAGE


def test_one_address_is_kept_unless_another_delivery_tells_clients() -> None:
    assert PublishSettings().kept() == 1
    assert PublishSettings(dns="x").kept() == 0
    assert PublishSettings(secret_file="x", count=2).kept() == 2
    with pytest.raises(SetupError, match="NAME:FILE"):
        PublishSettings(dns="x", dns_address="::1", dns_keys=["alice"]).dns_policy()
