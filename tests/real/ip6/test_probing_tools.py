"""The probing tools that Debian packages, pointed at the host: `implementation6` of thc-ipv6 and `ndisc6`.

What a well-made host does was taken from Linux 6: the same tool against a kernel gives the same lines, but for jumbograms,
which the kernel knows.  The tool calls every error reply and every silence FAILED; here they are what is right.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from compat import kernel
from scenarios.witness.frames import Advertisement, Checksum, Kind, Quote
from tapstack.ipv6.addresses import AddressKind

from ..wire import advertisements, captured, echoes, frames, made_by_a_tool, questions
from .lan import KERNEL_MAC, MAC, PREFIX, Lan, lan

pytestmark = pytest.mark.real("atk6-implementation6", "dumpcap", "ndisc6")

LINE = re.compile(r"^Test\s+(\d+): (.*?)\t+(?:PASSED|FAILED) - (.*?)\s*$", re.MULTILINE)
REPLY, SILENCE = "we got a reply", "no reply"
HEADER_FIELD, NEXT_HEADER, OPTION = "error reply [4:0]", "error reply [4:1]", "error reply [4:2]"

EXPECTED: dict[int, str] = {
    1: REPLY,  # hop-by-hop option to be ignored
    3: NEXT_HEADER,  # two hop-by-hop headers
    5: REPLY,  # destination option to be ignored
    7: REPLY,  # two destination headers
    8: REPLY,  # 128 destination headers
    11: REPLY,  # correct fragments
    12: REPLY,  # an atomic fragment
    14: NEXT_HEADER,  # overlap in the first, next header changed
    16: SILENCE,  # overlap in the first, destination header
    18: REPLY,  # source routing, done
    19: HEADER_FIELD,  # source routing, to do
    20: HEADER_FIELD,  # mobile source routing
    22: REPLY,  # fragments and source routing, done
    23: HEADER_FIELD,  # fragments and source routing, to do
    24: REPLY,  # hop-by-hop, fragments, source routing
    25: REPLY,  # destination, fragments, source routing
    26: NEXT_HEADER,  # fragments, hop-by-hop
    27: REPLY,  # fragments, destination, source routing
    30: OPTION,  # an unknown destination option
    32: NEXT_HEADER,  # AH
    35: NEXT_HEADER,  # ESP
    37: HEADER_FIELD,  # source routing to link-local
    38: HEADER_FIELD,  # source routing to a group
    41: REPLY,  # a solicitation to the address itself
    42: SILENCE,  # the same from afar
    49: OPTION,  # hop-by-hop option to be reported
    50: OPTION,  # destination option to be reported
    54: SILENCE,  # a wrong checksum
    56: REPLY,  # a hop limit of zero
}


@pytest.fixture(scope="module")
def net() -> Iterator[Lan]:
    with lan() as made:
        yield made


async def program(net: Lan, *command: str) -> str:
    """What a program in the kernel's namespace prints."""

    def run() -> str:
        with kernel.in_namespace(net.legacy):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return process.communicate(timeout=30)[0]

    return await asyncio.to_thread(run)


@pytest.mark.proves("ST-IP6-1", "ST-IP6-2", "ST-IP6-3", "ST-IP6-4")
def test_implementation6_finds_what_it_finds_at_a_linux_kernel(
    net: Lan, artefacts: Path, record_property: Callable[[str, object], None]
) -> None:
    found: dict[int, str] = {}

    async def main() -> None:
        for number in EXPECTED:
            output = await program(net, "atk6-implementation6", "-p", net.port.name, net.stable, str(number))
            for line in LINE.finditer(output):
                found[int(line[1])] = line[3]
                record_property(f"implementation6 {line[1]}: {line[2]}", line[3])

    with captured(net.port, artefacts / "peer.pcapng") as path:
        net.run(main())
    made_by_a_tool(path, MAC)
    (artefacts / "implementation6.json").write_text(json.dumps(found, indent=1))
    assert found == EXPECTED
    # What the tool calls a reply is one: nothing that the host said is malformed or has a wrong checksum.
    sent = [frame for frame in frames(path) if frame.eth_src == MAC]
    assert {frame.checksum for frame in sent if frame.kind in (Kind.ECHO_REPLY, Kind.ERROR)} == {Checksum.GOOD}
    problems = Counter((f.message.type, f.message.code) for f in sent if isinstance(f.message, Quote))
    wanted = Counter(EXPECTED.values())
    for code, told in enumerate((HEADER_FIELD, NEXT_HEADER, OPTION)):
        assert problems[4, code] >= wanted[told]
    in_pieces = any(frame.kind is Kind.FRAGMENT for frame in sent)  # the answer to a request of two fragments
    assert len(echoes(sent, Kind.ECHO_REPLY)) + in_pieces == wanted[REPLY] - 1  # one reply is an advertisement


@pytest.mark.proves("UM-ADDR-3", "UM-ADDR-9")
def test_ndisc6_sees_an_address_only_while_it_is_used(net: Lan, artefacts: Path) -> None:
    text = PREFIX + "abcd:1:2:3"

    async def main() -> None:
        async def asked(patience: int = 700) -> str:
            return await program(net, "ndisc6", "-1", "-r", "1", "-w", str(patience), text, net.port.name)

        entry = await net.reserved(text)
        assert "No response" in await asked()
        net.host.addresses.take(entry, AddressKind.STABLE, net.now, "test")
        net.driver.kick()
        assert "02:00:00:00:06:06" in (await asked(15_000)).lower()
        net.host.addresses.release(entry, net.now, "test")
        net.driver.kick()
        assert "No response" in await asked()

    with captured(net.port, artefacts / "peer.pcapng") as path:
        net.run(main())
    seen = frames(path)
    asked = questions(seen, text)
    (answer,) = (frame for frame in advertisements(seen, text) if cast(Advertisement, frame.message).solicited)
    assert [frame.eth_src for frame in asked] == [KERNEL_MAC] * 3, (
        "each time it asked, and the second question was answered"
    )
    assert asked[1].order < answer.order < asked[2].order
    assert answer.eth_src == MAC
