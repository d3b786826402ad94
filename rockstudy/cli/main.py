"""The `rockstudy` command: run the notebooks, render the report, start a fork, look things up.

Everything that can be wrong with a command is checked before anything is written. An error is one
line on stderr. Exit codes: 2 for what was asked, 1 for what failed while it ran, 130 for Ctrl-C and
143 for SIGTERM.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

import rockstudy
from rockstudy import paths, runs
from rockstudy.cli import (
    config_commands,
    execute,
    export_commands,
    messages,
    parameters,
    run_commands,
    running,
    simulate_command,
    view_command,
)
from rockstudy.cli.execute import NotebookError
from rockstudy.cli.options import (
    ConfigFile,
    FromRun,
    Given,
    NewRunId,
    Preset,
    Seed,
    chosen,
    fields,
    pair,
    run_name,
)
from rockstudy.errors import StudyError

INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
lab = typer.Typer(help="The lab's tokenizer and models.")
app.add_typer(lab, name="lab")
smollm2 = typer.Typer(help="The teacher of the preset smollm2.")
app.add_typer(smollm2, name="smollm2")
app.command("config")(config_commands.config_command)
app.command("simulate")(simulate_command.simulate_command)
app.command("fields")(config_commands.fields_command)
app.command("export")(export_commands.export)
app.command("view")(view_command.view)
app.command("open")(run_commands.open_command)
for command in run_commands.COMMANDS:
    app.command(command.__name__)(command)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"rockstudy {rockstudy.__version__}")
        raise typer.Exit


@app.callback()
def options_of_all(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Rock tokens in on-policy distillation: run the study, read it, fork it."""


@app.command("run")
def run_command(
    notebooks: Annotated[
        list[str] | None,
        typer.Argument(help="Names, numbers or paths; all numbered ones by default."),
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    run_id: NewRunId = None,
    from_run: FromRun = None,
    seed: Seed = None,
    parameter: Given = None,
    timeout: Annotated[
        float | None, typer.Option(min=1, max=1e7, help="Seconds that one cell may take.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, run and write nothing.")
    ] = False,
    processes: Annotated[
        int,
        typer.Option(
            min=1, max=1024, help="For --dry-run: how many processes will train together."
        ),
    ] = 1,
    device: Annotated[
        str | None,
        typer.Option(help="For --dry-run: a card to be rented, such as H100, not this machine's."),
    ] = None,
) -> None:
    """Run notebooks in their order and print the path of the report last.

    What has been computed is only read, and what was interrupted continues where it stopped.
    """
    files = running.find(notebooks or [], paths.notebooks_dir())
    base = chosen(preset, config)
    run_id = run_name(base, run_id)
    running.refuse_reference(run_id)
    values, given = parameters.assign(files, run_id, [pair(text) for text in parameter or []])
    asked = (base, run_id, seed, given, from_run)
    study = runs.resolved(*asked)
    files = running.applicable(files, bool(notebooks), study)
    if dry_run:
        raise typer.Exit(running.check(files, study, paths.run_dir(run_id), processes, device))
    run = runs.open_run(*asked, check=running.readable)
    print(running.run_study(files, values, run.path, timeout))


@app.command("measure")
def measure_command(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            help="Parts to compute: data, training, statistics, arms, outcomes (default: all)."
        ),
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    run_id: NewRunId = None,
    from_run: FromRun = None,
    seed: Seed = None,
    parameter: Given = None,
    processes: Annotated[
        int,
        typer.Option(min=1, max=1024, help="Number of processes, each with a device of its own."),
    ] = 1,
) -> None:
    """Compute what takes long with several processes; `run` then only reads it.

    On several nodes `accelerate launch -m rockstudy measure` starts the processes.
    """
    from rockstudy.cli import launcher, measure  # imports torch and transformers

    launcher.follow()
    base = chosen(preset, config)
    measure.check(parts or [])
    run_id = run_name(base, run_id)
    given = fields(parameter or [])
    running.refuse_reference(run_id)
    if processes > 1:  # each would refuse what cannot be divided, in a line of its own
        running.readable(runs.resolved(base, run_id, seed, given, from_run), processes)
    check = running.readable if "RANK" not in os.environ else lambda config: None
    run = runs.open_run(base, run_id, seed, given, from_run, check=check)
    first = os.environ.get("RANK", "0") == "0" and processes == 1
    with running.locked(run.path) if first else contextlib.nullcontext():
        messages.release()
        with running.interruptible(run.path):
            if processes == 1:
                measure.measure(run, parts or [])
            else:
                launcher.launch(["measure", *(parts or []), "--run-id", run_id], processes)


@lab.command("build")
def lab_build_command(
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; data/lab by default.")
    ] = None,
    config_path: Annotated[
        Path | None, typer.Option("--config", help="JSON file; the recorded one by default.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Train this model alone, such as student-wide; may be repeated."),
    ] = None,
) -> None:
    """Train the lab's tokenizer, teacher and students from a recorded configuration and seed."""
    from rockstudy.tasks.lab import build

    messages.release()
    build.build(out or paths.data_dir() / "lab", config_path, only or ())


@smollm2.command("build")
def smollm2_build_command(
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; data/smollm2/teacher by default.")
    ] = None,
    config_path: Annotated[
        Path | None, typer.Option("--config", help="JSON file; the recorded one by default.")
    ] = None,
) -> None:
    """Train the adapter that makes SmolLM2 a teacher of the lab's problems; it can be continued."""
    from rockstudy.training import specialist_build

    messages.release()
    specialist_build.build(out or paths.data_dir() / "smollm2" / "teacher", config_path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; every error that a user can cause is one line on stderr."""
    messages.show_every_character()
    ended: list[signal.Signals] = []
    try:
        given = _joined(sys.argv[1:] if arguments is None else arguments)
        with _as_ctrl_c(ended), messages.held():
            status = app(given or ["--help"], prog_name="rockstudy", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except (NotebookError, StudyError) as error:
        _stop(str(error), 1 if isinstance(error, NotebookError) else 2)
    except TyperException as error:
        _stop(" ".join(error.format_message().split()), error.exit_code)
    except (OSError, SystemExit) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):  # typer exits where stdout is closed
            raise
        with contextlib.suppress(OSError):  # what could not be written is not tried again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _stop(execute.reason(cause), 1)
    if status == INTERRUPTED:  # typer's own answer to Ctrl-C too
        words = f"ended by {ended[0].name}" if ended else "interrupted"
        status = 128 + ended[0] if ended else INTERRUPTED
        _stop(f"{words}; {messages.kept()}", status)
    sys.exit(status or 0)


@contextlib.contextmanager
def _as_ctrl_c(ended: list[signal.Signals]) -> Iterator[None]:
    """Have other signals, which go to `ended`, end a block as Ctrl-C does: no kernel stays."""

    def end(number: int, _: Any) -> None:
        ended.append(signal.Signals(number))
        raise KeyboardInterrupt

    launched = "RANK" in os.environ  # it ends with its launcher
    numbers = [one for one in signal.Signals if one.name in ("SIGTERM", "SIGHUP") and not launched]
    ours = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _joined(arguments: Sequence[str]) -> list[str]:
    """``-p name value`` as ``-p name=value``: typer's repeatable options take one word each."""
    joined, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        joined.append(word)
        if word == "-p" and len(rest) >= 2 and "=" not in rest[0]:
            joined.append(f"{rest.pop(0)}={rest.pop(0)}")
    return joined


def _stop(text: str, code: int) -> None:
    messages.say(f"rockstudy: {text}")
    sys.exit(code)


if __name__ == "__main__":
    main()
