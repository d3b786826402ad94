"""Running a study: which notebooks, in which run, and what is checked before anything starts."""

import contextlib
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rockstudy import progress, runs, status
from rockstudy.cli import course, execute, messages
from rockstudy.cli.execute import NotebookError
from rockstudy.config.fields import StudyConfig
from rockstudy.errors import StudyError
from rockstudy.paths import notebook_order

TRAINING = ("01_distillation", "07_selective_distillation", "09_what_to_freeze")  # that train
DETECTING = "02_rock_tokens"  # the notebook whose tables the token viewer shows
ENOUGH_S = 5.0  # ours: a study that ends sooner needs no forecast
GRADING = ("00_task_and_models", "05_causal_knockout", "06_pillars_and_predictors")
GRADING += ("10_does_the_teacher_help",)


def find(names: Sequence[str], folder: Path) -> list[Path]:
    """Return the notebooks that are asked for, in their numeric order; all numbered ones for none.

    Each is a name in `folder`, with or without its number, the number alone, or the path of a
    notebook anywhere. `StudyError`: an unknown name, one number or one name for two notebooks.
    """
    known = {path.stem: path for path in sorted(folder.glob("*.ipynb"))}
    names = names or [stem for stem in known if re.match(r"\d+_", stem)]
    if not names:
        raise StudyError(f"notebooks: must be in {folder}, named like 00_name.ipynb; got none")
    chosen = {_find_one(name, known).resolve() for name in names}
    if twice := {
        one.stem for one in chosen for two in chosen if one.stem == two.stem and one != two
    }:
        legal = "must have different names in one run"
        raise StudyError(f"notebook: {legal}; got {twice.pop()!r} twice")
    return sorted(chosen, key=lambda path: notebook_order(path.stem))


def applicable(notebooks: Sequence[Path], named: bool, config: StudyConfig) -> list[Path]:
    """Return the notebooks that apply to a study, in their order.

    Where models are given, those that train do not; where prompts have no answers, those that grade
    do not. `StudyError` for one that was `named` and does not apply.
    """
    if config.models is None:
        return list(notebooks)
    reasons = dict.fromkeys(TRAINING, "trains nothing, since this run's models are given")
    if named and (stem := _first(notebooks, reasons)) is not None:
        raise StudyError(f"notebook: must be one that {reasons[stem]}; got {stem!r}")
    if _first(notebooks, GRADING) is not None and not grades(config):
        why = "grades nothing, since this run's prompts have no answers"
        reasons |= dict.fromkeys(GRADING, why)
        if named:
            stem = _first(notebooks, reasons)
            raise StudyError(f"notebook: must be one that {why}; got {stem!r}")
    return [path for path in notebooks if path.stem not in reasons]


def _first(notebooks: Sequence[Path], stems: Collection[str]) -> str | None:
    return next((path.stem for path in notebooks if path.stem in stems), None)


def grades(config: StudyConfig) -> bool:
    """Whether the prompts of a study can be read and have answers to grade by."""
    from rockstudy import tasks

    if not config.has_prompts:
        return False
    with contextlib.suppress(StudyError):  # the checks before the run report it
        return all(tasks.has_answers(task, tasks.load(task, "eval")) for task in config.screens)
    return True


def _find_one(name: str, known: dict[str, Path]) -> Path:
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name)
    stem = name.removesuffix(".ipynb")
    parts = {s: re.fullmatch(r"(\d+)_(.+)", s) for s in known}
    number = int(stem) if stem.isdecimal() else None
    alike = [known[s] for s, p in parts.items() if p and (int(p[1]) == number or p[2] == stem)]
    matches = [known[stem]] if stem in known else alike
    if len(matches) == 1:
        return matches[0]
    legal = ", ".join(sorted(known, key=notebook_order)) or "none"
    raise StudyError(f"notebook: must be one of {legal}, or a path; got {name!r}")


def run_study(
    notebooks: Sequence[Path],
    values: Mapping[Path, Mapping[str, Any]],
    run: Path,
    timeout: float | None = None,
) -> Path:
    """Execute the notebooks with their values, render the report, and return its path.

    What a notebook computes is cached, so that executing it again is quick. A cell may take
    `timeout` seconds. `NotebookError`: a notebook failed; those before it, and what it cached, are
    kept.
    """
    with locked(run):
        runs.check(run)
        messages.release()
        try:
            with interruptible(run):
                return _executed(notebooks, values, run, timeout)
        except NotebookError:
            with contextlib.suppress(StudyError, OSError):
                rendered(run)
            raise


def _executed(
    notebooks: Sequence[Path],
    values: Mapping[Path, Mapping[str, Any]],
    run: Path,
    timeout: float | None,
) -> Path:
    """Execute the notebooks in their order, render the report, and show where the study is."""
    names = [notebook.stem for notebook in notebooks]
    study = course.StudyCourse(names, course.expected(run, runs.recorded(run), names))
    with tempfile.TemporaryDirectory(prefix="rockstudy-") as scratch:
        bars = Path(scratch) / "progress"
        with status.shown(bars, study):
            if (left := study.left()) is not None and left > ENOUGH_S:
                messages.say(f"{len(names)} notebooks, about {progress.duration(left)}")
            for notebook in notebooks:
                output = run / "notebooks" / notebook.name
                how: Any = {"timeout": timeout, "course": study, "bars": bars}
                seconds = execute.execute(notebook, output, values[notebook], **how)
                with contextlib.suppress(OSError):
                    course.record(run, notebook.stem, study.finish())
                messages.say(f"{notebook.stem}: {seconds:.0f} s")
            if DETECTING in names:
                view(run)
            return rendered(run)


@contextlib.contextmanager
def interruptible(run: Path) -> Iterator[None]:
    """Have the line of an interrupted command tell what the run has kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        messages.interrupted(_kept(run))
        raise


def _kept(run: Path) -> str:
    executed = [one for one in runs.notebook_states(run) if " executed " in one]
    parts = runs.artefacts(run)
    books = f"{len(executed)} notebook{'s' * (len(executed) != 1)}"
    return (
        f"{books} and {len(parts)} artefacts are kept in runs/{run.name}; "
        f"the same command, or `rockstudy run --run-id {run.name}`, goes on from there"
    )


def refuse_reference(run_id: str) -> None:
    """Refuse the name of the committed reference, in which nothing is computed."""
    if run_id == runs.REFERENCE:
        raise StudyError("run_id: must not be 'reference', which is read and never written")


def readable(config: StudyConfig, processes: int = 1) -> None:
    """Refuse a configuration whose models or prompts cannot be read, before it is recorded."""
    from rockstudy.cli import dry_run

    for check in dry_run.quick(config, processes):
        if check.wrong:
            raise StudyError(check.wrong)


def check(
    notebooks: Sequence[Path],
    study: StudyConfig,
    run: Path,
    processes: int,
    device: str | None = None,
) -> int:
    """Print what can be checked of a run before it starts; return 2 if anything is wrong, else 0.

    Each thing that is wrong is also a line on stderr.
    """
    from rockstudy.cli import dry_run  # imports torch and transformers

    made = dry_run.checks(study, notebooks, run, processes, device)
    print(dry_run.table(made))
    wrong = [check.wrong for check in made if check.wrong]
    messages.release(keep=not wrong)
    for line in dict.fromkeys(wrong):
        messages.say(f"rockstudy: {line}")
    return 2 if wrong else 0


def rendered(run: Path) -> Path:
    """Render a run's report and return its path."""
    from rockstudy.report import render  # imports nbconvert: not needed to refuse a command

    return render.render(run)


def view(run: Path) -> None:
    """Write a run's token viewer beside its report; where that fails, a line tells why."""
    from rockstudy.viewer import study

    try:
        study.write(runs.opened(run))
    except StudyError as error:
        messages.say(f"token viewer: {error}")


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run for this process, where that can be; two at once would write the same files."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("w") as lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            line = f"run_id: must not be in use; a different process is running {run.name!r}"
            raise StudyError(line) from None
        except (ImportError, OSError):  # Windows, file systems without locks: rather than no study
            pass
        yield
