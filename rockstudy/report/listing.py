"""The claims table for reading: in a terminal, in a notebook, and its headlines for the README."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import pandas as pd

from rockstudy import display
from rockstudy.claims.verdicts import VERDICTS

TABLE = """
<details><summary>{notebook}: {counts}</summary>
<table><thead><tr><th>claim</th><th>paper</th><th>measured</th><th>verdict</th></tr></thead>
<tbody>{rows}</tbody></table></details>
"""
WORDS = {"differs": "differ"}  # said of several


def summary(table: pd.DataFrame) -> str:
    """Return how many claims there are, and how many have each verdict that occurs."""
    counts = table.verdict.value_counts()
    parts = [f"{counts[name]} {WORDS.get(name, name)}" for name in VERDICTS if name in counts]
    noun = "claim" if len(table) == 1 else "claims"
    return f"{len(table)} {noun}" + (f": {', '.join(parts)}" if parts else "")


def lines(table: pd.DataFrame) -> list[str]:
    """Return the claims for reading: a heading for each notebook, three lines for each claim."""
    found = []
    for notebook, rows in table.groupby("notebook", sort=False):
        found += ([""] if found else []) + [f"{notebook}  ({summary(rows)})"]
        found += [line for row in rows.to_dict("records") for line in _claim(row)]
    return [*found, "", summary(table)] if found else []


def _claim(row: dict[str, Any]) -> list[str]:
    over = row["n"] and f" over {sample(row)}"
    paper, ours = display.number(row["paper"]), measured(row)
    return [
        f"  {row['claim']}: {row['verdict']}; paper {paper}, measured {ours}{over or ''}",
        f"      {row['statement']} ({row['locator']})",
        *([f"      {row['reason']}"] if row["reason"] else []),
    ]


def markdown(table: pd.DataFrame) -> list[str]:
    """Return the headline claims as a Markdown table, and a line that counts all of them."""
    rows = table[table.headline.astype(bool)].to_dict("records")
    cells = [
        [row["statement"], display.number(row["paper"]), measured(row), sample(row), row["verdict"]]
        for row in rows
    ]
    lines = [" | ".join(one.replace("|", r"\|") for one in line) for line in cells]
    head = ["| claim | paper | measured | sample | verdict |", "|---|---|---|---|---|"]
    return (
        [*head, *(f"| {line} |" for line in lines), "", f"{len(rows)} of {summary(table)}."]
        if len(table)
        else []
    )


def tables(table: pd.DataFrame) -> display.Html:
    """Return the claims as HTML, a table that folds for each notebook; all text is escaped."""
    parts = []
    for notebook, rows in table.groupby("notebook", sort=False):
        cells = "".join(_row(row) for row in rows.to_dict("records"))
        values = {"notebook": html.escape(str(notebook)), "counts": summary(rows), "rows": cells}
        parts.append(TABLE.format(**values))
    return display.Html("".join(parts) or "<p>No notebook of this run has recorded a claim.</p>")


def _row(row: dict[str, Any]) -> str:
    over = html.escape(sample(row))
    cells = [
        f"{html.escape(row['statement'])}<br><small>{html.escape(row['locator'])}</small>",
        display.number(row["paper"]),
        measured(row) + (f"<br><small>{over}, {html.escape(row['preset'])}</small>" * bool(over)),
        f"{row['verdict']}<br><small>{html.escape(row['reason'])}</small>",
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def measured(row: Mapping[str, Any]) -> str:
    """Return a claim's measured number with its interval."""
    interval = (
        "" if pd.isna(row["lo"]) else f" [{display.number(row['lo'])}, {display.number(row['hi'])}]"
    )
    return display.number(row["value"]) + interval


def sample(row: Mapping[str, Any]) -> str:
    """Return how many of which unit a claim rests on."""
    return f"{row['n']} {row['unit']}" if row["n"] else ""
