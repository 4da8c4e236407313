"""The printed table of the interoperability matrix, after any run that has some of its cells; also `out/um-matrix.json`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.real.um.cells import PROPERTY, table


class Matrix:
    """Collects the rows that the cells' tests report."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.rows: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            for name, value in report.user_properties:
                if name == PROPERTY:
                    row = json.loads(str(value))
                    if report.failed:
                        row["verdict"] = "FAILED"
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
