"""Classes that a user names: from wherever Python finds them, and from the current folder; every mistake is one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from compat.attachment import NodeSettings
from tapstack.tcp.congestion import CongestionControl, create, load_controller
from tapstack.tcp.congestion.newreno import NewReno
from tapstack.tcp.options import SocketOptions
from tapstack.userclass import user_class
from unimux.cli.settings import SettingsError
from unimux.generators import GeneratorError, load_generator
from unimux.node import NodeConfig

MINE = "from tapstack.tcp.congestion.newreno import NewReno\n\n\nclass Mine(NewReno):\n    pass\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, which is not searched for modules; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    load_controller.cache_clear()
    return tmp_path


@pytest.mark.proves("UM-GEN-6", "ST-TCP-5", by="api")
def test_a_file_in_the_current_folder_is_found(folder: Path) -> None:
    (folder / "mine.py").write_text(MINE, encoding="utf-8")
    controller = create("mine:Mine", 1000)
    assert isinstance(controller, NewReno)
    assert type(controller).__module__ == "mine"
    assert SocketOptions(congestion="mine:Mine").congestion == "mine:Mine"


def test_the_current_folder_hides_nothing_and_stays_out_of_the_path_where_it_has_nothing(folder: Path) -> None:
    (folder / "decimal.py").write_text("raise RuntimeError('the wrong one')\n", encoding="utf-8")
    assert user_class("decimal:Decimal", "number", object, {}).__name__ == "Decimal"
    with pytest.raises(ValueError, match="No module named 'nosuch'"):
        user_class("nosuch:Thing", "number", object, {})
    assert str(folder) not in sys.path


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class Mine(:", "cannot be imported: SyntaxError"),
        ("import nosuch", "cannot be imported: No module named 'nosuch'"),
        ("1 / 0", "cannot be imported: ZeroDivisionError"),
        ("class Other: ...", "has no class Mine"),
        ("class Mine: ...", "not a complete subclass of tapstack.tcp.congestion.base.CongestionControl"),
    ],
)
def test_what_is_wrong_in_a_user_s_file_is_one_sentence(folder: Path, source: str, message: str) -> None:
    (folder / "mine.py").write_text(source, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        SocketOptions(congestion="mine:Mine")


@pytest.mark.parametrize("name", ["nosuch", "nosuch:", ":Mine", ""])
def test_a_name_that_is_none_lists_the_built_in_ones(name: str) -> None:
    with pytest.raises(ValueError, match="one of bbr, cubic, newreno"):
        load_controller(name)


def test_an_incomplete_controller_is_refused() -> None:
    base = f"{CongestionControl.__module__}:{CongestionControl.__name__}"
    with pytest.raises(ValueError, match="not a complete subclass"):
        load_controller(base)


def test_the_settings_name_both_kinds_and_refuse_what_there_is_not(folder: Path) -> None:
    (folder / "mine.py").write_text(MINE, encoding="utf-8")
    settings = NodeSettings(bridge="lan", congestion="mine:Mine")
    settings.check()
    config: NodeConfig = settings.node_config()
    assert config.socket.congestion == "mine:Mine"
    with pytest.raises(SettingsError, match=r"^No congestion controller is called 'reno': .*\.$"):
        NodeSettings(bridge="lan", congestion="reno").check()
    with pytest.raises(SettingsError, match=r"^No generator is called 'random': .*\.$"):
        NodeSettings(bridge="lan", generator="random").check()


def test_a_class_that_cannot_be_made_is_refused_where_it_is_named(folder: Path) -> None:
    """A session, or the supply of addresses, would be the first to notice."""
    (folder / "mine.py").write_text(
        MINE + "    def __init__(self):\n        pass\n\n\n"
        "from unimux.generators import PermutationGenerator\n\n\n"
        "class Lone(PermutationGenerator):\n    def __init__(self):\n        pass\n\n\n"
        'class Told(PermutationGenerator):\n    capacity = "9"\n',
        encoding="utf-8",
    )
    with pytest.raises(
        ValueError, match=r"^the congestion controller mine:Mine cannot be made of a segment size: TypeError"
    ):
        load_controller("mine:Mine")
    with pytest.raises(
        GeneratorError, match=r"^the generator mine:Lone cannot be made of a key and a number of bits: Type"
    ):
        load_generator("mine:Lone")
    with pytest.raises(GeneratorError, match=r"^the capacity of the generator mine:Told is a whole number, not '9'$"):
        load_generator("mine:Told")
