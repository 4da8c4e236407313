"""Settings: flags, then environment, then one TOML file, then the default.

A room that has settings declares them as a `msgspec.Struct` in which every field has a default and says in
`Annotated[…, msgspec.Meta(description=…)]` what it means, and registers it under a table name in the entry-point group
`unimux.settings`:

    [project.entry-points."unimux.settings"]
    socks = "compat.socks.settings:SocksSettings"

The setting `socks.listen` is then the flag that the command offers, else the variable `UNIMUX_SOCKS_LISTEN`, else
`listen` in the table `[socks]` of the file.  A list in the environment is separated by commas.  A key that does not exist
and a value of the wrong kind are errors that name the place.  A setting whose `msgspec.Meta` says `extra=SECRET` is a list of
NAME:SECRET; only the names are ever shown.  A table whose defaults depend on other settings leaves them None and has a method
`effective()` that gives the table with them in place: what `unimux config show` prints.

The file is the one that `--config` or `UNIMUX_CONFIG` names, else `unimux/unimux.toml` in `$XDG_CONFIG_HOME` (`~/.config`),
else `/etc/unimux.toml`; the first that exists, never several.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from unimux.cli.ending import postponed
from unimux.cli.exits import ExitCode
from unimux.errors import SetupError

GROUP = "unimux.settings"
PREFIX = "UNIMUX_"
CONFIG_VARIABLE = "UNIMUX_CONFIG"
DEBUG_VARIABLE = "UNIMUX_DEBUG"
SECRET = {"secret": True}
OTHER_VARIABLES = frozenset(
    {CONFIG_VARIABLE, DEBUG_VARIABLE, "UNIMUX_OWNER", "UNIMUX_ROOM", "UNIMUX_WITNESS", "UNIMUX_FORBID_SKIPS"}
)
"""Variables with our prefix that are no settings: whose process it is, where the witness of states lies, and what tests need."""
DEFAULT = "default"
FLAG = "flag"

Table = TypeVar("Table", bound=msgspec.Struct)


def debugging() -> bool:
    """Whether tracebacks are wanted, by `unimux --debug`."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


class SettingsError(SetupError):
    """A setting that does not exist or cannot be read; the message names the place and the remedy."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True)
class Setting:
    """One effective setting.  `origin`: `flag`, `default`, a variable's name or a file's path.

    shown: the value as it may be printed.
    """

    table: str
    key: str
    value: Any
    origin: str
    meaning: str
    secret: bool = False

    @property
    def shown(self) -> Any:
        return [f"{str(entry).partition(':')[0]}:***" for entry in self.value] if self.secret else self.value


@dataclass(frozen=True, slots=True)
class Effective(Generic[Table]):
    """The effective values of one table, and where each comes from."""

    value: Table
    settings: tuple[Setting, ...]


def registered() -> dict[str, type[msgspec.Struct]]:
    """The tables of settings that installed distributions declare, by name; raises `SetupError`."""
    tables: dict[str, type[msgspec.Struct]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            with postponed():
                tables[point.name] = point.load()
        except (ImportError, AttributeError) as error:
            raise SetupError(f"The settings [{point.name}] are not available in this installation: {error}.") from error
    return tables


def find_file(environ: Mapping[str, str]) -> Path | None:
    """The one configuration file, None where there is none."""
    if named := environ.get(CONFIG_VARIABLE):
        return Path(named)
    home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config")
    for path in (home / "unimux" / "unimux.toml", Path("/etc/unimux.toml")):
        if path.is_file():
            return path
    return None


def read_file(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of a configuration file."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SettingsError(f"The configuration file {path} cannot be read: {reason}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"The configuration file {path} is not TOML: {error}.") from error
    for name, table in content.items():
        if not isinstance(table, dict):
            raise SettingsError(f"{path}: {name!r} stands outside a table: put it under a heading such as [node].")
    return content


class Configuration:
    """The sources that settings are taken from, read once."""

    def __init__(self, environ: Mapping[str, str], path: Path | None, tables: Collection[str]) -> None:
        """`tables`: the names of all tables that may stand in the file."""
        self._environ = environ
        self.path = path
        self._file = read_file(path) if path is not None else {}
        for name in self._file:
            if name not in tables:
                raise SettingsError(f"{path}: there is no table [{name}]{_suggestion(name, tables)}")
        for variable in environ:
            self._refuse_of_no_table(variable, tables)

    @staticmethod
    def _refuse_of_no_table(variable: str, tables: Collection[str]) -> None:
        """A variable that looks like a setting of a table that there is not; the keys of tables are `table`'s to judge."""
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES:
            return
        if any(variable.startswith(variable_name(table, "")) for table in tables):
            return
        if near := difflib.get_close_matches(variable, [CONFIG_VARIABLE, DEBUG_VARIABLE], n=1, cutoff=0.8):
            raise SettingsError(f"The environment sets {variable}, which is no setting; did you mean {near[0]!r}?")
        named = variable.removeprefix(PREFIX).partition("_")[0].lower()
        if named in tables:
            raise SettingsError(f"The environment sets {variable}, which names no setting of the table [{named}].")
        raise SettingsError(
            f"The environment sets {variable}, and there is no table [{named}] of settings{_suggestion(named, tables)}"
        )

    @classmethod
    def here(cls) -> Configuration:
        """The environment of this process, and the file that it points to."""
        names = {point.name for point in entry_points(group=GROUP)}
        return cls(os.environ, find_file(os.environ), names)

    def table(self, name: str, kind: type[Table], flags: Mapping[str, object] | None = None) -> Effective[Table]:
        """The effective values of the table `name`; a flag that is None was not given."""
        given = {key: value for key, value in (flags or {}).items() if value is not None}
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        written = self._file.get(name, {})
        self._refuse_unknown(name, written, fields)
        settings = []
        for key, field in fields.items():
            variable = variable_name(name, key)
            if key in given:
                value, origin = _convert(given[key], field.type, f"--{key.replace('_', '-')}", strict=False), FLAG
            elif variable in self._environ:
                value, origin = _convert(self._environ[variable], field.type, variable, strict=False), variable
            elif key in written:
                origin = str(self.path)
                value = _convert(written[key], field.type, f"{origin}: {name}.{key}", strict=True)
            else:
                value, origin = _default(field), DEFAULT
            settings.append(Setting(name, key, value, origin, _meaning(field.type), _is_secret(field.type)))
        value = kind(**{setting.key: setting.value for setting in settings})
        shown = getattr(value, "effective", lambda: value)()
        return Effective(value, tuple(replace(setting, value=getattr(shown, setting.key)) for setting in settings))

    def _refuse_unknown(self, name: str, written: Mapping[str, object], keys: Collection[str]) -> None:
        for key in written:
            if key not in keys:
                raise SettingsError(f"{self.path}: [{name}] has no setting {key!r}{_suggestion(key, keys)}")
        variables = {variable_name(name, key) for key in keys}
        for variable in self._environ:
            if variable.startswith(variable_name(name, "")) and variable not in variables:
                raise SettingsError(
                    f"The environment sets {variable}, which is no setting{_suggestion(variable, variables)}"
                )


def show(configuration: Configuration, tables: Mapping[str, type[msgspec.Struct]]) -> Iterator[Setting]:
    """Every effective setting, table by table."""
    for name, kind in tables.items():
        yield from configuration.table(name, kind).settings


def variable_name(table: str, key: str) -> str:
    """The environment variable of a setting.

    >>> variable_name("socks", "listen")
    'UNIMUX_SOCKS_LISTEN'
    """
    return f"{PREFIX}{table}_{key}".upper().replace("-", "_")


def _suggestion(wrong: str, known: Collection[str]) -> str:
    """The rest of a sentence about a name that does not exist, with its full stop or question mark."""
    if near := difflib.get_close_matches(wrong, known, n=1):
        return f"; did you mean {near[0]!r}?"
    return f"; known are {', '.join(sorted(known))}." if known else "."


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default is not msgspec.NODEFAULT:
        return field.default
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    raise TypeError(f"the setting {field.name!r} has no default")


def _convert(raw: object, kind: Any, place: str, *, strict: bool) -> Any:
    """A value as the kind that its setting declares; only a file's values come with kinds of their own."""
    parts = list(_parts(msgspec.inspect.type_info(kind)))
    collections = (msgspec.inspect.ListType, msgspec.inspect.VarTupleType, msgspec.inspect.SetType)
    if isinstance(raw, str) and not strict and any(isinstance(part, collections) for part in parts):
        raw = [word.strip() for word in raw.split(",") if word.strip()]
    try:
        return msgspec.convert(raw, kind, strict=strict)
    except msgspec.ValidationError as error:
        choices = [str(choice) for part in parts for choice in _choices(part)]
        wanted = str(error).partition(", got ")[0]  # what it is instead is said with the value
        expected = f"expected one of {', '.join(choices)}" if choices else f"{wanted[:1].lower()}{wanted[1:]}"
        found = "" if _is_secret(kind) else f", not {raw!r}"
        raise SettingsError(f"{place} is not usable: {expected}{found}.") from error


def _parts(described: msgspec.inspect.Type) -> Iterator[msgspec.inspect.Type]:
    """The kinds that a value may have, without annotations."""
    if isinstance(described, msgspec.inspect.Metadata):
        yield from _parts(described.type)
    elif isinstance(described, msgspec.inspect.UnionType):
        for part in described.types:
            yield from _parts(part)
    else:
        yield described


def _choices(part: msgspec.inspect.Type) -> Iterator[object]:
    """The values that an enumeration or a literal allows."""
    if isinstance(part, msgspec.inspect.EnumType):
        yield from (member.value for member in part.cls)
    elif isinstance(part, msgspec.inspect.LiteralType):
        yield from part.values


def _meaning(kind: Any) -> str:
    """What a setting's declaration says of it."""
    for note in getattr(kind, "__metadata__", ()):
        if isinstance(note, msgspec.Meta) and note.description:
            return note.description
    return ""


def _is_secret(kind: Any) -> bool:
    """Whether a setting's declaration says that its values are for nobody's eyes."""
    notes = getattr(kind, "__metadata__", ())
    return any(isinstance(note, msgspec.Meta) and bool((note.extra or {}).get("secret")) for note in notes)
