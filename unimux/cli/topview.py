"""The figures of `unimux top` as texts: what is shown, apart from where on the screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unimux.status import Armed, Row, Snapshot

STATES = ("TENTATIVE", "UNCERTAIN", "OPTIMISTIC", "PREFERRED", "DEPRECATED", "DUPLICATED", "INVALID")
KINDS = ("reserved", "ephemeral", "service", "stable", "link-local")
SORTS: dict[str, Callable[[Row], float | str]] = {
    "youngest": lambda row: row.age,
    "oldest": lambda row: -row.age,
    "bytes": lambda row: -(row.sent + row.received),
    "state": lambda row: row.state,
    "mode": lambda row: row.mode,
}
HEADINGS = ("address", "peer", "mode", "state", "age", "rtt", "sent", "rcvd")
ARMED_HEADINGS = ("armed", "for", "mode", "sessions", "until", "opening", "service")


def amount(value: float) -> str:
    """A number in at most five characters.

    >>> [amount(n) for n in (0, 999, 1000, 12_345, 9_950_000, 3.2e12)]
    ['0', '999', '1.0k', '12.3k', '9.9M', '3.2T']
    """
    if value < 1000:
        return f"{value:.0f}"
    for unit in "kMGT":
        value /= 1000
        if value < 1000:
            return f"{value:.0f}{unit}" if value >= 100 else f"{int(value * 10) / 10:.1f}{unit}"
    return f"{value:.0f}P"


def duration(seconds: float) -> str:
    """A time in at most six characters, up to 99 days.

    >>> [duration(s) for s in (0.00042, 0.0123, 1.26, 75, 7300, 200_000)]
    ['0.42ms', '12.3ms', '1.3s', '1m15s', '2h01m', '2d07h']
    """
    if seconds < 0.0995:
        return f"{seconds * 1000:.2f}ms" if seconds < 0.001 else f"{seconds * 1000:.1f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    if seconds < 3600:
        return f"{int(seconds // 60)}m{int(seconds % 60):02}s"
    if seconds < 86400:
        return f"{int(seconds // 3600)}h{int(seconds % 3600 // 60):02}m"
    return f"{int(seconds // 86400)}d{int(seconds % 86400 // 3600):02}h"


def end_of(text: str, width: int) -> str:
    """The end of a text, which is where one-time addresses differ.

    >>> end_of("2001:db8::1:2:3:4", 9), end_of("fe80::1", 9)
    ('…:1:2:3:4', 'fe80::1')
    """
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def address_lines(now: Snapshot) -> list[str]:
    """One line per state that there is, with the kinds behind the count."""
    lines = []
    for state in sorted(now.addresses, key=lambda s: STATES.index(s) if s in STATES else len(STATES)):
        kinds = now.addresses[state]
        words = " ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kind in kinds)
        lines.append(f"{state:<10} {sum(kinds.values()):>4} {words}")
    return lines


def pool_lines(now: Snapshot) -> list[str]:
    """The pool's figures."""
    pool = now.pool
    ceiling = "unbounded" if pool["ceiling"] is None else f"{pool['ceiling']:.1f}/s"
    lines = [
        f"ready    {pool['ready']:>5}  of {pool['low']}–{pool['high']}",
        f"in DAD   {pool['pending']:>5}  in use {pool['held']}",
        f"waiting  {pool['waiting']:>5}  limit {pool['limit']}",
        f"ceiling  {ceiling}",
    ]
    if pool.get("refusal"):
        lines.append(f"the link refuses more: {pool['refusal']}")
    if pool["held_back_for"] > 0:
        lines.append(f"held back for {pool['held_back_for']:.0f} s")
    return lines


def connection_lines(now: Snapshot) -> list[str]:
    """PCBs by state, and by mode."""
    modes = " ".join(f"{mode} {count}" for mode, count in sorted(now.modes.items())) or "none"
    states = [f"{state:<12} {count:>5}" for state, count in sorted(now.connections.items(), key=lambda each: -each[1])]
    return [f"modes {modes}", f"armed SSAs {now.armed}  half-open {now.half_open}", *states]


def rates(before: Snapshot | None, now: Snapshot) -> dict[str, float]:
    """Per second since `before`: frames and bytes each way, connections, drops; zeros without it."""
    names = ("frames_in", "bytes_in", "frames_out", "bytes_out")
    if before is None or now.time <= before.time or before.process != now.process:
        return dict.fromkeys((*names, "connections", "drops"), 0.0)
    seconds = now.time - before.time
    told = {name: (now.counters.get(name, 0) - before.counters.get(name, 0)) / seconds for name in names}
    told["connections"] = max(0, now.opened - before.opened) / seconds
    told["drops"] = (sum(drops(now).values()) - sum(drops(before).values())) / seconds
    return told


def rate_lines(per_second: dict[str, float]) -> list[str]:
    """The rates in words."""
    return [
        f"in   {amount(per_second['bytes_in'] * 8):>5}bit/s {amount(per_second['frames_in']):>5} frames/s",
        f"out  {amount(per_second['bytes_out'] * 8):>5}bit/s {amount(per_second['frames_out']):>5} frames/s",
        f"connections {per_second['connections']:.1f}/s",
        f"drops       {per_second['drops']:.1f}/s",
    ]


def drops(now: Snapshot) -> dict[str, int]:
    """Dropped packets by reason, most first."""
    found = {name.removeprefix("drop."): n for name, n in now.counters.items() if name.startswith("drop.") and n}
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def drop_text(now: Snapshot) -> str:
    """The drops in one line."""
    return ", ".join(f"{name} {amount(n)}" for name, n in drops(now).items()) or "none"


def name_text(now: Snapshot) -> str:
    """What name servers were asked, and how often in vain, in one line."""
    asked, streams = now.names.get("queries", 0), now.names.get("streams", 0)
    why = {name.removeprefix("unusable."): n for name, n in now.names.items() if name.startswith("unusable.")}
    parts = [f"{amount(asked)} queries", *([f"{amount(streams)} over TCP"] if streams else [])]
    if why:
        parts.append("answers not usable: " + ", ".join(f"{amount(n)} {reason}" for reason, n in sorted(why.items())))
    return ", ".join(parts)


def cells(row: Row, address_width: int) -> tuple[str, ...]:
    """A connection under `HEADINGS`."""
    return (
        end_of(row.local, address_width),
        end_of(f"[{row.remote}]:{row.remote_port}", address_width),
        row.mode,
        row.state,
        duration(row.age),
        "" if row.rtt is None else duration(row.rtt),
        amount(row.sent),
        amount(row.received),
    )


def whom(armed: Armed) -> str:
    """For whom an address is armed."""
    if armed.lease == "taken":
        return f"{armed.client}, who leased it"
    return armed.client or "anybody"


def armed_cells(armed: Armed, address_width: int) -> tuple[str, ...]:
    """An armed address under `ARMED_HEADINGS`: which, for whom, for how many sessions, for how long."""
    sessions = "lease" if armed.lease else "any" if armed.sessions is None else str(armed.sessions)
    return (
        end_of(armed.address, address_width),
        end_of(whom(armed), address_width),
        armed.mode,
        sessions,
        "no end" if armed.seconds is None else duration(armed.seconds),
        str(armed.half_open),
        armed.service or "",
    )


def ordered(rows: Sequence[Row], sort: str) -> list[Row]:
    """The rows as one of `SORTS` wants them."""
    return sorted(rows, key=SORTS[sort])


def as_text(now: Snapshot) -> str:
    """Everything once, for a pipe."""
    parts = [f"node {now.process} {now.what}", "", "addresses", *address_lines(now), "", "pool", *pool_lines(now), ""]
    parts += ["connections", *connection_lines(now), "", f"drops: {drop_text(now)}"]
    parts += [f"names: {name_text(now)}", ""]
    parts += ["  ".join(cells(row, 45)) for row in now.rows]
    if now.listening:
        lines = [ARMED_HEADINGS, *(armed_cells(each, 60) for each in now.listening)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        parts.append("")
        parts += ["  ".join(text.ljust(n) for text, n in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join(parts).rstrip()
