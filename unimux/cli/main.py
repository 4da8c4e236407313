"""The command `unimux`: global options, the way errors are told, and nothing else.

Sub-commands come from `unimux.cli.plugins`; exit statuses are listed in `unimux.cli.exits`, settings explained in
`unimux.cli.settings`.  Start-up stays short: whatever is heavy is imported by the command that needs it.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from errno import EPIPE
from pathlib import Path
from typing import Annotated

import typer

from unimux.cli import config
from unimux.cli.ending import in_order, unwrapped
from unimux.cli.exits import ExitCode, sentence, status
from unimux.cli.plugins import PluginGroup
from unimux.cli.settings import CONFIG_VARIABLE, DEBUG_VARIABLE, debugging

app = typer.Typer(
    name="unimux",
    cls=PluginGroup,
    help="One-time IPv6 addresses for every connection, in user space.",
    epilog="`unimux COMMAND --help` explains a command.  Exit status: 0 done, 1 the answer is no, 2 wrong usage, "
    "3 something is missing on this machine, 4 the network, 70 a fault of unimux, 128 + N ended by signal N (^C: 130).",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.add_typer(config.app, name="config")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"unimux {version('unimux')}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help=f"TOML file with settings (also {CONFIG_VARIABLE})."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help=f"Show tracebacks (also {DEBUG_VARIABLE}=1).")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    # As environment variables they reach every part of this process and the processes that it starts.
    if config_file is not None:
        os.environ[CONFIG_VARIABLE] = str(config_file)
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"
    if context.invoked_subcommand is None:
        print(context.get_help())


def tell(error: BaseException) -> int:
    """Say on standard error what went wrong; the exit status."""
    if debugging():
        with suppress(OSError):
            traceback.print_exception(error)
    _complain(sentence(error))
    return status(error)


def _complain(text: str) -> None:
    """Say it on standard error; where that cannot be written, the status has to do."""
    with suppress(OSError):
        typer.echo(f"{typer.style('unimux:', fg='red', bold=True)} {text}", err=True)


def _usage(error: typer.TyperException) -> str:
    """A complaint of the command-line library, as a sentence that says where to read on."""
    said = error.format_message().strip().rstrip(".")
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "unimux"
    end = "" if said.endswith("?") else ";"
    return f"{said}{end} see `{where} --help`."


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit status."""
    with in_order() as ending:
        status = _run(arguments)
    return 128 + ending.number if ending.number is not None and status == ExitCode.INTERRUPTED else status


def _run(arguments: Sequence[str]) -> int:
    try:
        result = app(args=list(arguments), prog_name="unimux", standalone_mode=False)
        sys.stdout.flush()  # what it cannot take is an error like another
    except BrokenPipeError as error:
        return ExitCode.NO if error.errno == EPIPE else tell(error)  # nobody reads, and nobody need be told
    except typer.TyperException as error:
        if error.format_message().strip():  # empty where help was wanted and has been printed
            _complain(_usage(error))
        return error.exit_code
    except typer.Abort:
        return ExitCode.NO
    except (Exception, KeyboardInterrupt) as error:
        return tell(unwrapped(error))
    return result if isinstance(result, int) else ExitCode.DONE
