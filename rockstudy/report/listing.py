"""The claims table for a terminal, for a notebook, and its headlines for the README."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import pandas as pd

from rockstudy import display
from rockstudy.claims.verdicts import VERDICTS
from rockstudy.errors import escaped

TABLE = """
<details><summary>{notebook}: {counts}</summary>
<table><thead><tr><th>claim</th><th>paper</th><th>measured</th><th>verdict</th></tr></thead>
<tbody>{rows}</tbody></table></details>
"""
WORDS = {"differs": "differ"}  # plural


def summary(table: pd.DataFrame) -> str:
    """Return the number of claims, in total and by verdict."""
    counts = table.verdict.value_counts()
    parts = [f"{counts[name]} {WORDS.get(name, name)}" for name in VERDICTS if name in counts]
    noun = "claim" if len(table) == 1 else "claims"
    return f"{len(table)} {noun}" + (f": {', '.join(parts)}" if parts else "")


def lines(table: pd.DataFrame) -> list[str]:
    """Return the claims as text: a heading for each notebook, three lines for each claim."""
    text = []
    for notebook, rows in table.groupby("notebook", sort=False):
        text += ([""] if text else []) + [f"{notebook}  ({summary(rows)})"]
        text += [line for row in rows.to_dict("records") for line in _claim(row)]
    return [*map(escaped, text), "", summary(table)] if text else []


def _claim(row: dict[str, Any]) -> list[str]:
    over = row["n"] and f" over {sample(row)}"
    paper, ours = display.rounded(row["paper"]), measured(row)
    return [
        f"  {row['claim']}: {row['verdict']}; paper {paper}, measured {ours}{over or ''}",
        f"      {row['statement']} ({row['locator']})",
        *([f"      {row['reason']}"] if row["reason"] else []),
    ]


def markdown(table: pd.DataFrame) -> list[str]:
    """Return the headline claims as a Markdown table, with a line that counts all claims."""
    rows = table[table.headline.astype(bool)].to_dict("records")
    cells = [
        [
            row["statement"],
            display.rounded(row["paper"]),
            measured(row),
            sample(row),
            row["verdict"],
        ]
        for row in rows
    ]
    lines = [" | ".join(one.replace("|", r"\|") for one in line) for line in cells]
    head = ["| claim | paper | measured | sample | verdict |", "|---|---|---|---|---|"]
    whole = [*head, *(f"| {line} |" for line in lines), "", f"{len(rows)} of {summary(table)}."]
    return whole if len(table) else []


def tables(table: pd.DataFrame) -> display.Html:
    """Return the claims as HTML, a folding table for each notebook; all text is escaped."""
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
        display.rounded(row["paper"]),
        measured(row) + (f"<br><small>{over}, {html.escape(row['preset'])}</small>" * bool(over)),
        f"{row['verdict']}<br><small>{html.escape(row['reason'])}</small>",
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def measured(row: Mapping[str, Any]) -> str:
    """Return a claim's measured number with its interval."""
    value, lo, hi = (display.rounded(row[name]) for name in ("value", "lo", "hi"))
    return value if pd.isna(row["lo"]) else f"{value} [{lo}, {hi}]"


def sample(row: Mapping[str, Any]) -> str:
    """Return the sample of a claim: number and unit."""
    return f"{row['n']} {row['unit']}" if row["n"] else ""
