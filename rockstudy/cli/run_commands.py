"""Commands about runs: report, claims, overview, deletion, a new notebook."""

import json
import platform
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from rockstudy import paths, runs
from rockstudy.cli import running
from rockstudy.cli.messages import say
from rockstudy.cli.options import ConfigFile, NewRunId, Preset, chosen, run_name
from rockstudy.config.overrides import from_parameters
from rockstudy.config.presets import PRESETS
from rockstudy.errors import StudyError, escaped
from rockstudy.store.provenance import version

RunId = Annotated[str, typer.Option("--run-id", "--run", help="Name of a folder under runs/.")]
VERSIONS = "rockstudy torch transformers trl accelerate papermill pandas numpy".split()


def report(run_id: RunId = "lab") -> None:
    """Render the HTML report of a run again and print its path."""
    run = runs.existing(run_id, "--run")
    runs.check(run)
    print(running.rendered(run))


def claims(
    run_id: Annotated[
        str | None, typer.Option("--run", "--run-id", help="A folder under runs/; lab by default.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="The committed tables of this preset instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    headlines: Annotated[bool, typer.Option("--headlines", help="The headline findings.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="The headline findings as in docs/claims.md.")
    ] = False,
    as_sentences: Annotated[
        bool, typer.Option("--five", help="Five findings as sentences, as in the README.")
    ] = False,
) -> None:
    """Print the paper's claims against what a run measured."""
    from rockstudy.claims import records
    from rockstudy.report import listing, sentences

    if run_id is not None and reference is not None:
        raise StudyError("--reference: must not be given together with --run")
    if reference is None:
        folder = runs.existing("lab" if run_id is None else run_id, "--run")
    else:
        folder = runs.reference_dir(reference)
        if reference not in PRESETS or not folder.is_dir():
            legal = ", ".join(n for n in PRESETS if runs.reference_dir(n).is_dir()) or "none yet"
            raise StudyError(f"--reference: must be one of {legal}; got {reference!r}")
    table = records.read_claims(folder)
    rows = table[table.headline] if headlines else table
    if as_sentences:
        print("\n".join(sentences.numbered(table)))
    elif as_json:
        for row in rows.astype(object).where(rows.notna(), None).to_dict("records"):
            print(json.dumps(row, ensure_ascii=False))
    else:
        print("\n".join(listing.markdown(table) if as_markdown else listing.lines(rows)))
    if table.empty:
        say(f"no claims by today's rules are recorded in {folder}")


def info(
    verify: Annotated[
        str | None, typer.Option(metavar="RUN", help="Verify all artefacts of this run instead.")
    ] = None,
) -> None:
    """Print versions, presets, and each run: its parameters, notebooks, dates and sizes."""
    if verify is not None:
        _verify(runs.existing(verify, "--verify"))
        return
    own, *others = [f"{name} {version(name) or 'not installed'}" for name in VERSIONS]
    print(f"versions  {own}, python {platform.python_version()},\n          {', '.join(others)}")
    print("presets")
    for name, preset in PRESETS.items():
        models = f"{preset.pair.teacher} -> {preset.pair.student}"
        tasks = ", ".join(task.label for task in preset.benchmarks)
        steps = f"{preset.stage2.steps} steps of stage 2" if preset.stage2 else "nothing is trained"
        print(f"  {name:<8} {models}; {tasks}; {steps}")
    print(f"runs in {paths.runs_dir()}")
    for run in runs.all_runs():
        print("\n".join(map(escaped, _about(run))))
    if not runs.all_runs():
        print("  none yet")


def _verify(run: Path) -> None:
    """Print a line for each damaged artefact of a run; `StudyError` where there is one."""
    names, wrong = list(runs.artefacts(run)), 0
    for line in runs.damages(run, names):
        print(line, flush=True)
        wrong += 1
    if wrong:
        raise StudyError(f"{run.name}: {wrong} of {len(names)} artefacts are damaged")
    print(f"{run.name}: {len(names)} artefacts, none of them damaged")


def _about(run: Path) -> list[str]:
    sizes = runs.artefacts(run)
    lines = [f"  {run.name}: {runs.described(run)}; last changed {runs.last_changed(run)}"]
    lines += [f"    notebooks: {', '.join(runs.notebook_states(run)) or 'none executed'}"]
    for stage in dict.fromkeys(name.split("/")[0] for name in sizes):
        some = [size for name, size in sizes.items() if name.startswith(f"{stage}/")]
        lines.append(f"    {stage}: {len(some)} artefacts, {sum(some) / 1e6:.1f} MB")
    return lines


def forget(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Name of a folder under runs/.")],
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="Stages such as training, or beginnings of names such as training/stage2-; "
            "by default the whole run."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
) -> None:
    """Delete a run, or some of its artefacts, after printing what will go."""
    run = runs.existing(run_id, "RUN")
    sizes = runs.artefacts(run, what or [])
    for name, size in sizes.items():
        print(f"{name}  {size / 1e6:.1f} MB")
    whole = "" if what else f" and the folder {run}"
    print(f"{len(sizes)} artefacts, {sum(sizes.values()) / 1e6:.1f} MB{whole} will be deleted")
    if not yes and not sys.stdin.isatty():
        raise StudyError("--yes: must be given where nobody can be asked; nothing was deleted")
    if not yes:
        typer.confirm("Delete them?", abort=True)
    with running.locked(run):
        runs.forget(run, list(sizes))
    if not what:
        shutil.rmtree(run)
    say(f"deleted {len(sizes)} artefacts of {run_id}")


def new(
    name: Annotated[str, typer.Argument(help="Letters, digits, _ and -.")],
    to: Annotated[Path | None, typer.Option(help="Folder; notebooks/ by default.")] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    run_id: NewRunId = None,
) -> None:
    """Write a fresh notebook with the standard sections, wired to a run, and print its path."""
    from rockstudy.cli import scaffold

    base = chosen(preset, config)
    run = run_name(base, run_id)
    known = runs.has_record(paths.run_dir(run))
    if not known:
        from_parameters(base or "lab")  # which refuses an unknown preset
    start = None if known else base
    print(scaffold.write(name, to or paths.notebooks_dir(), preset=start, run_id=run))


def open_command(
    notebook: Annotated[
        str, typer.Argument(help="Name, number or path (default: the rock tokens).")
    ] = "02",
    run_id: Annotated[
        str, typer.Option("--run-id", "--run", help="A run, or the committed reference of the lab.")
    ] = runs.REFERENCE,
    browser: Annotated[
        bool, typer.Option(help="Open a browser; without one JupyterLab prints its address.")
    ] = True,
) -> None:
    """Open a copy of a notebook in JupyterLab; by default it replays the committed reference."""
    from rockstudy.cli import opening

    (found,) = running.find([notebook], paths.notebooks_dir())
    if run_id != runs.REFERENCE:
        runs.existing(run_id, "--run-id")
    opening.needs_jupyterlab()
    copy, new_copy = opening.copied(found, run_id)
    of = "the committed reference" if run_id == runs.REFERENCE else f"the run {run_id}"
    what = "a new copy" if new_copy else "your copy"
    say(f"{what} on {of}: {copy}")
    say("in JupyterLab, Run > Run All Cells shows its figures; Ctrl-C twice ends JupyterLab")
    opening.in_jupyterlab(copy, browser)


COMMANDS = (report, claims, info, forget, new)
