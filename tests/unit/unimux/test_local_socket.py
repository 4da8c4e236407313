"""Local sockets and the agents behind them: whose they are, and what a node does that cannot keep account of an address."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import socket
import threading
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.openfiles import no_file_left
from tests.unit.unimux.lan import lan, virtual
from unimux import localsocket
from unimux.control import ask_service, control_server
from unimux.das import AgentCaller, DasRequired
from unimux.dasocket import AgentSocket
from unimux.errors import SetupError
from unimux.localsocket import LocalError, LocalServer, Peer, ask_local, bind_local, living, runtime_folder
from unimux.node import Node
from unimux.state import StateError

STRANGER = 3_999_998


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ordinary user without a folder of the session's; the folder that is used in its place."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    user = STRANGER + 1
    monkeypatch.setattr(os, "geteuid", lambda: user)
    return Path(f"/tmp/unimux-{user}")


def test_a_folder_that_somebody_else_has_made_is_not_used(nobody: Path, tmp_path: Path) -> None:
    assert runtime_folder() == nobody / "unimux"
    try:
        nobody.mkdir(0o700)
        with pytest.raises(SetupError, match="made by somebody else"):
            runtime_folder()
        if os.getuid() == 0:  # who can make a folder in that user's name
            os.chown(nobody, STRANGER + 1, -1)
            assert runtime_folder() == nobody / "unimux"
            nobody.chmod(0o777)
            with pytest.raises(SetupError, match="made by somebody else"):
                runtime_folder()
    finally:
        nobody.rmdir()
    try:
        nobody.symlink_to(tmp_path)
        with pytest.raises(SetupError, match="made by somebody else"):
            runtime_folder()
    finally:
        nobody.unlink()


def test_what_another_user_answers_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "service.sock"
    heard: list[bytes] = []

    def serve(listening: socket.socket) -> None:
        for _ in range(2):
            connected, _ = listening.accept()
            with connected:
                heard.append(connected.recv(100))
                if heard[-1]:
                    connected.sendall(b'{"issued": "2001:db8::bad"}\n')

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()
        serving = threading.Thread(target=serve, args=(listening,))
        serving.start()
        assert ask_local(path, {"new": 1}, 5.0, "nobody")["issued"]
        with monkeypatch.context() as patch:
            patch.setattr("unimux.localsocket._peer", lambda connected: (1, STRANGER))
            with pytest.raises(LocalError, match="another user's"):
                ask_local(path, {"new": 1}, 5.0, "nobody")
        serving.join(30)
    assert heard[1] == b"", "nor told anything"


NO_MESSAGES = [b"nonsense", b"[1]", b"[" * 16000, b'{"a":' * 3000, b'{"a":"\xff"}', b'{"\xff":1}']


def test_what_is_no_message_is_told_and_the_peer_stays_connected(tmp_path: Path) -> None:
    async def serve(peer: Peer) -> None:
        async for message in peer.messages():
            peer.send({"heard": message})

    async def main() -> None:
        async with LocalServer(tmp_path / "socket", serve, "this"):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
            for line in NO_MESSAGES:
                writer.write(line + b"\n")
                assert set(json.loads(await reader.readline())) == {"error"}
            writer.write(b"{}\n")
            assert json.loads(await reader.readline()) == {"heard": {}}
            writer.close()

    asyncio.run(main())


def test_who_comes_when_no_file_is_left_waits_and_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(localsocket, "ACCEPT_PAUSE", 0.01)

    async def serve(peer: Peer) -> None:
        async for message in peer.messages():
            peer.send({"heard": message})

    async def main() -> None:
        told: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: told.append(context))
        async with LocalServer(tmp_path / "socket", serve, "this"):
            waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(3)]
            with no_file_left():
                for each in waiting:
                    each.connect(str(tmp_path / "socket"))
                    each.sendall(b"{}\n")
                    each.setblocking(False)
                await asyncio.sleep(0.1)
            for each in waiting:
                assert json.loads(await loop.sock_recv(each, 100)) == {"heard": {}}
                each.close()
            with no_file_left():
                with socket.socket(fileno=sparing.pop()) as last:
                    last.connect(str(tmp_path / "socket"))
                await asyncio.sleep(0.1)  # the pause is under way as it ends
        assert not told

    sparing = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).detach()]
    asyncio.run(main())


@pytest.mark.parametrize("line", [*NO_MESSAGES, None], ids=lambda line: line and line[:8])
def test_an_answer_that_is_no_message_is_a_sentence(tmp_path: Path, line: bytes | None) -> None:
    def answer() -> None:
        connected, _ = listening.accept()
        with connected:
            connected.recv(100)
            connected.sendall(b'{"cut o' if line is None else line + b"\n")

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        answering = threading.Thread(target=answer)
        answering.start()
        said = "ended before it answered" if line is None else "answered what is no message"
        with pytest.raises(LocalError, match=said):
            ask_local(tmp_path / "socket", {}, 5.0, "nobody")
        answering.join()


@pytest.mark.parametrize("armed", [10, 400])
def test_a_service_may_have_many_addresses_armed(
    armed: int, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    short = tmp_path_factory.mktemp("run")  # a folder with the test's name is too long for a socket's path
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("unimux.localsocket._peer", lambda connected: (1, 1000))

    class Shop:
        name = "shop"

        async def issue_for(self, offer: object) -> Mapping[str, Any]:
            raise AssertionError("nothing is issued")

        def armed(self) -> list[Mapping[str, Any]]:
            url = "unimux://[2001:db8:1:2:3:4:5:6]:8080/shop?until=2026-01-01T00:00:00Z&sessions=1"
            each: Mapping[str, Any] = {"address": "2001:db8:1:2:3:4:5:6", "url": url, "token": url, "seconds": 299.9}
            return armed * [each]

    async def main() -> None:
        async with control_server(Shop()):
            answer = await asyncio.to_thread(ask_service, "shop", {"list": True})
            assert len(answer["armed"]) == armed

    asyncio.run(main())


def test_what_the_dead_have_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """Also not what is bound and not listened at yet, since who binds has the folder for itself meanwhile."""
    tmp_path.chmod(0o700)
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "dead.sock"))
    dead.close()
    (tmp_path / "file.sock").touch()
    (tmp_path / "link.sock").symlink_to(tmp_path / "nowhere")
    found: list[Path] = []
    looking = threading.Thread(target=lambda: found.extend(living(tmp_path)))
    with bind_local(tmp_path / "living.sock", "this"), socket.socket(socket.AF_UNIX) as young:
        with localsocket._alone(tmp_path):
            young.bind(str(tmp_path / "young.sock"))
            looking.start()
            looking.join(0.2)
            young.listen()
        looking.join()
        assert found == [tmp_path / "living.sock", tmp_path / "young.sock"]
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {"living.sock", "young.sock", "file.sock", "link.sock"}


def test_who_is_behind_with_those_that_come_is_not_dead(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "behind.sock"
    with bind_local(path, "this"), ExitStack() as stack:
        codes = []
        for _ in range(2 * localsocket.MAX_PEERS):
            each = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            each.setblocking(False)
            codes.append(each.connect_ex(str(path)))
        assert codes[0] == 0 and codes[-1] == errno.EAGAIN
        assert living(tmp_path) == [path]
        with pytest.raises(SetupError, match="this is taken: stop that one"):
            bind_local(path, "this")
        assert path.is_socket()


def test_who_came_as_the_server_ends_is_disconnected(tmp_path: Path) -> None:
    async def main() -> None:
        server = LocalServer(tmp_path / "socket", lambda peer: asyncio.sleep(60), "this")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            async with server:
                last.connect(str(tmp_path / "socket"))
                assert server._listening is not None
                server._accept(server._listening)
            assert last.recv(1) == b""

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main())


def test_a_folder_that_others_can_open_is_never_locked(tmp_path: Path) -> None:
    """Whoever can read it could hold the lock, and the node up."""
    tmp_path.chmod(0o755)
    held = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        bind_local(tmp_path / "here.sock", "this").close()
    finally:
        os.close(held)


def test_a_folder_that_there_is_not_has_no_sockets(tmp_path: Path) -> None:
    assert living(tmp_path / "nowhere") == []


class FullDisk:
    """Lets a node's claims fail."""

    def __init__(self, node: Node) -> None:
        def claim(address: bytes) -> None:
            raise StateError("the state cannot be written: No space left on device")

        node.source.state.claim = claim  # type: ignore[method-assign]


@pytest.mark.proves("UM-DAS-3", by="api")
def test_an_address_that_cannot_be_accounted_for_is_an_error_at_once() -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node()
            FullDisk(node)
            das = DasRequired(node.pool, node.events)

            async def agent(want: object) -> str:
                return "2001:db8:1::77"

            das.on_need = AgentCaller(das, agent, node.now, node.driver.kick)
            with pytest.raises(StateError, match="No space left"):
                await node.create_connection(asyncio.Protocol, "2001:db8:1::5", 80, timeout=20, das=das)
            assert node.now() < 15

    virtual(main())


@pytest.mark.proves("UM-DAS-3", by="api")
def test_an_agent_at_the_socket_stays_connected_though_the_disk_is_full(tmp_path: Path) -> None:
    async def main() -> None:
        async with lan(latency=0.0001) as net:
            node = await net.node()
            FullDisk(node)
            async with AgentSocket(node, tmp_path / "agent.sock"):
                reader, writer = await asyncio.open_unix_connection(tmp_path / "agent.sock")
                assert "prefixes" in json.loads(await reader.readline())
                asking = asyncio.ensure_future(
                    node.create_connection(asyncio.Protocol, "2001:db8:1::5", 80, timeout=20)
                )
                wanted = json.loads(await reader.readline())["wanted"]
                writer.write(json.dumps({"set": wanted, "address": "2001:db8:1::77"}).encode() + b"\n")
                with pytest.raises(StateError, match="No space left"):
                    async with asyncio.timeout(10):
                        await asking
                assert json.loads(await reader.readline())["closed"] == wanted
                writer.close()

    asyncio.run(main())
