"""Loads the project's own pytest plug-ins, for the tests and for the doctests of the four packages alike."""

from __future__ import annotations

pytest_plugins = (
    "tests.plugins.real",
    "tests.plugins.requirements",
    "tests.plugins.recording",
    "tests.plugins.artefacts",
    "tests.plugins.failures",
    "tests.plugins.captures",
    "tests.plugins.seed",
    "tests.plugins.skips",
    "tests.plugins.private",
    "tests.plugins.witness_place",
    "pytester",
)
