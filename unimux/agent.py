"""An agent outside the stack that sets addresses, over a local socket; this command is the example."""

from __future__ import annotations

import json as json_format
import secrets
import socket
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import SetupError


class AgentGone(SetupError):
    """The node's socket is not there, or has gone."""


def serve_needs(path: Path, choose: Callable[[dict[str, Any]], str | None], say: Callable[[str], None]) -> None:
    """Connect to a node and answer its needs with `choose(need)`, an address or None for none, until the node goes.

    What is wanted before the node has a prefix is answered when it has one.
    Whatever language an agent is written in, this is all it does; see `unimux.dasocket` for the messages.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as node:
        try:
            node.connect(str(path))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise AgentGone(
                f"No node waits for an agent at {path} ({reason}): start one with das_agent = {str(path)!r}."
            ) from None
        prefixes: list[str] = []
        early: dict[int, dict[str, Any]] = {}

        def answer(number: int, need: dict[str, Any]) -> None:
            address = choose({**need, "prefixes": prefixes})
            told = (
                {"refuse": number, "reason": "no address"} if address is None else {"set": number, "address": address}
            )
            node.sendall(json_format.dumps(told).encode() + b"\n")
            say(f"need {number}: {address or 'none'}")

        for line in node.makefile("rb"):
            message = json_format.loads(line)
            if "prefixes" in message:
                prefixes = message["prefixes"]
                say(f"agent for the prefixes {', '.join(prefixes) or '(none yet)'}")
                while prefixes and early:
                    answer(*early.popitem())
            elif "wanted" in message and not prefixes:
                early[message["wanted"]] = message
            elif "wanted" in message:
                answer(message["wanted"], message)
            elif "refused" in message:
                say(f"need {message['refused']}: {message['address']} was refused: {message['reason']}")
                answer(message["refused"], message)
            elif "closed" in message:
                early.pop(message["closed"], None)
                say(f"need {message['closed']}: {message['outcome']}")
            elif "error" in message:
                say(f"the node says: {message['error']}")


def random_address(need: dict[str, Any]) -> str | None:
    """A random address in the first prefix of the node; the example's whole policy."""
    if not need["prefixes"]:
        return None
    network = IPv6Network(need["prefixes"][0])
    host_bits = 128 - network.prefixlen
    return str(IPv6Address(int(network.network_address) | secrets.randbits(min(64, host_bits))))


def das_agent(
    path: Annotated[Path, typer.Argument(metavar="SOCKET", help="The node's agent socket: setting `node.das_agent`.")],
    json: Annotated[bool, typer.Option("--json", help="Print one object per line.")] = False,
) -> None:
    """Set addresses for a node that waits for an agent: a random one for each need.  Ends with the node.

    An example to start from: your own agent speaks the same JSON lines, in any language.
    """

    def say(text: str) -> None:
        typer.echo(json_format.dumps({"said": text}) if json else text)

    serve_needs(path, random_address, say)
