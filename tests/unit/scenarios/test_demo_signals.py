"""A signal that ends the story between kernels ends it in order: what it has made is undone."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from scenarios.demo import command, real
from unimux.cli.main import run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_story_in_order(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    undone: list[bool] = []

    async def tell(*_: object) -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            undone.append(True)
            raise

    monkeypatch.setattr(command, "_require_kernel", lambda: None)
    monkeypatch.setattr(real, "tell", tell)
    assert run(["demo", "--out", str(tmp_path / "out")]) == 128 + number
    assert undone
