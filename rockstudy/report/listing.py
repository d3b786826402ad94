"""The claims table for a terminal, for a notebook, and its headlines for the README."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
import pandas as pd

from rockstudy import display
from rockstudy.claims.verdicts import CHECK, FAILED, FINDING, KINDS, SHOWN, VERDICTS
from rockstudy.errors import escaped

TABLES = jinja2.Environment(autoescape=True, trim_blocks=True).from_string("""
{% for notebook, counts, rows in parts %}
<details><summary>{{ notebook }}: {{ counts }}</summary>
<table><thead><tr><th>claim</th><th>paper</th><th>measured</th><th>direction</th><th>size</th>
</tr></thead><tbody>
{% for row in rows %}
<tr><td>{{ row.statement }}<br><small>{{ row.locator }}</small></td>
<td>{{ published(row) }}</td><td>{{ measured(row) }}
{%- if row.n %}<br><small>{{ sample(row) }}, {{ row.preset }}</small>{% endif %}</td>
<td>{{ row.direction }}</td><td>{{ row["size"] }}</td></tr>
{% if row.reason %}<tr><td colspan="5"><small>{{ row.reason }}</small></td></tr>{% endif %}
{% endfor %}
</tbody></table></details>
{% else %}
<p>No notebook of this run has recorded a claim.</p>
{% endfor %}
""")
WORDS = {"differs": "differ"}  # plural
TITLES = {FINDING: "findings", SHOWN: "numbers without a verdict", CHECK: "checks of this study"}


def summary(table: pd.DataFrame) -> str:
    """Return the number of findings, and of verdicts on their direction and size."""
    findings = table[table.kind == FINDING]
    noun = "finding" if len(findings) == 1 else "findings"
    parts = [f"{len(findings)} {noun}"]
    for name in ("direction", "size"):
        if told := _counted(findings[name]):
            parts.append(f"{name}: {told}")
    checks = table[table.kind == CHECK]
    if failed := int((checks.direction == FAILED).sum()):
        parts.append(f"{failed} of {len(checks)} checks failed")
    return "; ".join(parts)


def _counted(verdicts: pd.Series) -> str:
    counts = verdicts.value_counts()
    parts = [f"{counts[name]} {WORDS.get(name, name)}" for name in VERDICTS if name in counts]
    return ", ".join(parts)


def verdicts_by_notebook(claims: pd.DataFrame) -> pd.DataFrame:
    """Number of findings by notebook and verdict on their direction, with a total."""
    some = claims[claims.kind == FINDING]
    judged = some.direction.where(some.direction != "", some["size"])
    counts = pd.crosstab(some.notebook, judged).reindex(columns=VERDICTS, fill_value=0)
    counts.columns.name = None
    return pd.concat([counts, counts.sum().to_frame("all").T]).astype(int)


def lines(table: pd.DataFrame) -> list[str]:
    """Return the claims as text: a heading for each notebook, three lines for each claim."""
    text = []
    for notebook, rows in table.groupby("notebook", sort=False):
        text += ([""] if text else []) + [f"{notebook}  ({summary(rows)})"]
        for kind in KINDS:
            some = rows[rows.kind == kind].to_dict("records")
            text += [f"  {TITLES[kind]}"] if some else []
            text += [line for row in some for line in _claim(row)]
    return [*map(escaped, text), "", summary(table)] if text else []


def _claim(row: dict[str, Any]) -> list[str]:
    over = row["n"] and f" over {sample(row)}"
    verdicts = f": {verdict(row)}" if verdict(row) else ""
    return [
        f"  {row['claim']}{verdicts}; paper {published(row)}, measured {measured(row)}{over or ''}",
        f"      {row['statement']} ({row['locator']})",
        *([f"      {row['reason']}"] if row["reason"] else []),
    ]


def verdict(row: Mapping[str, Any]) -> str:
    """Return a claim's verdicts, each named where there are two."""
    if row["kind"] != FINDING:
        return row["direction"]
    both = {name: row[name] for name in ("direction", "size") if row[name]}
    return ", ".join(f"{name} {value}" for name, value in both.items())


def markdown(table: pd.DataFrame) -> list[str]:
    """Return the headline findings as a Markdown table, with a line that counts all findings."""
    if table.empty:
        return []
    lines = ["| finding | paper | measured | sample | direction | size |", "|---" * 6 + "|"]
    rows = table[table.headline].to_dict("records")
    for row in rows:
        cells = (row["statement"], published(row), measured(row), sample(row))
        cells = [one.replace("|", r"\|") for one in (*cells, row["direction"], row["size"])]
        lines.append(f"| {' | '.join(one or '–' for one in cells)} |")
    return [*lines, "", f"{len(rows)} of {summary(table)}."]


def tables(table: pd.DataFrame) -> display.Html:
    """Return the claims as HTML, a folding table for each notebook; all text is escaped."""
    groups = table.groupby("notebook", sort=False)
    parts = [(notebook, summary(rows), rows.to_dict("records")) for notebook, rows in groups]
    functions = {"published": published, "measured": measured, "sample": sample}
    return display.Html(TABLES.render(parts=parts, **functions))


def published(row: Mapping[str, Any]) -> str:
    """Return the paper's number, with its interval where that is known."""
    return _with_interval(row, "paper", "paper_lo", "paper_hi")


def measured(row: Mapping[str, Any]) -> str:
    """Return a claim's measured number with its interval."""
    return _with_interval(row, "value", "lo", "hi")


def _with_interval(row: Mapping[str, Any], *names: str) -> str:
    value, lo, hi = (display.rounded(row[name]) for name in names)
    return value if pd.isna(row[names[1]]) else f"{value} [{lo}, {hi}]"


def sample(row: Mapping[str, Any]) -> str:
    """Return the sample of a claim: number and unit."""
    return f"{row['n']} {row['unit']}" if row["n"] else ""
