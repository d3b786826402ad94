"""The claims table for a terminal, for a notebook, and its headlines for the README."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
import pandas as pd

from rockstudy import display
from rockstudy.claims.verdicts import VERDICTS
from rockstudy.errors import escaped

TABLES = jinja2.Environment(autoescape=True, trim_blocks=True).from_string("""
{% for notebook, counts, rows in parts %}
<details><summary>{{ notebook }}: {{ counts }}</summary>
<table><thead><tr><th>claim</th><th>paper</th><th>measured</th><th>verdict</th></tr></thead><tbody>
{% for row in rows %}
<tr><td>{{ row.statement }}<br><small>{{ row.locator }}</small></td>
<td>{{ rounded(row.paper) }}</td><td>{{ measured(row) }}
{%- if row.n %}<br><small>{{ sample(row) }}, {{ row.preset }}</small>{% endif %}</td>
<td>{{ row.verdict }}<br><small>{{ row.reason }}</small></td></tr>
{% endfor %}
</tbody></table></details>
{% else %}
<p>No notebook of this run has recorded a claim.</p>
{% endfor %}
""")
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
    if table.empty:
        return []
    lines = ["| claim | paper | measured | sample | verdict |", "|---|---|---|---|---|"]
    rows = table[table.headline.astype(bool)].to_dict("records")
    for row in rows:
        numbers = (display.rounded(row["paper"]), measured(row), sample(row))
        cells = [one.replace("|", r"\|") for one in (row["statement"], *numbers, row["verdict"])]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", f"{len(rows)} of {summary(table)}."]


def tables(table: pd.DataFrame) -> display.Html:
    """Return the claims as HTML, a folding table for each notebook; all text is escaped."""
    groups = table.groupby("notebook", sort=False)
    parts = [(notebook, summary(rows), rows.to_dict("records")) for notebook, rows in groups]
    functions = {"rounded": display.rounded, "measured": measured, "sample": sample}
    return display.Html(TABLES.render(parts=parts, **functions))


def measured(row: Mapping[str, Any]) -> str:
    """Return a claim's measured number with its interval."""
    value, lo, hi = (display.rounded(row[name]) for name in ("value", "lo", "hi"))
    return value if pd.isna(row["lo"]) else f"{value} [{lo}, {hi}]"


def sample(row: Mapping[str, Any]) -> str:
    """Return the sample of a claim: number and unit."""
    return f"{row['n']} {row['unit']}" if row["n"] else ""
