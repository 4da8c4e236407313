"""A socket's options are checked where they are written: what one call mistypes is no error of another connection."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest

from tapstack.tcp.options import LARGEST_BUFFER, Ecn, PortMode, SocketOptions, TimeWait, in_mode
from tests.unit.unimux.lan import lan, virtual
from unimux.aio import open_connection
from unimux.server import Server


def asked(**options: Any) -> SocketOptions:
    """Options whose types nobody has checked."""
    return SocketOptions(**options)


@pytest.mark.parametrize("mode", PortMode)
@pytest.mark.parametrize("time_wait", TimeWait)
@pytest.mark.parametrize("ecn", Ecn)
def test_modes_are_named_by_their_words_as_well(mode: PortMode, time_wait: TimeWait, ecn: Ecn) -> None:
    options = asked(mode=str(mode), time_wait=str(time_wait), ecn=str(ecn))
    assert options.mode is mode and options.time_wait is time_wait and options.ecn is ecn
    assert options == SocketOptions(mode=mode, time_wait=time_wait, ecn=ecn)
    assert in_mode(SocketOptions(), str(mode)).mode is mode


WRONG: list[tuple[str, Any]] = [
    *(("mode", wrong) for wrong in ("l1", "zzz", "", None, 1, b"L1")),
    *(("time_wait", wrong) for wrong in ("ful", "FULL", None, 0.0, True)),
    *(("ecn", wrong) for wrong in ("on", None, True)),
    *(("congestion", wrong) for wrong in ("nosuch", None, 5)),
    *((name, wrong) for name in ("nodelay", "sack", "cookies") for wrong in ("yes", 1)),
    ("timestamps", None),
    *((name, wrong) for name in ("send_buffer", "receive_buffer") for wrong in (-1, 0, 1.5, "x", True, None, 1 << 40)),
    *((f"{name}_maximum", wrong) for name in ("send_buffer", "receive_buffer") for wrong in (-1, 0, 1000, 1 << 40)),
    *(("backlog", wrong) for wrong in (0, -1, 1.5)),
    *(("reduced_port", wrong) for wrong in (0, 65536, -1)),
    *(("hop_limit", wrong) for wrong in (0, 256, -1)),
    *(("dscp", wrong) for wrong in (-1, 64, None)),
    *(
        (name, wrong)
        for name in ("msl", "user_timeout", "syn_timeout", "fin_wait_2_timeout", "keep_alive")
        for wrong in (0, -1, nan, "1", True)
    ),
    *((name, inf) for name in ("msl", "fin_wait_2_timeout", "keep_alive")),
    ("msl", None),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG, ids=repr)
def test_what_cannot_be_is_refused_and_named(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=name.removesuffix("_maximum")):
        asked(**{name: wrong})
    with pytest.raises(ValueError, match=name.removesuffix("_maximum")):
        replace(SocketOptions(), **{name: wrong})


def test_the_ends_of_the_ranges_are_taken() -> None:
    asked(send_buffer=1, send_buffer_maximum=1, receive_buffer=1, receive_buffer_maximum=1, backlog=1, dscp=63)
    asked(send_buffer_maximum=LARGEST_BUFFER, receive_buffer_maximum=LARGEST_BUFFER, hop_limit=255, reduced_port=65535)
    asked(user_timeout=inf, syn_timeout=inf, keep_alive=None, nodelay=None, hop_limit=None, msl=1, fin_wait_2_timeout=1)


@pytest.mark.parametrize("mistake", [{"mode": "l1"}, {"mode": "zzz"}])
def test_a_mistyped_mode_is_told_to_who_wrote_it(mistake: dict[str, Any]) -> None:
    """It was met in TIME-WAIT, in whatever task the driver ran just then; no address is taken for such a call."""

    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            await alice.ready(4)
            with pytest.raises(ValueError, match="mode is one of L0, L1, L2, Aware"):
                await open_connection(alice, "2001:db8:1::99", 80, **mistake)
            with pytest.raises(ValueError, match="mode is one of L0, L1, L2, Aware"):
                bob.listen(lambda: None, **mistake)  # type: ignore[arg-type,return-value]
            server: Server = bob.listen(lambda: None, mode="L2")  # type: ignore[arg-type,return-value]
            assert server.listener.options.mode is PortMode.L2
            assert not alice.pool.held and not net.syns()

    virtual(main())
