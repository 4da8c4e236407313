"""The folder that a whole run leaves, and the verdict on it.

report.html            begin here; with it topology, lifetimes, sequence and figure-*, each as .svg and .pdf
capture-*.pcapng       annotated; the captures on which the verdict rests are in wire/
events.jsonl           what the nodes say of themselves
metrics.json           every measurement with its samples, every comparison with theory
findings.json          the verdicts for programs
scenario.toml          name, parameters, seed, backend, versions, digests of files: enough to repeat the run, in sim to the byte
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from scenarios.witness.finding import Finding, Verdict

from .definition import BACKENDS, Scenario, load
from .errors import ScenarioError, refuse_bytes
from .execute import Order, Outcome
from .measure import Summary
from .origin import current, digests
from .parameters import Value
from .verdicts import Verdicts, versions


def prepare(folder: Path) -> None:
    """Make the folder; raises `ScenarioError` where something is in it already."""
    refuse_bytes("folder", str(folder))
    with _making(folder):
        if folder.exists() and any(folder.iterdir()):
            raise ScenarioError(f"{folder} is not empty: name another folder with --out.")
        folder.mkdir(parents=True, exist_ok=True)


def fresh(out: Path | None, name: str) -> Path:
    """The folder `out`, made as `prepare` does; where there is none a new one named for `name` and the time."""
    if out is not None:
        prepare(out)
        return out
    folder = stem = Path("out") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    number = 1
    with _making(stem):
        stem.parent.mkdir(exist_ok=True)
        while True:
            with suppress(FileExistsError):  # a run of the same second has it
                folder.mkdir()
                return folder
            number += 1
            folder = stem.with_name(f"{stem.name}-{number}")


@contextmanager
def _making(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ScenarioError(f"{folder} cannot be made ({error.strerror}): name another folder with --out.") from error


def conclude(outcome: Outcome, connection: int | None = None) -> Verdicts:
    """Judge the captures of a whole run and write its folder; connection: the number of the one to draw."""
    from scenarios.witness.judge import judge

    folder = outcome.order.folder
    assert folder is not None
    assert outcome.setup is not None
    events = folder / "events.jsonl"
    tshark = shutil.which("tshark") is not None
    judgement = judge(outcome.captures, outcome.setup, [events] if events.exists() else [], consult_tshark=tshark)
    # Of these, "not shown" means that tshark failed, or that there was nothing to read: that is not to be passed over.
    promised = {*outcome.scenario.shows, "second-opinion"}
    if not tshark:
        outcome.remarks.append("tshark is not installed: nobody but the witness has read the captures.")
    untouched = tuple(f.rule for f in judgement.findings if f.verdict is Verdict.NOT_SHOWN and f.rule not in promised)
    judgement.findings = [finding for finding in judgement.findings if finding.rule not in untouched]
    verdicts = Verdicts(judgement.findings, claim_findings(outcome), untouched)
    (folder / "scenario.toml").write_text(_toml(outcome), encoding="utf-8")
    (folder / "metrics.json").write_text(
        json.dumps(metrics(outcome), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    from .page import write_page

    write_page(folder, outcome, judgement, verdicts, connection)
    return verdicts


def claim_findings(outcome: Outcome) -> list[Finding]:
    """The script's claims as findings."""
    return [
        Finding(
            "claim",
            claim.requirements,
            Verdict.PASSED if claim.holds else Verdict.FAILED,
            claim.sentence,
            title=claim.title,
        )
        for claim in outcome.claims
    ]


def metrics(outcome: Outcome) -> dict[str, Any]:
    """What metrics.json holds."""
    return {
        "scenario": outcome.scenario.name,
        "backend": outcome.order.backend,
        "seed": outcome.order.seed,
        "parameters": outcome.scenario.values(outcome.order.values),
        "answer": outcome.answer,
        "network": outcome.topology.as_dicts(),
        "figures": [chart.title for chart in outcome.charts],
        "metrics": [metric.as_dict() for metric in outcome.metrics],
        "theory": [
            {
                "what": c.what,
                "measured": c.measured,
                "theory": c.theory,
                "low": c.low,
                "high": c.high,
                "agrees": c.agrees,
            }
            for c in outcome.comparisons
        ],
    }


def _toml(outcome: Outcome) -> str:
    order, scenario = outcome.order, outcome.scenario
    lines = _head(scenario, order.backend, order.seed)
    return "\n".join([*lines, *_tables(scenario, scenario.values(order.values), outcome.named)])


def sweep_toml(
    first: Order, scenario: Scenario, repeat: int, fixed: Mapping[str, Value], axes: Mapping[str, Sequence[Value]]
) -> str:
    """What scenario.toml says of a sweep that begins with the order `first`: what all its runs have, what they differ in."""
    lines = _head(scenario, first.backend, first.seed)
    lines[1] = "# Of many runs: those of each combination begin with this seed, and each next one has the next"
    lines[-1:] = [f"repeat = {repeat}", "", "[sweep]"]
    lines += [f"{axis} = [{', '.join(map(_value, values))}]" for axis, values in axes.items()]
    swept = [str(value) for values in axes.values() for value in values]
    return "\n".join([*lines, "", *_tables(scenario, fixed, swept)])


def _head(scenario: Scenario, backend: str, seed: int) -> list[str]:
    return [
        f"# {scenario.question}",
        "# Run it again: unimux scenario run --again FOLDER",
        f"scenario = {_quoted(scenario.source if scenario.source.endswith('.py') else scenario.name)}",
        f"backend = {_quoted(backend)}",
        f"seed = {seed}",
        "",
    ]


def _tables(scenario: Scenario, values: Mapping[str, Value], named: Iterable[str]) -> list[str]:
    files = digests(scenario, [*map(str, values.values()), *named])
    return [
        "[parameters]",
        *(f"{name} = {_value(value)}" for name, value in values.items()),
        "",
        "[versions]",
        *(f"{name} = {_quoted(text)}" for name, text in versions().items()),
        "",
        "[sha256]",
        *(f"{_quoted(name)} = {_quoted(digest)}" for name, digest in files.items()),
        "",
    ]


def _quoted(text: str) -> str:
    return json.dumps(str(text), ensure_ascii=False).replace(
        "\x7f", "\\u007f"
    )  # which JSON allows as it is, and TOML does not


def _value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _quoted(value) if isinstance(value, str) else repr(value)


def read_order(folder: Path) -> tuple[Order, list[str]]:
    """The order of the run that left a folder, and what stands in the way of an equal run: other versions and files than then.

    Raises `ScenarioError` where there is no order, or it cannot be read.
    """
    import tomllib

    path = folder / "scenario.toml"
    try:
        facts: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        source, backend, seed = facts["scenario"], facts["backend"], facts["seed"]
        values, then = dict(facts["parameters"]), dict(facts.get("versions", {}))
        files = dict(facts.get("sha256", {}))
    except OSError as error:
        raise ScenarioError(f"{folder} holds no run: there is no scenario.toml in it.") from error
    except (ValueError, KeyError, TypeError) as error:  # TOML's own errors are ValueErrors
        raise ScenarioError(f"{path} cannot be read: {error}.") from error
    if backend not in BACKENDS or not isinstance(seed, int):
        raise ScenarioError(f"{path} names no backend or no seed: repeat the run by hand.")
    if "sweep" in facts:
        raise ScenarioError(f"{folder} holds a sweep: --again repeats one run; {path.name} says what it was made of.")
    scenario = load(str(source))
    now = versions()
    differs = [
        f"It was {name} {then.get(name, 'none')} that ran it, now it is {now.get(name, 'none')}: the bytes may differ."
        for name in {**then, **now}
        if now.get(name) != then.get(name)
    ]
    for name, digest in files.items():
        if (found := current(str(name))) != digest:
            differs.append(f"{name} {'has changed since' if found else 'is not there any more'}: the bytes may differ.")
    return Order(scenario.source, scenario.values(values), seed, scenario.backend(backend)), differs


def summary_text(summary: Summary, unit: str) -> str:
    """A mean with its interval for a line of text."""
    from .charts import number, seconds

    show = seconds if unit == "s" else lambda value: f"{number(value)} {unit}".strip()
    if summary.n == 1:
        return show(summary.mean)
    return f"{show(summary.mean)} (95 %: {show(summary.low)} to {show(summary.high)}; n={summary.n})"
