"""The documentation names what exists: functions, files, links, make targets; pictures that are made are up to date."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from functools import cache
from pathlib import Path

import pytest

from tools import import_graph

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STEP = re.compile(r"`([a-z_0-9/]+\.py):([A-Za-z_][\w.]*)`")


@cache
def names(path: str) -> frozenset[str]:
    """Functions, classes and methods of a module: `f`, `C`, `C.f`."""
    found = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{inner.name}"
                for inner in node.body
                if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef))
            }
    return frozenset(found)


def strangers(text: str) -> list[str]:
    """The steps of a page whose function does not exist."""
    return [
        f"{path}:{name}" for path, name in STEP.findall(text) if not (ROOT / path).exists() or name not in names(path)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_function_that_is_named_with_its_file_exists(page: Path) -> None:
    assert strangers(page.read_text(encoding="utf-8")) == []


def test_a_function_that_does_not_exist_is_found() -> None:
    assert strangers("`tapstack/stack.py:Stack.input` `tapstack/stack.py:Stack.inputs` `tapstack/no.py:f`") == [
        "tapstack/stack.py:Stack.inputs",
        "tapstack/no.py:f",
    ]


def test_the_walks_are_whole() -> None:
    walked = STEP.findall((ROOT / "docs" / "one-frame.md").read_text(encoding="utf-8"))
    assert ("tapstack/stack.py", "Stack.input") in walked
    assert ("tapstack/tcp/output.py", "Output.send_syn") in walked
    assert len(set(walked)) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def anchors(page: Path) -> set[str]:
    """The fragments by which the headings of a page are linked to, as forges make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_headings(page: Path) -> None:
    for target, fragment in re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8")):
        there = page.parent / target if target else page
        assert fragment in anchors(there), f"{target}#{fragment}"


def test_a_link_to_a_heading_that_does_not_exist_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One rule, and its packets: `x`\n```\n# no heading\n```\n", encoding="utf-8")
    assert anchors(page) == {"one-rule-and-its-packets-x"}


def test_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"docs/{page.name}" not in readme] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets


def test_the_import_graph_is_up_to_date() -> None:
    assert import_graph.PICTURE.read_text(encoding="utf-8") == import_graph.drawing()


def test_the_import_graph_has_no_arrow_up() -> None:
    floor = {room: number for number, rooms in enumerate(import_graph.FLOORS) for room in rooms}
    arrows = import_graph.arrows()
    assert ("unimux", "tapstack.tcp") in arrows
    assert {room for pair in arrows for room in pair} <= set(floor)
    # The codecs use the short type names of tapstack.types, which imports nothing.
    assert [pair for pair in arrows if floor[pair[0]] > floor[pair[1]]] == [("tapstack.wire", "tapstack")]


CALL = re.compile(r"`(?:await )?(run\.\w+|[A-Z]\w+)\(([^`]*)\)`")
KEYWORD = re.compile(r"(\w+)=")


def calls(text: str) -> list[tuple[str, list[str]]]:
    """What a page says can be called, `run.lan(name, mtu=…)` for instance, and the keywords that it names."""
    return [(name, KEYWORD.findall(arguments)) for name, arguments in CALL.findall(text)]


def test_every_argument_that_the_page_of_scenarios_names_is_one() -> None:
    engine = importlib.import_module("scenarios.engine")
    page = (ROOT / "docs" / "writing-a-scenario.md").read_text(encoding="utf-8")
    said = calls(page)
    for name, keywords in said:
        made = getattr(engine.Run, name[4:]) if name.startswith("run.") else getattr(engine, name, None)
        if name in ("run.witness", "PoolConfig") or made is None:
            continue
        assert set(keywords) <= inspect.signature(made).parameters.keys(), name
    charts = {name: set(keywords) for name, keywords in said if name in ("Ecdf", "Curves", "Bars", "Matrix", "Table")}
    for name, arguments in charts.items():
        assert arguments | {"caption"} == inspect.signature(getattr(engine, name)).parameters.keys()
    assert len(charts) == 5
