"""What long work tells about itself: bars, announcements and notices, wherever the work runs.

In a terminal or a notebook a bar is a tqdm bar, and in a log it is a plain line from time to time.
Under `rockstudy run` a kernel does the work, whose output is invisible until the notebook ends. Its
bars append their states as JSON lines to the file in the environment variable
``ROCKSTUDY_PROGRESS``, and the `rockstudy run` process shows them (`rockstudy.status`). The workers
of `rockstudy.parallel.cpu_pool` do the same.
"""

import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

_INTERVAL = 0.2  # ours: seconds between lines of one bar
_DELAY = 1.0  # ours: seconds before a bar is drawn, so that quick cells show none
_FIRST, _EVERY, _LONGEST = 10.0, 30.0, 600.0  # ours: seconds between lines of a log
_numbers = itertools.count()
_NOTICED: set[str] = set()


def notice(text: str, about: str = "") -> None:
    """Print a line to stderr, once in a process for what it is about."""
    if (about or text) not in _NOTICED:
        _NOTICED.add(about or text)
        print(text, file=sys.stderr, flush=True)


def announce(what: str, seconds: float | None = None) -> None:
    """Tell in one line what a step is about to compute, and about how long it will take.

    A step calls this before models run, and only where it computes: a step whose table is stored
    announces nothing. Under `rockstudy run` the line appears in the terminal, else where the work
    is; of several launched processes the first one prints it.
    """
    about = "" if seconds is None else f", about {duration(seconds)}"
    if file := os.environ.get("ROCKSTUDY_PROGRESS"):
        _append(Path(file), {"say": f"{what}{about}"})
    elif os.environ.get("RANK", "0") == "0":
        # a notebook shows what goes to stderr as if something were wrong
        print(f"{what}{about}", file=sys.stdout if in_notebook() else sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return a duration in words, as exact as an estimate is: ``40 s``, ``6 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds) if seconds < 10 else 5 * round(seconds / 5)):.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    module = sys.modules.get("IPython")
    return getattr(module and module.get_ipython(), "kernel", None) is not None


class Bar(Protocol):
    """The methods of a bar that stages use."""

    def update(self, n: float = 1) -> Any:
        """Advance by ``n``."""

    def set_postfix(self, **values: Any) -> Any:
        """Show a few current values after the bar."""


@contextlib.contextmanager
def bar(total: int | None, desc: str, unit: str = "item") -> Iterator[Bar]:
    """Show the progress of a ``with`` block; ``total=None`` if the end is unknown.

    A line in the ``ROCKSTUDY_PROGRESS`` file has ``id`` (unique per bar), ``desc``, ``n``,
    ``total``, ``unit``, ``postfix`` (text by name), ``t`` (seconds since the epoch) and ``done``.
    The first and the last state are always written, others at most five times a second.
    """
    file = os.environ.get("ROCKSTUDY_PROGRESS")
    if file:
        lines = _FileBar(Path(file), desc=desc, total=total, unit=unit)
        try:
            yield lines
        finally:
            lines.write(done=True)
        return
    later = os.environ.get("RANK", "0") != "0"  # only the first launched process draws
    if not (sys.stderr.isatty() or in_notebook()):
        yield _LogBar(total, desc, unit, silent=later)
        return
    from tqdm.auto import tqdm  # slow to import

    how: dict[str, Any] = {"delay": _DELAY, "disable": later, "leave": False}
    with tqdm(total=total, desc=desc, unit=unit, **how) as drawn:
        yield drawn


class Pace:
    """When the next line of a log is due: after ten seconds, then ever less often.

    A quarter of an hour has about thirty lines, a day about two hundred.
    """

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.next = self.started + _FIRST

    def due(self) -> bool:
        """Whether a line is due; if so, the next one is due later."""
        now = time.monotonic()
        if now < self.next:
            return False
        self.next = now + min(_LONGEST, max(_EVERY, (now - self.started) / 20))
        return True


class _LogBar:
    """A bar in a log: a plain line from time to time."""

    def __init__(self, total: float | None, desc: str, unit: str, silent: bool) -> None:
        self.total, self.desc, self.unit, self.silent = total, desc, unit, silent
        self.n, self.pace = 0.0, Pace()
        self.first: tuple[float, float] | None = None  # when, and how much: what resumed work had

    def update(self, n: float = 1) -> None:
        self.n += n
        self.first = self.first or (time.monotonic(), self.n)
        if not self.silent and self.pace.due():
            line = told(self.desc, self.n, self.total, self.unit, self._left())
            print(line, file=sys.stderr, flush=True)

    def _left(self) -> float | None:
        """Seconds left at the rate since the first update; none where that is unknown."""
        began, before = self.first or (0.0, self.n)
        if not self.total or self.n <= before:
            return None
        return (time.monotonic() - began) * (self.total - self.n) / (self.n - before)

    def set_postfix(self, **values: Any) -> None:
        self.update(0)


def told(desc: str, n: float, total: float | None, unit: str, left: float | None) -> str:
    """Return how far one piece of work is, in words."""
    of = f" of {total:,.0f}" if total else ""
    about = "" if left is None else f", about {duration(left)} left"
    return f"{desc}: {n:,.0f}{of} {plural(unit)}{about}"


def plural(unit: str) -> str:
    """Return the plural of a unit: ``steps, batches``; one that ends in s is plural already."""
    if unit.endswith("s"):
        return unit
    return unit + ("es" if unit.endswith(("ch", "sh", "x")) else "s")


class _FileBar:
    """A bar that appends its state to a file; a full disk or a missing folder stops no work."""

    def __init__(self, file: Path, **fixed: Any) -> None:
        self._file, self._n, self._last = file, 0.0, 0.0
        self._state = {"id": f"{os.getpid()}-{next(_numbers)}", **fixed, "postfix": {}}
        self.write()

    def update(self, n: float = 1) -> None:
        self._n += n
        if time.monotonic() - self._last >= _INTERVAL:
            self.write()

    def set_postfix(self, **values: Any) -> None:
        self._state["postfix"] = {
            name: f"{value:.4g}" if isinstance(value, float) else str(value)
            for name, value in values.items()
        }
        self.update(0)

    def write(self, done: bool = False) -> None:
        self._last = time.monotonic()
        n = int(self._n) if self._n == int(self._n) else self._n
        _append(self._file, self._state | {"n": n, "t": time.time(), "done": done})


def _append(file: Path, state: dict[str, Any]) -> None:
    """Append one line in a single write, so that the lines of several processes stay apart."""
    with contextlib.suppress(OSError), file.open("ab", buffering=0) as stream:
        stream.write(f"{json.dumps(state)}\n".encode())
