"""Where the time of a benchmark goes: a flame graph by py-spy, which looks on from outside and slows nothing down.

py-spy comes from PyPI and is needed here only: `pip install py-spy`.
"""

from __future__ import annotations

import os
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
