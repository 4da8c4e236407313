"""The kept corpus, replayed; a short run of the fuzzer on each target; and that a broken stack does not get past them."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.name
import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.packet import Packet as ScapyPacket

from compat.socks.handshake import Handshake
from compat.socks.messages import pack_datagram
from tapstack.stack import Stack
from tapstack.tcp.layer import Tcp
from tapstack.tcp.receiver import Receiver
from tapstack.tcp.timers import ConnectionTimers
from tapstack.types import Frame
from tapstack.wire import tcp, udp, virtio
from tapstack.wire.ethernet import EthernetHeader
from tapstack.wire.ipv6 import Fragment
from tapstack.wire.udp import UdpHeader
from tapstack.wire.virtio import VirtioHeader
from tests.fuzz import codecs, front, world
from tests.fuzz.fuzz import ROOT, TARGETS, corpus, target
from tests.fuzz.script import Script
from unimux.lookup import Lookup
from unimux.ssa.dnsresponder import Responder
from unimux.ssa.token import Token
from unimux.tagged import TagVerifier

RUNS = {"codecs": 6000, "front": 3000, "tcp": 500, "world": 500}
"""Inputs beyond the corpus, the same in each run of the tests; `make fuzz` tries others for as long as it is told."""


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_corpus_brings_nothing_but_values(name: str) -> None:
    one_input = target(name)
    kept = corpus(name)
    assert len(kept) >= 40
    for path in kept:
        one_input(path.read_bytes())


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_fuzzer_finds_nothing(name: str, artefacts: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.fuzz", name, "--runs", str(RUNS[name]), "--seed", "1"]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [*command, "--found", str(artefacts)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    executed = re.search(r"stat::number_of_executed_units: *(\d+)", done.stderr)
    assert executed is not None
    assert int(executed[1]) >= len(corpus(name)) + RUNS[name]
    assert not list(artefacts.glob("crash-*"))


def until_it_fails(one_input: Callable[[bytes], None], inputs: list[bytes]) -> BaseException | None:
    for data in inputs:
        try:
            one_input(data)
        except Exception as error:
            return error
    return None


def test_a_codec_that_raises_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = Fragment.parse

    def careless(data: memoryview) -> Fragment:
        if len(data) > 3 and data[3] & 1 and data[0] == 6:
            raise KeyError("no such header")
        return parse(data)

    inputs = [bytes((3, 6, 0, 0, 9)) + bytes(8)]
    assert until_it_fails(codecs.one_input, inputs) is None
    changed = tuple((name, careless if name == "fragment" else run) for name, run in codecs.TARGETS)
    monkeypatch.setattr(codecs, "TARGETS", changed)
    assert isinstance(until_it_fails(codecs.one_input, inputs), KeyError)


@pytest.mark.parametrize(
    ("place", "name", "wrong"),
    [
        (Fragment, "pack", lambda packed: packed[:-1] + b"\xff"),
        (EthernetHeader, "pack", lambda packed: packed[6:12] + packed[:6] + packed[12:]),
        (UdpHeader, "pack", lambda packed: packed[2:4] + packed[:2] + packed[4:]),
        (udp, "pack", lambda packed: packed[:6] + bytes(2)),
        (tcp, "pack", lambda packed: packed[:13] + bytes([packed[13] & 0x3F]) + packed[14:]),
        (tcp.Options, "pack", lambda packed: bytes(len(packed))),
        (VirtioHeader, "pack", lambda packed: packed[:8] + bytes(2)),
        (virtio, "read", lambda told: (told[0], told[1] + 1)),
        (virtio, "completed", lambda frame: frame[:-1]),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_value_that_does_not_survive_is_found(
    place: Any, name: str, wrong: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the corpus as it is kept."""
    right = getattr(place, name)
    monkeypatch.setattr(place, name, lambda *given, **more: wrong(right(*given, **more)))
    error = until_it_fails(codecs.one_input, [path.read_bytes() for path in corpus("codecs")])
    assert isinstance(error, AssertionError)


@pytest.mark.parametrize("broken", ["checksum", "reset", "leak", "buffer", "timer"])
def test_a_broken_stack_does_not_get_past_the_corpus(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: object) -> None:
        raise IndexError("a defect")

    match broken:
        case "checksum":
            monkeypatch.setattr(Stack, "output", damaged(Stack.output))
        case "reset":
            monkeypatch.setattr(Tcp, "reset", raises)
        case "leak":
            monkeypatch.setattr(Tcp, "forget", lambda self, connection, now, cause: None)
        case "buffer":
            monkeypatch.setattr(Receiver, "window", lambda self: 1 << 30)
        case "timer":
            monkeypatch.setattr(ConnectionTimers, "retire", lambda self: None)
    name = "tcp" if broken in ("buffer", "timer") else "world"
    error = until_it_fails(target(name), [path.read_bytes() for path in corpus(name)])
    assert error is not None
    assert (broken == "checksum") == ("a wrong checksum leaves" in str(error))


def damaged(output: Callable[[Stack, float], list[Frame]]) -> Callable[[Stack, float], list[Frame]]:
    """What a stack puts out, with one bit of each frame's last byte wrong."""

    def changed(frame: Frame) -> Frame:
        data = b"".join(frame)
        return [data[:-1] + bytes([data[-1] ^ 1])]

    return lambda stack, now: [changed(frame) for frame in output(stack, now)]


@pytest.mark.parametrize(
    ("headers", "at", "fragment"),
    [
        ([], 40, False),
        ([IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(12))]), IPv6ExtHdrDestOpt()], 64, False),
        ([IPv6ExtHdrRouting(addresses=["2001:db8::1"]), IPv6ExtHdrFragment(offset=1)], 72, True),
    ],
)
def test_what_leaves_is_judged_behind_its_extension_headers(
    headers: list[ScapyPacket], at: int, fragment: bool
) -> None:
    packet: ScapyPacket = IPv6()
    for header in headers:
        packet = packet / header
    assert world.upper_layer(bytes(packet / UDP())) == (17, at, fragment)


@pytest.mark.parametrize("broken", ["handshake", "datagram", "token", "name", "tag", "query", "response"])
def test_a_broken_parser_of_a_front_end_does_not_get_past_the_corpus(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    match broken:
        case "handshake":  # an end of line at the end of a piece is overlooked
            take = Handshake._take

            def careless(self: Handshake) -> bytes | None:
                taken = take(self)
                self._searched = len(self._buffer)
                return taken

            monkeypatch.setattr(Handshake, "_take", careless)
        case "datagram":
            monkeypatch.setattr(front, "pack_datagram", lambda host, port, data: pack_datagram(host, port ^ 1, data))
        case "token":
            monkeypatch.setattr(Token, "__str__", lambda self: f"unimux://[{self.address}]")
        case "name":
            monkeypatch.setattr(front, "host_name", dns.name.from_text)
        case "tag":
            monkeypatch.setattr(TagVerifier, "admit", lambda self, address, now: None)
        case "query":
            begin = Responder._begin
            monkeypatch.setattr(Responder, "_begin", lambda self, asker: (begin(self, asker), begin(self, asker))[1])
        case "response":
            monkeypatch.setattr(Lookup, "_next_server", lambda self, complaint: None)
    assert until_it_fails(front.one_input, [path.read_bytes() for path in corpus("front")]) is not None


def test_random_scripts(rng: random.Random) -> None:
    for _ in range(150):
        world.run(rng.randbytes(rng.randrange(2, 300)))


def test_a_script_ends() -> None:
    script = Script(b"\x01\x00\x02\x80\x00\x03abcd")
    assert (script.byte(), script.word(), script.signed(), script.block(), script.rest()) == (
        1,
        2,
        -32768,
        b"abc",
        b"d",
    )
    assert script.over
    assert (script.byte(), script.take(3), script.rest()) == (0, b"", b"")
