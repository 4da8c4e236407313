"""The command line as its user meets it: one sentence for an error, a status that means something, a quick start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.abc import MetaPathFinder
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from unimux import errors
from unimux.__main__ import main
from unimux.cli import plugins
from unimux.cli.exits import ExitCode, sentence, status
from unimux.cli.main import app, run
from unimux.generators import GeneratorError

HEAVY = ("numpy", "matplotlib", "scapy", "cryptography", "pyroute2", "textual", "dpkt", "dns", "jinja2", "asyncio")

Register = Callable[[str, str], None]


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Register:
    """Installs a sub-command: its name and the source of its module, which calls it `command`."""
    points: dict[str, EntryPoint] = {}
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "registered", lambda: points)
    monkeypatch.setenv("UNIMUX_DEBUG", "")

    def install(name: str, source: str) -> None:
        package = tmp_path / f"wing_{name}"
        package.mkdir()
        for module in (package.name, f"{package.name}.command"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        (package / "__init__.py").write_text("")
        (package / "command.py").write_text(source)
        points[name] = EntryPoint(name, f"wing_{name}.command:command", plugins.GROUP)

    return install


def test_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == ExitCode.DONE
    assert capsys.readouterr().out == f"unimux {version('unimux')}\n"


def test_no_arguments_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == ExitCode.DONE
    assert "Usage: unimux" in capsys.readouterr().out


def test_help_imports_no_command_and_nothing_heavy() -> None:
    """Measured in a process of its own; what is not imported cannot slow the start."""
    code = f"""
import sys
from unimux.cli.main import app, run
status = run(["--help"])
loaded = [name for name in {HEAVY!r} + ("compat", "scenarios", "tapstack") if name in sys.modules]
print("loaded:", loaded, "status:", status)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "demo" in done.stdout
    assert done.stdout.endswith("loaded: [] status: 0\n")


GREET = '''"""Says hello.

More of that.
"""

def command(name: str, loud: bool = False) -> None:
    print("hello", name, loud)
'''

FIELD = """
import typer

command = typer.Typer()

@command.command()
def sow() -> None:
    print("sown")

@command.command()
def reap() -> None:
    print("reaped")
"""


def test_registered_function_becomes_a_command(register: Register, capsys: pytest.CaptureFixture[str]) -> None:
    register("greet", GREET)
    assert run(["greet", "you", "--loud"]) == ExitCode.DONE
    assert capsys.readouterr().out == "hello you True\n"


def test_registered_typer_becomes_a_group(register: Register, capsys: pytest.CaptureFixture[str]) -> None:
    register("field", FIELD)
    assert run(["field", "reap"]) == ExitCode.DONE
    assert capsys.readouterr().out == "reaped\n"


def test_a_broken_pipe_of_the_network_s_is_told(register: Register, capsys: pytest.CaptureFixture[str]) -> None:
    """Only where nobody reads standard output is there nobody to tell."""
    register("greet", "def command() -> None:\n    raise BrokenPipeError('the peer has ended the session')\n")
    assert run(["greet"]) != ExitCode.NO
    assert "the peer has ended the session" in capsys.readouterr().err


def test_help_shows_the_first_line_of_a_module_without_importing_it(
    register: Register, capsys: pytest.CaptureFixture[str]
) -> None:
    register("greet", GREET + "raise RuntimeError('imported')\n")
    assert run(["--help"]) == ExitCode.DONE
    shown = capsys.readouterr().out
    assert "Says hello." in shown
    assert "More" not in shown


def test_commands_of_one_module_have_a_line_each(register: Register, capsys: pytest.CaptureFixture[str]) -> None:
    register("greet", GREET.replace("    print", '    """Greets one.\n\n    More."""\n    print'))
    assert run(["--help"]) == ExitCode.DONE
    assert "Greets one." in capsys.readouterr().out
    lines = [plugins.help_line(point) for point in entry_points(group=plugins.GROUP)]
    assert len(set(lines)) == len(lines) > 10
    assert not [line for line in lines if not line.endswith(".") or "(UM-" in line]


def explained(command: object) -> Iterator[str]:
    """The help of a command and of those below it."""
    yield getattr(command, "help", "") or ""
    for inner in getattr(command, "commands", {}).values():
        yield from explained(inner)


def test_help_wraps_where_the_terminal_ends() -> None:
    """Of a paragraph after the first the lines stay as they are written: one of two is ragged on most terminals."""
    for point in entry_points(group=plugins.GROUP):
        for text in explained(plugins.load(point)):
            ragged = [part for part in text.split("\n\n")[1:] if "\n" in part.strip()]
            assert not ragged, f"{point.name}: {ragged}"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import no_such_module\n", "No module named 'no_such_module'"),
        ("def other(): pass\n", "has no attribute 'command')"),
        ("1 / 0\n", "importing it failed (ZeroDivisionError: division by zero)"),
        ("command = 7\n", "wing_broken.command:command is neither a function nor a typer.Typer"),
    ],
)
def test_broken_command_is_one_sentence_and_leaves_the_others_alone(
    register: Register, capsys: pytest.CaptureFixture[str], source: str, told: str
) -> None:
    register("broken", source)
    register("sound", "def command(): print('sound')\n")
    assert run(["broken"]) == ExitCode.MACHINE
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "'broken' is not available" in said
    assert told in said
    assert run(["sound"]) == ExitCode.DONE
    assert run(["--help"]) == ExitCode.DONE


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["grete"], "There is no command 'grete'; did you mean 'greet'? see `unimux --help`."),
        (["greet"], "Missing argument 'name'; see `unimux greet --help`."),
        (["greet", "you", "--loude"], "); see `unimux greet --help`."),
        (["--nope"], "No such option: --nope; see `unimux --help`."),
    ],
)
def test_wrong_usage_is_one_sentence_with_status_2(
    register: Register, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    register("greet", GREET)
    assert run(arguments) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert told in said


def test_command_chooses_its_status(register: Register) -> None:
    register("judge", "import typer\ndef command(): raise typer.Exit(1)\n")
    assert run(["judge"]) == ExitCode.NO


def test_bug_is_a_sentence_and_with_debug_a_traceback(register: Register, capsys: pytest.CaptureFixture[str]) -> None:
    register("fall", "def command(): {}['x']\n")
    assert run(["fall"]) == ExitCode.BUG
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "a fault of unimux (KeyError: 'x')" in said
    assert run(["--debug", "fall"]) == ExitCode.BUG
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert "command.py" in said


def test_interrupt_ends_with_130(register: Register, capsys: pytest.CaptureFixture[str]) -> None:
    register("wait", "def command(): raise KeyboardInterrupt\n")
    assert run(["wait"]) == ExitCode.INTERRUPTED
    assert "Traceback" not in capsys.readouterr().err


def test_who_interrupts_while_the_command_line_is_loading_sees_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Impatient(MetaPathFinder):
        def find_spec(self, name: str, path: object, target: object = None) -> None:
            if name == "unimux.cli.main":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "unimux.cli.main")
    monkeypatch.setattr(sys, "meta_path", [Impatient(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == ExitCode.INTERRUPTED
    assert capsys.readouterr() == ("", "unimux: Interrupted.\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.SetupError("No root."), ExitCode.MACHINE),
        (errors.ConnectRefused("2001:db8::1", 80), ExitCode.NETWORK),
        (errors.ConnectTimeout("2001:db8::1", 80), ExitCode.NETWORK),
        (errors.NameNotResolved("nowhere.example", "no such name"), ExitCode.NETWORK),
        (errors.PoolExhausted(2.0), ExitCode.NETWORK),
        (errors.UnimuxError("No."), ExitCode.NO),
        (errors.WrongUsage("a clause"), ExitCode.USAGE),
        (GeneratorError("the generator 'x:Y' cannot be imported"), ExitCode.MACHINE),
        (PermissionError(13, "Permission denied", "/etc/shadow"), ExitCode.MACHINE),
        (OSError(28, "No space left on device"), ExitCode.MACHINE),
        (OSError(122, "Disk quota exceeded"), ExitCode.MACHINE),
        (ConnectionResetError(104, "Connection reset by peer"), ExitCode.BUG),
        (KeyError("x"), ExitCode.BUG),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
    ],
)
def test_status_and_sentence_of_each_kind_of_error(error: BaseException, code: ExitCode) -> None:
    assert status(error) == code
    told = sentence(error)
    assert told.endswith(".")
    assert "\n" not in told


def in_a_shell(line: str) -> subprocess.CompletedProcess[str]:
    """A command line with its redirections, where `unimux` is this interpreter's."""
    script = f'unimux() {{ "{sys.executable}" -m unimux "$@"; }}; {line}'
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("command", ["--help", "--version", "config show", "config show --json"])
def test_a_full_disk_under_standard_output_is_one_sentence(command: str) -> None:
    done = in_a_shell(f"unimux {command} >/dev/full")
    assert done.stderr == "unimux: Standard output, or a file, cannot be written: no space left on device.\n"
    assert done.returncode == ExitCode.MACHINE


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("unimux bogus 2>/dev/full", ExitCode.USAGE),
        ("unimux --debug --config /none.toml config show 2>/dev/full", ExitCode.USAGE),
        ("unimux config show >/dev/full 2>&1", ExitCode.MACHINE),
    ],
)
def test_the_status_is_the_same_where_nothing_can_be_told(line: str, code: ExitCode) -> None:
    done = in_a_shell(line)
    assert (done.returncode, done.stderr) == (code, "")


def test_the_settings_are_a_line_each_in_a_pipe() -> None:
    done = in_a_shell("unimux config show | grep -c '^publish.secret_clients *client *default *names of the clients'")
    assert done.stdout == "1\n"


def test_a_pipe_that_nobody_reads_ends_it_in_silence() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "unimux", "config", "show", "--json"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (ExitCode.NO, b"")


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_as_dev_null(closed: str) -> None:
    assert in_a_shell(f"unimux config show --json {closed}").returncode == ExitCode.DONE


def test_what_is_opened_next_is_no_standard_stream() -> None:
    code = "import os, sys; sys.argv[1:] = ['--version']; import unimux.__main__ as m; m._open_closed_streams()"
    code += "; where = [os.readlink(f'/proc/self/fd/{n}') for n in range(3)]; end = sys.stdin.read()"
    code += "; os.write(9, repr((where, end, [os.get_inheritable(n) for n in range(3)])).encode())"
    done = subprocess.run(
        ["bash", "-c", f'exec 9>&1; "{sys.executable}" -c "{code}" <&- >&- 2>&-'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == repr((["/dev/null"] * 3, "", [True] * 3))


def test_completion_offers_registered_commands(register: Register) -> None:
    register("greet", GREET)
    command = get_command(app)
    offered = command.shell_complete(typer.Context(command), "gr")
    assert [item.value for item in offered] == ["greet"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("unimux so", ["socks"]),
        ("unimux socks --us", ["--user"]),
        ("unimux ssa ne", ["new"]),
        ("unimux run --brid", ["--bridge"]),
    ],
)
def test_bash_completes_commands_and_their_options(line: str, expected: list[str]) -> None:
    """In a real bash, by the script that `unimux` prints for it."""
    words = line.split()
    place = Path(sys.executable).parent
    script = (
        'eval "$(_UNIMUX_COMPLETE=source_bash unimux)"; complete -p unimux >&2; '
        f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _unimux_completion unimux; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": f"{place}:/usr/bin:/bin"},
        check=True,
    )
    assert done.stdout.split() == expected
    assert "_unimux_completion" in done.stderr
