"""What a person sees of long work that other processes do: one status, or plain lines in a log.

Kernels and workers append the states of their bars to a file (`rockstudy.progress`). `shown` reads
it and shows all of them together: in a terminal as a block that is drawn again in place, in a
notebook as one output that changes, and elsewhere as a plain line from time to time, without
carriage returns and escape codes. Bars of one name, which several workers have, are one line.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rockstudy import errors
from rockstudy.progress import Pace, duration, in_notebook, plural, told

_LOOK = 0.2  # ours: seconds between two looks at the file
_DELAY = 1.0  # ours: seconds before a bar is shown
_SOON = 3.0  # ours: seconds of work before its rate is trusted


class Course(Protocol):
    """Where the work that is shown stands in something larger, such as a study."""

    def place(self) -> str:
        """Where the work is, such as ``notebook 3 of 9, cell 5 of 12``."""

    def ahead(self, step_left: float | None) -> str:
        """How far the whole is and how long it will take; `step_left` is for the current step."""


class Row(NamedTuple):
    """Work of one name: what all its bars have done."""

    desc: str
    n: float
    total: float | None
    unit: str
    postfix: str
    left: float | None  # seconds
    bars: int

    @property
    def name(self) -> str:
        """The name, with the number of workers where there are several."""
        return self.desc if self.bars == 1 else f"{self.desc} ({self.bars} at a time)"


@dataclass
class _Bar:
    """The states of one bar: its last one, and how much was done when, for its rate."""

    state: dict[str, Any]
    past: list[tuple[float, float]] = field(default_factory=list)  # seconds, units

    def rate(self) -> float | None:
        """Units per second over the later half of the work; None while it is too new.

        A resumed training begins with what it has done before, in no time.
        """
        last, done = self.past[-1]
        half = (self.past[0][0] + last) / 2
        start, before = next((t, n) for t, n in self.past if t >= half)
        spent = last - start
        return (done - before) / spent if spent >= _SOON / 2 and done > before else None


class Board:
    """All bars that are open, and what was announced since the last look."""

    def __init__(self) -> None:
        self.bars: dict[str, _Bar] = {}
        self.announced: list[str] = []

    def take(self, line: bytes) -> None:
        """Take a line of the file; a broken one must not stop a study."""
        try:
            state = json.loads(line)
            if "say" in state:
                self.announced.append(errors.line(str(state["say"])))
                return
            name, t, n = str(state["id"]), float(state["t"]), float(state["n"])
            state["desc"] = errors.line(str(state.get("desc") or "work"))
        except (ValueError, KeyError, TypeError):
            return
        bar = self.bars.setdefault(name, _Bar(state))
        bar.state = state
        bar.past.append((t, n))
        if len(bar.past) > 1000:
            bar.past = bar.past[::2]
        if state.get("done"):
            self.bars.pop(name)

    def rows(self, now: float | None = None) -> list[Row]:
        """The work that has been going on for a second, by name, in the order of its start."""
        now = time.time() if now is None else now
        groups: dict[str, list[_Bar]] = {}
        for bar in list(self.bars.values()):
            groups.setdefault(bar.state["desc"], []).append(bar)
        old = (bars for bars in groups.values() if now - bars[0].past[0][0] >= _DELAY)
        return [_row(bars, now) for bars in old]

    def left(self) -> float | None:
        """Seconds until the last of the open bars ends; None where it is not known."""
        return max((row.left for row in self.rows() if row.left is not None), default=None)


def _row(bars: list[_Bar], now: float) -> Row:
    states, last = [bar.state for bar in bars], max(bar.past[-1][0] for bar in bars)
    totals = [state.get("total") for state in states]
    total = None if None in totals else sum(totals)
    n, rates = sum(state["n"] for state in states), [bar.rate() for bar in bars]
    rate = sum(r for r in rates if r) if all(rates) else None
    left = None if total is None or not rate else max(0.0, (total - n) / rate - (now - last))
    values = states[0].get("postfix") or {} if len(states) == 1 else {}
    postfix = errors.line(", ".join(f"{name} {value}" for name, value in values.items()))
    unit = errors.line(str(states[0].get("unit") or "item"))
    return Row(states[0]["desc"], n, total, unit, postfix, left, len(bars))


@contextlib.contextmanager
def shown(file: Path, course: Course | None = None) -> Iterator[None]:
    """Show, while a block runs, the bars whose states other processes write to `file`."""
    board, stop = Board(), threading.Event()
    with _view() as view:
        thread = threading.Thread(
            target=_follow, args=(file, board, course, view, stop), daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=5)


def _follow(
    file: Path, board: Board, course: Course | None, view: "_View", stop: threading.Event
) -> None:
    position, last = 0, False
    while not last:
        last = stop.wait(_LOOK)
        with contextlib.suppress(OSError), file.open("rb") as lines:
            lines.seek(position)
            whole = lines.read().rpartition(b"\n")[0]
            position += len(whole) + 1 if whole else 0
            for line in whole.splitlines():
                board.take(line)
        while board.announced:
            view.say(f"  {board.announced.pop(0)}")
        view.show(board, course)


def _view() -> "_View":
    if in_notebook():
        return _Output()
    smart = os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    return _Terminal() if sys.stderr.isatty() and smart else _Log()


class _View(contextlib.AbstractContextManager):
    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        """Print a line that stays."""
        with contextlib.suppress(OSError):  # a stderr that nobody reads any more
            print(text, file=sys.stderr, flush=True)

    def show(self, board: Board, course: Course | None) -> None:
        """Show the present state."""
        raise NotImplementedError


class _Log(_View):
    """Plain lines."""

    def __init__(self) -> None:
        self.pace = Pace()

    def show(self, board: Board, course: Course | None) -> None:
        rows = board.rows()
        if (rows or course) and self.pace.due():
            self.say(in_words(rows, board.left(), course))


def in_words(rows: list[Row], left: float | None, course: Course | None) -> str:
    """Return the present state in one line."""
    works = ", ".join(told(r.name, r.n, r.total, r.unit, None) for r in rows)
    if rows and left is not None:
        works += f", about {duration(left)} left"
    place, ahead = (course.place(), course.ahead(left)) if course else ("", "")
    first = ": ".join(part for part in (place, works) if part)
    return errors.line("; ".join(part for part in (first, ahead) if part))


class _Terminal(_View):
    """A block at the bottom of the terminal that is drawn again in place and vanishes at the end.

    Lines that are printed meanwhile appear above it.
    """

    def __enter__(self) -> "_Terminal":
        from rich.console import Console
        from rich.live import Live

        console = Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def show(self, board: Board, course: Course | None) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        rows, parts = board.rows(), []
        if course:
            head = "; ".join(filter(None, (course.place(), course.ahead(board.left()))))
            parts.append(Text(head))
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=2)
        for _ in range(3):
            table.add_column(no_wrap=True)
        for row in rows:
            bar = ProgressBar(row.total, row.n, width=20) if row.total else Text("")
            of = f"/{row.total:,.0f}" if row.total else ""
            left = "" if row.left is None else f"{duration(row.left)} left"
            more = ", ".join(filter(None, (left, row.postfix)))
            numbers = f"{row.n:,.0f}{of} {plural(row.unit)}"
            table.add_row(Text(f"  {row.name}"), bar, Text(numbers), Text(more))
        self.live.update(Group(*parts, *([table] if rows else [])), refresh=True)


class _Output(_View):
    """One output of a notebook's cell that changes; it is made by the cell's own thread."""

    def __init__(self) -> None:
        self.handle, self.last = None, ""

    def __enter__(self) -> "_Output":
        from IPython.display import display

        self.handle = display({"text/plain": ""}, raw=True, display_id=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._put("")

    def say(self, text: str) -> None:
        print(text.strip(), flush=True)  # not on stderr, which a notebook shows as an error

    def show(self, board: Board, course: Course | None) -> None:
        rows = board.rows()
        self._put("\n".join(told(r.name, r.n, r.total, r.unit, r.left) for r in rows))

    def _put(self, text: str) -> None:
        if self.handle is not None and text != self.last:
            self.handle.update({"text/plain": text}, raw=True)
            self.last = text
