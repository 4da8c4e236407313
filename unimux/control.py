"""The control socket of a service: other processes of the same user ask a running node for SSAs (`unimux ssa new`).

Each published service has a socket named for it, `/run/unimux/services/NAME.sock` (below `XDG_RUNTIME_DIR` without
root).  Protocol, in JSON lines as `unimux.localsocket` says:

    → {"new": 1, "client": "2001:db8::/32", "lifetime": 300, "sessions": 1}      all but "new" may be missing
    ← {"issued": {"address": …, "url": …, "token": …, "sessions": …, "client": …, "seconds": …}}
    → {"list": true}
    ← {"service": …, "armed": [{…}, …]}
    ← {"error": "one sentence", "status": 2}      what a command that asked ends with, see `unimux.cli.exits`

`seconds` is how long the SSA still waits for its client, null for ever.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from .errors import UnimuxError, WrongUsage
from .localsocket import LocalServer, Message, Peer, ask_local, living, runtime_folder

SERVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
ASK_TIMEOUT = 35.0
_NO = 1
"""The exit status that the answer no has, where an error names none."""


class Offer(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What `unimux ssa new` may ask for; see `unimux.server.Server.issue`."""

    new: int
    client: str | None = None
    lifetime: float | None = None
    sessions: int | None = None


class Issuing(Protocol):
    """A published service, as far as its control socket needs it."""

    name: str

    async def issue_for(self, offer: Offer) -> Mapping[str, Any]:
        """Issue an SSA and describe it; raises `UnimuxError`."""

    def armed(self) -> list[Mapping[str, Any]]:
        """The SSAs that can be connected to now."""


def check_name(service: str) -> str:
    """The name of a service; raises `WrongUsage` for one that no socket file, token and label could carry."""
    if not SERVICE_NAME.fullmatch(service):
        raise WrongUsage(
            f"{service!r} cannot be the name of a service: use up to 63 letters, digits, dots, dashes, underscores."
        )
    return service


def folder() -> Path:
    """Where the control sockets of this user's services are."""
    return runtime_folder() / "services"


def service_socket(service: str) -> Path:
    """Where the control socket of a service is."""
    return folder() / f"{check_name(service)}.sock"


def clean_services() -> None:
    """Remove the control sockets that killed processes have left; those of running services stay."""
    living(folder())


def control_server(service: Issuing) -> LocalServer:
    """The control socket of a service, for `async with`; raises `SetupError` when the name is taken."""

    async def serve(peer: Peer) -> None:
        async for message in peer.messages():
            peer.send(await _answer(service, message))

    return LocalServer(service_socket(service.name), serve, f"The service name {service.name!r}")


async def _answer(service: Issuing, message: Message) -> Mapping[str, Any]:
    if "list" in message:
        return {"service": service.name, "armed": service.armed()}
    try:
        offer = msgspec.convert(message, Offer)
        return {"issued": await service.issue_for(offer)}
    except msgspec.ValidationError as error:
        return {"error": f"The request cannot be read: {error}.", "status": WrongUsage.exit_code}
    except UnimuxError as error:
        return {"error": str(error), "status": getattr(error, "exit_code", _NO)}


class RequestRefused(UnimuxError):
    """The running node refused a request; the message is its sentence, `exit_code` the status that its error has there."""

    def __init__(self, message: str, exit_code: object = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code if isinstance(exit_code, int) and 0 < exit_code < 128 else _NO


def ask_service(service: str, message: Mapping[str, Any]) -> Message:
    """Ask the process that publishes a service; raises `SetupError` when there is none, `RequestRefused`."""
    absent = (
        f"No service {service!r} runs on this machine: start it with "
        f"`unimux publish {service} --to HOST:PORT`, or a program that listens with `unimux run`."
    )
    answer = ask_local(service_socket(service), message, ASK_TIMEOUT, absent)
    if "error" in answer:
        raise RequestRefused(str(answer["error"]), answer.get("status"))
    return answer
