"""`unimux top`: the snapshot of a node, the socket that gives it, and the screen at two sizes."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from textual.widgets import DataTable, Static
from typer.testing import CliRunner

from tests.unit.unimux.lan import echo_server, lan, virtual
from unimux import status
from unimux.aio import open_connection
from unimux.cli import topview
from unimux.cli.topapp import TopApp
from unimux.errors import SetupError
from unimux.localsocket import LocalError, living
from unimux.status import Armed, Row, Snapshot, snapshot

ARMED = [
    Armed(
        address="2001:db8:1:0:aaaa::1",
        service="web",
        kind="service",
        mode="L2",
        client="2001:db8:2::c",
        sessions=None,
        lease="taken",
        seconds=12.0,
        half_open=1,
    ),
    Armed(
        address="2001:db8:1:0:aaaa::2",
        service=None,
        kind="service",
        mode="L1",
        client=None,
        sessions=1,
        lease=None,
        seconds=250.0,
        half_open=0,
    ),
]


def example(time: float = 10.0, frames: int = 1000, opened: int = 40) -> Snapshot:
    """A busy node."""
    rows = [
        Row(
            connection=n,
            local=f"2001:db8:1:0:1111:2222:3333:{n:x}",
            remote="2001:db8:2::80",
            remote_port=80,
            mode="L2" if n % 2 else "L1",
            state="ESTABLISHED",
            age=float(n),
            rtt=0.01 * n or None,
            sent=n * 1000,
            received=0,
        )
        for n in range(40)
    ]
    counters = {"frames_in": frames, "bytes_in": frames * 1000, "frames_out": 0, "bytes_out": 0, "drop.checksum": 7}
    return Snapshot(
        process=7,
        what="bridge lan",
        time=time,
        addresses={"UNCERTAIN": {"reserved": 16}, "PREFERRED": {"ephemeral": 40, "link-local": 1}},
        pool={
            "ready": 16,
            "pending": 3,
            "held": 40,
            "waiting": 0,
            "low": 16,
            "high": 32,
            "limit": 256,
            "ceiling": None,
            "refusal": None,
            "held_back_for": 12.0,
        },
        connections={"ESTABLISHED": 40},
        modes={"L1": 20, "L2": 20},
        half_open=1,
        armed=2,
        opened=opened,
        counters=counters,
        rows=rows,
        listening=ARMED,
    )


def test_a_snapshot_counts_what_there_is() -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            server = echo_server(bob)
            issued = [await server.issue() for _ in range(4)]
            streams = [await open_connection(alice, ssa.address, 80) for ssa in issued[:3]]
            for reader, writer in streams:
                writer.write(bytes(5000))
                await reader.readexactly(5000)
            await alice.ready(1)
            seen = snapshot(alice, "a test", rows=2)
            assert seen.what == "a test"
            assert seen.connections == {"ESTABLISHED": 3} and seen.modes == {"L1": 3}
            assert seen.addresses["PREFERRED"]["ephemeral"] == 3
            assert seen.addresses["UNCERTAIN"]["reserved"] == seen.pool["ready"] > 0
            assert [row.connection for row in seen.rows] == [3, 2]
            assert all(row.sent == row.received == 5000 and row.rtt is not None for row in seen.rows)
            other = snapshot(bob)
            assert (other.armed, other.addresses["PREFERRED"]["service"]) == (1, 4)
            assert "ESTABLISHED" in topview.as_text(seen) and "names: 0 queries" in topview.as_text(seen)
            bob.resolver.counters.queries, bob.resolver.counters.streams = 12, 1
            bob.resolver.counters.unusable.update(["truncated", "SERVFAIL", "SERVFAIL"])
            told = "names: 12 queries, 1 over TCP, answers not usable: 2 SERVFAIL, 1 truncated"
            assert told in topview.as_text(snapshot(bob))
            for _, writer in streams:
                writer.close()

    virtual(main())


def test_the_socket_answers_and_goes_with_the_node(tmp_path: Path) -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node()
            (tmp_path / "1.sock").touch()
            dead = socket.socket(socket.AF_UNIX)
            dead.bind(str(tmp_path / "2.sock"))
            dead.close()
            async with status.status_server(node, "one", tmp_path), status.status_server(node, "two", tmp_path):
                paths = await asyncio.to_thread(living, tmp_path)
                assert len(paths) == 2
                told = [await asyncio.to_thread(status.ask, path, 5) for path in paths]
                assert {each.what for each in told} == {"one", "two"}
                with pytest.raises(SetupError, match="Several nodes run"):
                    await asyncio.to_thread(status.choose, None, tmp_path)
                assert await asyncio.to_thread(status.choose, paths[0].stem, tmp_path) == paths[0]
                reader, writer = await asyncio.open_unix_connection(str(paths[0]))
                for wrong in (b"rubbish\n", b"{}\n", b'{"status": true, "rows": "x"}\n'):
                    writer.write(wrong)
                    assert b"error" in await reader.readline()
                writer.close()
            with pytest.raises(SetupError, match="No node runs"):
                await asyncio.to_thread(status.choose, None, tmp_path)
            with pytest.raises(LocalError, match="has ended"):
                await asyncio.to_thread(status.ask, paths[0])

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"rubbish", "no message"),
        (b"{}", "of another version"),
        (b'{"error": "32 programs are connected already"}', "32 programs are connected already"),
        (b'{"node": {"what": "\xff"}}', "no message"),
        (b'{"more": ' + b"[" * 100_000, "no message"),
    ],
    ids=["no JSON", "nothing of ours", "too many ask", "no text", "nested without end"],
)
def test_what_no_node_answers_is_no_snapshot(answer: bytes, said: str, tmp_path: Path) -> None:
    async def main() -> None:
        async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(answer + b"\n")
            writer.close()

        async with await asyncio.start_unix_server(reply, tmp_path / "1.sock"):
            with pytest.raises(LocalError, match=said):
                await asyncio.to_thread(status.ask, tmp_path / "1.sock")

    asyncio.run(main())


def test_what_another_user_answers_is_no_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with lan() as net, status.status_server(await net.node(), "one", tmp_path):
            (path,) = await asyncio.to_thread(living, tmp_path)
            monkeypatch.setattr("unimux.localsocket._peer", lambda connected: (1, 54_321))
            with pytest.raises(LocalError, match="another user's"):
                await asyncio.to_thread(status.ask, path)

    asyncio.run(main())


def test_rates_are_differences_by_time() -> None:
    before, now = example(10.0, 1000, 40), example(12.0, 3000, 44)
    told = topview.rates(before, now)
    assert (told["frames_in"], told["bytes_in"], told["connections"], told["drops"]) == (1000, 1e6, 2, 0)
    assert set(topview.rates(None, now).values()) == {0.0}


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50)])
def test_the_screen(width: int, height: int) -> None:
    looks = iter([example(10.0 + n, 1000 * n, 40 + n) for n in range(1000)])

    async def main() -> None:
        app = TopApp(lambda rows: next(looks), interval=3600)
        async with app.run_test(size=(width, height)) as pilot:
            await app.look()
            await pilot.pause()
            table = app.query_one(DataTable)
            assert table.row_count == 40
            assert "rtt" in [str(column.label) for column in table.columns.values()] or width == 80
            assert table.virtual_size.width <= width, "nothing is beyond the edge"
            assert "1.0k frames/s" in str(app.query_one("#rates", Static).content)
            assert all(app.query_one(f"#{name}").region.height >= 6 for name in ("addresses", "pool", "rates"))
            assert table.region.height >= 6
            assert table.get_cell_at((0, 2)) == "L1"  # type: ignore[arg-type]
            await pilot.press("s", "s")
            assert "by bytes" in str(app.query_one("#title", Static).content)
            assert str(table.get_cell_at((0, 0))).endswith(":27")  # type: ignore[arg-type]
            await pilot.press("a")
            await pilot.pause()
            assert table.row_count == 2
            assert "2 armed" in str(app.query_one("#title", Static).content)
            shown = [str(text) for text in table.get_row_at(0)]
            assert shown[0].endswith("aaaa::1") and shown[3:5] == ["lease", "12.0s"]
            assert shown[1].endswith("leased it"), "for whom"
            assert str(table.get_row_at(1)[1]) == "anybody"
            assert table.virtual_size.width <= width, "nothing is beyond the edge"
            await pilot.press("a")
            await pilot.pause()
            assert table.row_count == 40
            await pilot.press("d", "p")
            assert "7  checksum" in str(app.query_one("#drops", Static).content)
            assert "PAUSED" in str(app.query_one("#title", Static).content)
            told = str(app.query_one("#title", Static).content)
            await app.look()
            assert str(app.query_one("#title", Static).content) == told
            await pilot.resize_terminal(280 - width, 40)
            await pilot.pause()
            assert table.virtual_size.width <= 280 - width
            await pilot.press("q")

    asyncio.run(main())


def test_a_node_that_ends_is_one_sentence() -> None:
    async def main() -> None:
        def gone(rows: int) -> Snapshot:
            raise LocalError("The node behind /x has ended.")

        app = TopApp(gone, 3600)
        async with app.run_test(size=(80, 24)):
            pass
        assert str(app.failure) == "The node behind /x has ended."

    asyncio.run(main())


def test_no_node_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from unimux.cli.main import app

    monkeypatch.setattr(status, "folder", lambda: tmp_path)
    result = CliRunner().invoke(app, ["top"])
    assert isinstance(result.exception, SetupError)
    assert "unimux up" in str(result.exception)
