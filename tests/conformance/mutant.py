"""A defect put into the stack on purpose, and how: one function's text is edited, or one entry of a table replaced.

`Edit` compiles the changed text and gives the function its code, so that everybody who holds the function (a method, an
imported name, a table of handlers) has the defect.  The text that it replaces must stand in the function exactly once: where
the code moved on, the mutation is stale and says so, instead of changing nothing and surviving.
"""

from __future__ import annotations
import __future__

import ast
import importlib
import inspect
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

_FLAGS = __future__.annotations.compiler_flag
_texts: dict[str, str] = {}
_edited: dict[FunctionType, str] = {}


class StaleMutation(Exception):
    """The code that a mutation changes has changed itself."""


def load(name: str) -> ModuleType:
    """Import a module and keep its text as it is now: an editor may be at work while mutants run."""
    module = importlib.import_module(name)
    if name not in _texts and module.__file__ is not None:
        _texts[name] = Path(module.__file__).read_text(encoding="utf-8")
    return module


def _text_of(function: FunctionType) -> str:
    """The text of a function, from its `def` on, as it was imported or last edited."""
    if function in _edited:
        return _edited[function]
    load(function.__module__)
    text = _texts[function.__module__]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function.__name__:
            first = node.decorator_list[0].lineno if node.decorator_list else node.lineno
            if first == function.__code__.co_firstlineno:
                lines = text.splitlines(keepends=True)[node.lineno - 1 : node.end_lineno]
                return textwrap.dedent("".join(lines))
    raise StaleMutation(
        f"the text of {function.__qualname__} in {function.__module__} has changed since it was imported"
    )


def _resolve(target: str) -> tuple[dict[str, Any], Any, Any, str]:
    """The module's names, the owner, the object and its name of `module:Class.method`."""
    module_name, _, path = target.partition(":")
    module = load(module_name)
    owner: Any = module
    *outer, name = path.split(".")
    try:
        for part in outer:
            owner = getattr(owner, part)
        found = inspect.getattr_static(owner, name)
    except AttributeError:
        raise StaleMutation(f"{target} does not exist") from None
    return vars(module), owner, found, name


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace `old` by `new` in the text of the function `target` (`module:Class.method`)."""

    target: str
    old: str
    new: str

    def apply(self) -> None:
        """Do it.  Raises `StaleMutation`."""
        _, _, found, name = _resolve(self.target)
        function = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
        if not isinstance(function, FunctionType):
            raise StaleMutation(f"{self.target} is no function")
        text = _text_of(function)
        if text.count(self.old) != 1:
            raise StaleMutation(f"{self.target} has {self.old!r} {text.count(self.old)} times")
        made: dict[str, Any] = {}
        body = text.replace(self.old, self.new)
        exec(
            compile(body, f"<mutant of {self.target}>", "exec", flags=_FLAGS, dont_inherit=True),
            dict(function.__globals__),
            made,
        )
        code = made[name].__code__
        if code.co_freevars != function.__code__.co_freevars:
            raise StaleMutation(f"{self.target} cannot be edited in place")
        function.__code__ = code
        _edited[function] = body


@dataclass(frozen=True, slots=True)
class Put:
    """Set `target` (`module:NAME`), or its item `key`, to the value of the expression `new`, both read in that module."""

    target: str
    new: str
    key: str = ""

    def apply(self) -> None:
        """Do it.  Raises `StaleMutation`."""
        names, owner, found, name = _resolve(self.target)
        value = eval(self.new, names)
        if self.key:
            place = eval(self.key, names)
            if place not in found:
                raise StaleMutation(f"{self.target} has no {self.key}")
            found[place] = value
        else:
            setattr(owner, name, value)


@dataclass(frozen=True, slots=True)
class Mutation:
    """One defect.

    ids: the requirements it breaks.  tests: where it must be noticed, as pytest takes them.  quick: part of the short run.
    """

    name: str
    what: str
    ids: tuple[str, ...]
    tests: tuple[str, ...]
    changes: tuple[Edit | Put, ...]
    quick: bool = False

    def apply(self) -> None:
        """Break the stack of this process.  Raises `StaleMutation`."""
        for change in self.changes:
            change.apply()
