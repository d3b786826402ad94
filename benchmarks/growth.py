"""Growth of costs: every benchmark over sizes that double, with slopes and one figure.

Each point is one side of a script's comparison in a separate process, with the seconds of its best
repetition (`common`). A slope is the exponent of a log-log fit by least squares; a fixed cost
lowers it. Writes `growth.png` and `growth.json`:

    slope_<script>_<side>_seconds_in_<axis>     slope_<script>_<side>_peak_in_<axis>
    bytes_<script>_<side>_per_<axis>            peak memory for one more, by a straight line
"""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import numpy as np
import pandas as pd
import seaborn as sns
from common import DEVICE, measure, rounded
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from rockstudy.figure_style import ROLES

SCRIPTS = ("opd_step", "token_table", "rollouts", "knockout", "geometry", "context_consistency")
ROLE = ("rock", "teacher", "control", "random")  # colours and markers: ours comes first
MARKERS = "os^D"
COLUMNS = 6
HERE = Path(__file__).resolve().parent


def points(script: str, repeats: int) -> pd.DataFrame:
    """Measure one script: ``script, axis, label, side, size, seconds, peak``, a row per point."""
    module = importlib.import_module(script)
    rows = []
    for axis, (label, sizes, job, ways) in module.GROWTH.items():
        for size in sizes:
            jobs = {way: job | {axis: size, "way": way} for way in ways}
            for way, side in measure(module.work, jobs, repeats, warm=0).items():
                seconds = min(report["seconds"] for report in side.reports)
                rows.append((script, axis, label, way, size, seconds, side.peak))
            print(f"{script}: {axis} = {size:,}", file=sys.stderr, flush=True)
    return pd.DataFrame(
        rows, columns=["script", "axis", "label", "side", "size", "seconds", "peak"]
    )


def slopes(table: pd.DataFrame) -> dict[str, float]:
    """Exponents and bytes for one more, under the names in the docstring."""
    found = {}
    for (script, axis, side), rows in table.groupby(["script", "axis", "side"], sort=False):
        name = f"{script}_{side.replace('-', '_')}"
        for kind in ("seconds", "peak"):
            found[f"slope_{name}_{kind}_in_{axis}"] = exponent(rows["size"], rows[kind])
        found[f"bytes_{name}_per_{axis}"] = float(np.polyfit(rows["size"], rows.peak, 1)[0])
    return found


def exponent(x: Any, y: Any) -> float:
    """Slope of log y over log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def figure(table: pd.DataFrame) -> Figure:
    """Two axes, seconds over peak memory, for every script and what it grows with."""
    panels = list(table.groupby(["script", "axis"], sort=False))
    bands = -(-len(panels) // COLUMNS)
    with sns.axes_style("whitegrid"), sns.plotting_context("paper", font_scale=0.9):
        made = Figure(figsize=(2.35 * COLUMNS, 4.5 * bands), layout="constrained")
        axes = made.subplots(2 * bands, COLUMNS, squeeze=False)
    for place, ((script, _), rows) in enumerate(panels):
        band, column = divmod(place, COLUMNS)
        upper, lower = axes[2 * band, column], axes[2 * band + 1, column]
        upper.set_title(script.replace("_", " "), fontsize=10, fontweight="bold")
        draw(upper, rows, rows.seconds)
        draw(lower, rows, rows.peak / 1e6)
        lower.set_xlabel(rows.label.iloc[0])
        if column == 0:
            upper.set_ylabel("seconds")
            lower.set_ylabel("peak memory (MB)")
    for axis in axes.flat:
        sns.despine(ax=axis)
        axis.set_visible(axis.has_data())
    return made


def draw(axis: Any, rows: pd.DataFrame, y: pd.Series) -> None:
    """Draw all sides of a comparison, slopes in the legend."""
    for number, (side, one) in enumerate(rows.groupby("side", sort=False)):
        axis.plot(
            one["size"],
            y[one.index],
            color=ROLES[ROLE[number]],
            marker=MARKERS[number],
            ms=4,
            lw=1.6,
            label=f"{side}  {exponent(one['size'], y[one.index]):.2f}",
        )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high * (high / low) ** 0.45)  # room for the legend
    axis.set_xticks(sorted(rows["size"].unique()))
    axis.xaxis.set_major_formatter(FuncFormatter(_short))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.legend(frameon=False, fontsize=7, title="slope", title_fontsize=7, loc="upper left")


def _short(value: float, _: int) -> str:
    return f"{value / 1000:.0f}k" if value >= 10_000 else f"{value:g}"


def main() -> None:
    """Measure, or read what was measured, draw, end with one JSON object of slopes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, help="measure these, keep the others")
    parser.add_argument("--repeats", type=int, default=1, help="of a point; the best counts")
    parser.add_argument("--draw", action="store_true", help="measure nothing, draw growth.json")
    given = parser.parse_args()
    file = HERE / "growth.json"
    wanted = () if given.draw else given.only or SCRIPTS
    new = {script: points(script, given.repeats).to_dict("records") for script in wanted}
    kept = json.loads(file.read_text())["points"] if file.exists() else []
    by_script = {script: [row for row in kept if row["script"] == script] for script in SCRIPTS}
    by_script |= new
    table = pd.DataFrame([row for script in SCRIPTS for row in by_script[script]])
    found = rounded(slopes(table))
    about = {"device": DEVICE, "threads": int(os.environ["OMP_NUM_THREADS"])}
    lines = ",\n".join(json.dumps(rounded(row)) for row in table.to_dict("records"))
    head = json.dumps(about | {"slopes": found}, indent=1)[:-2]
    file.write_text(f'{head},\n "points": [\n{lines}\n]}}\n')
    figure(table).savefig(HERE / "growth.png", dpi=90, metadata={"Software": None})
    print(json.dumps(found | about))


if __name__ == "__main__":
    main()
