"""The `rockstudy` command: run the notebooks, render the report, start a fork, look things up.

Everything that can be wrong with a command is checked before anything is written. An error is one
line on stderr. Exit codes: 2 for what was asked, 1 for what failed while it ran, 130 for Ctrl-C.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from rockstudy import paths
from rockstudy.cli import execute, parameters, stamps
from rockstudy.cli.execute import NotebookError
from rockstudy.config.overrides import from_parameters, unknown
from rockstudy.config.presets import PRESETS
from rockstudy.errors import StudyError
from rockstudy.paths import notebook_order

INTERRUPTED = 130
VERSIONS = ("torch", "transformers", "trl", "accelerate", "papermill", "pandas", "numpy")

app = typer.Typer(
    help="Rock tokens in on-policy distillation: run the study, read it, fork it.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
lab = typer.Typer(help="The lab's tokenizer and pair of models.")
app.add_typer(lab, name="lab")

Preset = Annotated[str, typer.Option(help="One of the study's sizes; see `info`.")]
RunId = Annotated[str, typer.Option("--run-id", "--run", help="A folder under runs/.")]
NewRunId = Annotated[
    str | None, typer.Option("--run-id", "--run", help="A folder under runs/; the preset's name.")
]
Seed = Annotated[int, typer.Option(help="Seed of the study.")]
Given = Annotated[
    list[str] | None,
    typer.Option(
        "-p",
        metavar="NAME VALUE",
        help="A field such as stage2__steps, or what a notebook adds to them; may be repeated.",
    ),
]


# --- running --------------------------------------------------------------------------------------


def find(names: Sequence[str], folder: Path) -> list[Path]:
    """Return the notebooks that are asked for, in their numeric order; all numbered ones for none.

    Parameters
    ----------
    names
        Each a name in ``folder``, its number, or the path of a notebook anywhere.
    folder
        Where the study's notebooks are.

    Raises
    ------
    StudyError
        An unknown name, one number for two notebooks, or two notebooks of one name.
    """
    known = {path.stem: path for path in sorted(folder.glob("*.ipynb"))}
    if not names:
        numbered = [path for stem, path in known.items() if re.match(r"\d+_", stem)]
        if not numbered:
            raise StudyError(f"notebooks: must be in {folder}, named like 00_name.ipynb; got none")
        return sorted(numbered, key=lambda path: notebook_order(path.stem))
    found = {_find_one(name, known).resolve() for name in names}
    stems = [path.stem for path in found]
    for stem in stems:
        if stems.count(stem) > 1:
            raise StudyError(f"notebook: must have different names in one run; got {stem!r} twice")
    return sorted(found, key=lambda path: notebook_order(path.stem))


def _find_one(name: str, known: dict[str, Path]) -> Path:
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name)
    stem = name.removesuffix(".ipynb")
    numbered = [p for s, p in known.items() if stem.isdecimal() and s.startswith(f"{stem}_")]
    matches = [known[stem]] if stem in known else numbered
    if len(matches) == 1:
        return matches[0]
    legal = ", ".join(sorted(known, key=notebook_order)) or "none"
    raise StudyError(f"notebook: must be one of {legal}, or a path; got {name!r}")


def run_study(
    notebooks: Sequence[Path],
    *,
    preset: str,
    run_id: str,
    seed: int = 0,
    given: Sequence[tuple[str, str]] = (),
    force: bool = False,
    timeout: float | None = None,
) -> Path:
    """Execute the notebooks that are not current, render the report, and return the report's path.

    Parameters
    ----------
    notebooks
        In the order in which to run them.
    preset, run_id, seed, given
        See `rockstudy.cli.parameters.assign`.
    force
        Execute the current ones too; the artefacts that they compute stay cached.
    timeout
        Seconds that one cell may take.

    Raises
    ------
    StudyError
        What is asked is wrong: nothing is written then.
    NotebookError
        A notebook failed: those before it, and what it cached, are kept.
    """
    values = parameters.assign(notebooks, preset=preset, run_id=run_id, seed=seed, given=given)
    run = paths.run_dir(run_id)
    with _locked(run):
        try:
            current = [
                _run_one(notebook, run, values[notebook], force=force, timeout=timeout)
                for notebook in notebooks
            ]
        except (NotebookError, KeyboardInterrupt):
            with contextlib.suppress(StudyError):
                _render(run)
            raise
        report = run / "report.html"
        return report if all(current) and report.is_file() else _render(run)


def check(
    notebooks: Sequence[Path],
    *,
    preset: str,
    run_id: str,
    seed: int,
    given: Sequence[tuple[str, str]],
    processes: int,
) -> int:
    """Print what can be checked of a run before it starts; return 2 if anything is wrong, else 0.

    What is asked raises as in `run_study`; then each other thing that is wrong is a line on stderr.
    """
    from rockstudy.cli import dry_run  # imports torch and transformers

    values = parameters.assign(notebooks, preset=preset, run_id=run_id, seed=seed, given=given)
    overrides = {k: v for value in values.values() for k, v in value.get("overrides", {}).items()}
    study = from_parameters(preset, seed, **overrides)
    made = dry_run.checks(study, notebooks, paths.run_dir(run_id), processes)
    print(dry_run.table(made))
    wrong = [check.wrong for check in made if check.wrong]
    for line in dict.fromkeys(wrong):
        _say(f"rockstudy: {line}")
    return 2 if wrong else 0


def _render(run: Path) -> Path:
    from rockstudy.report import render

    return render.render(run)


def _run_one(
    notebook: Path, run: Path, values: dict[str, Any], *, force: bool, timeout: float | None
) -> bool:
    """Execute a notebook unless it is current, and return whether it was."""
    output = run / "notebooks" / notebook.name
    stamped = [path.with_suffix(".ipynb") for path in output.parent.glob("*.json")]
    later = [path for path in stamped if notebook_order(path.stem) > notebook_order(notebook.stem)]
    if not force and stamps.is_current(notebook, output, values, later):
        _say(f"{notebook.stem}: unchanged")
        return True
    before, seconds = stamps.artefacts(run), None
    try:
        seconds = execute.execute(notebook, output, values, timeout=timeout)
    finally:
        stamps.write_stamp(notebook, output, values, later=later, before=before, seconds=seconds)
    _say(f"{notebook.stem}: {seconds:.0f} s")
    return False


@contextlib.contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Hold a run for this process, where that can be; two at once would write the same files."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("w") as lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(
                f"run_id: must not be in use; another process is running {run.name!r}"
            ) from None
        except (ImportError, OSError):  # Windows, file systems without locks: rather than no study
            pass
        yield


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@app.command("run")
def run_command(
    notebooks: Annotated[
        list[str] | None,
        typer.Argument(help="Names, numbers or paths; all numbered ones by default."),
    ] = None,
    preset: Preset = "lab",
    run_id: NewRunId = None,
    seed: Seed = 0,
    parameter: Given = None,
    force: Annotated[
        bool, typer.Option("--force", help="Execute unchanged notebooks too.")
    ] = False,
    timeout: Annotated[
        float | None, typer.Option(min=1, help="Seconds that one cell may take.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, run and write nothing.")
    ] = False,
    processes: Annotated[
        int, typer.Option(min=1, help="Of a --dry-run: how many will train together.")
    ] = 1,
) -> None:
    """Run notebooks in their order and print the path of the report last.

    What is unchanged is not run again, and what was interrupted continues from what it had stored.
    """
    found = find(notebooks or [], paths.notebooks_dir())
    asked: dict[str, Any] = {
        "preset": preset,
        "run_id": preset if run_id is None else run_id,
        "seed": seed,
        "given": [_pair(text) for text in parameter or []],
    }
    if dry_run:
        raise typer.Exit(check(found, **asked, processes=processes))
    print(run_study(found, **asked, force=force, timeout=timeout))


@app.command("measure")
def measure_command(
    parts: Annotated[
        list[str] | None,
        typer.Argument(help="Of data, training, statistics, arms, outcomes; all."),
    ] = None,
    preset: Preset = "lab",
    run_id: NewRunId = None,
    seed: Seed = 0,
    parameter: Given = None,
    processes: Annotated[int, typer.Option(min=1, help="How many; a device for each.")] = 1,
) -> None:
    """Compute what takes long with several processes; `run` then only reads it.

    On several nodes `accelerate launch -m rockstudy measure` starts the processes.
    """
    from rockstudy.cli import (
        launcher,
        measure,  # imports torch and transformers
    )

    launcher.follow()
    given = {name: parameters.literal(text) for name, text in map(_pair, parameter or [])}
    study, run = from_parameters(preset, seed, **given), paths.run_dir(run_id or preset)
    measure.check(parts or [])
    first = os.environ.get("RANK", "0") == "0" and processes == 1
    with _locked(run) if first else contextlib.nullcontext():
        if processes == 1:
            measure.measure(study, run, parts or [])
            return
        words = [*(parts or []), "--preset", preset, "--run-id", run_id or preset]
        words += ["--seed", str(seed), *(w for text in parameter or [] for w in ("-p", text))]
        launcher.launch(["measure", *words], processes)


# --- reading --------------------------------------------------------------------------------------


def existing_run(run_id: str) -> Path:
    """Return the folder of a run; `StudyError` listing the runs there are where it is none."""
    folder = paths.run_dir(run_id)
    if not folder.is_dir():
        legal = ", ".join(path.name for path in _runs()) or "none yet"
        raise StudyError(f"--run: must be one of {legal}; got {run_id!r}")
    return folder


def _runs() -> list[Path]:
    folder = paths.runs_dir()
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


@app.command("report")
def report_command(run_id: RunId = "lab") -> None:
    """Render the HTML report of a run again and print its path."""
    print(_render(existing_run(run_id)))


@app.command("claims")
def claims_command(
    run_id: Annotated[
        str | None, typer.Option("--run", "--run-id", help="A folder under runs/; lab by default.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="The committed tables of this preset instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="The headline claims as a table, as in the README.")
    ] = False,
) -> None:
    """Print the paper's claims against what a run measured."""
    from rockstudy.claims import records
    from rockstudy.report import listing
    from rockstudy.runs import REFERENCE

    if run_id is not None and reference is not None:
        raise StudyError("--reference: must not be given together with --run")
    if reference is None:
        folder = existing_run(run_id or "lab")
    else:
        folder = paths.data_dir() / REFERENCE / reference
        if reference not in PRESETS or not folder.is_dir():
            legal = ", ".join(n for n in PRESETS if (folder.parent / n).is_dir()) or "none yet"
            raise StudyError(f"--reference: must be one of {legal}; got {reference!r}")
    table = records.read_claims(folder)
    if as_json:
        for row in table.to_dict("records"):
            print(
                json.dumps({k: None if v != v else v for k, v in row.items()}, ensure_ascii=False)
            )
    else:
        print("\n".join(listing.markdown(table) if as_markdown else listing.lines(table)))
    if table.empty:
        _say(f"no claims are recorded in {folder}")


@app.command("info")
def info_command() -> None:
    """Print the device, versions, presets, and what each run has cached."""
    from rockstudy.models import loading
    from rockstudy.parallel import placement

    device = placement.default_device()
    print(f"device    {device}, dtype {str(loading.default_dtype(device)).removeprefix('torch.')}")
    found = [f"{name} {_version(name)}" for name in VERSIONS]
    print(f"versions  rockstudy {_version('rockstudy')}, python {platform.python_version()},")
    print(f"          {', '.join(found)}")
    print("presets")
    for name, preset in PRESETS.items():
        pair = f"{preset.pair.teacher} -> {preset.pair.student}"
        tasks = ", ".join(task.label for task in preset.benchmarks)
        print(f"  {name:<8} {pair}; {tasks}; {preset.stage2.steps} steps of stage 2")
    print(f"runs in {paths.runs_dir()}")
    for run in _runs():
        print(f"  {run.name:<8} {_run_line(run)}")
    if not _runs():
        print("  none yet")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _run_line(run: Path) -> str:
    megabytes = sum(p.stat().st_size for p in run.rglob("*") if p.is_file()) / 1e6
    stages = sorted({name.split("/")[0] for name in stamps.artefacts(run)})
    notebooks = [p.stem for p in sorted((run / "notebooks").glob("*.ipynb"))]
    return (
        f"{len(stamps.artefacts(run))} artefacts ({', '.join(stages) or 'none'}), "
        f"{megabytes:.1f} MB; notebooks: {', '.join(notebooks) or 'none'}"
    )


# --- making ---------------------------------------------------------------------------------------


@app.command("new")
def new_command(
    name: Annotated[str, typer.Argument(help="Letters, digits, _ and -.")],
    to: Annotated[Path | None, typer.Option(help="Folder; notebooks/ by default.")] = None,
    preset: Annotated[str, typer.Option(help="The preset that it starts with.")] = "lab",
    run_id: Annotated[
        str | None, typer.Option("--run-id", "--run", help="The run that it reads and adds to.")
    ] = None,
) -> None:
    """Write a fresh notebook with the standard sections, wired to a run, and print its path."""
    from rockstudy.cli import scaffold

    if preset not in PRESETS:
        raise StudyError(unknown("--preset", preset, PRESETS))
    run = preset if run_id is None else run_id
    paths.run_dir(run)
    print(scaffold.write(name, to or paths.notebooks_dir(), preset=preset, run_id=run))


@lab.command("build")
def lab_build_command(
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; data/lab by default.")
    ] = None,
    config_path: Annotated[
        Path | None, typer.Option("--config", help="JSON file; the recorded one by default.")
    ] = None,
) -> None:
    """Train the lab's tokenizer, teacher and student from a recorded configuration and seed."""
    from rockstudy.tasks.lab import build

    build.build(out or paths.data_dir() / "lab", config_path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; every error that a user can cause is one line on stderr."""
    try:
        given = _joined(sys.argv[1:] if arguments is None else arguments)
        status = app(given or ["--help"], prog_name="rockstudy", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except NotebookError as error:
        _stop(str(error), 1)
    except StudyError as error:
        _stop(str(error), 2)
    except TyperException as error:
        _stop(" ".join(error.format_message().split()), error.exit_code)
    except OSError as error:
        _stop(f"{type(error).__name__}: {error}", 1)
    if status == INTERRUPTED:  # typer's own answer to Ctrl-C too
        _stop("interrupted; the same command continues from what is stored", INTERRUPTED)
    sys.exit(status or 0)


def _joined(arguments: Sequence[str]) -> list[str]:
    """``-p name value`` as ``-p name=value``: typer's repeatable options take one word each."""
    joined, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        joined.append(word)
        if word == "-p" and len(rest) >= 2 and "=" not in rest[0]:
            joined.append(f"{rest.pop(0)}={rest.pop(0)}")
    return joined


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise StudyError(f"-p: must be followed by a name and a value; got {text!r}")
    return name, value


def _stop(text: str, code: int) -> None:
    _say(f"rockstudy: {text}")
    sys.exit(code)


if __name__ == "__main__":
    main()
