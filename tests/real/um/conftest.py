"""The printed table of the interoperability matrix, after any run that has some of its cells; also `out/um-matrix.json`.

Each row names the capture that shows it, where the run keeps captures (`--captures DIR`, as `make matrix` has it).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.plugins.requirements import CAPTURE
from tests.real.um.cells import PROPERTY, table


class Matrix:
    """Collects the rows that the cells' tests report."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._failed: set[str] = set()
        self.rows: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid)
        if report.when != "teardown":  # only then the captures are where they stay
            return
        properties = [(name, str(value)) for name, value in report.user_properties]
        row = next((json.loads(value) for name, value in properties if name == PROPERTY), None)
        if row is not None:
            if report.nodeid in self._failed:
                row["verdict"] = "FAILED"
            row["capture"] = next((value for name, value in properties if name == CAPTURE), None)
            self.rows.append(row)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.rows or hasattr(self._config, "workerinput"):
            return
        terminalreporter.section("interoperability matrix (unified-multiplex §6)")
        for line in table(self.rows):
            terminalreporter.write_line(line)
        path = self._config.rootpath / "out" / "um-matrix.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(self.rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Matrix(config), "unimux-matrix")
