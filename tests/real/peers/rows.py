"""The rows of the matrix that have a legacy end, and how a node plays its part of them, whoever the peer is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random

import pytest

from compat.kernel.topology import SERVER_ADDRESS
from tests.real.um.cells import PROOF, WP, Cell, rows
from tests.real.um.talk import answer_to, ask, end
from unimux.aio import open_connection
from unimux.node import Node


def legacy_rows(parallel: int) -> list[Cell]:
    """The rows that have a legacy end, as server or as client, each with so many sessions."""
    found = [row for row in rows() if row.parallel == 1 and "L(" in row.server + row.client]
    return [replace(row, parallel=parallel) for row in found]


def as_parameters(cells: Iterable[Cell]) -> Sequence[object]:
    """Rows as parameters of a test, which proves the requirement of each one's mode."""
    return [
        pytest.param(cell, id=cell.name, marks=pytest.mark.proves("UM-NODE-1", "UM-NODE-3", PROOF[cell.mode]))
        for cell in cells
    ]


async def call_legacy_server(node: Node, cell: Cell, rng: Random, size: int) -> list[bytes]:
    """All sessions of a row to the legacy server, `size` bytes each way; returns the requests, which got the right answers."""
    requests = [rng.randbytes(size) for _ in range(cell.parallel)]
    calls = (open_connection(node, SERVER_ADDRESS, WP, mode=cell.mode, timeout=60) for _ in requests)
    streams = await asyncio.gather(*calls)
    answers = await asyncio.gather(*(ask(each, said) for each, said in zip(streams, requests, strict=True)))
    assert answers == [answer_to(said) for said in requests]
    await asyncio.gather(*(end(each) for each in streams))
    return requests
