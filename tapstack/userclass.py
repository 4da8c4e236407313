"""Classes that are named as text: a built-in name, or `module:Class` for one of a user's own.

Congestion controllers and address generators are chosen this way, in settings, in parameters of scenarios and in the API; nothing
has to be registered.  The module is one that Python finds anyway (installed, on PYTHONPATH, imported already), or else a file
in the current folder, where a console script does not look by itself.

>>> class Shape: ...
>>> user_class("decimal:Decimal", "shape", Shape, {})
Traceback (most recent call last):
    ...
ValueError: the class decimal:Decimal is not a complete subclass of tapstack.userclass.Shape
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import TypeVar

Kind = TypeVar("Kind")


def user_class(name: str, what: str, kind: type[Kind], built_in: Mapping[str, str]) -> type[Kind]:
    """The subclass of `kind` that `name` stands for.

    what: a word for such a class, for messages.  built_in: short names, each for a `module:Class`.  Raises `ValueError` with a
    sentence that says what to change; whatever goes wrong in a user's module while it is imported is such a sentence too.
    """
    module_name, colon, class_name = built_in.get(name, name).partition(":")
    if not (colon and module_name and class_name):
        known = ", ".join(sorted(built_in))
        raise ValueError(f"no {what} is called {name!r}: name a class as 'module:Class', or one of {known}")
    try:
        module = _module(module_name)
    except Exception as error:
        fault = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise ValueError(f"the {what} {name!r} cannot be imported: {fault}{error}") from error
    found = getattr(module, class_name, None)
    if found is None:
        raise ValueError(f"the module {module_name} has no class {class_name}")
    if not (isinstance(found, type) and issubclass(found, kind)) or getattr(found, "__abstractmethods__", None):
        raise ValueError(f"the class {name} is not a complete subclass of {kind.__module__}.{kind.__qualname__}")
    return found


def _module(name: str) -> ModuleType:
    """A module by its name; the current folder comes last, so that nothing in it hides what is installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        here = os.getcwd()
        if error.name != name.partition(".")[0] or here in sys.path:
            raise
    sys.path.append(here)
    try:
        return importlib.import_module(name)
    except BaseException:
        sys.path.remove(here)
        raise
