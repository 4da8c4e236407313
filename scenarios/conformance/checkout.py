"""Where the tests are: the suite is run from a checkout of the sources, not from an installed package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from unimux.errors import SetupError

_MARK = Path("tests", "requirements.toml")


class NoCheckout(SetupError):
    """The tests are nowhere to be found."""

    def __init__(self) -> None:
        super().__init__(
            "The conformance suite is part of the source tree: run `unimux conformance` in a checkout of unimux."
        )


class NoTestTools(SetupError):
    """The tests' own dependencies are not installed."""

    def __init__(self) -> None:
        super().__init__("pytest is not installed here: `make conformance` sets up what the suite needs, and runs it.")


def find(start: Path | None = None) -> Path:
    """The checkout that `start` (the current directory) lies in, else the one that this package was loaded from.

    Raises `NoCheckout`.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (folder / _MARK).is_file() and (folder / "pyproject.toml").is_file():
            return folder
    raise NoCheckout


def require_tools() -> None:
    """Raise `NoTestTools` where the tests cannot run in this interpreter."""
    if any(importlib.util.find_spec(name) is None for name in ("pytest", "scapy", "hypothesis")):
        raise NoTestTools
