"""The lock files fit the project file: every dependency is pinned, with hashes, to a version that is asked for."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked(name: str) -> dict[str, str]:
    """Name to version of every pin in a lock file."""
    pins = re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:", (ROOT / "requirements" / name).read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def wanted(*texts: str) -> Iterator[Requirement]:
    for text in texts:
        requirement = Requirement(text)
        if requirement.name == PROJECT["project"]["name"]:
            for extra in requirement.extras:
                yield from wanted(*PROJECT["project"]["optional-dependencies"][extra])
        else:
            yield requirement


@pytest.mark.parametrize("name", ["run.txt", "dev.txt"])
def test_lock_satisfies_the_project_file(name: str) -> None:
    pins = locked(name)
    asked = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    if name == "dev.txt":
        asked += PROJECT["project"]["optional-dependencies"]["dev"]
    for requirement in wanted(*asked):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in {name}: make lock"
        assert version in requirement.specifier, f"{name} has {requirement.name} {version}: make lock"


def test_tests_run_on_the_versions_that_users_get() -> None:
    run, dev = locked("run.txt"), locked("dev.txt")
    assert run.items() <= dev.items()
