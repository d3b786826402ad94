"""Write what the committed runs say into README.md and docs/claims.md: `python docs/update.py`.

A block begins with ``<!-- claims: PRESET -->`` and ends with ``<!-- end -->``. A test compares the
blocks with what this would write.
"""

import re
from pathlib import Path

import pandas as pd

from rockstudy import runs
from rockstudy.claims import records
from rockstudy.report import listing, sentences

REPO = Path(__file__).parents[1]
BLOCK = re.compile(r"(<!-- claims: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
NONE = "This run's claims were recorded by earlier rules, so that it has none by today's."
LINES = {
    ("README.md", "lab"): sentences.numbered,
    ("README.md", "smollm2"): sentences.sizes,
}


def listed(table: pd.DataFrame) -> list[str]:
    """All headline findings, as lines of a table."""
    return listing.markdown(table) or [NONE]


def updated(name: str) -> str:
    """Return the text of a file with its blocks as the committed runs give them."""

    def block(found: re.Match) -> str:
        table = records.read_claims(runs.reference_dir(found[2]))
        lines = LINES.get((name, found[2]), listed)(table)
        return "\n".join([found[1].rstrip(), *lines, found[4]])

    return BLOCK.sub(block, (REPO / name).read_text(encoding="utf-8"))


if __name__ == "__main__":
    for name in ("README.md", "docs/claims.md"):
        (REPO / name).write_text(updated(name), encoding="utf-8")
