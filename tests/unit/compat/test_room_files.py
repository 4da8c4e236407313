"""The files that a program of a run finds in place of those of /etc."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compat.gateway.room import _lay_out, _name_switch


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_they_can_be_read_by_everybody_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        _lay_out(tmp_path / "resolv.conf", b"nameserver ::1\n")
    finally:
        os.umask(before)
    assert (tmp_path / "resolv.conf").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("machine", "inside"),
    [
        (b"passwd: files\nhosts: files resolve dns\n", b"passwd: files\nhosts: files dns\n"),
        (b"# caf\xe9\nhosts: mdns4 dns\n", b"# caf\xe9\nhosts: files dns\n"),
        (b"hosts: files dns\n", None),
        (b"# caf\xe9\n", None),
    ],
)
def test_names_come_from_files_and_dns(tmp_path: Path, machine: bytes, inside: bytes | None) -> None:
    (tmp_path / "nsswitch.conf").write_bytes(machine)
    assert _name_switch(tmp_path / "nsswitch.conf") == inside


def test_a_machine_without_a_name_service_switch_is_left_so(tmp_path: Path) -> None:
    assert _name_switch(tmp_path / "nsswitch.conf") is None
