"""Progress bars, and lines, that are visible wherever the work runs.

In a terminal or a notebook a bar is a tqdm bar. Under `rockstudy run` a kernel does the work, whose
output is invisible until the notebook ends. Its bars append their states as JSON lines to the file
in the environment variable ``ROCKSTUDY_PROGRESS``, and the `rockstudy run` process draws them
(`drawn`). The workers of `rockstudy.parallel.cpu_pool` do the same.
"""

import contextlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

_INTERVAL = 0.2  # ours: seconds between lines of one bar
_DELAY = 1.0  # ours: seconds before a bar is drawn, so that quick cells show none
_numbers = itertools.count()
_NOTICED: set[str] = set()


def notice(text: str, about: str = "") -> None:
    """Print a line to stderr, once in a process for what it is about."""
    if (about or text) not in _NOTICED:
        _NOTICED.add(about or text)
        print(text, file=sys.stderr, flush=True)


class Bar(Protocol):
    """The methods of a bar that stages use."""

    def update(self, n: float = 1) -> Any:
        """Advance by ``n``."""

    def set_postfix(self, **values: Any) -> Any:
        """Show a few current values after the bar."""


@contextlib.contextmanager
def bar(total: int | None, desc: str, unit: str = "it") -> Iterator[Bar]:
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
    from tqdm.auto import tqdm  # slow to import

    later = os.environ.get("RANK", "0") != "0"  # only the first launched process draws
    quiet = not (sys.stderr.isatty() or "ipykernel" in sys.modules)
    interval = 10.0 if quiet else 0.1  # a log file gets a line per update
    how: dict[str, Any] = {"delay": _DELAY, "mininterval": interval, "disable": later}
    with tqdm(total=total, desc=desc, unit=unit, **how) as drawn:
        yield drawn


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
        """Append one line in a single write, so that the lines of several processes stay apart."""
        self._last = time.monotonic()
        n = int(self._n) if self._n == int(self._n) else self._n
        line = json.dumps(self._state | {"n": n, "t": time.time(), "done": done}) + "\n"
        with contextlib.suppress(OSError), self._file.open("ab", buffering=0) as stream:
            stream.write(line.encode())


@contextlib.contextmanager
def drawn(file: Path) -> Iterator[None]:
    """Draw the bars whose states other processes write to ``file``."""
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(file, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


def _follow(file: Path, stop: threading.Event) -> None:
    bars: dict[str, Any] = {}
    position, last = 0, False
    while not last:
        last = stop.wait(0.2)
        if file.exists():
            with file.open("rb") as lines:
                lines.seek(position)
                whole = lines.read().rpartition(b"\n")[0]
            position += len(whole) + 1 if whole else 0
            for line in whole.splitlines():
                _draw(bars, line)
    for bar in bars.values():
        bar.close()


def _draw(bars: dict[str, Any], line: bytes) -> None:
    from tqdm import tqdm

    try:
        state = json.loads(line)
        name, n, total = str(state["id"]), state["n"], state.get("total")
    except (ValueError, KeyError, TypeError):
        return  # a broken line must not stop a study
    if name not in bars:
        bars[name] = tqdm(
            total=total,
            desc=state.get("desc"),
            unit=state.get("unit") or "it",
            leave=False,
            delay=1,
            mininterval=0.1 if sys.stderr.isatty() else 10,  # a log gets a line for each drawing
            dynamic_ncols=True,
        )
    bar = bars[name]
    bar.set_postfix(state.get("postfix") or {}, refresh=False)
    bar.update(max(0, n - bar.n))
    if state.get("done"):
        bars.pop(name).close()
