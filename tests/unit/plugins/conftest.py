"""The fixture `session`: a small session of tests with the project's plug-ins."""

from __future__ import annotations

import pytest

from .sessions import ROOT


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with our plug-ins and nothing else."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("UNIMUX_FORBID_SKIPS", raising=False)
    pytester.makeconftest((ROOT / "conftest.py").read_text())
    pytester.makeini("[pytest]\nmarkers =\n    proves(*ids, by): x\n    real(*commands): x\n")
    return pytester
