"""docs/unified-multiplex.md says what the code and the tests say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from scenarios.engine.definition import load
from tests.real.um.cells import rows
from tests.unit.um.endings import holders_table

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "unified-multiplex.md").read_text(encoding="utf-8")


def test_the_table_of_endings_is_the_tested_one() -> None:
    assert "\n".join(holders_table()) in PAGE


def test_the_matrix_has_the_rows_that_are_tested() -> None:
    tested = {("any" if c.server == "L(LA,WP)" else c.mode.value, c.server, c.client) for c in rows()}
    shown = re.findall(r"^\| (\S+) \| ([UL]\(\S+\)) \| ([UL]\(\S+\)) \|$", PAGE.replace("\\*", "*"), re.MULTILINE)
    assert len(shown) == len(set(shown))
    assert set(shown) == tested


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", PAGE))))
def test_every_test_that_is_named_exists(name: str) -> None:
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    assert not function or function in names


@pytest.mark.parametrize("name", sorted(set(re.findall(r"scenario `([a-z-]+)`", PAGE))))
def test_every_scenario_that_is_named_exists(name: str) -> None:
    assert load(name).name == name


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([\w-]+\.(?:md|svg))\)", PAGE))))
def test_every_link_leads_somewhere(target: str) -> None:
    assert (ROOT / "docs" / target).exists()
