"""The kernel's side of a benchmark: small servers and clients on ordinary sockets, run inside a network namespace.

    python -I -S peer.py sink HOST PORT            takes connections and reads them to their end
    python -I -S peer.py source HOST PORT …        sends on every connection, for --seconds
    python -I -S peer.py echo HOST PORT            sends back what it gets; tells its processor time whenever asked by a line
    python -I -S peer.py web HOST PORT             answers every HTTP request with a page
    python -I -S peer.py requests HOST PORT …      makes connections: one byte each way, close
    python -I -S peer.py fetch HOST PORT …         makes connections: an HTTP request as curl's, its answer, close
    python -I -S peer.py send | receive | rtt …    one long connection
    python -I -S peer.py visit HOST PORT …         connects once to each address of its standard input
    python -I -S peer.py besiege HOST PORT …       holds --count connections to the --proxy in the way of --kind, until
                                                   its standard input ends

It speaks in lines of JSON on standard output, of which the first says that it is ready.  Times are of CLOCK_MONOTONIC, which all
processes of a machine share.  It imports nothing of this project and starts at once.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

PIECE = bytes(1 << 18)
BUFFER = 1 << 20
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n" + b"." * 1024
_lock = threading.Lock()


def say(**facts: object) -> None:
    """One line for whoever started this program."""
    with _lock:
        print(json.dumps(facts), flush=True)


def listener(host: str, port: int) -> socket.socket:
    """A listening socket; several processes may have one on the same port, and share what comes."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    sock.listen(4096)
    say(ready=True)
    return sock


def per_connection(sock: socket.socket, work: Callable[[socket.socket], None]) -> None:
    """`work` in a thread of its own for every connection."""
    while True:
        connection, _ = sock.accept()
        threading.Thread(target=work, args=(connection,), daemon=True).start()


def drain(connection: socket.socket) -> None:
    """Read to the end, and tell how much came between which times."""
    buffer = bytearray(BUFFER)
    total = 0
    first = last = time.monotonic()
    try:
        while count := connection.recv_into(buffer):
            last = time.monotonic()
            if not total:
                first = last
            total += count
    except OSError:
        pass
    connection.close()
    say(bytes=total, first=first, last=last)


def pour(connection: socket.socket, seconds: float) -> None:
    """Send for so long, then end the stream and wait for the other end's."""
    total = 0
    first = time.monotonic()
    try:
        while time.monotonic() - first < seconds:
            total += connection.send(PIECE)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
    except OSError:
        pass
    connection.close()
    say(sent=total, first=first, last=time.monotonic())


def echo(sock: socket.socket) -> None:
    """Send back what comes, on any number of connections."""
    serve(sock, lambda data: data)


def web(sock: socket.socket) -> None:
    """Answer every HTTP request with a page."""
    serve(sock, lambda data: PAGE if data.endswith(b"\r\n\r\n") else b"")


def serve(sock: socket.socket, reply: Callable[[bytes], bytes]) -> None:
    """Answer what comes, on any number of connections, until the standard input ends; asked there, tell the processor time."""
    sock.setblocking(False)
    chooser = selectors.EpollSelector()
    chooser.register(sock, selectors.EVENT_READ)
    chooser.register(0, selectors.EVENT_READ)
    while True:
        for key, _ in chooser.select():
            if key.fd == 0:
                if not os.read(0, 4096):
                    return
                say(cpu=time.process_time())
            elif key.fileobj is sock:
                _accept_all(sock, chooser)
            else:
                _answer(key.data, chooser, reply)


def _accept_all(sock: socket.socket, chooser: selectors.BaseSelector) -> None:
    while True:
        try:
            connection, _ = sock.accept()
        except BlockingIOError:
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        chooser.register(connection, selectors.EVENT_READ, connection)


def _answer(connection: socket.socket, chooser: selectors.BaseSelector, reply: Callable[[bytes], bytes]) -> None:
    try:
        data = connection.recv(65536)
        if data:
            connection.send(reply(data))
            return
    except BlockingIOError:
        return
    except OSError:
        pass
    chooser.unregister(connection)
    connection.close()


class Dialler:
    """Makes connections to one target, through a SOCKS5 proxy where one is given."""

    def __init__(self, host: str, port: int, proxy: int | None) -> None:
        self.host = host
        self.port = port
        self.proxy = proxy

    def __call__(self) -> socket.socket:
        """A connection; OSError when there is none."""
        sock = self.fresh()
        try:
            self.connect(sock)
        except OSError:
            sock.close()
            raise
        return sock

    def fresh(self) -> socket.socket:
        """A socket that is not connected yet."""
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def connect(self, sock: socket.socket) -> None:
        """Connect it to the target; OSError when that fails."""
        if self.proxy is None:
            sock.connect((self.host, self.port))
            return
        sock.connect(("::1", self.proxy))
        sock.sendall(b"\5\1\0")  # one method: no authentication
        _exactly(sock, 2)
        sock.sendall(b"\5\1\0\4" + socket.inet_pton(socket.AF_INET6, self.host) + self.port.to_bytes(2, "big"))
        reply = _exactly(sock, 4)
        if reply[1]:
            raise OSError(f"the front end answered {reply[1]}")
        _exactly(sock, {1: 4, 4: 16}[reply[3]] + 2)


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += _some(sock, count - len(data))
    return data


def _some(sock: socket.socket, most: int = 65536) -> bytes:
    data = sock.recv(most)
    if not data:
        raise OSError("the stream ended early")
    return data


Talk = Callable[[socket.socket], None]
"""What a client says on a connection, until it has what it wants; OSError where it does not get it."""


def one_byte(sock: socket.socket) -> None:
    """One byte each way."""
    sock.sendall(b"x")
    _exactly(sock, 1)


def to_the_end(sock: socket.socket) -> None:
    """One byte each way; the connection is over on both sides before the next begins."""
    one_byte(sock)
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1)


def fetching(host: str, port: int) -> Talk:
    """An HTTP request, word for word as curl's, and the whole of its answer."""
    request = f"GET / HTTP/1.1\r\nHost: [{host}]:{port}\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n".encode()

    def fetch(sock: socket.socket) -> None:
        sock.sendall(request)
        said = b""
        while not (end := said.find(b"\r\n\r\n") + 4) > 3:
            said += _some(sock)
        status, *fields = said[:end].lower().split(b"\r\n")
        if status.split()[1:2] != [b"200"]:
            raise OSError(f"the server answered {status.decode(errors='replace')}")
        length = next((int(field[15:]) for field in fields if field.startswith(b"content-length:")), None)
        if length is None:
            raise OSError("the answer does not say how long it is")
        _exactly(sock, length - (len(said) - end))

    return fetch


def requests(dial: Dialler, count: int, parallel: int, talk: Talk) -> None:
    """`count` connections with one exchange each; tells how long all took, and the times that connect() took.

    Those at the same time are made by processes, as many clients are, since threads of one would wait for each other.
    """
    began = time.monotonic()
    shares = [count // parallel + (number < count % parallel) for number in range(parallel)]
    pipes = [_in_child(dial, share, talk) for share in shares[1:]]
    outcomes = [_requests(dial, shares[0], talk)]
    for pipe in pipes:
        with os.fdopen(pipe, "rb") as file:
            outcomes.append(json.loads(file.read()))
    seconds = time.monotonic() - began
    times = sorted(value for outcome in outcomes for value in outcome["times"])
    why = [text for outcome in outcomes for text in outcome["why"]]
    done = sum(outcome["done"] for outcome in outcomes)
    say(done=done, failed=len(why), why=why[:1], seconds=seconds, times=times)


def _in_child(dial: Dialler, count: int, talk: Talk) -> int:
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        return reading
    try:
        with os.fdopen(writing, "w") as file:
            json.dump(_requests(dial, count, talk), file)
    finally:
        os._exit(0)


def _requests(dial: Dialler, count: int, talk: Talk) -> dict[str, Any]:
    times: list[float] = []
    failures: list[str] = []
    done = 0
    for _ in range(count):
        try:
            with dial.fresh() as sock:
                began = time.perf_counter()
                dial.connect(sock)
                times.append(time.perf_counter() - began)
                talk(sock)
            done += 1
        except OSError as error:
            failures.append(str(error))
    return {"times": times, "why": failures, "done": done}


def rtt(dial: Dialler, count: int) -> None:
    """The times of `count` bytes, there and back on one connection."""
    sock = dial()
    times = []
    for _ in range(count):
        began = time.perf_counter()
        sock.sendall(b"x")
        _exactly(sock, 1)
        times.append(time.perf_counter() - began)
    sock.close()
    say(done=count, times=sorted(times))


def visit(port: int, parallel: int) -> None:
    """Connect once to each address (16 bytes) of standard input, one byte each way, close; `parallel` are told at a time.

    It must not be the client that is measured: one that is told one address at a time blocks, which takes the fewest calls
    and wake-ups; one that is told several serves all that have news with one.
    """
    say(ready=True)
    began = time.process_time()
    done, failed = _visit_each(port) if parallel == 1 else _visit_all(port)
    say(done=done, failed=failed, cpu=time.process_time() - began)


def _visit_each(port: int) -> tuple[int, int]:
    done = failed = 0
    while packed := os.read(0, 16):
        try:
            with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
                sock.connect((socket.inet_ntop(socket.AF_INET6, packed), port))
                sock.send(b"x")
                answered = sock.recv(16)
        except OSError:
            answered = b""
        if answered:
            done += 1
        else:
            failed += 1
    return done, failed


def _visit_all(port: int) -> tuple[int, int]:
    chooser = select.epoll()
    chooser.register(0, select.EPOLLIN)
    pending, done, failed = b"", 0, 0
    open_: dict[int, socket.socket] = {}
    ended = False
    while not ended or open_:
        for number, events in chooser.poll():
            if number == 0:
                data = os.read(0, 65536)
                if not data:
                    ended = True
                    chooser.unregister(0)
                pending += data
                while len(pending) >= 16:
                    packed, pending = pending[:16], pending[16:]
                    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                    sock.connect_ex((socket.inet_ntop(socket.AF_INET6, packed), port))
                    chooser.register(sock, select.EPOLLOUT)
                    open_[sock.fileno()] = sock
                continue
            sock = open_[number]
            try:
                if events & select.EPOLLOUT:
                    sock.send(b"x")
                    chooser.modify(sock, select.EPOLLIN)
                    continue
                answered = sock.recv(16)
            except OSError:
                answered = b""
            if answered:
                done += 1
            else:
                failed += 1
            del open_[number]
            sock.close()
    return done, failed


HALF_REQUESTS = (b"", b"\5", b"\5\1", b"\5\1\0\5\1\0\4", b"CONNECT host", b"\4\1\0", b"\x16\3\1\2\0", b"\xff" * 4096)
"""What somebody says to a proxy who means no good: nothing, the beginning of a request, garbage."""


def besiege(dial: Dialler, count: int, kind: str) -> None:
    """half: begin a request and stop.  idle: connect through the proxy, and be still.  deaf: the same, and never read."""
    held: list[socket.socket] = []
    failed = 0
    for number in range(count):
        try:
            if kind == "half":
                sock = socket.create_connection(("::1", dial.proxy))
                sock.sendall(HALF_REQUESTS[number % len(HALF_REQUESTS)])
            else:
                sock = dial()
            held.append(sock)
        except OSError:
            failed += 1
    say(held=len(held), failed=failed)
    while os.read(0, 4096):
        pass


def _allow_files() -> None:
    """As many descriptors as this process may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(arguments: list[str]) -> None:
    """Play one role."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--to-the-end", action="store_true")
    parser.add_argument("--proxy", type=int)
    parser.add_argument("--kind", choices=("half", "idle", "deaf"), default="idle")
    given = parser.parse_args(arguments)
    _allow_files()
    host, port = given.host, given.port
    dial = Dialler(host, port, given.proxy)
    match given.role:
        case "sink":
            per_connection(listener(host, port), drain)
        case "source":
            per_connection(listener(host, port), lambda connection: pour(connection, given.seconds))
        case "echo":
            echo(listener(host, port))
        case "web":
            web(listener(host, port))
        case "requests":
            requests(dial, given.count, given.parallel, to_the_end if given.to_the_end else one_byte)
        case "fetch":
            requests(dial, given.count, given.parallel, fetching(host, port))
        case "rtt":
            rtt(dial, given.count)
        case "send":
            pour(dial(), given.seconds)
        case "receive":
            drain(dial())
        case "visit":
            visit(port, given.parallel)
        case "besiege":
            besiege(dial, given.count, given.kind)
        case other:
            sys.exit(f"no such role: {other}")


if __name__ == "__main__":
    main(sys.argv[1:])
