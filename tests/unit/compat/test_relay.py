"""The relay: what each end does to the other, and that bytes, ends, resets and time-outs get through as they are."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
from typing import Any

import pytest

from compat import resets
from compat.relay import EndReason, Relay, RelayResult
from tests.unit.unimux.lan import virtual_test


class WatchedTransport(asyncio.Transport):
    """A transport that notes what is done to it; `connection_lost` follows `close` and `abort` as asyncio does it."""

    def __init__(self, *, half_close: bool = True) -> None:
        super().__init__()
        self.log: list[str] = []
        self.written = bytearray()
        self.buffered = 0
        self.protocol: asyncio.Protocol | None = None
        self._closing = False
        self._half_close = half_close

    def connect(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol
        protocol.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.log.append("pause")

    def resume_reading(self) -> None:
        self.log.append("resume")

    def can_write_eof(self) -> bool:
        return self._half_close

    def write_eof(self) -> None:
        self.log.append("eof")

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.protocol = protocol

    def close(self) -> None:
        self._end("close", None)

    def abort(self) -> None:
        self._end("abort", None)

    def fail(self, error: Exception) -> None:
        self._end("fail", error)

    def _end(self, how: str, error: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            self.log.append(how)
            assert self.protocol is not None
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, error)


def joined(**options: Any) -> tuple[Relay, WatchedTransport, WatchedTransport]:
    relay = Relay(**options)
    near, far = WatchedTransport(), WatchedTransport()
    near.connect(relay.near)
    far.connect(relay.far)
    near.log.clear()
    far.log.clear()
    return relay, near, far


@virtual_test
async def test_an_end_alone_is_paused_and_nothing_that_came_early_is_lost() -> None:
    relay = Relay()
    near, far = WatchedTransport(), WatchedTransport()
    near.connect(relay.near)
    assert near.log == ["pause"]
    relay.near.data_received(b"early ")
    far.connect(relay.far)
    relay.near.data_received(b"late")
    assert (bytes(far.written), near.log, far.log) == (b"early late", ["pause", "resume"], ["resume"])
    relay.abort()
    assert (await relay.wait()).bytes_to_far == 10


@virtual_test
async def test_preface_goes_before_everything() -> None:
    relay = Relay()
    relay.far.preface = b"PROXY "
    near, far = WatchedTransport(), WatchedTransport()
    near.connect(relay.near)
    relay.near.data_received(b"data")
    far.connect(relay.far)
    assert bytes(far.written) == b"PROXY data"
    relay.abort()
    result = await relay.wait()
    assert result.bytes_to_far == 4


@virtual_test
async def test_adopted_transport_brings_its_early_bytes() -> None:
    relay = Relay()
    near, far = WatchedTransport(), WatchedTransport()
    near.connect(asyncio.Protocol())
    far.connect(relay.far)
    relay.near.adopt(near, b"request")
    assert bytes(far.written) == b"request"
    assert (near.log, far.log) == (["resume"], ["pause", "resume"])
    assert near.protocol is relay.near
    relay.abort()
    assert (await relay.wait()).bytes_to_far == len(b"request")


@virtual_test
async def test_adopted_transport_whose_stream_is_over_ends_the_other_after_its_early_bytes() -> None:
    for first in ("near", "far"):
        relay = Relay()
        near, far = WatchedTransport(), WatchedTransport()
        near.connect(asyncio.Protocol())
        if first == "far":
            far.connect(relay.far)
        relay.near.adopt(near, b"request", ended=True)
        if first == "near":
            far.connect(relay.far)
        assert bytes(far.written) == b"request" and "eof" in far.log, first
        assert near.log.count("resume") == 0, "nothing more comes from it"
        relay.far.data_received(b"answer")
        relay.far.eof_received()
        assert bytes(near.written) == b"answer"
        assert (await relay.wait()).reason is EndReason.COMPLETE


@virtual_test
async def test_back_pressure_stops_the_other_end_only() -> None:
    relay, near, far = joined()
    relay.far.pause_writing()
    assert (near.log, far.log) == (["pause"], [])
    relay.far.resume_writing()
    assert (near.log, far.log) == (["pause", "resume"], [])
    relay.near.pause_writing()
    assert far.log == ["pause"]
    relay.abort()
    await relay.wait()


@virtual_test
async def test_an_end_that_blocks_before_the_join_keeps_the_other_paused() -> None:
    relay = Relay()
    near, far = WatchedTransport(), WatchedTransport()
    far.connect(relay.far)
    relay.far.pause_writing()
    near.connect(relay.near)
    assert "resume" not in near.log
    relay.far.resume_writing()
    assert near.log[-1] == "resume"
    relay.abort()
    await relay.wait()


@virtual_test
async def test_a_stream_that_ended_is_not_read_again_after_back_pressure() -> None:
    relay, near, _ = joined()
    relay.far.pause_writing()
    relay.near.eof_received()
    relay.far.resume_writing()
    assert near.log == ["pause"]
    relay.abort()
    await relay.wait()


@virtual_test
async def test_half_close_is_carried_through_and_both_ends_complete() -> None:
    relay, near, far = joined()
    assert relay.near.eof_received() is True
    assert (near.log, far.log) == ([], ["eof"])
    relay.far.data_received(memoryview(b"answer"))
    assert bytes(near.written) == b"answer"
    relay.far.eof_received()
    result = await relay.wait()
    assert (near.log, far.log) == (["close"], ["eof", "close"])
    assert result == RelayResult(EndReason.COMPLETE, 0, 6, 0.0)


@virtual_test
async def test_where_half_close_is_impossible_the_end_closes_both() -> None:
    relay = Relay()
    near, far = WatchedTransport(), WatchedTransport(half_close=False)
    near.connect(relay.near)
    far.connect(relay.far)
    relay.near.eof_received()
    result = await relay.wait()
    assert far.log[-1] == "close" and near.log[-1] == "close"
    assert result.reason is EndReason.NEAR_CLOSED


@virtual_test
async def test_failure_aborts_the_other_end() -> None:
    relay, near, far = joined()
    error = ConnectionResetError("reset")
    far.fail(error)
    result = await relay.wait()
    assert near.log == ["abort"]
    assert (result.reason, result.error) == (EndReason.FAR_FAILED, error)


@virtual_test
async def test_failure_after_an_orderly_end_still_delivers_what_had_come() -> None:
    relay, near, far = joined()
    relay.far.data_received(b"tail")
    relay.far.eof_received()
    far.fail(BrokenPipeError())
    result = await relay.wait()
    assert near.log == ["eof", "close"]
    assert result.reason is EndReason.FAR_FAILED


@virtual_test
async def test_a_transport_that_closes_by_itself_closes_the_other_in_order() -> None:
    relay, near, far = joined()
    near.close()
    result = await relay.wait()
    assert (far.log, result.reason) == (["close"], EndReason.NEAR_CLOSED)


@virtual_test
async def test_an_end_that_comes_after_the_other_was_lost_is_aborted() -> None:
    ended: list[RelayResult] = []
    relay = Relay(on_end=ended.append)
    near, far = WatchedTransport(), WatchedTransport()
    near.connect(relay.near)
    near.close()
    assert (await relay.wait()).reason is EndReason.NEAR_CLOSED
    far.connect(relay.far)
    assert far.log == ["abort"]
    await asyncio.sleep(0)
    assert len(ended) == 1, "one relay, one result"


@virtual_test
async def test_a_relay_stopped_before_any_end_came_is_finished() -> None:
    relay = Relay()
    relay.abort()
    assert relay.finished and relay.result is not None
    assert relay.result.reason is EndReason.STOPPED
    relay.abort()


@virtual_test
async def test_idle_time_out_and_its_precision() -> None:
    relay, near, far = joined(idle_timeout=100.0)
    loop = asyncio.get_running_loop()
    start = loop.time()
    for _ in range(3):
        await asyncio.sleep(90)
        relay.near.data_received(b"x")
    quiet_since = loop.time()
    result = await relay.wait()
    assert result.reason is EndReason.IDLE
    assert near.log == far.log == ["abort"]
    assert 100 <= loop.time() - quiet_since <= 125
    assert result.duration == loop.time() - start


@virtual_test
async def test_a_write_buffer_that_drains_is_not_idle_and_one_that_does_not_is() -> None:
    relay, near, _ = joined(idle_timeout=100.0)
    loop = asyncio.get_running_loop()
    near.buffered = 50
    for _ in range(50):
        await asyncio.sleep(20)
        near.buffered -= 1
    assert not relay.finished
    stuck_since = loop.time()
    near.buffered = 7
    assert (await relay.wait()).reason is EndReason.IDLE
    assert loop.time() - stuck_since <= 150


@virtual_test
async def test_cancelling_a_wait_leaves_the_relay_alone() -> None:
    relay, near, _ = joined()
    waiting = asyncio.ensure_future(relay.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    assert not relay.finished and near.log == []
    relay.abort()
    await relay.wait()


def test_a_time_out_that_is_no_time_is_refused() -> None:
    async def make() -> None:
        with pytest.raises(ValueError, match="idle_timeout"):
            Relay(idle_timeout=0)

    asyncio.run(make())


# -- over kernel sockets --------------------------------------------------------------------------


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.socket(socket.AF_INET6) as listener:
        listener.bind(("::1", 0))
        listener.listen(1)
        one = socket.create_connection(listener.getsockname()[:2])
        other, _ = listener.accept()
    return one, other


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def over_sockets(**options: Any) -> tuple[Relay, Streams, Streams]:
    """A relay between two TCP connections; the streams are their outer ends."""
    loop = asyncio.get_running_loop()
    relay = Relay(**options)
    (outer_near, inner_near), (outer_far, inner_far) = tcp_pair(), tcp_pair()
    for inner, end in ((inner_near, relay.near), (inner_far, relay.far)):
        inner.setblocking(False)
        await loop.create_connection(lambda end=end: end, sock=inner)  # type: ignore[misc]
    near = await asyncio.open_connection(sock=outer_near)
    far = await asyncio.open_connection(sock=outer_far)
    return relay, near, far


async def finish(*streams: Streams) -> None:
    for _, writer in streams:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass


def test_every_byte_both_ways_at_once_with_half_close() -> None:
    rng = random.Random(1)
    there, back = rng.randbytes(6_000_000), rng.randbytes(5_000_001)

    async def body() -> None:
        relay, near, far = await over_sockets()

        async def talk(stream: Streams, data: bytes) -> bytes:
            reader, writer = stream
            writer.write(data)
            writer.write_eof()
            return await reader.read()

        got_far, got_near = await asyncio.gather(talk(far, back), talk(near, there))
        assert hashlib.sha256(got_far).digest() == hashlib.sha256(there).digest()
        assert hashlib.sha256(got_near).digest() == hashlib.sha256(back).digest()
        result = await asyncio.wait_for(relay.wait(), 10)
        assert (result.reason, result.bytes_to_far, result.bytes_to_near) == (EndReason.COMPLETE, len(there), len(back))
        await finish(near, far)

    asyncio.run(body())


def test_a_peer_that_never_reads_stops_the_sender_and_memory_stays_bounded() -> None:
    async def body() -> None:
        relay, near, far = await over_sockets()
        far[1].transport.pause_reading()  # type: ignore[attr-defined]
        near[1].transport.set_write_buffer_limits(high=1)
        chunk, sent = bytes(1 << 20), 0
        try:
            while sent < 256 << 20:
                near[1].write(chunk)
                await asyncio.wait_for(near[1].drain(), 1.0)
                sent += len(chunk)
        except TimeoutError:
            pass
        assert sent < 256 << 20, "back-pressure reached the sender"
        sink = relay.far.transport
        assert sink is not None
        assert sink.get_write_buffer_size() <= 64 * 1024 + 256 * 1024, "high-water mark and one chunk"
        relay.abort()
        assert (await relay.wait()).reason is EndReason.STOPPED
        await finish(near, far)

    asyncio.run(body())


def test_a_reset_arrives_as_a_reset() -> None:
    async def body() -> None:
        relay, near, far = await over_sockets()
        near[1].write(b"hello")
        assert await far[0].readexactly(5) == b"hello"
        raw = far[1].get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        far[1].transport.abort()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(near[0].read(), 30)
        result = await asyncio.wait_for(relay.wait(), 30)
        assert result.reason is EndReason.FAR_FAILED
        assert isinstance(result.error, ConnectionResetError)
        await finish(near, far)

    asyncio.run(body())


@pytest.mark.parametrize(
    ("leaver", "reason"), [("near", EndReason.NEAR_FAILED), ("far", EndReason.FAR_FAILED)], ids=["near", "far"]
)
def test_a_reset_behind_the_end_of_a_stream_is_heard_of_although_nobody_reads(leaver: str, reason: EndReason) -> None:
    """Neither side says anything more, so that no write could meet it: it was the idle time-out that ended such a relay."""

    async def body() -> None:
        relay, near, far = await over_sockets()
        leaving, staying = (near, far) if leaver == "near" else (far, near)
        leaving[1].write(b"all that I say")
        leaving[1].write_eof()
        assert await staying[0].read() == b"all that I say"
        raw = leaving[1].get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        leaving[1].transport.abort()
        result = await asyncio.wait_for(relay.wait(), 30)
        assert result.reason is reason and isinstance(result.error, OSError)
        await finish(near, far)
        assert not resets._hearings, "nothing is watched, and nothing kept to watch with"

    asyncio.run(body())


def test_nothing_more_is_written_to_a_socket_that_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    """What arrives in the same turn as the failure is dropped in silence: asyncio would complain of it on standard error."""

    async def body() -> None:
        relay, near, far = await over_sockets()
        raw = near[1].get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        sink = relay.near.transport
        assert sink is not None
        sink.pause_reading()  # so that the failure is met by writing
        near[1].transport.abort()
        await asyncio.sleep(0)
        for _ in range(20):
            relay.far.data_received(b"more")
        assert sink.is_closing()
        assert (await asyncio.wait_for(relay.wait(), 5)).reason is EndReason.NEAR_FAILED
        await finish(near, far)

    asyncio.run(body())
    assert [record.message for record in caplog.records] == []
