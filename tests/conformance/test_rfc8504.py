"""What RFC 8504 asks beyond the numbered requirements, and that its table names tests which exist."""

from __future__ import annotations

import ast
import random
from ipaddress import IPv6Address
from pathlib import Path

from scapy.layers.inet6 import IPv6

from tapstack.tcp.options import SocketOptions
from tapstack.types import address_text
from tests.plugins.requirements import load_table
from tests.unit.tcp.pair import Pair

ROOT = Path(__file__).parents[2]


def test_every_connection_writes_one_flow_label_of_its_own() -> None:
    """RFC 6437: every packet of a flow carries the same label, and labels of flows are spread over 20 bits."""
    labels = set()
    for number in range(8):
        pair = Pair(start=100.0 + number)
        pair.a.address = pair.a.address[:15] + bytes([number])
        client, _ = pair.connect(SocketOptions())
        client.write(bytes(5000))
        pair.run(1)
        sent = [IPv6(packet).fl for _, who, packet in pair.packets if who == "a"]
        assert len(sent) >= 5
        assert len(set(sent)) == 1
        labels.add(sent[0])
    assert 0 not in labels
    assert len(labels) == 8


def test_addresses_are_written_in_the_recommended_form(rng: random.Random) -> None:
    """RFC 5952, with Python's ipaddress as the oracle; zero groups are made as frequent as they are on paper."""
    for _ in range(500):
        packed = b"".join(rng.choice((b"\0\0", b"\0\1", rng.randbytes(2))) for _ in range(8))
        assert address_text(packed) == str(IPv6Address(packed))


def test_the_table_names_tests_that_exist() -> None:
    for path in ROOT.glob("tests/rfc*.toml"):
        for row in load_table(path):
            for test in row.get("by", ()):
                file, _, name = test.partition("::")
                assert (ROOT / file).exists(), (row["id"], test)
                tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
                names = {
                    node.name
                    for node in ast.walk(tree)
                    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                }
                assert not name or name.rpartition("::")[2] in names, (row["id"], test)
                assert "not_applicable" not in row, row["id"]
