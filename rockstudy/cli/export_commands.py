"""The command `rockstudy export`: what a run has measured, in formats that other programs read."""

from pathlib import Path
from typing import Annotated

import typer

from rockstudy import runs
from rockstudy.cli import messages
from rockstudy.config.presets import PRESETS
from rockstudy.errors import StudyError

ARM = "rock-freeze"


def export(
    run_id: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Name of a folder under runs/.")
    ] = None,
    what: Annotated[
        str | None, typer.Argument(help="rocks, tokens, rollouts, weights or claims.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Where to write: rocks .json; rollouts and weights .jsonl or .parquet; claims "
            ".csv, .json or .parquet; tokens a folder."
        ),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="The committed tables of this preset instead of RUN.")
    ] = None,
    arm: Annotated[
        str | None, typer.Option(help=f"Arm whose weights are written (default: {ARM}).")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Write a run's rocks, token table, rollouts, position weights or claims for other programs."""
    from rockstudy.exports import targets

    if reference is not None and what is None:
        run_id, what = None, run_id
    if what is None:
        raise StudyError(f"WHAT: must be one of {', '.join(targets.SUFFIXES)}; got nothing")
    folder = folder_of(run_id, reference)
    if to is None:
        raise StudyError("--to: must be given: the file or folder to write")
    targets.check(what, to, overwrite)
    if arm is not None and what != "weights":
        raise StudyError(f"--arm: must be given for weights alone; got {arm!r} for {what}")
    _write(runs.opened(folder), what, to, arm or ARM)
    print(to)


def folder_of(run_id: str | None, reference: str | None) -> Path:
    """Return the folder of a run or of a reference; `StudyError` for neither or both."""
    if run_id is None and reference is None:
        raise StudyError(
            "RUN: must be the name of a run, or --reference that of a preset; got none"
        )
    if reference is None:
        return runs.existing(run_id, "RUN")
    if run_id is not None:
        raise StudyError(f"--reference: must not be given together with RUN; got {run_id!r}")
    folder = runs.reference_dir(reference)
    if reference not in PRESETS or not folder.is_dir():
        legal = ", ".join(n for n in PRESETS if runs.reference_dir(n).is_dir()) or "none yet"
        raise StudyError(f"--reference: must be one of {legal}; got {reference!r}")
    return folder


def _write(run: runs.Run, what: str, to: Path, arm: str) -> None:
    """Write one export, and print lines about what it holds and what it lacks."""
    from rockstudy.exports import tables, targets, token_folder  # imports torch and transformers

    messages.release()
    if what == "rocks":
        made = tables.rocks(run)
        made.write(to)
        messages.say(f"{made.k} rocks by {made.selector}")
    elif what == "tokens":
        written = token_folder.write(run, to)
        messages.say(f"{written.rows} positions in {written.files} files")
        if written.without_top is not None:
            messages.say(f"without the likeliest tokens of the models: {written.without_top}")
    else:
        frames = {"rollouts": tables.rollouts, "claims": tables.claims}
        frame = tables.weights(run, arm) if what == "weights" else frames[what](run)
        targets.write_frame(frame, to)
        messages.say(f"{len(frame)} rows of {what}")
