"""Measure speed, cost and memory, each figure beside its baseline of the same run."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from tapstack.tcp.options import TimeWait
from unimux.cli.exits import ExitCode, sentence
from unimux.errors import WrongUsage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from .compare import Comparison
    from .figures import Figure, Result
    from .setting import Setting

_MET = {True: "reached", False: "missed", None: "not known"}
REPEATS = 5
SECONDS = 3.0
WORKERS = 2


IdOption = Annotated[
    list[str] | None,
    typer.Option("--id", metavar="P-N", help="Only this benchmark; may be given several times.", show_default="all"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one array of figures for programs, nothing else.")]
SmokeOption = Annotated[
    bool, typer.Option("--smoke", help="Everything as small as it can be: only shows that it works.")
]
CompareOption = Annotated[
    tuple[Path, Path] | None,
    typer.Option(metavar="A B", help="Measure nothing; show what changed between two results.", show_default=False),
]
RepeatsOption = Annotated[
    int | None, typer.Option(min=1, help="Measurements per figure.", show_default=f"{REPEATS}; 1 with --smoke")
]
SecondsOption = Annotated[
    float | None, typer.Option(min=0.01, help="Of one bulk transfer.", show_default=f"{SECONDS:g}; 0.05 with --smoke")
]
TimeWaitOption = Annotated[
    TimeWait | None, typer.Option(help="TIME-WAIT option of the node.", show_default="short; sharp with --smoke")
]
OutOption = Annotated[
    Path | None, typer.Option(help="File to write the result to, for --compare.", show_default="none")
]
ProfileOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Write a flame graph of each benchmark (needs py-spy).", show_default="none"),
]
PlotOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Draw P-14 as a chart (.svg, .pdf, .png).", show_default="none")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=16,
        help="Processes on one multi-queue TAP, for P-4 and P-6; 1 leaves that out.",
        show_default=f"{WORKERS}",
    ),
]
UvloopOption = Annotated[bool, typer.Option("--uvloop", help="Run the node on uvloop in place of asyncio's loop.")]


def bench(
    id: IdOption = None,
    json: JsonOption = False,
    smoke: SmokeOption = False,
    compare: CompareOption = None,
    repeats: RepeatsOption = None,
    seconds: SecondsOption = None,
    time_wait: TimeWaitOption = None,
    out: OutOption = None,
    profile: ProfileOption = None,
    plot: PlotOption = None,
    workers: WorkersOption = None,
    uvloop: UvloopOption = False,
) -> None:
    """Run the benchmarks P-1 to P-19; docs/performance.md says what each of them measures.

    Goals that are not reached do not change the exit status; --compare ends with 1 where a figure that has a goal got worse.
    """
    from .catalogue import BENCHMARKS
    from .figures import Result
    from .plot import check_chart
    from .plot import plot as draw
    from .setting import Setting

    if compare is not None:
        if any((id, smoke, repeats, seconds, time_wait, out, profile, plot, workers, uvloop)):
            raise WrongUsage("--compare measures nothing, and takes no other option than --json.")
        worse = _compare(Result.read(compare[0]), Result.read(compare[1]), json)
        raise typer.Exit(ExitCode.NO if worse else ExitCode.DONE)
    chosen = _chosen(id, list(BENCHMARKS))
    if plot is not None:
        if "P-14" not in chosen:
            raise WrongUsage("--plot draws P-14, which is not among the benchmarks to run: add --id P-14.")
        check_chart(plot)
    setting = Setting(
        smoke=smoke,
        repeats=repeats or (1 if smoke else REPEATS),
        seconds=seconds or (0.05 if smoke else SECONDS),
        time_wait=time_wait or (TimeWait.SHARP if smoke else TimeWait.SHORT),
        uvloop=uvloop,
        workers=workers or WORKERS,
        say=(lambda text: None) if json else (lambda text: typer.echo(text, err=True)),
    )
    result, failures = run(chosen, setting, profile, out)
    if json:
        typer.echo(msgspec.json.encode([row.facts() for row in result.figures]).decode())
    else:
        _print(result)
    if plot is not None and any(row.id == "P-14" for row in result.figures):
        draw(result.figures, plot)
    if failures:
        raise failures[0]


def _chosen(wanted: list[str] | None, known: list[str]) -> list[str]:
    """The ids to run, in their order."""
    asked = {each.upper() for each in wanted or known}
    if unknown := sorted(asked - set(known)):
        raise WrongUsage(f"There is no benchmark {', '.join(unknown)}: they are {known[0]} to {known[-1]}.")
    return [each for each in known if each in asked]


def run(
    ids: list[str], setting: Setting, profile: Path | None = None, out: Path | None = None
) -> tuple[Result, list[Exception]]:
    """Run benchmarks one after another; their figures, and what went wrong with those that have none.

    The result is written to `out` after each of them: a long run that is interrupted leaves what it has.
    """
    from .catalogue import BENCHMARKS
    from .figures import Beginning, Result, circumstances, writing
    from .profile import find_profiler, flame_graph

    if profile is not None:
        find_profiler()
    beginning = Beginning.now()
    programs = _programs(ids)
    loop = "uvloop" if setting.uvloop else "asyncio"
    failures: list[Exception] = []
    figures: list[Figure] = []
    if out is not None:
        with writing(out, "a"):
            pass  # where it cannot be written, that is said before anything is measured
    for id in ids:
        setting.say(f"{id}: {(BENCHMARKS[id].__doc__ or '').partition(': ')[2].partition(chr(10))[0]}")
        try:
            with ExitStack() as stack:
                if profile is not None:
                    stack.enter_context(flame_graph(profile / f"{id}.svg"))
                figures += BENCHMARKS[id](setting)
        except Exception as error:  # the others' figures are not to be lost; the first error ends the command
            failures.append(error)
            typer.echo(f"{id} failed: {sentence(error)}", err=True)
        about = circumstances(beginning, loop, setting.time_wait.value, setting.smoke, programs)
        result = Result(circumstances=about, figures=figures)
        if out is not None:
            result.write(out)
    return result, failures


def _programs(ids: Collection[str]) -> dict[str, str]:
    """The versions of the programs that these benchmarks need; raises what says that one is missing."""
    import subprocess

    from compat.programs.process import find_program

    from .catalogue import PROGRAMS

    versions = {}
    for name, needed in PROGRAMS.items():
        if not needed.isdisjoint(ids):
            # radvd tells its version on standard error, and ends with a status other than 0.
            done = subprocess.run([find_program(name), "--version"], capture_output=True, text=True, check=False)
            versions[name] = (done.stdout + done.stderr).split()[1]
    return versions


def _print(result: Result) -> None:
    for row in result.figures:
        typer.echo(f"{row.id:<5} {row.what}")
        parts = [f"{row.value:,g} {row.unit}"]
        if row.repeats > 1:
            parts.append(f"({row.min:,g} … {row.max:,g})")
        if row.baseline is not None:
            parts.append(f"baseline {row.baseline:,g}" + ("" if row.ratio is None else f", ratio {row.ratio:.2f}"))
        if row.reach is not None:
            parts.append(f"goal {row.reach}: {_MET[row.met]}")
        typer.echo(f"      {'  '.join(parts)}")
    about = result.circumstances
    typer.echo(str(about))
    if about.smoke:
        typer.echo("Measured with --smoke: these figures mean nothing.")
    elif about.noisy:
        typer.echo(
            f"The machine was busy (load {about.load_before:g} before the run): take these figures for orientation only."
        )


def _compare(before: Result, after: Result, json: bool) -> bool:
    """Print what changed; whether a figure that has a goal got worse."""
    from .compare import compare

    found = compare(before, after)
    worse = [row for row in found.changes if row.regression]
    if json:
        typer.echo(msgspec.json.encode(list(_facts(found))).decode())
        return bool(worse)
    for each in (before, after):
        typer.echo(f"{each.circumstances.started}, {each.circumstances}")
    for row in found.changes:
        typer.echo(f"{row.after.id:<5} {row.after.what}")
        change = "" if row.by is None else f" ({(row.by - 1) * 100:+.0f} %{' of the ratio' if row.of_ratio else ''})"
        typer.echo(f"      {row.before.value:,g} → {row.after.value:,g} {row.after.unit}{change}: {row.verdict}")
    for which, figures in (("first", found.gone), ("second", found.new)):
        if figures:
            typer.echo(f"In the {which} result only:")
        for figure in figures:
            typer.echo(f"{figure.id:<5} {figure.what}: {figure.value:,g} {figure.unit}")
    if not found.changes:
        typer.echo("The two results have no figure in common.")
    if worse:
        typer.echo(f"Worse, of what has a goal: {'; '.join(f'{row.after.id} {row.after.what}' for row in worse)}.")
    if any(each.circumstances.smoke for each in (before, after)):
        typer.echo("At least one of the two runs was made with --smoke: the comparison means nothing.")
    if any(each.circumstances.noisy for each in (before, after)):
        typer.echo("At least one of the two runs was made on a busy machine: compare with care.")
    return bool(worse)


def _facts(found: Comparison) -> Iterator[dict[str, object]]:
    """A comparison for programs: one object for each figure of either result."""
    for row in found.changes:
        yield {
            "id": row.after.id,
            "what": row.after.what,
            "before": row.before.value,
            "after": row.after.value,
            "by": row.by,
            "of_ratio": row.of_ratio,
            "verdict": row.verdict,
            "reach": row.after.reach,
        }
    for verdict, figures in (("gone", found.gone), ("new", found.new)):
        for figure in figures:
            before, after = (figure.value, None) if verdict == "gone" else (None, figure.value)
            yield {
                "id": figure.id,
                "what": figure.what,
                "before": before,
                "after": after,
                "by": None,
                "of_ratio": False,
                "verdict": verdict,
                "reach": figure.reach,
            }
