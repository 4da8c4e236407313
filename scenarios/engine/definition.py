"""What makes a file a scenario, and where scenarios are found.

A scenario is a module whose docstring begins with the question and which holds one function decorated by `scenario`.  The
catalogue is every such module of the package `scenarios`; any other file is named by its path.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from scenarios.witness.judge import TITLES

from .errors import BackendCannot, ScenarioError, UnknownScenario, refuse_bytes
from .parameters import Specification, Value, complete, specifications

Backend: TypeAlias = Literal["sim", "netns"]
BACKENDS: tuple[Backend, ...] = ("sim", "netns")
Script: TypeAlias = "Callable[..., Awaitable[None]]"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario: its question, its script, and what it promises.

    name: of the function, with dashes.  source: what `load` finds it by again, in this process or another.
    requirements: the rules it shows at work.  backends: on which it runs, the default first.
    shows: rules of the witness that have to be passed; every other rule may be without evidence, none may fail.
    quick: parameters for a short run.  limit: seconds of its own clock after which it is given up.
    """

    name: str
    question: str
    text: str
    script: Script
    source: str
    parameters: tuple[Specification, ...]
    requirements: tuple[str, ...] = ()
    backends: tuple[Backend, ...] = BACKENDS
    shows: tuple[str, ...] = ()
    quick: Mapping[str, Value] = field(default_factory=dict)
    limit: float = 3600.0

    @property
    def file(self) -> str:
        """The path of the file that its script stands in, as tracebacks name it."""
        return str(inspect.unwrap(self.script).__code__.co_filename)

    def backend(self, wanted: str | None) -> Backend:
        """The backend to run on; raises `BackendCannot` for one that the scenario is not for."""
        for each in self.backends:
            if wanted is None or each == wanted:
                return each
        known_backend(wanted)
        needs = "a real kernel" if self.backends == ("netns",) else "virtual time"
        raise BackendCannot(
            f"{self.name} needs {needs}, which {wanted} has not: run it with --backend {self.backends[0]}."
        )

    def values(self, given: Mapping[str, Value], *, quick: bool = False) -> dict[str, Value]:
        """All its parameters: those given, else those of a quick run, else the defaults."""
        return complete(self.parameters, {**(self.quick if quick else {}), **given})


def known_backend(name: str | None) -> None:
    """Raise `BackendCannot` for a backend that there is not."""
    if name not in BACKENDS:
        raise BackendCannot(f"There is no backend {name!r}: choose {' or '.join(BACKENDS)}.")


def known_rule(rule: str) -> str:
    """The id of a rule of the witness; raises `ScenarioError` for one that there is not."""
    if rule in TITLES:
        return rule
    near = difflib.get_close_matches(rule, TITLES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "docs/reading-the-report.md lists them."
    raise ScenarioError(f"There is no rule {rule!r}: {hint}")


_REQUIREMENT = re.compile(r"(UM|ST)-[A-Z]+6?-[1-9]\d*|(MUST|SHLD|MAY|REC)-[1-9]\d*|RFC8504-[1-9][\w./-]*")


def requirement_id(text: str) -> str:
    """The id of a requirement, by its form: their list is no part of what is installed."""
    if not _REQUIREMENT.fullmatch(text):
        raise ScenarioError(f"There is no requirement {text!r}: their ids are like UM-DAS-1.")
    return text


def requirement_ids(requirements: Iterable[str]) -> tuple[str, ...]:
    """Ids of requirements; a wrong one is an error at its line, and what was measured before it is kept."""
    try:
        return tuple(map(requirement_id, requirements))
    except ScenarioError as error:
        raise ValueError(str(error)) from None


def scenario(
    *,
    requirements: Sequence[str] = (),
    backends: Sequence[Backend] = BACKENDS,
    shows: Sequence[str] = (),
    quick: Mapping[str, Any] | None = None,
    limit: float = 3600.0,
) -> Callable[[Script], Scenario]:
    """Make the decorated coroutine function `name(run, *, parameters…)` a scenario; see `Scenario` for the arguments."""

    def decorate(function: Script) -> Scenario:
        module = inspect.getmodule(function)
        text = inspect.cleandoc((module.__doc__ if module else None) or function.__doc__ or "")
        if not text:
            raise ScenarioError(f"The scenario {function.__name__!r} asks nothing: begin its file with the question.")
        if not inspect.iscoroutinefunction(function):
            raise ScenarioError(
                f"The scenario {function.__name__!r} cannot wait for anything: begin it with async def."
            )
        if not backends:
            raise ScenarioError(f"The scenario {function.__name__!r} runs nowhere: name one of {', '.join(BACKENDS)}.")
        for each in backends:
            known_backend(each)
        made = Scenario(
            name=function.__name__.replace("_", "-"),
            question=text.partition("\n")[0],
            text=text,
            script=function,
            source=function.__module__,
            parameters=specifications(function),
            requirements=tuple(map(requirement_id, requirements)),
            backends=tuple(backends),
            shows=tuple(map(known_rule, shows)),
            quick=dict(quick or {}),
            limit=limit,
        )
        made.values({}, quick=True)
        return made

    return decorate


def catalogue() -> dict[str, Scenario]:
    """The scenarios that come with unimux, by name."""
    package = importlib.import_module("scenarios")
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg:
            made = _in_module(importlib.import_module(f"scenarios.{module.name}"))
            if made is not None:
                found[made.name] = made
    return found


def load(name: str) -> Scenario:
    """A scenario by its name in the catalogue, by its module, or by the path of its file."""
    refuse_bytes("name", name)
    if name.endswith(".py") or "/" in name:
        return _load_file(name)
    if "." in name and _is_module(name):
        made = _in_module(importlib.import_module(name))
    else:
        made = _by_name(name)
    if made is None:
        raise UnknownScenario(f"{name} holds no scenario: decorate its function with @scenario(…).")
    return made


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # no such package; no name of a module at all
        return False


def _by_name(name: str) -> Scenario:
    module = name.replace("-", "_")
    if module.isidentifier() and importlib.util.find_spec(f"scenarios.{module}"):
        made = _in_module(importlib.import_module(f"scenarios.{module}"))
        if made is not None:
            return made
    if (path := Path(f"{module}.py")).is_file():
        raise UnknownScenario(f"There is no scenario {name!r}: did you mean the file {path}?")
    known = sorted(catalogue())
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "`unimux scenario list` names them all."
    raise UnknownScenario(f"There is no scenario {name!r}: {hint}")


def _load_file(name: str) -> Scenario:
    path = Path(name)
    if not path.is_file():
        raise UnknownScenario(f"There is no file {path}: `unimux scenario new NAME` makes one.")
    module_name = f"scenario_file_{path.stem.replace('-', '_')}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UnknownScenario(f"{name} is no scenario: its file is called NAME.py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise ScenarioError(f"{path} cannot be imported: {error}.") from error
    except ScenarioError:
        raise
    except (Exception, SystemExit) as error:  # it is the user's own file that raised
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename) == path.resolve()
        ]
        where = f"line {lines[-1]}: " if lines else ""
        raise ScenarioError(f"{path} cannot be imported: {where}{type(error).__name__}: {error}.") from error
    made = _in_module(module)
    if made is None:
        raise UnknownScenario(f"{path} holds no scenario: decorate its function with @scenario(…).")
    object.__setattr__(made, "source", str(path.resolve()))
    return made


def _in_module(module: Any) -> Scenario | None:
    made = [value for value in vars(module).values() if isinstance(value, Scenario) and value.source == module.__name__]
    if len(made) > 1:
        raise ScenarioError(f"{module.__name__} holds {len(made)} scenarios: one file holds one.")
    return made[0] if made else None
