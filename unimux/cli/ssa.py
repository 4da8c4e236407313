"""Service addresses: mint one for a client, map an address back to its session, make a shared secret."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated

import typer

from unimux.cli.settings import Configuration
from unimux.errors import WrongUsage

app = typer.Typer(no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one object for programs.")]
ServiceArgument = Annotated[
    str, typer.Argument(help="Name of a service that `unimux publish` or `unimux run` has here.")
]


@app.callback()
def group() -> None:
    """Service addresses: mint one for a client, map an address back to its session, make a shared secret."""


@app.command()
def whois(
    address: Annotated[str, typer.Argument(help="The address to look up.")],
    state: Annotated[
        Path | None,
        typer.Option(help="The node's state folder; it may be in use by a running node.", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say which session an address belonged to: key epoch, counter and every row of the journal.

    Reads the folder and changes nothing, also while a node works with it.  Exit status 1: never an address of that node.
    """
    from unimux.audit import Audit

    audit = Audit(_folder(state))
    found = audit.whois(address)
    ours = found.origin is not None or bool(found.rows)
    if json:
        import msgspec

        origin = found.origin
        typer.echo(
            json_format.dumps(
                {
                    "address": found.address,
                    "ours": ours,
                    "epoch": None if origin is None else origin.epoch,
                    "counter": None if origin is None else origin.counter,
                    "generator": None if origin is None else origin.generator,
                    "rows": msgspec.to_builtins(found.rows),
                    "node_process": audit.holder,
                    "warnings": audit.warnings,
                }
            )
        )
    else:
        for warning in audit.warnings:
            typer.echo(f"unimux: {warning}", err=True)
        typer.echo(found.text() + ("" if "\n" in found.text() else "."))
    if not ours:
        raise typer.Exit(1)


def _folder(flag: Path | None) -> Path:
    """The state folder: the flag, else the setting `node.state`."""
    if flag is not None:
        return flag
    import msgspec

    from unimux.cli.settings import registered

    kind: type[msgspec.Struct] | None = registered().get("node")
    named = None if kind is None else getattr(Configuration.here().table("node", kind).value, "state", None)
    if named is None:
        raise WrongUsage(
            "Name the node's state folder: --state DIR, or `state` in the table [node] of the configuration."
        )
    return Path(named)


@app.command()
def new(
    service: ServiceArgument,
    client: Annotated[
        str | None, typer.Option(help="Address or prefix of the only client that may use it.", show_default="anybody")
    ] = None,
    lifetime: Annotated[float | None, typer.Option(help="Seconds it waits for its client.", show_default=False)] = None,
    sessions: Annotated[int | None, typer.Option(help="Sessions it serves.", show_default=False)] = None,
    token: Annotated[bool, typer.Option("--token", help="Print the token in place of a URL.")] = False,
    json: JsonOption = False,
) -> None:
    """Mint an SSA of a running service for a client, and print it.  It is armed when it is printed."""
    from unimux.control import ask_service
    from unimux.ssa.issue import check_terms, client_network

    client_network(client)
    check_terms(1 if sessions is None else sessions, lifetime)
    wanted = {"new": 1, "client": client, "lifetime": lifetime, "sessions": sessions}
    issued = ask_service(service, {key: value for key, value in wanted.items() if value is not None})["issued"]
    typer.echo(json_format.dumps(issued) if json else issued["token" if token else "url"])


@app.command("list")
def list_armed(
    service: ServiceArgument,
    json: JsonOption = False,
) -> None:
    """List the SSAs of a running service that can be connected to now: for whom and until when."""
    from unimux.control import ask_service

    answer = ask_service(service, {"list": True})
    if json:
        typer.echo(json_format.dumps(answer))
        return
    for each in answer["armed"]:
        seconds = "no end" if each["seconds"] is None else f"{each['seconds']:.0f} s left"
        whom = each["client"] or "anybody"
        what = "lease" if each["sessions"] is None else f"{each['sessions']} session(s)"
        typer.echo(f"{each['url']}  {what}, for {whom}, {seconds}{', in use' if each['taken'] else ''}")


@app.command()
def keygen(
    file: Annotated[Path, typer.Argument(help="File to write; it must not exist.")],
) -> None:
    """Make a secret for a client and a server to share (--secret-file): 256 random bits that only you can read."""
    from unimux.ssa.secretfile import write_secret

    write_secret(file)
    typer.echo(f"{file}: carry it to the other side over a channel you trust.", err=True)
