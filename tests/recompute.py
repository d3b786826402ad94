"""Measured values of the claims once more, from the tables that a run has stored.

Nothing here imports rockstudy: pandas, numpy and scipy read the same tables and compute the numbers
in another way than the rooms do. ``python tests/recompute.py data/reference/lab`` prints both.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

Recomputed = Callable[..., float]
KNOWN: list[tuple[re.Pattern[str], Recomputed]] = []


class Tables:
    """The tables of a run by the names of their steps, and its configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: dict[str, Any] = json.loads((folder / "run.json").read_text())["config"]

    def __getitem__(self, name: str) -> pd.DataFrame:
        files = self.folder.glob(f"tables/{name}*.parquet")
        named = re.compile(rf"{re.escape(name)}(-[0-9a-f]+)?")  # with a hash of its arguments
        (file,) = [one for one in files if named.fullmatch(one.stem)]
        return pd.read_parquet(file)


def of(claim: str) -> Callable[[Recomputed], Recomputed]:
    """Register a function of `Tables` for a claim, whose ``{name}`` it has as an argument."""
    pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>.+)", claim))

    def register(function: Recomputed) -> Recomputed:
        KNOWN.append((pattern, function))
        return function

    return register


def compare(folder: Path) -> pd.DataFrame:
    """Each measured claim of a run: ``kind, claim, value, again``; NaN without a function.

    Claims that were recorded by other rules than today's have no kind and are left out.
    """
    tables, rows = Tables(folder), []
    for file in sorted(folder.glob("claims/*.parquet")):
        claims = pd.read_parquet(file)
        if "kind" in claims:
            measured = claims[claims.value.notna()][["kind", "claim", "value"]]
            rows += [(*row, _again(tables, row[1])) for row in measured.itertuples(index=False)]
    return pd.DataFrame(rows, columns=["kind", "claim", "value", "again"])


def differing(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `compare` whose numbers differ, and findings without a function."""
    differ = ~np.isclose(table.again, table.value, rtol=1e-6, atol=1e-9)
    return table[differ & (table.again.notna() | (table.kind == "finding"))]


def _again(tables: Tables, claim: str) -> float:
    for pattern, function in KNOWN:
        if found := pattern.fullmatch(claim):
            return float(function(tables, **found.groupdict()))
    return float("nan")


# Notebook 01.


@of("opd-accuracy-rises")
def opd_accuracy_rises(tables: Tables) -> float:
    along = tables["training.accuracy_along"]
    graded = along.benchmark.unique()
    trained = tables.config["train_task"]["name"]
    some = along[along.benchmark == (trained if trained in graded else graded[0])]
    means = some.pivot_table("correct", ["seed", "prompt_index"], "step", aggfunc="mean")
    return (means[along.step.max()] - means[0]).mean()


if __name__ == "__main__":
    found = compare(Path(sys.argv[1]))
    print(found.to_string())
    wrong = differing(found)
    print(
        f"{len(found)} numbers; findings without a function, and numbers that differ: {len(wrong)}"
    )
    sys.exit(len(wrong) > 0)
