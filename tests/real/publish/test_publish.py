"""Unmodified servers behind `unimux publish`, used by unmodified clients between kernels; the witness judges the captures."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import subprocess

import pytest

from compat.kernel import topology
from compat.programs import complete_in, curl, web_server
from tests.real.publish.place import COMMAND, PROGRAMS, Place, radvd

from ..daemons import daemon, sshd
from ..um.judge import segments, sessions

BODY = random.Random(8).randbytes(350_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


def unimux(*argv: str) -> subprocess.CompletedProcess[str]:
    """A command as its user runs it."""
    return subprocess.run([*COMMAND, *argv], capture_output=True, text=True, timeout=60)


@pytest.mark.real(*PROGRAMS, "nginx")
@pytest.mark.proves("UM-SSA-1", "UM-LIS-6", "UM-LIS-8", "UM-NODE-1", "UM-NODE-2", "UM-PORT-5")
def test_nginx_behind_one_time_addresses(here: Place) -> None:
    """A lease serves one host's many connections, a third host gets nothing; an SSA of one session is used up by it."""
    path = here.folder / "capture-nginx.pcapng"

    async def main() -> None:
        async with (
            radvd(here),
            web_server(here.top.server, here.folder / "www", port=8080),
            here.captured(path),
            here.publish("web", "[::1]:8080") as published,
        ):
            lease = await published.next("issued")
            assert lease["url"] == f"http://[{lease['address']}]/"
            url = f"{lease['url']}file"
            first = await curl(here.top.client, url)
            assert (first.ok, first.sha256) == (True, DIGEST)
            another = await published.next("issued")
            assert another["address"] != lease["address"], "the next client gets another address"
            fetched = await asyncio.gather(*(curl(here.top.client, url) for _ in range(6)))
            assert [each.sha256 for each in fetched] == [DIGEST] * 6
            stranger = await curl(here.top.third, url, "--connect-timeout", "2")
            assert (stranger.ok, stranger.size) == (False, 0)
            asked = await asyncio.to_thread(unimux, "ssa", "new", "web", "--sessions", "1", "--json")
            single = json.loads(asked.stdout)
            assert (await curl(here.top.client, f"{single['url']}file")).sha256 == DIGEST
            again = await curl(here.top.client, f"{single['url']}file", "--connect-timeout", "2")
            assert (again.ok, again.size) == (False, 0)
            counted[lease["address"]] = 7
        assert published.events[-1]["sessions"] == 8
        assert published.events[-1]["bytes_out"] > 8 * len(BODY)

    counted: dict[str, int] = {}
    asyncio.run(main())
    judgement = here.judge(path, counted)
    assert sum(one.established is not None for one in judgement.connections) == 8


@pytest.mark.real(*PROGRAMS, "nginx")
def test_nginx_learns_the_client_by_the_proxy_protocol(here: Place) -> None:
    """nginx itself reads our header, version 2: its log has the client's true address."""
    folder = here.folder / "proxied"
    folder.mkdir()
    (folder / "nginx.conf").write_text(
        "daemon off; master_process off; pid nginx.pid; error_log stderr warn;\n"
        "events { worker_connections 64; }\n"
        "http { log_format peer '$proxy_protocol_addr $proxy_protocol_server_addr'; access_log peers.log peer;\n"
        "  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;\n"
        f"  server {{ listen [::1]:8081 proxy_protocol; root {here.folder}/www; }} }}\n"
    )

    async def main() -> str:
        argv = ("nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "stderr")
        async with (
            radvd(here),
            daemon(here.top.server, here.folder, "nginx", argv, "tcp6", 8081),
            here.publish("web", "[::1]:8081", "--proxy-protocol", "--scheme", "http") as published,
        ):
            ssa = await published.next("issued")
            fetched = await curl(here.top.client, f"{ssa['url']}file")
            assert fetched.sha256 == DIGEST
            return str(ssa["address"])

    address = asyncio.run(main())
    assert (folder / "peers.log").read_text().split() == [topology.CLIENT_ADDRESS, address]


@pytest.mark.real(*PROGRAMS, "sshd", "ssh")
@pytest.mark.proves("UM-NODE-2", "UM-LIS-6")
def test_sshd_behind_a_one_time_address(here: Place) -> None:
    path = here.folder / "capture-sshd.pcapng"

    async def main() -> None:
        async with (
            radvd(here),
            sshd(here.top.server, here.folder / "ssh", "::1", 2222) as options,
            here.captured(path),
            here.publish("shell", "[::1]:2222", "--sessions", "1", "--scheme", "ssh") as published,
        ):
            ssa = await published.next("issued")
            command = ("ssh", *options, f"root@{ssa['address']}", "cat; echo $SSH_CONNECTION")
            done = await complete_in(here.top.client, command)
            assert done.code == 0, done.stderr
            assert b"::1" in done.stdout
            again = await complete_in(here.top.client, ("ssh", "-o", "ConnectTimeout=2", *command[1:]))
            assert again.code == 255

    asyncio.run(main())
    here.judge(path)


@pytest.mark.real(*PROGRAMS, "iperf3")
@pytest.mark.proves("UM-LIS-8", "UM-PORT-5", "UM-NODE-2")
@pytest.mark.parametrize("direction", ["up", "down"])
def test_iperf3_behind_a_lease(here: Place, direction: str) -> None:
    """iperf3 opens a control connection and four of data to one address."""
    path = here.folder / "capture.pcapng"

    async def main() -> str:
        argv = ("iperf3", "-s", "-B", "::1", "-p", "5201")
        async with (
            radvd(here),
            daemon(here.top.server, here.folder, "iperf3", argv, "tcp6", 5201),
            here.captured(path, snaplen=128),
            here.publish("speed", "[::1]:5201") as published,
        ):
            ssa = await published.next("issued")
            reverse = ("-R",) if direction == "down" else ()
            command = ("iperf3", "-6", "-c", ssa["address"], "-n", "8M", "-P", "4", "-J", *reverse)
            done = await complete_in(here.top.client, command)
            report = json.loads(done.stdout)
            assert done.code == 0, report.get("error")
            assert report["end"]["sum_sent"]["bytes"] >= 8_000_000
            # Upward, iperf3's "end" on its control connection overtakes what is still buffered on the way.
            assert report["end"]["sum_received"]["bytes"] >= (8_000_000 if direction == "down" else 1_000_000)
        assert published.events[-1]["sessions"] == 5
        return str(ssa["address"])

    address = asyncio.run(main())
    found = sessions(segments(path), by_ports=True)
    assert len(found) == 5 and {(one.client, one.server) for one in found} == {(topology.CLIENT_ADDRESS, address)}
    assert all(one.established is not None for one in found)


@pytest.mark.real(*PROGRAMS, "nginx")
@pytest.mark.proves("UM-SSA-2", "UM-GEN-5")
def test_a_shared_secret_needs_no_message_between_the_processes(here: Place) -> None:
    """`unimux connect` on the client's LAN finds the server again and again, also after both were restarted."""
    secret, states = here.folder / "secret", here.folder
    assert unimux("ssa", "keygen", str(secret)).returncode == 0
    server = ("--secret-file", str(secret), "--secret-client", "alice", "--state", str(states / "server"))
    client = (
        *COMMAND, "connect", "web", "80", "--secret-file", str(secret), "--secret-client", "alice", "--json",
        "--server-prefix", topology.SERVER_PREFIX, "--state", str(states / "client"), "--bridge", here.top.client_bridge.name,
    )  # fmt: skip
    path, remotes = here.folder / "capture.pcapng", []

    async def fetch() -> None:
        command = ("sh", "-c", 'printf "GET /file HTTP/1.0\\r\\n\\r\\n" | "$@"', "connect", *client)
        done = await complete_in(here.top.client, command, env=here.environment())
        assert done.code == 0, done.stderr
        assert done.stdout.endswith(BODY)
        remotes.append(json.loads(done.stderr)["remote"])

    async def main() -> None:
        async with radvd(here), web_server(here.top.server, here.folder / "www", port=8080), here.captured(path):
            for _ in range(2):
                async with here.publish("web", "[::1]:8080", *server) as published:
                    await fetch()
                    await fetch()
                assert [each for each in published.events if each["event"] == "issued"] == []

    asyncio.run(main())
    assert len(set(remotes)) == 4
    served = [one for one in sessions(segments(path), by_ports=True) if one.answer]
    assert [f"[{one.server}]:80" for one in served] == remotes, "both ends computed the same addresses"
    assert all(one.answer.endswith(BODY) for one in served)


@pytest.mark.real(*PROGRAMS, "nginx")
@pytest.mark.proves("UM-GEN-3", by="api")
def test_whois_names_the_session_while_the_node_runs(here: Place) -> None:
    state = str(here.folder / "state")

    async def main() -> str:
        async with (
            radvd(here),
            web_server(here.top.server, here.folder / "www", port=8080),
            here.publish(
                "web", "[::1]:8080", "--sessions", "1", "--state", state, UNIMUX_NODE_JOURNAL_LIMIT="4096"
            ) as one,
        ):
            ssa = await one.next("issued")
            assert (await curl(here.top.client, f"{ssa['url']}file")).ok
            await one.next("issued")
            asked = await asyncio.to_thread(unimux, "ssa", "whois", ssa["address"], "--state", state, "--json")
            found = json.loads(asked.stdout)
            assert (asked.returncode, found["ours"], found["epoch"]) == (0, True, 0)
            assert [row["what"] for row in found["rows"]][:3] == ["taken", "assigned", "connected"]
            assert found["node_process"] == one.process.pid
            assert all("peer" not in row for row in found["rows"]), "peers are left out unless asked for"
            taken = await complete_in(
                here.top.server,
                (
                    *COMMAND,
                    "publish",
                    "other",
                    "--to",
                    "[::1]:8080",
                    "--state",
                    state,
                    "--bridge",
                    here.top.server_bridge.name,
                ),
            )
            assert taken.code == 3
            assert b"uses the state" in taken.stderr
            for number in range(12):
                await asyncio.to_thread(unimux, "ssa", "new", "web", "--lifetime", str(0.5 + number / 100))
            return str(ssa["address"])

    address = asyncio.run(main())
    assert list((here.folder / "state").glob("journal.jsonl.*")), "the journal was put aside at its size"
    asked = unimux("ssa", "whois", address, "--state", state)
    assert "number 0 of key epoch 0" in asked.stdout
    assert "released" in asked.stdout
    strange = unimux("ssa", "whois", "2001:db8::1", "--state", state)
    assert (strange.returncode, strange.stdout) == (1, "2001:db8::1 was never an address of this node.\n")
