"""Break the stack in each known way, and see the tests notice.

    python -m tests.conformance.mutate [--quick] [--only NAME,…] [--sample COUNT] [--json FILE]
    python -m tests.conformance.mutate --rules

Each mutation runs in a process of its own, forked from one that has everything imported; it is broken, runs the tests that must
notice, and stops at the first failure.  A test that hangs has failed; a mutant that hangs all the same is ended, and not
counted as noticed.  Its memory is bounded.  Before that the same tests run on the stack as it is: one that fails there proves
nothing, and is left out.

`--rules` runs none, and prints for each the ids that are broken before a test that proves them.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import ctypes
import importlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from compat.programs.launch import end_with
from tests.conformance.mutant import Mutation, StaleMutation, load
from tests.plugins.requirements import PROPERTY

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0
"""Seconds for one mutant."""
MEMORY = 3 << 30
"""Bytes of address space of one mutant."""
WORKERS = 2
_QUIETLY = ("-p", "no:cacheprovider", "-Wignore::pytest.PytestAssertRewriteWarning", f"--rootdir={ROOT}")
_NOTICED, _SURVIVED, _STALE, _UNUSABLE = "caught", "survived", "stale", "tests could not run"


class Watch:
    """A pytest plug-in: which tests failed."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.when == "call" and report.passed:
            self.passed += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


@dataclass(slots=True)
class Child:
    """A forked process that runs some tests."""

    pid: int
    answer: int
    """the end of a pipe on which its answer comes"""
    deadline: float
    begun: float
    heard: bytes = b""
    done: Callable[[dict[str, object] | None, float], None] = field(default=lambda answer, seconds: None)


def run_tests(tests: Sequence[str], scratch: Path, *, stop: bool, without: Iterable[str] = ()) -> dict[str, object]:
    """Run tests in this process and say what failed."""
    watch = Watch()
    arguments = ["-q", "--no-header", "--tb=line", *_QUIETLY]
    arguments += ["--proves", str(scratch / "proves.json"), "--timeout=60"]
    arguments += ["-x"] if stop else []
    arguments += [f"--deselect={name}" for name in without]
    status = int(pytest.main([*arguments, *tests], plugins=[watch]))
    return {"status": status, "failed": watch.failed, "passed": watch.passed}


def fork(work: Callable[[Path], dict[str, object]], patience: float) -> Child:
    """Run `work(scratch folder)` in a process of its own; its answer comes through a pipe."""
    reading, writing = os.pipe()
    begun = time.monotonic()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(pid, reading, begun + patience, begun)
    status = 1
    try:
        os.setpgid(0, 0)
        end_with(parent, ctypes.CDLL(None), signal.SIGKILL)
        os.close(reading)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        with tempfile.TemporaryDirectory(prefix="mutant-") as name:
            scratch = Path(name)
            os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(scratch / "hypothesis")
            log = os.open(scratch / "log", os.O_WRONLY | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            try:
                answer = work(scratch)
            except StaleMutation as error:
                answer = {"stale": str(error)}
            except BaseException:
                answer = {"error": traceback.format_exc(limit=-1)}
            if answer.get("status") not in (0, 1):
                answer["log"] = (scratch / "log").read_text(errors="replace")[-400:]
            os.write(writing, json.dumps(answer).encode()[:60_000])
            status = 0
    finally:
        os._exit(status)


def settle(children: list[Child]) -> None:
    """Wait until a child has answered or had its time; take note and take it away."""
    waiting = [child.answer for child in children]
    soonest = max(0.0, min(child.deadline for child in children) - time.monotonic())
    readable, _, _ = select.select(waiting, [], [], soonest)
    for child in list(children):
        ended = False
        if child.answer in readable:
            data = os.read(child.answer, 65536)
            child.heard += data
            ended = not data
        if not ended and time.monotonic() < child.deadline:
            continue
        if not ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        os.close(child.answer)
        children.remove(child)
        answer = json.loads(child.heard) if ended and child.heard else None
        child.done(answer, time.monotonic() - child.begun)


def judge(mutation: Mutation, answer: dict[str, object] | None, seconds: float) -> dict[str, object]:
    """What became of one mutant."""
    outcome, by = _outcome(answer, seconds)
    return {
        "name": mutation.name,
        "what": mutation.what,
        "ids": list(mutation.ids),
        "outcome": outcome,
        "by": by,
        "seconds": round(seconds, 1),
    }


def _outcome(answer: dict[str, object] | None, seconds: float) -> tuple[str, str]:
    if answer is None:
        return ("no verdict in time" if seconds >= PATIENCE else "ended without an answer"), ""
    if "stale" in answer:
        return f"{_STALE}: {answer['stale']}", ""
    failed = answer.get("failed")
    if isinstance(failed, list) and failed and answer.get("status") in (0, 1):
        return _NOTICED, str(failed[0])
    if answer.get("status") == 0 and answer.get("passed"):
        return _SURVIVED, ""
    said = str(answer.get("log") or answer.get("error") or "no test ran").strip().splitlines()
    return f"{_UNUSABLE}: {said[-1] if said else answer.get('status')}", ""


def baseline(tests: Sequence[str]) -> list[str]:
    """The tests that fail, or pass by skipping, on the stack as it is."""
    found: list[dict[str, object] | None] = []
    child = fork(lambda scratch: run_tests(tests, scratch, stop=False), 10 * PATIENCE)
    child.done = lambda answer, seconds: found.append(answer)
    children = [child]
    while children:
        settle(children)
    answer = found[0]
    if answer is None or answer.get("status") not in (0, 1):
        raise SystemExit(f"mutate: the tests do not run on the stack as it is: {answer}")
    failed = answer["failed"]
    assert isinstance(failed, list)
    return [str(name) for name in failed]


def existing(tests: Sequence[str]) -> list[str]:
    """The tests as pytest names them; a folder or file that is yet to come is left out, and so is a test that is gone."""
    return [found for name in tests if (found := _node_id(name)) is not None]


@cache
def _node_id(name: str) -> str | None:
    file, _, test = name.partition("::")
    path = ROOT / file
    if not path.exists() or not test:
        return name if path.exists() else None
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == test:
            return name
        if isinstance(node, ast.ClassDef) and any(getattr(inner, "name", "") == test for inner in node.body):
            return f"{file}::{node.name}::{test}"
    return None


class Proofs:
    """A pytest plug-in: the ids that each test proves, by its node id."""

    def __init__(self) -> None:
        self.ids: dict[str, set[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            self.ids[item.nodeid] = {rule for marker in item.iter_markers(PROPERTY) for rule in marker.args}


def rules(mutations: Sequence[Mutation]) -> dict[str, set[str]]:
    """By the name of each mutation the ids that it breaks while one of its own tests proves them."""
    proofs = Proofs()
    named = {mutation.name: existing(mutation.tests) for mutation in mutations}
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        arguments = ["--collect-only", "-qq", *_QUIETLY]
        arguments += ["--proves", f"{scratch}/proves.json"]
        pytest.main([*arguments, *sorted({name for names in named.values() for name in names})], plugins=[proofs])
    found: dict[str, set[str]] = {mutation.name: set() for mutation in mutations}
    for mutation in mutations:
        for test, proven in proofs.ids.items():
            if any(test == name or test.startswith((f"{name}::", f"{name}[")) for name in named[mutation.name]):
                found[mutation.name] |= proven.intersection(mutation.ids)
    return found


def sample(mutations: Sequence[Mutation], count: int) -> list[Mutation]:
    """`count` of them, evenly spread over the families."""
    return [mutations[number * len(mutations) // count] for number in range(min(count, len(mutations)))]


def run(mutations: Sequence[Mutation], tell: Callable[[dict[str, object]], None]) -> list[dict[str, object]]:
    """Run them; `tell(result)` hears of each as it ends."""
    import_everything()
    tests = sorted({name for mutation in mutations for name in existing(mutation.tests)})
    broken = baseline(tests)
    for name in broken:
        print(f"mutate: {name} fails on the stack as it is, and proves nothing", file=sys.stderr)
    results: list[dict[str, object]] = []
    children: list[Child] = []
    waiting = list(mutations)
    while waiting or children:
        while waiting and len(children) < WORKERS:
            mutation = waiting.pop(0)

            def work(scratch: Path, mutation: Mutation = mutation) -> dict[str, object]:
                mutation.apply()
                if not existing(mutation.tests):
                    raise StaleMutation(f"none of its tests exists: {', '.join(mutation.tests)}")
                return run_tests(existing(mutation.tests), scratch, stop=True, without=broken)

            def done(answer: dict[str, object] | None, seconds: float, mutation: Mutation = mutation) -> None:
                results.append(judge(mutation, answer, seconds))
                tell(results[-1])

            child = fork(work, PATIENCE)
            child.done = done
            children.append(child)
        if children:
            settle(children)
    order = {mutation.name: number for number, mutation in enumerate(mutations)}
    return sorted(results, key=lambda result: order[str(result["name"])])


def import_everything() -> None:
    """What every mutant needs, once."""
    from tests.conformance.mutations import ALL

    for name in ("hypothesis", "scapy.layers.inet6", "scapy.layers.inet", "tapstack.stack", "unimux.node"):
        importlib.import_module(name)
    for mutation in ALL:
        for change in mutation.changes:
            load(change.target.partition(":")[0])


def _tell(result: dict[str, object]) -> None:
    print(f"{result['outcome']!s:9.60} {result['name']} ({result['seconds']} s) {result['by']}", flush=True)


def main(arguments: Sequence[str]) -> int:
    """The command line; exit status 1 where a defect was not noticed."""
    from tests.conformance.mutations import ALL

    parser = argparse.ArgumentParser(prog="tests.conformance.mutate", description="Negative controls of the stack.")
    parser.add_argument("--quick", action="store_true", help="the short run")
    parser.add_argument("--only", metavar="NAME,…", help="these mutations")
    parser.add_argument("--sample", type=int, metavar="COUNT", help="so many of them, evenly spread")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument(
        "--rules", action="store_true", help="for each print the ids that are broken before a test that proves them"
    )
    chosen = parser.parse_args(arguments)
    mutations = [m for m in ALL if m.quick or not chosen.quick]
    if chosen.only:
        names = chosen.only.split(",")
        mutations = [m for m in ALL if m.name in names]
        if len(mutations) != len(names):
            parser.error(f"there is no such mutation among {', '.join(names)}")
    if chosen.sample is not None:
        mutations = sample(mutations, chosen.sample)
    os.chdir(ROOT)
    if chosen.rules:
        for name, ids in rules(mutations).items():
            print(name, *sorted(ids))
        return 0
    results = run(mutations, _tell)
    if chosen.json:
        chosen.json.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    noticed = sum(result["outcome"] == _NOTICED for result in results)
    print(f"mutation score: {noticed} of {len(results)}")
    return 0 if noticed == len(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
