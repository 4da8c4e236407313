"""Write docs/results.md from what the latest runs left: nothing in it is written by hand.

    unimux conformance && unimux conformance --mutations
    unimux bench --out out/bench.json
    unimux scenario run --all --out out/all
    python tools/results.py --bench out/bench.json --scenarios out/all > docs/results.md

Each part names its command.  What falls short stands in sentences: rules without a passing test, deviations with their reasons,
what is recommended and not taken up, defects that nobody noticed, goals that were not reached, scenarios that failed.  A part
whose run is missing says so.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from scenarios.bench.figures import Result
from scenarios.conformance import mutations
from scenarios.conformance.rows import SPECIFICATIONS, NoRun, Table, Verdict, load
from scenarios.conformance.session import LATEST
from scenarios.engine.recall import recall
from unimux.errors import SetupError

ROOT = Path(__file__).parents[1]
FINE = (Verdict.PASSED, Verdict.NOT_APPLICABLE)
NOT_TAKEN_UP = "not taken up: "
"""Begins the reason of a rule that concerns the stack and is left undone (tests/rfc8504.toml)."""
HEAD = """# Results

What the tests, the benchmarks and the scenarios found, as the latest runs left it.
Made by `python tools/results.py`, whose first lines name the commands of the runs."""


def conformance(table: Table) -> Iterator[str]:
    """Verdicts by specification, and every rule that does not simply pass."""
    rows, verdicts = table.rows, list(Verdict)
    yield f"The run {table.origin()}; {table.skipped or 'no'} tests were skipped."
    yield ""
    yield f"| specification | rules | {' | '.join(each.value for each in verdicts)} |"
    yield "|---|" + "---|" * (len(verdicts) + 1)
    for spec, title in SPECIFICATIONS.items():
        count = Counter(row.verdict for row in rows if row.spec == spec)
        yield f"| {title} | {count.total()} | {' | '.join(str(count[each]) for each in verdicts)} |"
    short = [row for row in rows if row.verdict not in FINE]
    yield ""
    undone = [row for row in rows if row.verdict is Verdict.NOT_APPLICABLE and row.reason.startswith(NOT_TAKEN_UP)]
    if not short:
        yield "Every other rule passes or does not apply." if undone else "Every rule passes or does not apply."
    else:
        yield "What falls short:"
    for row in short:
        yield f"- {row.id}, {row.verdict.value}: {row.text}" + (f" – {row.reason}" if row.reason else "")
    if undone:
        yield ""
        yield "Recommended or allowed, and not taken up:"
    for row in undone:
        yield f"- {row.id}: {row.text} – {row.reason.removeprefix(NOT_TAKEN_UP)}"


def defects(score: mutations.Score) -> Iterator[str]:
    """The mutation score, and the defects that nobody noticed."""
    yield f"{score.sentence()} ({score.origin()})."
    for each in score.survivors:
        yield f"- {each.name}, {each.outcome}: {each.what} ({', '.join(each.ids)})"


def bench(result: Result) -> Iterator[str]:
    """What ran, each figure beside its baseline and goal, and what speaks against believing them."""
    figures, about = result.figures, result.circumstances
    yield f"Run of {about.started}: {about}"
    yield ""
    if about.smoke:
        yield "**Measured with --smoke: these figures mean nothing.**"
        yield ""
    elif about.noisy:
        yield f"The machine was busy (load {about.load_before:g} before the run): these figures are for orientation only."
        yield ""
    yield "| id | what | value | baseline | ratio | goal | reached |"
    yield "|---|---|---|---|---|---|---|"
    said = {None: "–", True: "yes", False: "**no**"}
    for each in figures:
        base, ratio = (f"{value:,.4g}" if value is not None else "–" for value in (each.baseline, each.ratio))
        yield (
            f"| {each.id} | {each.what} | {each.value:,.4g} {each.unit} | {base} | {ratio} | {each.reach or '–'} "
            f"| {said[each.met]} |"
        )
    missed = [each for each in figures if each.met is False]
    yield ""
    yield "Every goal is reached." if not missed else "Not reached:"
    for each in missed:
        yield f"- {each.id}, {each.what}: {each.value:,.4g} {each.unit}, and {each.reach} is wanted."


def rules(path: Path) -> Table | None:
    """The table of the latest run; None where there was none.  Raises `SetupError` where it was not for all rules."""
    try:
        table = load(path)
    except NoRun:
        return None
    if table.asked:
        raise SetupError(f"The latest run of `unimux conformance` was {table.origin()}: run it again for all rules.")
    return table


def answers(folder: Path) -> Iterator[str]:
    """The answer of each run in a folder."""
    for path in sorted(each.parent for each in folder.glob("*/metrics.json")):
        run = recall(path)
        yield f"- `{run['scenario']}`: {run['answer']}" + ("" if run["passed"] else " **This run failed.**")


def page(table: Table | None, score: mutations.Score | None, result: Result | None, runs: Sequence[str]) -> str:
    """The whole page."""
    parts = (
        ("Conformance", "unimux conformance", list(conformance(table)) if table else []),
        ("Defects made on purpose", "unimux conformance --mutations", list(defects(score)) if score else []),
        ("Benchmarks", "unimux bench", list(bench(result)) if result and result.figures else []),
        ("Scenarios", "unimux scenario run --all", list(runs)),
    )
    lines = [HEAD]
    for title, command, body in parts:
        lines += ["", f"## {title}", "", f"`{command}`", "", *(body or ["**Missing: no such run was there.**"])]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write docs/results.md to standard output.")
    parser.add_argument("--bench", type=Path)
    parser.add_argument("--scenarios", type=Path)
    given = parser.parse_args()
    try:
        result = Result.read(given.bench) if given.bench else None
        runs = list(answers(given.scenarios)) if given.scenarios else []
        text = page(rules(ROOT / LATEST), mutations.latest(ROOT), result, runs)
    except SetupError as error:
        sys.exit(str(error))
    print(text, end="")


if __name__ == "__main__":
    main()
