"""The answers of many runs as one page of Markdown: what each asked, where, what it measured and showed, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .definition import Scenario, catalogue
from .errors import ScenarioError
from .recall import recall

HEAD = """# The catalogue of scenarios

Each asks one question and is one file in `scenarios/`. This page is made by two commands from whole runs, with default parameters
and seed 1, so that anybody can make it again:

    unimux scenario run --all --out out/all
    unimux scenario answers out/all > docs/scenarios.md

`unimux scenario show NAME` tells the parameters; [writing a scenario](writing-a-scenario.md) and
[reading the report](reading-the-report.md) tell the rest. What is said of a simulation holds for the simulated router and hosts;
where `netns` is named the same file runs between Linux kernels.

## Answers in one line
"""


def answers_page(folder: Path) -> str:
    """The page for the runs in the subfolders of `folder`; raises `ScenarioError` where there is none."""
    known = catalogue()
    runs = (
        [recall(path) for path in sorted(folder.iterdir()) if (path / "metrics.json").is_file()]
        if folder.is_dir()
        else []
    )
    runs = [run for run in runs if run["scenario"] in known]
    if not runs:
        raise ScenarioError(
            f"{folder} holds no runs of the catalogue: make them with `unimux scenario run --all --out {folder}`."
        )
    rows = [
        (
            f"[`{run['scenario']}`](#{run['scenario']})",
            run["answer"] + ("" if run["passed"] else " **This run failed.**"),
        )
        for run in runs
    ]
    parts = [HEAD, *_table(("scenario", "answer"), rows)]
    for run in runs:
        parts += ["", *_chapter(known[run["scenario"]], run)]
    return "\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"


def _chapter(scenario: Scenario, run: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {scenario.name}"
    yield ""
    yield f"*{scenario.question}*"
    yield ""
    network = [f"{lan['lan']}: {', '.join(lan['who'])}" for lan in run["network"]]
    theory = [line["what"] for line in run["theory"]]
    claims = [each["title"] for each in run["findings"] if each["rule"] == "claim"]
    holds = [title for title in claims if not title.startswith("Theory agrees")]
    rules = [each["title"] for each in run["findings"] if each["rule"] in scenario.shows]
    rows = [
        ("network", "; ".join(network) + ("; a router between them" if len(network) > 1 else "")),
        ("measured", ", ".join(dict.fromkeys(_with_unit(metric) for metric in run["metrics"]))),
        ("figures", "; ".join(run["figures"]) or "lifetimes, sequence diagram"),
        ("theory beside it", _some(theory) if theory else "–"),
        ("passes if", _some([*holds, *rules])),
        ("run it", f"`unimux scenario run {scenario.name}` on {' or '.join(scenario.backends)}"),
    ]
    yield from _table(("", ""), rows)


def _with_unit(metric: Mapping[str, Any]) -> str:
    return f"{metric['name']} [{metric['unit']}]" if metric["unit"] else str(metric["name"])


def _some(texts: Sequence[str], most: int = 8) -> str:
    """The first of many, and how many more."""
    more = f"; and {len(texts) - most} more" if len(texts) > most else ""
    return "; ".join(texts[:most]) + more
