"""Where a study stands: which notebook, which cell, and how long the rest will take.

A count of cells is not a time. The seconds of each cell are recorded when a notebook ends, in
``notebooks/seconds.json`` of its run, and the next study expects what an earlier one took: this run
itself where its results are stored, else a run with the same values, else the seconds of the lab
on two cores that are shipped. The latter are scaled by how fast this machine turns out to be.
Where nothing is known, only the current step has a time, from its rate.
"""

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rockstudy import paths, runs
from rockstudy.config.fields import StudyConfig
from rockstudy.config.identity import changes_results, differences
from rockstudy.config.presets import PRESETS
from rockstudy.errors import StudyError
from rockstudy.progress import duration
from rockstudy.store import files

SECONDS = "seconds.json"
ENOUGH_S = 20.0  # ours: seconds of shipped expectation after which a machine's speed is known
SPEEDS = (0.25, 4.0)  # ours: bounds of that speed's factor


class Expected(NamedTuple):
    """Seconds of each code cell of a notebook, or of all together where it is one number."""

    cells: list[float]
    shipped: bool = False

    @property
    def total(self) -> float:
        """Seconds of the notebook."""
        return sum(self.cells)


def expected(run: Path, config: StudyConfig, names: Sequence[str]) -> dict[str, Expected]:
    """Return what is known beforehand of the seconds of some notebooks in a run."""
    own, known = recorded(run), {}
    similar, shipped = _similar(run, config), _shipped(config)
    for name in names:
        if name in own:
            stored = (run / "notebooks" / f"{name}.ipynb").is_file()
            known[name] = Expected(own[name]["last" if stored else "longest"])
        elif name in similar:
            known[name] = Expected(similar[name]["longest"])
        elif name in shipped:
            known[name] = Expected([float(shipped[name])], shipped=True)
    return known


def recorded(run: Path) -> dict[str, dict[str, list[float]]]:
    """The seconds of each cell that a run has recorded: its longest execution and its last one."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
        known = files.read_json(run / "notebooks" / SECONDS)
        return {
            name: {which: list(map(float, one[which])) for which in ("longest", "last")}
            for name, one in known.items()
        }
    return {}  # none yet, or damaged: times are then unknown


def record(run: Path, name: str, cells: Sequence[float]) -> None:
    """Record the seconds of a notebook's code cells once it has ended."""
    known, last = recorded(run), [round(seconds, 2) for seconds in cells]
    longest = max(last, known.get(name, {}).get("longest", []), key=sum)
    files.write_json(
        run / "notebooks" / SECONDS, known | {name: {"longest": longest, "last": last}}
    )


def _similar(run: Path, config: StudyConfig) -> dict[str, Any]:
    """What the newest other run with the same values has recorded."""
    others = [one for one in runs.all_runs() if one != run and recorded(one)]
    for other in sorted(others, key=lambda one: -(one / "notebooks" / SECONDS).stat().st_mtime):
        with contextlib.suppress(StudyError):
            if not any(map(changes_results, differences(runs.recorded(other), config))):
                return recorded(other)
    return {}


def _shipped(config: StudyConfig) -> dict[str, Any]:
    preset = PRESETS.get(config.preset)
    if preset is None or any(map(changes_results, differences(preset, config))):
        return {}
    seconds = json.loads((paths.REPO / "data" / "seconds.json").read_text())
    return seconds["presets"].get(config.preset, {})


class StudyCourse:
    """The course of a study while it runs: `rockstudy.status` shows it."""

    def __init__(self, names: Sequence[str], known: dict[str, Expected]) -> None:
        self.names, self.known = list(names), known
        self.number, self.cell, self.cells = 0, 0, 0
        self.began = self.cell_began = time.monotonic()
        self.spent: list[float] = []  # seconds of this notebook's cells that have ended
        self.done: dict[str, float] = {}  # seconds by notebook

    def start(self, name: str, cells: int) -> None:
        """A notebook starts, with so many code cells."""
        self.number, self.cell, self.cells = self.names.index(name) + 1, 0, cells
        self.began = self.cell_began = time.monotonic()
        self.spent = []

    def next_cell(self) -> None:
        """The next code cell starts."""
        self._end_cell()
        self.cell += 1

    def finish(self) -> list[float]:
        """The notebook has ended; return the seconds of its code cells."""
        self._end_cell()
        self.done[self.names[self.number - 1]] = time.monotonic() - self.began
        return self.spent

    def _end_cell(self) -> None:
        now = time.monotonic()
        if self.cell:
            self.spent.append(now - self.cell_began)
        self.cell_began = now

    def place(self) -> str:
        """Which notebook and cell, such as ``notebook 3 of 9, 02_rock_tokens, cell 5 of 12``."""
        if len(self.done) == len(self.names):
            return "writing the report"
        if not self.number:
            return ""
        name, number = self.names[self.number - 1], self.number
        cell = f", cell {self.cell} of {self.cells}" if self.cell else ""
        return f"notebook {number} of {len(self.names)}, {name}{cell}"

    def ahead(self, step_left: float | None) -> str:
        """How far the study is and how long it will take, as far as that is known."""
        left = self.left(step_left)
        if left is None or len(self.done) == len(self.names):
            return ""
        over = sum(self.done.values()) + self._spent()
        share = f"{over / (over + left):.0%} of the study done, " if over + left else ""
        return f"{share}about {duration(left)} left"

    def left(self, step_left: float | None = None) -> float | None:
        """Seconds until the study ends; None where a notebook's are not known."""
        here = self._left_here(step_left)
        later = [self.known.get(name) for name in self.names[self.number :]]
        if here is None or None in later:
            return None
        return here + sum(self._scaled(one) for one in later if one)

    def _left_here(self, step_left: float | None) -> float | None:
        """Seconds until this notebook ends."""
        if not self.number or self.names[self.number - 1] in self.done:
            return 0.0
        known = self.known.get(self.names[self.number - 1])
        if known is None:
            return None
        if len(known.cells) != self.cells:  # an earlier version of the notebook, or one number
            return max(self._scaled(known) - self._spent(), step_left or 0.0)
        now, *later = known.cells[max(0, self.cell - 1) :]
        rest = max(now - (time.monotonic() - self.cell_began), 0.0)
        return max(rest, step_left or 0.0) + sum(later)

    def _spent(self) -> float:
        open_now = self.number and self.names[self.number - 1] not in self.done
        return time.monotonic() - self.began if open_now else 0.0

    def _scaled(self, known: Expected) -> float:
        """Expected seconds; shipped ones times this machine's over the shipped so far."""
        if not known.shipped:
            return known.total
        past = [(self.known[n].total, s) for n, s in self.done.items() if self._is_shipped(n)]
        shipped, ours = sum(one for one, _ in past), sum(one for _, one in past)
        factor = ours / shipped if shipped >= ENOUGH_S else 1.0
        return known.total * min(max(factor, SPEEDS[0]), SPEEDS[1])

    def _is_shipped(self, name: str) -> bool:
        return name in self.known and self.known[name].shipped
