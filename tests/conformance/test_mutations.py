"""The short run of the negative controls, and the machinery that breaks the stack."""

from __future__ import annotations

import builtins
import dis
import json
import subprocess
import sys
from pathlib import Path
from types import CodeType, FunctionType

import pytest

from tapstack.wire import checksum
from tests.conformance import mutant
from tests.conformance.mutant import Edit, Put, StaleMutation
from tests.conformance.mutations import ALL, NO_DEFECT
from tests.plugins.requirements import load_tables

ROOT = Path(__file__).parents[2]
SAMPLE = 16
"""So many mutants are in the tests; `unimux conformance --mutations` runs all of them."""


@pytest.mark.timeout(1000)
def test_the_tests_notice_what_is_broken(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.conformance.mutate", "--quick", "--sample", str(SAMPLE)]
    command += ["--json", str(tmp_path / "results.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    said = done.stdout + done.stderr
    assert (tmp_path / "results.json").exists(), said
    results = json.loads((tmp_path / "results.json").read_text())
    assert [result for result in results if result["outcome"] != "caught"] == [], said
    assert len(results) == SAMPLE, said
    assert done.returncode == 0


def test_there_are_enough_of_them_and_each_breaks_a_rule() -> None:
    known = {row["id"] for row in load_tables()}
    names = [mutation.name for mutation in ALL]
    assert len(set(names)) == len(names) >= 40
    for mutation in ALL:
        assert mutation.ids and known.issuperset(mutation.ids), mutation.name
        assert mutation.what and mutation.tests and mutation.changes, mutation.name


def test_each_breaks_a_rule_before_a_test_that_proves_it_and_every_rule_of_our_own_is_broken_so() -> None:
    """Else a rule could stand as passed while a defect that breaks it is noticed by tests that do not count for it."""
    command = [sys.executable, "-m", "tests.conformance.mutate", "--rules"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=True)
    ours = {row["id"] for row in load_tables() if row["spec"] in ("um", "st")}
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, *ids in lines if not ids] == []
    assert ours - {rule for _, *ids in lines for rule in ids} == set(NO_DEFECT)


def names_of(code: CodeType) -> set[str]:
    """The global names that a function reads, inner ones included."""
    found = {each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL"}
    return found.union(*(names_of(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


@pytest.mark.parametrize("mutation", ALL, ids=lambda mutation: mutation.name)
def test_each_still_hits_what_it_names_and_breaks_nothing_else(mutation: mutant.Mutation) -> None:
    """Not stale, not without effect, and not caught for a name that does not exist: such a one proves nothing."""
    for change in mutation.changes:
        names, _, found, _ = mutant._resolve(change.target)
        if isinstance(change, Put):
            value = eval(change.new, names)
            old = found[eval(change.key, names)] if change.key else found
            assert value != old
            continue
        function = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
        assert isinstance(function, FunctionType)
        code = function.__code__
        try:
            change.apply()
            broken = function.__code__
            missing = {
                each for each in names_of(broken) if each not in function.__globals__ and not hasattr(builtins, each)
            }
        finally:
            function.__code__ = code
            mutant._edited.pop(function, None)
        assert not missing, missing
        assert (broken.co_code, broken.co_consts, broken.co_names) != (code.co_code, code.co_consts, code.co_names)


def test_an_edit_changes_the_function_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    held = checksum.field
    assert isinstance(held, FunctionType)
    code = held.__code__
    try:
        assert held(0) == 0
        Edit("tapstack.wire.checksum:field", "return 65535 -", "return 65534 -").apply()
        assert held(0) == -1
        Edit("tapstack.wire.checksum:field", "65534", "65533").apply()
        assert held(0) == -2
    finally:
        held.__code__ = code
        mutant._edited.pop(held, None)
    assert held(0) == 0


@pytest.mark.parametrize(
    "change",
    [
        Edit("tapstack.wire.checksum:field", "text that is not there", ""),
        Edit("tapstack.wire.checksum:no_such_function", "", ""),
        Edit("tapstack.ipv6.addresses:ANSWERS", "", ""),
        Put("tapstack.ipv6.addresses:ANSWERS", "1", "'no such key'"),
    ],
    ids=["text", "function", "no function", "key"],
)
def test_what_is_stale_says_so(change: Edit | Put) -> None:
    with pytest.raises(StaleMutation):
        change.apply()
