"""The fixture `here`: the network of `place`, for one test of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.publish.place import Place, place


@pytest.fixture
def here(request: pytest.FixtureRequest, artefacts: Path) -> Iterator[Place]:
    """The network; its web servers have the module's BODY as `/file`."""
    with place(artefacts, request.module.BODY) as made:
        yield made
