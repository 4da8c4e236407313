"""Where the time of a benchmark goes: a flame graph by py-spy, which looks on from outside and slows nothing down.

py-spy comes from PyPI and is needed here only: `pip install py-spy`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unimux.errors import SetupError

_RATE = 250
_WAIT = 20.0


def find_profiler() -> str:
    """The program's path; raises `SetupError` where it is not installed."""
    path = shutil.which("py-spy", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    if path is None:
        raise SetupError("Profiles need py-spy, which is not installed: pip install py-spy.")
    return path


@contextmanager
def flame_graph(path: Path) -> Iterator[None]:
    """Write a flame graph (SVG) of what this process does inside the block, kernel peers apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [find_profiler(), "record", "--pid", str(os.getpid()), "--output", str(path), "--rate", str(_RATE)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as profiler:
        try:
            yield
        finally:
            profiler.send_signal(signal.SIGINT)
            try:
                _, words = profiler.communicate(timeout=_WAIT)
            except subprocess.TimeoutExpired:
                profiler.kill()
                words = b"it did not end"
    if not path.exists():
        raise SetupError(f"py-spy wrote no flame graph: {words.decode(errors='replace').strip()[-200:]}.")
    drawn = titled(path.read_text(encoding="utf-8"), f"{path.stem}: {_RATE} samples per second")
    path.write_text(drawn, encoding="utf-8")


def titled(graph: str, title: str) -> str:
    """A flame graph with a title; py-spy gives it its own command line, with the paths of the machine.

    >>> titled('<svg><text id="title" x="1">/opt/py-spy record</text></svg>', "P-1")
    '<svg><text id="title" x="1">P-1</text></svg>'
    """
    return re.sub(r'(<text id="title"[^>]*>)[^<]*', lambda found: found[1] + title, graph, count=1)
