"""Where an effective setting comes from, and what a wrong one is told."""

from __future__ import annotations

import json
from enum import StrEnum
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from compat.kernel.owner import OWNER_VARIABLE
from compat.up import node_settings
from unimux.cli import settings
from unimux.cli.exits import ExitCode
from unimux.cli.main import run
from unimux.cli.settings import Configuration, SettingsError, find_file


class Mode(StrEnum):
    ONE = "one"
    TWO = "two"


class Front(msgspec.Struct, kw_only=True, frozen=True):
    listen: Annotated[str, msgspec.Meta(description="where it listens")] = "localhost:1080"
    idle: Annotated[float, msgspec.Meta(gt=0, description="seconds")] = 60.0
    cap: int | None = None
    names: list[str] = msgspec.field(default_factory=list)
    strict: bool = False
    mode: Mode | None = None


def configuration(path: Path | None = None, **environ: str) -> Configuration:
    return Configuration(environ, path, ["front", "node"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "unimux.toml"


def test_flag_beats_environment_beats_file_beats_default(file: Path) -> None:
    file.write_text('[front]\nlisten = "file:1"\nidle = 5\ncap = 3\n')
    sources = configuration(file, UNIMUX_FRONT_LISTEN="environment:1", UNIMUX_FRONT_IDLE="7")
    effective = sources.table("front", Front, {"listen": "flag:1", "idle": None})
    assert effective.value == Front(listen="flag:1", idle=7.0, cap=3)
    assert {setting.key: setting.origin for setting in effective.settings} == {
        "listen": "flag",
        "idle": "UNIMUX_FRONT_IDLE",
        "cap": str(file),
        "names": "default",
        "strict": "default",
        "mode": "default",
    }
    assert effective.settings[0].meaning == "where it listens"


def test_environment_is_read_as_the_kind_of_the_setting() -> None:
    sources = configuration(UNIMUX_FRONT_CAP="12", UNIMUX_FRONT_NAMES="a, b,", UNIMUX_FRONT_STRICT="true")
    assert sources.table("front", Front).value == Front(cap=12, names=["a", "b"], strict=True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[front]\nlistne = "x"\n', "[front] has no setting 'listne'; did you mean 'listen'?"),
        ("[front]\nzzz = 1\n", "[front] has no setting 'zzz'; known are cap, idle, listen, mode, names, strict."),
        ("[frnot]\n", "there is no table [frnot]; did you mean 'front'?"),
        ("listen = 1\n", "'listen' stands outside a table"),
        ('[front]\nidle = "long"\n', "front.idle is not usable: expected `float`, not 'long'"),
        ("[front]\nidle = -1\n", "front.idle is not usable: expected `float` > 0"),
        ("[front\n", "is not TOML"),
    ],
)
def test_wrong_file_is_an_error_that_names_the_place(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        configuration(file).table("front", Front)
    assert told in str(caught.value)
    assert str(file) in str(caught.value)


def test_wrong_environment_is_an_error_that_names_the_variable() -> None:
    with pytest.raises(SettingsError, match="UNIMUX_FRONT_IDLE is not usable"):
        configuration(UNIMUX_FRONT_IDLE="long").table("front", Front)
    with pytest.raises(SettingsError, match="UNIMUX_FRONT_MODE is not usable: expected one of one, two, not 'three'"):
        configuration(UNIMUX_FRONT_MODE="three").table("front", Front)
    with pytest.raises(SettingsError, match="UNIMUX_FRONT_IDEL, which is no setting; did you mean 'UNIMUX_FRONT_IDLE'"):
        configuration(UNIMUX_FRONT_IDEL="1").table("front", Front)


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("UNIMUX_FRNT_IDLE", "there is no table [frnt] of settings; did you mean 'front'?"),
        ("UNIMUX_SHOP_PORT", "there is no table [shop] of settings; known are front, node."),
        ("UNIMUX_FRONT", "UNIMUX_FRONT, which names no setting of the table [front]."),
        ("UNIMUX_CONFG", "UNIMUX_CONFG, which is no setting; did you mean 'UNIMUX_CONFIG'?"),
    ],
)
def test_a_variable_of_no_table_is_refused_as_in_a_file(variable: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Configuration({variable: "1"}, None, ["front", "node"])
    assert told in str(caught.value)


def test_variables_that_are_ours_for_other_purposes_pass() -> None:
    others = dict.fromkeys(sorted(settings.OTHER_VARIABLES), "x")
    assert settings.DEBUG_VARIABLE in others and OWNER_VARIABLE in others
    others |= {"_UNIMUX_COMPLETE": "source_bash", "UNIMUXED": "yes"}
    Configuration(others, None, ["front", "node"]).table("front", Front)


def test_the_first_file_that_exists_is_the_only_one(tmp_path: Path) -> None:
    assert find_file({"UNIMUX_CONFIG": "/else/where.toml", "HOME": str(tmp_path)}) == Path("/else/where.toml")
    home = tmp_path / ".config" / "unimux" / "unimux.toml"
    home.parent.mkdir(parents=True)
    home.write_text("")
    assert find_file({"HOME": str(tmp_path)}) == home
    other = tmp_path / "other" / "unimux" / "unimux.toml"
    other.parent.mkdir(parents=True)
    other.write_text("")
    assert find_file({"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "other")}) == other


def test_config_show_prints_values_and_origins(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("[front]\ncap = 9\n")
    monkeypatch.setattr(settings, "entry_points", lambda group: [_Point()])
    monkeypatch.setenv("UNIMUX_CONFIG", "overridden by the option")
    monkeypatch.setenv("UNIMUX_FRONT_NAMES", "x,y")
    assert run(["--config", str(file), "config", "show", "--json"]) == ExitCode.DONE
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["cap"] == {"table": "front", "key": "cap", "value": 9, "origin": str(file), "meaning": ""}
    assert (rows["names"]["value"], rows["names"]["origin"]) == (["x", "y"], "UNIMUX_FRONT_NAMES")
    assert run(["config", "show"]) == ExitCode.DONE
    assert "localhost:1080" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "effective"),
    [
        ({}, (16, 32, 256)),
        ({"LIMIT": 8}, (8, 8, 8)),
        ({"LIMIT": 20}, (16, 20, 20)),
        ({"LOW": 50}, (50, 50, 256)),
        ({"HIGH": 10}, (10, 10, 256)),
        ({"HIGH": 500}, (16, 500, 500)),
        ({"LOW": 0, "LIMIT": 1}, (0, 1, 1)),
    ],
)
def test_marks_of_the_pool_are_shown_as_they_take_effect(
    given: dict[str, int],
    effective: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A mark that was not set keeps out of the way of those that were; what was set is never changed."""
    for name, value in given.items():
        monkeypatch.setenv(f"UNIMUX_NODE_POOL_{name}", str(value))
    monkeypatch.setenv("UNIMUX_NODE_BRIDGE", "lan")
    assert run(["config", "show", "--json"]) == ExitCode.DONE
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out) if row["table"] == "node"}
    assert tuple(rows[f"pool_{name}"]["value"] for name in ("low", "high", "limit")) == effective
    assert rows["pool_limit"]["origin"] == ("UNIMUX_NODE_POOL_LIMIT" if "LIMIT" in given else "default")
    pool = node_settings().pool_config()
    assert (pool.low, pool.high, pool.limit) == effective


def test_missing_file_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("UNIMUX_CONFIG", "")
    assert run(["--config", "/no/such.toml", "config", "show"]) == ExitCode.USAGE
    assert (
        capsys.readouterr().err
        == "unimux: The configuration file /no/such.toml cannot be read: no such file or directory.\n"
    )


class _Point:
    name = "front"

    @staticmethod
    def load() -> type[Front]:
        return Front


def test_settings_that_cannot_be_imported_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(settings, "entry_points", lambda group: [EntryPoint("gone", "no_such_module:Gone", group)])
    assert run(["config", "show"]) == ExitCode.MACHINE
    assert "The settings [gone] are not available" in capsys.readouterr().err


@pytest.mark.parametrize("form", [["--json"], []], ids=["json", "text"])
def test_passwords_are_never_shown(
    form: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNIMUX_SOCKS_USERS", "alice:wonder:land,bob:builder")
    assert run(["config", "show", *form]) == ExitCode.DONE
    said = capsys.readouterr()
    assert "alice:***" in said.out and "bob:***" in said.out
    assert not any(secret in said.out + said.err for secret in ("wonder", "land", "builder"))


def test_a_wrong_place_of_a_password_does_not_print_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNIMUX_CONFIG", "overridden by the option, which sets it")
    file.write_text('[socks]\nusers = "alice:wonderland"\n')
    assert run(["--config", str(file), "config", "show"]) == ExitCode.USAGE
    said = capsys.readouterr()
    assert "socks.users is not usable: expected `array`.\n" in said.err and "wonderland" not in said.out + said.err
