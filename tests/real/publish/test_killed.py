"""What a killed front end leaves is gone with the next start of any node, its services' sockets included."""

from __future__ import annotations

import subprocess

import pytest

from compat.kernel import namespace
from unimux.control import folder, service_socket

from .place import COMMAND

PATIENCE = 60


@pytest.mark.real
def test_sockets_of_killed_services_go_and_those_of_living_ones_stay() -> None:
    def publish(service: str, prefix: str) -> subprocess.Popen[str]:
        where = ("--netns", space.name, "--prefix", prefix, "--json")
        command = (*COMMAND, "publish", service, "--to", "[::1]:9", *where)
        started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert started.stdout is not None and '"begin"' in started.stdout.readline()
        return started

    with namespace("killed") as space:
        living, victim = publish("living", "2001:db8:8d::/64"), publish("victim", "2001:db8:8e::/64")
        try:
            victim.kill()
            victim.communicate(timeout=PATIENCE)
            assert service_socket("victim").is_socket(), "nothing was left behind: this test has lost its teeth"
            third = publish("third", "2001:db8:8f::/64")
            third.terminate()
            third.communicate(timeout=PATIENCE)
            assert [path.stem for path in folder().iterdir()] == ["living"]
            told = subprocess.run((*COMMAND, "ssa", "list", "living"), capture_output=True, text=True, timeout=PATIENCE)
            assert told.returncode == 0 and "unimux://[2001:db8:8d:" in told.stdout
        finally:
            for each in (living, victim):
                each.terminate()
                each.communicate(timeout=PATIENCE)
    assert list(folder().iterdir()) == []
