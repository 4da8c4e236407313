"""One run in which everything is right: the positive of every rule, and the material of every negative control.

A unified node N and a second one M on a link with a router; a legacy server and client beyond it; a third host.
Frames as the point `lan` (the router's interface on that link) and the point `far` (the legacy side) see them.
"""

from __future__ import annotations

from pathlib import Path

from scenarios.witness import CaptureFile, Judgement, Setup, UnifiedNode, judge

from .wire import (
    NODE_LL,
    NODE_MAC,
    OTHER_LL,
    OTHER_MAC,
    ROUTER_LL,
    ROUTER_MAC,
    STRANGER_MAC,
    TO_EXCLUDE,
    TO_INCLUDE,
    Wire,
    defence,
    echo,
    echo_reply,
    listener_report,
    probe,
    promotion,
    resolved,
    solicitation,
    tcp,
    udp,
)

EA, SSA, EA0, SSA0, IDLE = (f"2001:db8:a::{tail}" for tail in ("1:e1", "1:55a", "1:e0", "1:550", "1:1d1e"))
SERVER, CLIENT, THIRD = "2001:db8:f::80", "2001:db8:f::c", "2001:db8:f::bad"
"""the router's own address in the prefix: nobody's one-time address"""


def birth(lan: Wire, name: str, address: str, mac: str = NODE_MAC, source: str = NODE_LL) -> None:
    """Join and probe."""
    lan.put(listener_report(address, TO_EXCLUDE, mac, source), f"join:{name}")
    lan.put(probe(address, mac), f"probe:{name}")


def end(lan: Wire, name: str, address: str, mac: str = NODE_MAC, source: str = NODE_LL) -> None:
    """Leave, sent twice as RFC 3810 asks."""
    lan.put(listener_report(address, TO_INCLUDE, mac, source), f"leave:{name}")
    lan.put(listener_report(address, TO_INCLUDE, mac, source), f"leave-again:{name}")


def session(
    lan: Wire,
    name: str,
    client: str,
    server: str,
    macs: tuple[str, str],
    *,
    isn: tuple[int, int] = (1000, 2**32 - 50),
    ports: tuple[int, int] = (1024, 80),
    later: tuple[int, int] | None = None,
    back: tuple[int, int] | None = None,
) -> None:
    """A whole connection: handshake, 100 bytes up, 1000 down, FIN both ways.  `later`/`back`: ports from mid-stream on."""
    c, s = isn
    there, here = ports, (ports[1], ports[0])
    reverse = (macs[1], macs[0])
    lan.put(tcp(client, server, "S", c, ports=there, macs=macs), f"syn:{name}")
    lan.put(tcp(server, client, "SA", s, c + 1, ports=here, macs=reverse), f"synack:{name}")
    lan.put(tcp(client, server, "A", c + 1, s + 1, ports=there, macs=macs), f"ack:{name}")
    lan.put(tcp(client, server, "PA", c + 1, s + 1, b"q" * 100, ports=there, macs=macs), f"request:{name}")
    there, here = later or there, back or here
    for part in range(2):
        at = s + 1 + 500 * part
        lan.put(tcp(server, client, "PA", at, c + 101, b"r" * 500, ports=here, macs=reverse), f"reply{part}:{name}")
        lan.put(tcp(client, server, "A", c + 101, at + 500, ports=there, macs=macs), f"reply-ack{part}:{name}")
    lan.put(tcp(server, client, "FA", s + 1001, c + 101, ports=here, macs=reverse), f"fin-server:{name}")
    lan.put(tcp(client, server, "FA", c + 101, s + 1002, ports=there, macs=macs), f"fin-client:{name}")
    lan.put(tcp(server, client, "A", s + 1002, c + 102, ports=here, macs=reverse), f"last-ack:{name}")


def good() -> tuple[Wire, Wire]:
    """The wires `lan` and `far` of the run."""
    lan, far = Wire(), Wire()
    out, back = (NODE_MAC, ROUTER_MAC), (ROUTER_MAC, NODE_MAC)
    for name, address in (("ea", EA), ("ssa", SSA), ("ea0", EA0), ("idle", IDLE)):
        birth(lan, name, address)
    birth(lan, "ssa0", SSA0, OTHER_MAC, OTHER_LL)
    lan.wait(1.1)
    # UNCERTAIN: resolution, echo and TCP meet silence, a foreign DAD probe is answered
    lan.put(solicitation(EA), "ask-early:ea")
    lan.put(echo(SERVER, EA), "echo-early:ea")
    lan.put(tcp(CLIENT, SSA, "S", 77, ports=(40000, 80), macs=back), "syn-early:ssa")
    lan.put(udp(SERVER, EA), "udp-early:ea")
    lan.put(probe(IDLE, STRANGER_MAC, b"\x0e\x01other!"), "foreign-probe:idle")
    lan.put(defence(IDLE), "defence:idle")
    lan.put(echo(ROUTER_LL, NODE_LL), "echo:ll")
    lan.put(echo_reply(NODE_LL, ROUTER_LL), "echo-reply:ll")
    # an EA fetches from a legacy server
    lan.put(promotion(EA), "promotion:ea")
    lan.put(solicitation(EA), "ask:ea")
    lan.put(resolved(EA), "answer:ea")
    session(lan, "ea", EA, SERVER, out)
    lan.wait(0.4)
    end(lan, "ea", EA)
    lan.put(solicitation(EA), "ask-late:ea")
    # an SSA serves a legacy client, while a third host tries; then the client tries again
    lan.put(promotion(SSA), "promotion:ssa")
    far.now = lan.now
    session(lan, "ssa", CLIENT, SSA, back, ports=(40001, 80))
    far.put(tcp(THIRD, SSA, "S", 5, ports=(666, 80), macs=(STRANGER_MAC, ROUTER_MAC)), "third-far")
    lan.put(tcp(THIRD, SSA, "S", 5, ports=(666, 80), macs=back), "third")
    lan.wait(0.4)
    end(lan, "ssa", SSA)
    far.now = lan.now
    far.put(tcp(CLIENT, SSA, "S", 99, ports=(40002, 80), macs=(STRANGER_MAC, ROUTER_MAC)), "again-far")
    lan.put(tcp(CLIENT, SSA, "S", 99, ports=(40002, 80), macs=back), "again")
    # two unified nodes talk at L0, ports change in mid-stream
    lan.put(promotion(SSA0, OTHER_MAC), "promotion:ssa0")
    lan.put(promotion(EA0), "promotion:ea0")
    session(lan, "l0", EA0, SSA0, (NODE_MAC, OTHER_MAC), ports=(7, 9), later=(11, 13), back=(1, 60000))
    lan.wait(0.4)
    end(lan, "ea0", EA0)
    end(lan, "ssa0", SSA0, OTHER_MAC, OTHER_LL)
    end(lan, "idle", IDLE)
    lan.put(solicitation(EA0), "ask-late:ea0")
    return lan, far


SETUP = Setup(
    nodes=(
        UnifiedNode("N", "lan", (NODE_MAC,), ("2001:db8:a::/64",)),
        UnifiedNode("M", "lan", (OTHER_MAC,), ("2001:db8:a::/64",)),
    ),
    strangers=(THIRD,),
    second_fetch=(SSA,),
    connections=3,
)


def examine(
    folder: Path,
    lan: Wire,
    far: Wire,
    setup: Setup = SETUP,
    *,
    events: tuple[Path, ...] = (),
    tshark: bool = False,
    snap: int = 0,
    offload_free: bool = True,
) -> Judgement:
    """Write both wires and judge them."""
    files = [
        CaptureFile(lan.save(folder / "lan.pcapng", snap), "lan", offload_free),
        CaptureFile(far.save(folder / "far.pcapng", snap), "far", offload_free),
    ]
    return judge(files, setup, events, consult_tshark=tshark)
