"""Which files a run is made of: the digests by which somebody who repeats it sees what has changed since."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from .definition import Scenario

_CLASS = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_]\w*")


def digests(scenario: Scenario, texts: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the scenario's file, and of the file of each module that a `module:Class` in the texts names.

    The keys are what `current` finds the files by: the scenario's source, and names of modules.  What has no file is left out.
    """
    modules = {found[1] for text in texts for found in _CLASS.finditer(text)}
    own = hashlib.sha256(Path(scenario.file).read_bytes()).hexdigest() if Path(scenario.file).is_file() else ""
    found = {scenario.source: own, **{name: current(name) for name in sorted(modules)}}
    return {name: digest for name, digest in found.items() if digest}


def current(name: str) -> str:
    """SHA-256 of the file at that path, or of that module; empty where there is none."""
    path = name if name.endswith(".py") else _file_of(name)
    if path is None or not Path(path).is_file():
        return ""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _file_of(module: str) -> str | None:
    if module in sys.modules:
        return getattr(sys.modules[module], "__file__", None)
    try:
        # As classes are found that are named so: the current folder comes last.
        spec = importlib.util.find_spec(module) or importlib.machinery.PathFinder.find_spec(module, [os.getcwd()])
    except (ImportError, ValueError):
        return None
    return spec.origin if spec is not None else None
