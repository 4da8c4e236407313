"""Wrong usage of commands that issue addresses or run a program: told before there is a node, with the status of the table."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from compat.gateway.program import ProgramCannotRun, ProgramNotFound, program_path
from unimux.cli import main
from unimux.control import Offer, RequestRefused, ask_service, control_server
from unimux.errors import PoolExhausted, UnimuxError
from unimux.ssa.issue import IssueError

PREFIX = ("--prefix", "2001:db8:d::/64")
PUBLISH = ("publish", "shop", "--to", "[::1]:9", *PREFIX)
RUN = ("run", *PREFIX)
LISTEN = ("listen", *PREFIX)
NEW = ("ssa", "new", "shop")


@pytest.fixture(autouse=True)
def no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever attaches a node has not judged what it was given."""

    def attached(settings: object) -> None:
        raise AssertionError("a node is attached")

    monkeypatch.setattr("compat.up.attached_node", attached)


SESSIONS = "An address is issued for at least 1 session, not "
LIFETIME = ("An address lives more than 0 s and at most", "--lifetime is not usable", "'--lifetime': ")
CLIENT = " is no client that an address can be issued for: "
TERMS = {
    ("--sessions", "0"): SESSIONS,
    ("--sessions", "-3"): SESSIONS,
    **{("--lifetime", value): LIFETIME for value in ("0", "-1", "1e99", "inf", "nan")},
    ("--client", "foo"): CLIENT,
    ("--client", "2001:db8::1/32"): CLIENT,
}
COMMANDS = {RUN: "--sessions --lifetime", PUBLISH: "--sessions --lifetime --client", LISTEN: "--lifetime --client"}
COMMANDS[NEW] = COMMANDS[PUBLISH]


@pytest.mark.parametrize(
    ("command", "terms"),
    [(command, terms) for command, options in COMMANDS.items() for terms in TERMS if terms[0] in options.split()],
    ids=lambda words: f"{words[0]} {words[1]}",
)
def test_terms_that_no_address_can_be_issued_on(
    command: tuple[str, ...], terms: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main.run([*command, *terms, *(("--", "echo", "ran") if command == RUN else ())]) == 2
    out, told = capfd.readouterr()
    assert out == "" and told.startswith("unimux: ") and told.count("\n") == 1
    expected = TERMS[terms]
    assert any(said in told for said in ([expected] if isinstance(expected, str) else expected))


@pytest.mark.parametrize("scheme", ["a b", "://", "", "1http", "http:", "-x", "httpä"])
def test_a_scheme_that_no_url_can_have(scheme: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*PUBLISH, "--scheme", scheme]) == 2
    assert f"{scheme!r} is no scheme of a URL" in capsys.readouterr().err


def test_a_scheme_that_a_url_can_have() -> None:
    for scheme in ("http", "git+ssh", "svn.1-x", "token"):
        with pytest.raises(AssertionError, match="a node is attached"):
            raise_of([*PUBLISH, "--scheme", scheme])


@pytest.mark.parametrize("zone", ["bad name", "a..b", ".", "-a.example"])
def test_a_zone_that_no_name_server_could_answer_for(zone: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*PUBLISH, "--dns", zone, "--dns-address", "2001:db8:d::53"]) == 2
    assert f"{zone!r} is no name that DNS could answer for" in capsys.readouterr().err


def raise_of(argv: list[str]) -> None:
    """What a command line raises, which its end would have made a sentence and a status."""
    main.app(args=argv, standalone_mode=False)


# -- what a running service says of a request --------------------------------------------------------------


class Shop:
    """A service that refuses, with the error that it is given."""

    name = "shop"

    def __init__(self, error: UnimuxError) -> None:
        self._error = error

    async def issue_for(self, offer: Offer) -> Mapping[str, Any]:
        raise self._error

    def armed(self) -> list[Mapping[str, Any]]:
        return []


@pytest.mark.parametrize(
    ("error", "status"), [(IssueError("Not so."), 2), (PoolExhausted(2.0), 4), (UnimuxError("No."), 1)]
)
def test_what_the_service_refuses_ends_the_command_as_it_would_end_the_service(
    error: UnimuxError, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("unimux.control.runtime_folder", lambda: tmp_path)

    async def scene() -> int:
        async with control_server(Shop(error)):
            with pytest.raises(RequestRefused):
                await asyncio.to_thread(ask_service, "shop", {"new": "many"})
            return await asyncio.to_thread(main.run, ["ssa", "new", "shop"])

    assert asyncio.run(scene()) == status
    assert capsys.readouterr().err == f"unimux: {error}\n"


@pytest.mark.parametrize("said", [None, "2", 0, -1, 200, 2.0, [], True])
def test_a_status_that_is_none_is_the_answer_no(said: object) -> None:
    assert RequestRefused("no", said).exit_code == 1


# -- programs ----------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, which is the current one, with what is no program, and folders of it in the PATH."""
    (tmp_path / "notexec").write_text("hi\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").write_text("hi\n")
    (tmp_path / "bin" / "a-folder").mkdir()
    (tmp_path / "adir").mkdir()
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "round").symlink_to("round")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


CANNOT = ["./notexec", "./adir", "/etc/passwd", "tool", "./notexec/x", "./round", "/dev/null"]
ABSENT = ["no-such-program", "./no-such-program", "", "a-folder", "notexec", "./nowhere", "/no/such/program"]


@pytest.mark.parametrize("name", CANNOT)
def test_what_is_there_and_cannot_be_run_ends_with_126(
    name: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ProgramCannotRun):
        program_path(name)
    assert main.run([*RUN, "--", name]) == 126
    told = capsys.readouterr().err
    assert " cannot be run: " in told and told.count("\n") == 1


@pytest.mark.parametrize("name", ABSENT)
def test_what_is_not_there_ends_with_127(name: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ProgramNotFound):
        program_path(name)
    assert main.run([*RUN, "--", name]) == 127
    assert "is not a program that can be run" in capsys.readouterr().err


def test_a_program_is_found_as_a_shell_finds_it(files: Path) -> None:
    (files / "prog").write_text("#!/bin/sh\n")
    (files / "prog").chmod(0o755)
    assert program_path("./prog") == str(files / "prog")
    assert program_path("sh").endswith("/sh")
