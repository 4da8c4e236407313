"""What the tests of the oracle share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scenarios.conformance.packets import Reader


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader() as opened:
        yield opened
