"""No room grows past what one sitting reads: lines of a file, lines of a function (docs/architecture.md, conventions).

And tests between kernels judge by other dissectors than the stack's own, and nodes draw what nobody foresees.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("tapstack", "unimux", "compat", "scenarios", "tools", "tests")

MOST_OF_A_FILE = 500
MOST_OF_A_FUNCTION = 60
"""Lines of a function from `def` to its end, its docstring apart."""

LARGER = {
    "tapstack/tcp/fastpath.py:receive": "every segment of a bulk transfer passes it, and a call would cost as much as a branch",
}
"""What may be larger, and why."""


def sources() -> Iterator[tuple[str, str]]:
    """Every file of ours by its path, with its text."""
    for part in PARTS:
        for path in sorted((ROOT / part).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def functions(text: str) -> Iterator[tuple[str, int]]:
    """Every function of a source, nested ones too, with its lines."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            first = node.body[0]
            documented = ast.get_docstring(node, clean=False) is not None
            told = first.end_lineno - first.lineno + 1 if documented and first.end_lineno is not None else 0
            yield node.name, node.end_lineno - node.lineno + 1 - told


def too_large(name: str, text: str) -> Iterator[tuple[str, int]]:
    """The file, if it is too long, and each of its functions that is."""
    lines = text.count("\n")
    if lines > MOST_OF_A_FILE:
        yield name, lines
    for function, length in functions(text):
        if length > MOST_OF_A_FUNCTION:
            yield f"{name}:{function}", length


def test_no_file_and_no_function_has_grown_too_long() -> None:
    found = dict(each for name, text in sources() for each in too_large(name, text))
    assert {name: lines for name, lines in found.items() if name not in LARGER} == {}
    assert LARGER.keys() <= found.keys(), "an exception that nothing needs any more"


def test_the_check_sees_what_is_too_long() -> None:
    body = "    x = 1\n" * 59
    assert list(too_large("a.py", f"def just():\n{body}")) == []
    assert list(too_large("a.py", f"async def more():\n{body}    x = 2\n")) == [("a.py:more", 61)]
    assert list(too_large("a.py", f'class A:\n  def just(self):\n    """One.\n\n    Two."""\n{body}')) == []
    assert list(too_large("a.py", "x = 1\n" * 501)) == [("a.py", 501)]


BETWEEN_KERNELS = ("tests/real/", "tests/interop/")
CODECS = "tapstack.wire"


def imported(text: str) -> Iterator[str]:
    """Every module that a source names in an import, wherever that stands; of `from a import b` it is a.b."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            yield from (f"{node.module}.{each.name}" for each in node.names)


def reads_with_the_codecs(text: str) -> bool:
    """Whether a source imports the stack's codecs."""
    return any(f"{name}.".startswith(f"{CODECS}.") for name in imported(text))


def test_between_kernels_the_codecs_do_not_judge_the_stack() -> None:
    read = [(name, text) for name, text in sources() if name.startswith(BETWEEN_KERNELS)]
    assert len(read) > 30
    assert [name for name, text in read if reads_with_the_codecs(text)] == []


def test_the_check_sees_an_import_of_the_codecs() -> None:
    for text in (
        "import tapstack.wire.tcp",
        "from tapstack import wire",
        "def f():\n  from tapstack.wire.tcp import T",
    ):
        assert reads_with_the_codecs(text)
    assert not reads_with_the_codecs("from tapstack.wires import a\nfrom . import wire\nimport tapstack")


NODES = ("tapstack/", "unimux/", "compat/")
FORESEEN = {
    "tapstack/link/impairment.py": "what befalls a frame on a simulated path; no node draws from it",
    "tapstack/link/tap.py": "the link-layer address of a device, from the generator of whoever makes it",
    "compat/kernel/taps.py": "hands that generator on",
}
"""Where a generator may be named whose numbers an observer can continue, and why."""


def draws_what_can_be_foreseen(text: str) -> bool:
    """Whether a source names a generator of Python or numpy other than the system's."""
    modules = {"random", "numpy.random"}
    attributes = {ast.unparse(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)}
    return bool({"np.random", "numpy.random"} & attributes) or any(
        name in modules or name.rpartition(".")[0] in modules
        for name in imported(text)
        if name != "random.SystemRandom"
    )


@pytest.mark.proves("UM-GEN-7", by="api")
def test_nodes_draw_what_nobody_foresees() -> None:
    """Of `tapstack.randomness`, of the system: see there why a Mersenne Twister will not do."""
    found = {name for name, text in sources() if name.startswith(NODES) and draws_what_can_be_foreseen(text)}
    assert found == FORESEEN.keys()


def test_the_check_sees_a_generator_that_can_be_foreseen() -> None:
    for text in (
        "from random import Random",
        "from random import SystemRandom, getrandbits",
        "def f():\n  import random",
        "import numpy as np\nnp.random.default_rng(1)",
        "from numpy.random import default_rng",
        "from numpy import random",
    ):
        assert draws_what_can_be_foreseen(text)
    assert not draws_what_can_be_foreseen("import secrets\nfrom random import SystemRandom\nx.random.randbytes(6)")
