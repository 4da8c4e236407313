"""Sub-commands that floors above `unimux` add, loaded only when they are used.

A distribution names them in the entry-point group `unimux.commands`:

    [project.entry-points."unimux.commands"]
    socks = "compat.socks.command:socks"

The object is a function with typer parameters, which becomes the command `unimux socks`, or a `typer.Typer`, which
becomes a group of commands (`unimux scenario list`).  It is imported when the command is called.  `unimux --help`
imports nothing: its line for a command is the first line of the function's docstring, which it finds in the module's source,
or of the module's where the function has none, or is a group.
A command that cannot be imported is one sentence for whoever calls it, and does not disturb the others.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from unimux.cli.ending import postponed
from unimux.cli.exits import ExitCode, is_ours
from unimux.errors import SetupError

P = ParamSpec("P")
R = TypeVar("R")
GROUP = "unimux.commands"
_SETTINGS = "context_settings"


class CommandUnavailable(SetupError):
    """A registered sub-command cannot be imported."""

    exit_code = ExitCode.MACHINE

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"The command {name!r} is not available in this installation: {reason}.")


@cache
def registered() -> dict[str, EntryPoint]:
    """The commands that installed distributions add, by name."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def help_line(point: EntryPoint) -> str:
    """The first line of the docstring of a command, or of its module, read without importing anything."""
    top, _, rest = point.module.partition(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return "(not installed)"
    place = Path(spec.submodule_search_locations[0], *rest.split("."))
    for source in (place.with_suffix(".py"), place / "__init__.py"):
        if source.is_file():
            module = ast.parse(source.read_bytes())
            own = [each for each in module.body if isinstance(each, ast.FunctionDef) and each.name == point.attr]
            docstring = (ast.get_docstring(own[0]) if own else None) or ast.get_docstring(module) or ""
            return docstring.partition("\n")[0]
    return "(not installed)"


def for_a_program(command: Callable[P, R]) -> Callable[P, R]:
    """For the function of a command whose arguments are a program's: the first of them ends the command's own options."""
    vars(command)[_SETTINGS] = {"allow_interspersed_args": False}
    return command


def load(point: EntryPoint) -> TyperCommand | TyperGroup:
    """Import a command; raises `CommandUnavailable`."""
    try:
        with postponed():
            target = point.load()
    except ImportError as error:
        raise CommandUnavailable(point.name, str(error) or "its module cannot be imported") from error
    except Exception as error:
        if is_ours(error):  # a sentence already, such as a program that is missing
            raise
        raise CommandUnavailable(point.name, f"importing it failed ({type(error).__name__}: {error})") from error
    parent = typer.Typer(add_completion=False)
    parent.callback()(lambda: None)  # so that it stays a group of one
    if isinstance(target, typer.Typer):
        parent.add_typer(target, name=point.name)
    elif callable(target):
        parent.command(point.name, context_settings=vars(target).get(_SETTINGS))(target)
    else:
        raise CommandUnavailable(point.name, f"{point.value} is neither a function nor a typer.Typer")
    group = get_command(parent)
    assert isinstance(group, TyperGroup)
    command = group.commands[point.name]
    assert isinstance(command, TyperCommand | TyperGroup)
    return command


class PluginGroup(TyperGroup):
    """The top of the command line: built-in commands and registered ones alike, in alphabetical order.

    `get_command` answers for listings and gives a registered command by its line only; `resolve_command`, which is what
    a call goes through, imports it.
    """

    # typer does not publish the types of its contexts, hence Any.
    def list_commands(self, ctx: Any) -> list[str]:
        return sorted({*super().list_commands(ctx), *registered()})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in registered():
            return TyperCommand(name=cmd_name, help=help_line(registered()[cmd_name]))
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name in registered():
            return name, load(registered()[name]), args[1:]
        if name not in self.commands and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            ctx.fail(f"There is no command {name!r}" + (f"; did you mean {near[0]!r}?" if near else "."))
        return super().resolve_command(ctx, args)
