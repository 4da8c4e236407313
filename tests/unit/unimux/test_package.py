"""What `import unimux` offers."""

from __future__ import annotations

import subprocess
import sys

import pytest

import unimux


def test_every_name_it_promises_is_there() -> None:
    assert set(unimux.__all__) == set(unimux._PLACES)
    for name in unimux.__all__:
        assert getattr(unimux, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        unimux.nothing  # noqa: B018


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, unimux; sys.exit(any(m in sys.modules for m in ('numpy', 'asyncio', 'cryptography')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
