"""Executing a notebook through papermill, in the running interpreter, cell by cell in view.

This module adds three things to papermill. The kernel is always the running interpreter, with the
same package, whatever kernelspecs the machine has. The course of the study learns of each cell as
it starts. And after a dead kernel or a time-out the error names the cell, and the partly executed
notebook is kept.
"""

import contextlib
import errno
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rockstudy.cli.course import StudyCourse
from rockstudy.errors import StudyError
from rockstudy.notebooks import read

FULL = "the disk is full; free some space, and the same command continues from what is stored"
_FULL_DISK = tuple(f"[Errno {code}]" for code in (errno.ENOSPC, errno.EDQUOT))
DEAD = {
    "DeadKernelError": "the kernel died; the usual cause is too little memory",
    "CellTimeoutError": "the cell took longer than --timeout allows",
}

# ipykernel ends with its parent, but for one that is killed while the kernel starts: where orphans
# go to a process other than the first (systemd --user), such a kernel would wait for ever.
KERNEL = """
import os, runpy, threading, time

def follow(parent):
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)

if os.name == "posix":
    parent = int(os.environ["JPY_PARENT_PID"])
    threading.Thread(target=follow, args=(parent,), daemon=True).start()
runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)
"""


class NotebookError(RuntimeError):
    """A notebook that failed: one line with its name, the cell and the cause."""


def execute(
    notebook: Path,
    output: Path,
    values: Mapping[str, Any],
    *,
    timeout: float | None = None,
    course: StudyCourse | None = None,
    bars: Path | None = None,
) -> float:
    """Execute a notebook with these parameter values and return the duration in seconds.

    `course` learns where the notebook is, and its kernel appends the states of bars to `bars`.

    During execution the output is ``<name>.partial.ipynb``. A failed notebook is kept as
    ``<name>.failed.ipynb``, with its kernel's stderr in ``<name>.failed.log``. `parameters.assign`
    has checked the values, and `timeout` is a cell's, in seconds.

    `NotebookError`: a cell raised or took too long, or its kernel died.
    """
    partial, failed = (output.with_suffix(f".{word}.ipynb") for word in ("partial", "failed"))
    failed_log = failed.with_suffix(".log")
    output.parent.mkdir(parents=True, exist_ok=True)
    failed_log.unlink(missing_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rockstudy-") as scratch:
        try:
            with (Path(scratch) / "stderr").open("wb") as stderr:
                environment = {"ROCKSTUDY_PROGRESS": str(bars or Path(scratch) / "progress")}
                kernel = _kernel_manager(environment, stderr)
                _papermill(notebook, partial, values, timeout, kernel, course)
        except BaseException as error:
            output.unlink(missing_ok=True)  # an earlier one would be mistaken for this one
            if partial.exists():
                os.replace(partial, failed)
            with contextlib.suppress(OSError):  # a full disk
                if messages := (Path(scratch) / "stderr").read_bytes():
                    failed_log.write_bytes(messages)
            if isinstance(error, KeyboardInterrupt):
                raise
            cell = _last_started(failed)
            where = f"{notebook.stem}, cell [{cell}]" if cell else notebook.stem
            raise NotebookError(f"{where}: {_cause(error)} (kept: {failed})") from error
    failed.unlink(missing_ok=True)
    os.replace(partial, output)
    return time.monotonic() - started


def _papermill(
    notebook: Path,
    output: Path,
    values: Mapping[str, Any],
    timeout: float | None,
    kernel: type,
    course: StudyCourse | None,
) -> None:
    import papermill  # takes a second

    papermill.execute_notebook(
        _no_fields(notebook),
        _no_fields(output),
        engine_name=_engine(notebook.stem, course),
        parameters=dict(values),
        kernel_name="python3",
        language="python",
        progress_bar=False,
        start_timeout=120,
        execution_timeout=timeout,
        kernel_manager_class=kernel,
    )


def _engine(name: str, course: StudyCourse | None) -> str | None:
    """Name of papermill's engine: its own, or one that tells the course of each code cell."""
    if course is None:
        return None
    from papermill.engines import NBClientEngine, papermill_engines

    class CourseEngine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, *given: Any, **settings: Any) -> Any:
            course.start(name, sum(map(_runs, nb_man.nb.cells)))
            start = nb_man.cell_start

            def cell_start(cell: Any, *given: Any, **more: Any) -> None:
                if _runs(cell):
                    course.next_cell()
                start(cell, *given, **more)

            nb_man.cell_start = cell_start
            return super().execute_managed_notebook(nb_man, *given, **settings)

    papermill_engines.register("rockstudy", CourseEngine)
    return "rockstudy"


def _runs(cell: Any) -> bool:
    """Whether Jupyter gives this cell a number."""
    return cell.cell_type == "code" and bool(cell.source.strip())


def _no_fields(path: Path) -> str:
    """A path that survives papermill's ``str.format``."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _kernel_manager(environment: Mapping[str, str], stderr: IO[bytes]) -> type:
    """A kernel manager class whose kernel is the running interpreter."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    package = str(Path(__file__).parents[2])
    python_path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    settings = {"PYTHONPATH": python_path, **environment}
    spec = KernelSpec(
        argv=[sys.executable, "-c", KERNEL, "-f", "{connection_file}"],
        display_name="Python 3",
        language="python",
        env={name: value.replace("$", "$$") for name, value in settings.items()},
        metadata={"supported_encryption": ["curve"]},
    )

    class InterpreterKernelManager(AsyncKernelManager):
        kernel_spec = spec  # pyright: ignore

        async def start_kernel(self, **settings: Any) -> None:
            # encrypted, since other users of the machine can reach the kernel's TCP ports
            await super().start_kernel(stderr=stderr, transport_encryption="auto", **settings)

    return InterpreterKernelManager


def _cause(error: BaseException) -> str:
    kind, text = type(error).__name__, str(error)
    if kind == "PapermillExecutionError":
        return _described(error.ename, error.evalue or "")  # pyright: ignore
    ours = reason(error) if isinstance(error, OSError) else _described(kind, text)
    return DEAD.get(kind, ours)


def reason(error: OSError) -> str:
    """Return what an error of the system means to the user."""
    if isinstance(error, BrokenPipeError):
        return "the output was closed before its end; what runs have stored is kept"
    if str(error).startswith(_FULL_DISK):
        return FULL
    where = f"{error.filename}: " if error.filename else ""
    return (
        f"{where}{error.strerror}"
        if error.strerror
        else _described(type(error).__name__, str(error))
    )


def _described(kind: str, text: str) -> str:
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if kind == "StudyError" and first:
        return first
    return FULL if first.startswith(_FULL_DISK) else f"{kind}: {first}".rstrip(": ")


def _last_started(kept: Path) -> int | None:
    """Number of the last code cell that started, as Jupyter shows it; None if none is known."""
    try:
        cells = read(kept).cells
    except StudyError:  # not there, or cut short by a full disk
        return None
    began = [bool(c.metadata.get("papermill", {}).get("start_time")) for c in filter(_runs, cells)]
    return max((number for number, yes in enumerate(began, start=1) if yes), default=None)
