"""docs/one-machine.md typed as it stands, in a namespace of its own: each command prints what the page shows.

Addresses and ports are others each time.  Those of the page stand for those that come, and where a later command names one
of them, the one that came is typed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.plugins.real import SYSTEM_PATH

PAGE = Path(__file__).parents[2] / "docs" / "one-machine.md"
PATIENCE = 40.0
"""Seconds for one command and what it shows."""
SHELL = 'exec 9<&0 </dev/null; while IFS= read -r line <&9; do eval "$line"; echo "::end"; done'
"""Commands one after another, none of which can read the next."""
ONE_TIME = r"2001:db8:7[789a]:0:[0-9a-f:]*[0-9a-f]"
_CHANGING = (
    (r"\\\[21/Nov/2026\\ ", r"\\[\\d\\d/\\w{3}/\\d{4} "),
    (r"\d\d:\d\d:\d\d", r"\\d\\d:\\d\\d:\\d\\d"),
    (r"2026\\-11\\-21", r"\\d{4}-\\d\\d-\\d\\d"),
    (r"(?<= )\d{5}(?=\\ )", r"\\d+"),
    (r"\d+(?=\\ (milliseconds|bytes|out\\.|clients,|requests,|failed,|down\\.))", r"\\d+"),
    (r"time\\ 0ms", r"time \\d+ms"),
)
"""What a page shows of the moment when it was written, and what may stand there, both in a pattern."""


def steps() -> list[tuple[str, list[str]]]:
    """The page's commands behind `#`, each with the lines that it shows; "…" stands for those left out."""
    found = []
    for block in re.findall(r"```console\n(# .*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        for part in re.split(r"^# ", block, flags=re.MULTILINE)[1:]:
            command, *lines = part.rstrip("\n").split("\n")
            found.append((command, [line for line in lines if line != "…"]))
    return found


def pattern(line: str, known: dict[str, str]) -> tuple[str, list[str]]:
    """A line of the page as a pattern, with a group for each address of the page that has not come yet, and these."""
    parts, new = [], []
    for part in re.split(f"({ONE_TIME})", line):
        if part in known:
            parts.append(re.escape(known[part]))
        elif re.fullmatch(ONE_TIME, part):
            parts.append(f"({ONE_TIME})")
            new.append(part)
        else:
            escaped = re.escape(part)
            for shown, any_time in _CHANGING:
                escaped = re.sub(shown, any_time, escaped)
            parts.append(escaped)
    return "".join(parts), new


def seen(lines: list[str], log: str, known: dict[str, str]) -> bool:
    """Whether the log has each of the page's lines, those of programs in the background wherever they come; then `known` has
    their addresses."""
    learnt, rest = dict(known), log.split("\n")
    for line in lines:
        wanted, new = pattern(line, learnt)
        match = next((match for each in rest if (match := re.fullmatch(wanted, each))), None)
        if match is None:
            return False
        learnt.update(zip(new, match.groups(), strict=True))
        rest.remove(match[0])
    known.update(learnt)
    return True


@pytest.mark.real("chromium", "curl", "ip", "nc.openbsd", "ping", "ssh", "ssh-keygen", "sshd", "unshare")
@pytest.mark.timeout(300)
@pytest.mark.proves("UM-DAS-4", "UM-LIS-6", "UM-LIS-8", by="api")  # what the programs print
def test_the_page_can_be_typed_as_it_stands(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{SYSTEM_PATH}"
    environment = {**os.environ, "PATH": path, "HOME": str(tmp_path), "UNIMUX_NODE_OFFLOAD": "true"}
    log, known = tmp_path / "screen", dict[str, str]()
    folder = tmp_path / "lab"
    folder.mkdir()
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (folder / "client.py").write_text(program, encoding="utf-8")
    with log.open("wb") as screen:
        shell = subprocess.Popen(
            ["unshare", "-n", "bash", "-c", SHELL],
            stdin=subprocess.PIPE,
            stdout=screen,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            text=True,
            start_new_session=True,
        )
    assert shell.stdin is not None
    try:
        for command, shown in steps():
            begin = log.stat().st_size
            typed = re.sub(ONE_TIME, lambda found: known[found[0]], command)
            shell.stdin.write(typed + "\n")
            shell.stdin.flush()
            until, said = time.monotonic() + PATIENCE, ""
            while "::end" not in said or not seen(shown, said, known):
                assert time.monotonic() < until, f"{typed}\n{said}\ninstead of\n" + "\n".join(shown)
                with pytest.raises(subprocess.TimeoutExpired):
                    shell.wait(0.05)
                said = log.read_bytes()[begin:].decode()
        shell.stdin.close()
        assert shell.wait(PATIENCE) == 0
    finally:
        with suppress(ProcessLookupError):  # what runs in the background, where the page was not typed to its end
            os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(PATIENCE)
    addresses = list(known.values())
    assert len(set(addresses)) == len(addresses) > 5, "an address came twice"


def test_a_line_is_matched_whatever_its_addresses_and_times() -> None:
    known: dict[str, str] = {}
    shown = ['2001:db8:77:0:1:2:3:4 - - [21/Nov/2026 07:54:41] "GET / HTTP/1.1" 200 -', "2001:db8:77:0:5:6:7:8 63593 x"]
    said = '2001:db8:77:0:a:b:c:d - - [22/Dec/2027 17:00:01] "GET / HTTP/1.1" 200 -\n2001:db8:77:0:9::1 80 x\n'
    assert seen(shown, said, known)
    assert known == {"2001:db8:77:0:1:2:3:4": "2001:db8:77:0:a:b:c:d", "2001:db8:77:0:5:6:7:8": "2001:db8:77:0:9::1"}
    assert seen(["x 2001:db8:77:0:1:2:3:4"], "x 2001:db8:77:0:a:b:c:d", known)
    assert not seen(["x 2001:db8:77:0:1:2:3:4"], "x 2001:db8:77:0:9::1", known)
    assert not seen(shown * 2, said, {})
