"""P-11: the SOCKS front end, between an unmodified client of its machine and a kernel beyond the node."""

from __future__ import annotations

from .bulk import rate
from .figures import Figure, Goal, figure
from .rig import ADDRESS, PORT, VETH_ADDRESS, Rig, rig
from .setting import Setting, percentile, take_turns


def front_end(setting: Setting) -> list[Figure]:
    """P-11: bulk each way, requests per second, and the time that a round trip takes longer."""
    return setting.run(_front_end(setting))


async def _front_end(setting: Setting) -> list[Figure]:
    with rig() as net:
        async with net.node(time_wait=setting.time_wait, front_end=True) as node, net.proxy(node) as port:
            return [
                *await _bulk(setting, net, port),
                await _requests(setting, net, port),
                await _latency(setting, net, port),
            ]


async def _bulk(setting: Setting, net: Rig, proxy: int) -> list[Figure]:
    seconds = setting.seconds

    async def out(target: str, *by: object) -> float:
        async with (
            net.helper(net.peer, "sink", target, PORT) as sink,
            net.helper(net.twin, "send", target, PORT, "--seconds", seconds, *by),
        ):
            return rate([await sink.line()])

    async def into(target: str, *by: object) -> float:
        async with net.helper(net.peer, "source", target, PORT, "--seconds", seconds):
            return rate([await net.ask(net.twin, "receive", target, PORT, *by)])

    by_proxy = ADDRESS, "--proxy", proxy
    measured = {
        "out": await take_turns(setting.repeats, lambda: out(*by_proxy), lambda: out(VETH_ADDRESS)),
        "in": await take_turns(setting.repeats, lambda: into(*by_proxy), lambda: into(VETH_ADDRESS)),
    }
    figures = []
    for name, (values, baselines) in measured.items():
        what = f"bulk {name} through SOCKS, TIME-WAIT {setting.time_wait}; baseline the same client directly"
        figures.append(figure("P-11", what, "Gbit/s", values, baselines, Goal(at_least=3)))
    return figures


async def _requests(setting: Setting, net: Rig, proxy: int) -> Figure:
    amount = ["--count", setting.many(3000, 32), "--parallel", 16]

    async def run(target: str, *by: object) -> float:
        async with net.helper(net.peer, "web", target, PORT):
            facts = await net.ask_all(net.twin, "fetch", target, PORT, *amount, *by)
        return float(facts["done"]) / float(facts["seconds"])

    values, baselines = await take_turns(
        setting.repeats, lambda: run(ADDRESS, "--proxy", proxy), lambda: run(VETH_ADDRESS)
    )
    how = f"16 at a time, a connection for each, TIME-WAIT {setting.time_wait}"
    what = f"HTTP requests as curl's through SOCKS, {how}; baseline the same client directly"
    return figure("P-11", what, "1/s", values, baselines, Goal(at_least=1500))


async def _latency(setting: Setting, net: Rig, proxy: int) -> Figure:
    count = setting.many(3000, 32)

    async def run(target: str, *by: object) -> float:
        async with net.helper(net.peer, "echo", target, PORT):
            facts = await net.ask(net.twin, "rtt", target, PORT, "--count", count, *by)
        return percentile(facts["times"], 0.5) * 1e3

    through, direct = await take_turns(
        setting.repeats, lambda: run(ADDRESS, "--proxy", proxy), lambda: run(VETH_ADDRESS)
    )
    added = [ours - theirs for ours, theirs in zip(through, direct, strict=True)]
    of = f"p50 of one connection, TIME-WAIT {setting.time_wait}"
    what = f"round trip of a byte, added by SOCKS, {of}; baseline the round trip without it"
    return figure("P-11", what, "ms", added, direct, Goal(at_most=0.3))
