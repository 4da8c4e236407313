"""Every way in which a session, or an attempt at one, can end; each as a short story on a `Bed`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace

from tapstack.ipv6.addresses import AddressEntry
from unimux import errors
from unimux.aio import open_connection
from unimux.node import Node

from .bed import NOWHERE, Bed, Streams, Talk, read_to_the_end, shut

Ending = Callable[[Bed], Awaitable[None]]


async def client_closes(bed: Bed) -> None:
    """The client closes, the server follows."""
    talk = await bed.talk()
    talk.client[1].close()
    await read_to_the_end(talk.server)
    shut(talk.server)


async def server_closes(bed: Bed) -> None:
    """The server closes, the client follows."""
    talk = await bed.talk()
    talk.server[1].close()
    await read_to_the_end(talk.client)
    shut(talk.client)


async def both_close(bed: Bed) -> None:
    """Both close before they hear of the other: CLOSING on both sides."""
    talk = await bed.talk()
    shut(talk.client, talk.server)


async def half_closed(bed: Bed) -> None:
    """The client says its last word, the server goes on for a while."""
    talk = await bed.talk()
    talk.client[1].write_eof()
    await read_to_the_end(talk.server)
    talk.server[1].write(b"x" * 20_000)
    talk.server[1].close()
    await read_to_the_end(talk.client)
    shut(talk.client)


async def client_resets(bed: Bed) -> None:
    """The client aborts: RST."""
    talk = await bed.talk()
    talk.client[1].transport.abort()
    await read_to_the_end(talk.server)
    shut(talk.server)


async def server_resets(bed: Bed) -> None:
    """The server aborts: RST."""
    talk = await bed.talk()
    talk.server[1].transport.abort()
    await read_to_the_end(talk.client)
    shut(talk.client)


async def both_reset(bed: Bed) -> None:
    """Both abort at once."""
    talk = await bed.talk()
    talk.server[1].transport.abort()
    talk.client[1].transport.abort()


async def closes_unread(bed: Bed) -> None:
    """The client closes while data wait unread, which is a reset (RFC 9293 §3.10.4)."""
    talk = await bed.talk()
    talk.client[1].get_extra_info("connection").owner = None  # nobody reads
    talk.server[1].write(b"never read" * 100)
    await asyncio.sleep(0.01)
    talk.client[1].close()
    await read_to_the_end(talk.server)
    shut(talk.server)


async def data_after_close(bed: Bed) -> None:
    """The client closes and the server goes on talking to nobody: RST."""
    talk = await bed.talk()
    talk.client[1].close()
    await asyncio.sleep(0.01)
    talk.server[1].write(b"x" * 3000)
    await read_to_the_end(talk.server)
    shut(talk.server)


async def _mute(bed: Bed, talk: Talk) -> None:
    bed.muted |= {talk.client_address, talk.server_address}


async def peer_falls_silent(bed: Bed) -> None:
    """Nothing passes any more: unacknowledged data run into the user time-out, an idle end into its keep-alives."""
    talk = await bed.talk()
    await _mute(bed, talk)
    talk.client[1].write(b"is anybody there")
    await asyncio.gather(read_to_the_end(talk.client), read_to_the_end(talk.server))
    shut(talk.client, talk.server)


async def silence_while_closing(bed: Bed) -> None:
    """The FIN of either side never arrives."""
    talk = await bed.talk()
    await _mute(bed, talk)
    shut(talk.client, talk.server)


async def peer_never_closes(bed: Bed) -> None:
    """The client has closed and the server never does: FIN-WAIT-2 ends by its time-out."""
    talk = await bed.talk()
    talk.client[1].close()
    with contextlib.suppress(ConnectionError, OSError):
        await asyncio.sleep(40)
    shut(talk.server)


def _entry(node: Node, address: bytes) -> AddressEntry:
    entry = node.stack.host.addresses.get(address)
    assert entry is not None
    return entry


async def address_expires(bed: Bed) -> None:
    """The valid lifetime of the client's address is over (UM-ADDR-11)."""
    talk = await bed.talk()
    node = talk.calling
    node.stack.host.addresses.expire(_entry(node, talk.client_address), node.now(), "valid lifetime over")
    node.driver.kick()
    await read_to_the_end(talk.client)
    shut(talk.client)
    await read_to_the_end(talk.server)
    shut(talk.server)


async def time_wait_address_expires(bed: Bed) -> None:
    """The valid lifetime of an address in TIME-WAIT is over."""
    talk = await bed.talk()
    talk.client[1].close()
    await read_to_the_end(talk.server)
    shut(talk.server)
    await asyncio.sleep(0.02)
    node = talk.calling
    entry = node.stack.host.addresses.get(talk.client_address)
    if entry is not None:
        node.stack.host.addresses.expire(entry, node.now(), "valid lifetime over")
        node.driver.kick()


async def refused(bed: Bed) -> None:
    """Nobody listens at an ordinary address: RST."""
    calling, called = bed.draw_roles()
    with contextlib.suppress(errors.ConnectError, errors.PoolExhausted):
        shut(await open_connection(calling, bed.ordinary(called), 9, options=bed.draw_options(), timeout=20))
        raise AssertionError("connected")


async def unreachable(bed: Bed) -> None:
    """No neighbour has the address."""
    calling, _ = bed.draw_roles()
    with contextlib.suppress(errors.ConnectError, errors.PoolExhausted):
        shut(await open_connection(calling, NOWHERE, 9, options=bed.draw_options(), timeout=20))
        raise AssertionError("connected")


async def _silent_address(bed: Bed, called: Node) -> str:
    """An SSA for somebody else: silence."""
    server, accepted = bed.service(called, bed.draw_options())
    ssa = await server.issue(client="2001:db8:ffff::/48", lifetime=8)
    accepted.cancel()
    asyncio.get_running_loop().call_later(5.0, server.close)
    return str(ssa)


async def times_out(bed: Bed) -> None:
    """The address is silent and the caller's patience ends."""
    calling, called = bed.draw_roles()
    target = await _silent_address(bed, called)
    with contextlib.suppress(errors.ConnectError, errors.PoolExhausted):
        shut(await open_connection(calling, target, 9, options=bed.draw_options(), timeout=bed.random.uniform(0.1, 3)))
        raise AssertionError("connected")


async def cancelled(bed: Bed) -> None:
    """The caller changes its mind at any moment: before the SYN, in SYN-SENT, at the very moment of ESTABLISHED."""
    calling, called = bed.draw_roles()
    options = bed.draw_options()
    server, accepted = bed.service(called, options)
    ssa = await server.issue(lifetime=5)
    attempt = asyncio.ensure_future(open_connection(calling, ssa.address, None, options=options))
    await asyncio.sleep(bed.random.choice((0.0, 0.0, 0.001, 0.002, 0.003, bed.random.uniform(0, 0.004))))
    attempt.cancel()
    with contextlib.suppress(asyncio.CancelledError, errors.ConnectError, errors.PoolExhausted):
        shut(await attempt)
    await asyncio.sleep(0.1)
    server.close()
    if accepted.done():
        shut(accepted.result())


async def cancelled_in_silence(bed: Bed) -> None:
    """The caller changes its mind while nothing answers."""
    calling, called = bed.draw_roles()
    target = await _silent_address(bed, called)
    attempt = asyncio.ensure_future(open_connection(calling, target, 9, options=bed.draw_options()))
    await asyncio.sleep(bed.random.uniform(0, 4))
    attempt.cancel()
    with contextlib.suppress(asyncio.CancelledError, errors.ConnectError, errors.PoolExhausted):
        shut(await attempt)


async def listener_closes(bed: Bed) -> None:
    """The listener goes while a handshake stands on its SSA, or a session waits that nobody accepted."""
    calling, called = bed.draw_roles()
    options = bed.draw_options()
    server, accepted = bed.service(called, options)
    ssa = await server.issue()
    attempt = asyncio.ensure_future(open_connection(calling, ssa.address, None, options=options, timeout=3))
    await asyncio.sleep(bed.random.uniform(0, 0.006))
    server.close()
    with contextlib.suppress(errors.ConnectError, errors.PoolExhausted):
        shut(await attempt)
    await asyncio.sleep(0)
    if accepted.done():
        shut(accepted.result())


async def expires_unused(bed: Bed) -> None:
    """Nobody uses an SSA in time, and who comes late meets silence (UM-LIS-5)."""
    calling, called = bed.draw_roles()
    options = bed.draw_options()
    server, accepted = bed.service(called, options)
    ssa = await server.issue(lifetime=bed.random.uniform(0.5, 3))
    await asyncio.sleep(3.1)
    with contextlib.suppress(errors.ConnectError, errors.PoolExhausted):
        shut(await open_connection(calling, ssa.address, None, options=options, timeout=1))
        raise AssertionError("connected")
    server.close()
    accepted.cancel()


async def expires_half_open(bed: Bed) -> None:
    """An SSA expires while handshakes stand on it whose peers have vanished."""
    calling, called = bed.draw_roles()
    options = bed.draw_options()
    server, accepted = bed.service(called, options)
    ssa = await server.issue(lifetime=4)
    attempt = asyncio.ensure_future(open_connection(calling, ssa.address, None, options=options, timeout=2))
    with contextlib.suppress(TimeoutError):
        await called.until(lambda: called.stack.tcp.demux.half_open_count > 0, 1)
    bed.muted.add(ssa.address.packed)
    with contextlib.suppress(errors.ConnectError, errors.PoolExhausted):
        shut(await attempt)
    await asyncio.sleep(5)
    server.close()
    if accepted.done():
        shut(accepted.result())
    else:
        accepted.cancel()


async def withdrawn(bed: Bed) -> None:
    """An SSA is taken back before anybody came."""
    _, called = bed.draw_roles()
    server, accepted = bed.service(called, bed.draw_options())
    server.withdraw(await server.issue())
    server.close()
    accepted.cancel()


async def issue_cancelled(bed: Bed) -> None:
    """Who wanted an SSA changes its mind."""
    _, called = bed.draw_roles()
    server, accepted = bed.service(called, bed.draw_options())
    wanted = asyncio.ensure_future(server.issue(lifetime=20))
    await asyncio.sleep(0)
    wanted.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        server.withdraw(await wanted)
    server.close()
    accepted.cancel()


async def several_sessions(bed: Bed) -> None:
    """An SSA for three: two sessions come and go, then it is closed."""
    calling, called = bed.draw_roles()
    options = bed.draw_options()
    peers: list[Streams] = []
    from unimux.aio import start_server

    server = start_server(called, lambda reader, writer: peers.append((reader, writer)), options=options)
    ssa = await server.issue(sessions=3)
    for _ in range(2):
        client = await open_connection(calling, ssa.address, None, options=options)
        client[1].write(b"x")
        client[1].close()
        await asyncio.sleep(0.05)
    server.close()
    for peer in peers:
        await read_to_the_end(peer)
        shut(peer)


async def short_user_timeout(bed: Bed) -> None:
    """Silence with time-outs of seconds."""
    talk = await bed.talk(replace(bed.draw_options(), user_timeout=2.0, keep_alive=2.0))
    await _mute(bed, talk)
    talk.server[1].write(b"x" * 100_000)
    await asyncio.gather(read_to_the_end(talk.client), read_to_the_end(talk.server))
    shut(talk.client, talk.server)


ENDINGS: dict[str, Ending] = {
    function.__name__: function
    for function in (
        client_closes, server_closes, both_close, half_closed, client_resets, server_resets, both_reset, closes_unread,
        data_after_close, peer_falls_silent, silence_while_closing, peer_never_closes, address_expires,
        time_wait_address_expires, refused, unreachable, times_out, cancelled, cancelled_in_silence, listener_closes,
        expires_unused, expires_half_open, withdrawn, issue_cancelled, several_sessions, short_user_timeout,
    )
}  # fmt: skip
"""By name, in the order of the table in the documentation."""

_CALLER = "connection"
_KEEPER = "connection → TIME-WAIT"
_CALLED = "armed SSA → connection"
_CALLED_KEEPER = "armed SSA → connection → TIME-WAIT"
_ARMED = "armed SSA"
_HALF_OPEN = "armed SSA + half-open"

HOLDERS: dict[str, tuple[str, str]] = {
    "client_closes": (_KEEPER, _CALLED),
    "server_closes": (_CALLER, _CALLED_KEEPER),
    "both_close": (_KEEPER, _CALLED_KEEPER),
    "half_closed": (_KEEPER, _CALLED),
    "client_resets": (_CALLER, _CALLED),
    "server_resets": (_CALLER, _CALLED),
    "both_reset": (_CALLER, _CALLED),
    "closes_unread": (_CALLER, _CALLED),
    "data_after_close": (_CALLER, _CALLED),
    "peer_falls_silent": (_CALLER, _CALLED),
    "silence_while_closing": (_CALLER, _CALLED),
    "peer_never_closes": (_CALLER, _CALLED),
    "address_expires": (_CALLER, _CALLED),
    "time_wait_address_expires": (_KEEPER, _CALLED),
    "refused": (_CALLER, ""),
    "unreachable": (_CALLER, ""),
    "times_out": (_CALLER, _ARMED),
    "cancelled": (_CALLER, _ARMED),
    "cancelled_in_silence": (_CALLER, _ARMED),
    "listener_closes": (_CALLER, _ARMED),
    "expires_unused": (_CALLER, _ARMED),
    "expires_half_open": (_CALLER, _HALF_OPEN),
    "withdrawn": ("", _ARMED),
    "issue_cancelled": ("", _ARMED),
    "several_sessions": (_KEEPER, "armed SSA → 2 connections"),
    "short_user_timeout": (_CALLER, _CALLED),
}
"""Who holds the client's and the server's address, one after the other, when the options are L1 and the full TIME-WAIT."""


def holders_table() -> list[str]:
    """The table of endings as it stands in docs/unified-multiplex.md."""
    lines = ["| ending | the client's address is held by | the server's by |", "|---|---|---|"]
    for name, function in ENDINGS.items():
        said = (function.__doc__ or "").partition(" (")[0].rstrip(".")
        client, server = (each or "–" for each in HOLDERS[name])
        lines.append(f"| {said} | {client} | {server} |")
    return lines
