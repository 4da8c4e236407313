"""Parameters of a scenario: declared in its signature, set by text from the command line, checked before anything starts.

    async def hello(run: Run, *, size: Annotated[int, Parameter("bytes each way", unit="B", least=1)] = 1000) -> None: ...

A parameter is an int, a float, a bool, a str, a `Literal` or a `StrEnum`, and always has a default, so every scenario runs
without being told anything.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from .errors import ParameterError, ScenarioError, refuse_bytes

Value: TypeAlias = int | float | bool | str

_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_NUMBERS = {int: "a whole number", float: "a number"}
LONGEST_RANGE = 10_000
"""Values that a range in a sweep may stand for."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a parameter means; stands in the `Annotated` of its type.

    text: a few words.  unit: of its values, as "s" or "B".  least, most: the bounds, both included.
    """

    text: str
    unit: str = ""
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Specification:
    """One parameter as declared: `kind` is its type, `choices` what it takes where that is a short list."""

    name: str
    kind: type
    default: Value
    about: Parameter
    choices: tuple[str, ...] = ()

    def allowed(self) -> str:
        """What values it takes, in words.

        >>> Specification("size", int, 1, Parameter("bytes", unit="B", least=1)).allowed()
        'a whole number, 1 B at least'
        >>> Specification("size", int, 1, Parameter("bytes", unit="B", most=100_000_000)).allowed()
        'a whole number, 100,000,000 B at most'
        """
        if self.choices:
            return (
                " or ".join((", ".join(self.choices[:-1]), self.choices[-1])) if self.choices[1:] else self.choices[0]
            )
        if self.kind is bool:
            return "yes or no"
        if self.kind is str:
            return "any text"
        unit = f" {self.about.unit}" if self.about.unit else ""
        bounds = [
            f"{bound:,}{unit} at {word}" if isinstance(bound, int) else f"{bound:g}{unit} at {word}"
            for bound, word in ((self.about.least, "least"), (self.about.most, "most"))
            if bound is not None
        ]
        return ", ".join((_NUMBERS[self.kind], *bounds))

    def parse(self, text: str) -> Value:
        """The value that a text means; raises `ParameterError`, which names what is allowed."""
        try:
            return self.check(self._read(text.strip()))
        except (ValueError, KeyError):
            raise ParameterError(f"{self.name} cannot be {text!r}: it takes {self.allowed()}.") from None

    def check(self, value: Value) -> Value:
        """The value, if it is one that the parameter takes."""
        refuse_bytes(f"value of {self.name}", str(value))
        wrong = self.choices and str(value) not in self.choices
        if self.kind in _NUMBERS:
            wrong = not isinstance(value, int | float) or not self._within(value)
        if wrong:
            raise ParameterError(f"{self.name} cannot be {value!r}: it takes {self.allowed()}.")
        return value

    def _within(self, number: float) -> bool:
        low, high = self.about.least, self.about.most
        finite = isinstance(number, int) or math.isfinite(number)  # a long integer fits no float
        return finite and (low is None or number >= low) and (high is None or number <= high)

    def _read(self, text: str) -> Value:
        if self.choices:
            value: Value = self.kind(text) if issubclass(self.kind, StrEnum) else text
            return value
        if self.kind is bool:
            return _WORDS[text.lower()]
        if self.kind is int:
            return int(text.replace("_", ""), 0) if text.startswith("0x") else int(text.replace("_", ""))
        return float(text) if self.kind is float else text


def specifications(function: Callable[..., Any]) -> tuple[Specification, ...]:
    """The parameters that a scenario's signature declares; raises `ScenarioError` where it declares them badly."""
    hints = get_type_hints(function, include_extras=True)
    found = []
    for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
        where = f"the parameter {name!r} of the scenario {function.__name__!r}"
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise ScenarioError(f"{where} has to stand after the * and needs a default.")
        hint = hints.get(name)
        kind, *notes = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
        about = next((note for note in notes if isinstance(note, Parameter)), None)
        if about is None:
            raise ScenarioError(f'{where} needs a description: Annotated[int, Parameter("what it means")].')
        choices: tuple[str, ...] = ()
        if get_origin(kind) is Literal:
            kind, choices = str, get_args(kind)
        elif isinstance(kind, type) and issubclass(kind, StrEnum):
            choices = tuple(member.value for member in kind)
        elif kind not in (int, float, bool, str):
            raise ScenarioError(f"{where} is {kind}: a parameter is an int, float, bool, str, Literal or StrEnum.")
        made = Specification(name, kind, parameter.default, about, choices)
        made.check(parameter.default)
        found.append(made)
    return tuple(found)


def find(known: tuple[Specification, ...], name: str) -> Specification:
    """The parameter of that name; the error for another names those there are."""
    by_name = {each.name: each for each in known}
    name = name.strip().replace("-", "_")
    if name in by_name:
        return by_name[name]
    if not by_name:
        raise ParameterError(f"There is no parameter {name!r}: this scenario has none.")
    near = difflib.get_close_matches(name, by_name, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(by_name)}."
    raise ParameterError(f"There is no parameter {name!r}: {hint}")


def split(text: str) -> tuple[str, str]:
    """The two sides of "key=value"."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ParameterError(f"{text!r} sets nothing: write key=value.")
    return name, value


def settings(known: tuple[Specification, ...], texts: list[str]) -> dict[str, Value]:
    """The values that "key=value" texts set; the last one counts where a key is set twice."""
    result = {}
    for text in texts:
        name, value = split(text)
        chosen = find(known, name)
        result[chosen.name] = chosen.parse(value)
    return result


def sweep_axes(known: tuple[Specification, ...], texts: list[str]) -> dict[str, tuple[Value, ...]]:
    """The values that "key=a,b,c" texts sweep over, by parameter; `1..5` stands for 1,2,3,4,5."""
    axes: dict[str, tuple[Value, ...]] = {}
    for text in texts:
        name, values = split(text)
        chosen = find(known, name)
        if chosen.name in axes:
            raise ParameterError(f"{chosen.name} is swept twice: give all its values at once, as {chosen.name}=a,b,c.")
        axes[chosen.name] = tuple(dict.fromkeys(chosen.parse(part) for part in _listed(chosen.name, values)))
    return axes


def _listed(name: str, values: str) -> list[str]:
    parts: list[str] = []
    for part in values.split(","):
        first, dots, last = part.partition("..")
        if dots and first.strip().isdecimal() and last.strip().isdecimal():
            begin, end = int(first), int(last)
            if end < begin:
                raise ParameterError(f"{name} cannot be {part!r}: write the range from the lower end to the upper one.")
            if end - begin >= LONGEST_RANGE:
                raise ParameterError(f"{name} cannot be {part!r}: a range has {LONGEST_RANGE:,} values at most.")
            parts += [str(number) for number in range(begin, end + 1)]
        else:
            parts.append(part)
    return parts


def complete(known: tuple[Specification, ...], given: Mapping[str, Value]) -> dict[str, Value]:
    """All parameters in their order, with defaults where nothing is given; every value is checked."""
    for name in given:
        find(known, name)
    return {each.name: each.check(given.get(each.name, each.default)) for each in known}
