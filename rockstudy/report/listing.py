"""The claims table for a terminal, for a notebook, and its headlines for the README."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
import pandas as pd

from rockstudy import display
from rockstudy.claims.verdicts import (
    CHECK,
    DIFFERS,
    FAILED,
    FINDING,
    INCONCLUSIVE,
    KINDS,
    NOT_RUN,
    NOT_TESTABLE,
    REPRODUCED,
    SHOWN,
    VERDICTS,
)
from rockstudy.errors import escaped

TABLES = jinja2.Environment(autoescape=True, trim_blocks=True).from_string("""
{% for notebook, counts, kinds in parts %}
<details{{ " open" if loop.length == 1 }}><summary>{{ notebook }}: {{ counts }}</summary>
<table><thead><tr><th></th><th>paper</th><th>measured</th><th>direction</th><th>size</th></tr>
</thead><tbody>
{% for title, rows in kinds %}
<tr><th colspan="5">{{ title }}</th></tr>
{% for row in rows %}
<tr><td>{{ row.statement }}<br><small>{{ row.locator }}</small></td>
<td>{{ published(row) }}</td><td>{{ measured(row) }}
{%- if row.n %}<br><small>{{ sample(row) }}, {{ row.preset }}</small>{% endif %}</td>
<td>{{ row.direction }}</td><td>{{ row["size"] }}</td></tr>
{% if row.reason %}<tr><td colspan="5"><small>{{ row.reason }}</small></td></tr>{% endif %}
{% endfor %}
{% endfor %}
</tbody></table></details>
{% else %}
<p>No claim is recorded.</p>
{% endfor %}
""")
ANSWERS = {
    REPRODUCED: "What holds in this run",
    DIFFERS: "What does not hold",
    INCONCLUSIVE: "What this run cannot decide",
    NOT_TESTABLE: "What cannot be tested in it",
    NOT_RUN: "What was not run",
}
JUDGED = ("direction", "size")
WORDS = {"differs": "differ"}  # plural
TITLES = {FINDING: "findings", SHOWN: "numbers without a verdict", CHECK: "checks of this study"}


def summary(table: pd.DataFrame) -> str:
    """Return the number of findings, and of verdicts on their direction and size."""
    findings = int((table.kind == FINDING).sum())
    parts = [f"{findings} finding" if findings == 1 else f"{findings} findings"]
    for name, counts in verdicts(table).items():
        told = [f"{n} {WORDS.get(verdict, verdict)}" for verdict, n in counts.items()]
        parts += [f"{name}: {', '.join(told)}"] if told else []
    checks = table[table.kind == CHECK]
    if failed := int((checks.direction == FAILED).sum()):
        parts.append(f"{failed} of {len(checks)} checks failed")
    return "; ".join(parts)


def verdicts(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return how many findings have each verdict on their direction, and on their size."""
    findings = table[table.kind == FINDING]
    counts = {name: findings[name].value_counts() for name in JUDGED}
    return {name: {v: int(c[v]) for v in VERDICTS if v in c} for name, c in counts.items()}


def verdicts_by_notebook(claims: pd.DataFrame) -> pd.DataFrame:
    """Findings of each notebook by the verdicts on their direction and size, with a total."""
    names = [*dict.fromkeys(claims.notebook[claims.kind == FINDING])]
    rows = {name: verdicts(claims[claims.notebook == name]) for name in names}
    rows["all"] = verdicts(claims)
    columns = pd.MultiIndex.from_product([JUDGED, VERDICTS])
    cells = [[row[name].get(verdict, 0) for name, verdict in columns] for row in rows.values()]
    return pd.DataFrame(cells, index=list(rows), columns=columns)


def lines(table: pd.DataFrame) -> list[str]:
    """Return the claims as text: a heading for each notebook, three lines for each claim."""
    text = []
    for notebook, rows in table.groupby("notebook", sort=False):
        text += ([""] if text else []) + [f"{notebook}  ({summary(rows)})"]
        for title, some in _by_kind(rows):
            text += [f"  {title}", *(line for row in some for line in _claim(row))]
    return [*map(escaped, text), "", summary(table)] if text else []


def _by_kind(table: pd.DataFrame) -> list[tuple[str, list[dict[str, Any]]]]:
    """The rows of each kind that there is, below its title."""
    kinds = [(TITLES[kind], table[table.kind == kind].to_dict("records")) for kind in KINDS]
    return [(title, rows) for title, rows in kinds if rows]


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
    both = {name: row[name] for name in JUDGED if row[name]}
    return ", ".join(f"{name} {value}" for name, value in both.items())


def in_words(table: pd.DataFrame) -> dict[str, list[str]]:
    """Return the headline findings as sentences with numbers, by what this run says of them.

    The verdict on the direction counts, or that on the size where the paper has no direction.
    """
    told: dict[str, list[str]] = {answer: [] for answer in ANSWERS.values()}
    for row in table[table.headline].to_dict("records"):
        told[ANSWERS[row["direction"] or row["size"]]].append(sentence(row))
    return {answer: sentences for answer, sentences in told.items() if sentences}


def sentence(row: Mapping[str, Any]) -> str:
    """Return a claim as its statement with its numbers, or why there are none."""
    if pd.isna(row["value"]):
        return f"{row['statement'].rstrip('.')} ({row['reason']})."
    numbers = measured(row) + (
        f"; the paper: {published(row)}" if row["paper"] == row["paper"] else ""
    )
    other = ", another size" if row["direction"] == REPRODUCED and row["size"] == DIFFERS else ""
    return f"{row['statement'].rstrip('.')} ({numbers}{other})."


def markdown(table: pd.DataFrame) -> list[str]:
    """Return the headline findings in words and as a Markdown table, and count all findings."""
    if table.empty:
        return []
    lines = []
    for answer, sentences in in_words(table).items():
        lines += [f"**{answer}**", "", *(f"- {escaped(one)}" for one in sentences), ""]
    lines += ["| finding | paper | measured | sample | direction | size |", "|---" * 6 + "|"]
    rows = table[table.headline].to_dict("records")
    for row in rows:
        cells = (row["statement"], published(row), measured(row), sample(row))
        cells = [one.replace("|", r"\|") for one in (*cells, row["direction"], row["size"])]
        lines.append(f"| {' | '.join(one or '–' for one in cells)} |")
    return [*lines, "", f"{len(rows)} of {summary(table)}."]


def tables(table: pd.DataFrame) -> display.Html:
    """Return the claims as HTML, a table for each notebook; all text is escaped.

    The tables of several notebooks are folded.
    """
    groups = table.groupby("notebook", sort=False)
    parts = [(notebook, summary(rows), _by_kind(rows)) for notebook, rows in groups]
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
