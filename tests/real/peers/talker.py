"""What a legacy peer does: answers every byte with its complement, and calls whom it is told to.

It runs as a program of its own and imports nothing of the project.  Each line of its standard input is a JSON object:

    {"call": NUMBER, "to": [{"host": …, "port": …, "source": …, "seed": …}, …], "size": …}
                     connect to each, from port `source` unless it is null; then, over all at once, say so many bytes, read as
                     many, close
    {"stop": true}

and so is each line of its output: {"ready": …}, {"call": NUMBER, "answers": [{"digest": SHA-256, …} or {"error": …}, …]}.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

PORT = 8080
COMPLEMENT = bytes(255 - value for value in range(256))


class Sock(Protocol):
    """As much of a stream socket as is needed."""

    def recv(self, size: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> object: ...
    def shutdown(self, how: int, /) -> object: ...
    def close(self) -> object: ...


class Sockets(Protocol):
    """Where sockets come from."""

    def listen(self, port: int) -> Callable[[], Sock]:
        """Listen; the function that is returned waits for the next connection."""
        ...

    def connect(self, host: str, port: int, source: int | None) -> Sock: ...


_SHUT_WR = 1
_writing = threading.Lock()


def say(**what: Any) -> None:
    """One line for whoever started this."""
    with _writing:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()


def answer(sock: Sock) -> None:
    """The server's side of one connection."""
    try:
        while data := sock.recv(65536):
            sock.sendall(data.translate(COMPLEMENT))
    except OSError:
        pass
    sock.close()


def call(sockets: Sockets, number: int, to: list[dict[str, Any]], size: int) -> None:
    """The client's side of some connections, all of which stand before the first byte."""
    try:
        socks = [sockets.connect(each["host"], each["port"], each["source"]) for each in to]
    except OSError as error:
        say(call=number, answers=[{"error": str(error)}])
        return
    answers: list[dict[str, Any]] = [{} for _ in to]

    def one(index: int) -> None:
        try:
            answers[index] = converse(socks[index], Random(to[index]["seed"]).randbytes(size))
        except OSError as error:
            answers[index] = {"error": str(error)}

    talks = [threading.Thread(target=one, args=(index,)) for index in range(len(to))]
    for talk in talks:
        talk.start()
    for talk in talks:
        talk.join()
    say(call=number, answers=answers)


def converse(sock: Sock, request: bytes) -> dict[str, Any]:
    """Say a request while the answer is read; the answer's digest, the bytes that it lacks, and those that are too many."""
    digest, left = hashlib.sha256(), len(request)
    speaking = threading.Thread(target=sock.sendall, args=(request,))
    speaking.start()
    while left and (data := sock.recv(65536)):
        digest.update(data)
        left -= len(data)
    speaking.join()
    sock.shutdown(_SHUT_WR)
    rest = sock.recv(1)
    sock.close()
    return {"digest": digest.hexdigest(), "missing": left, "rest": len(rest)}


def run(sockets: Sockets, who: str, more: Callable[[dict[str, Any]], None]) -> None:
    """Serve, and do what the lines say, until told to stop.  more: gets objects of other kinds."""
    accept = sockets.listen(PORT)

    def serve() -> None:
        while True:
            threading.Thread(target=answer, args=(accept(),), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    say(ready=who)
    for line in sys.stdin:
        order = json.loads(line)
        if "stop" in order:
            return
        if "call" in order:
            arguments = (sockets, order["call"], order["to"], order["size"])
            threading.Thread(target=call, args=arguments, daemon=True).start()
        else:
            more(order)
