"""Keeps what `DiskState` notes outside its folder away from the machine's own notes: they go with the session."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from compat.kernel import scratch_folder


def pytest_configure(config: pytest.Config) -> None:
    stack = ExitStack()
    config.add_cleanup(stack.close)
    place = stack.enter_context(scratch_folder("witness"))
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    patch.setenv("UNIMUX_WITNESS", str(place))  # also for the processes that tests start
