"""Errors of knockouts that stop early (`rockstudy.knockout.sequential`), with known effects.

Prints the table of docs/speed.md as markdown and ends with a line of JSON: the most that the rule
calls strong without an effect (``false_strong``), the least coverage of its intervals
(``coverage``), the most power that it loses against all problems (``power_lost``), and the share of
the problems without an effect (``problems_without_effect``). The error of a share near 0.05 is
about 0.003.
"""

import argparse
import json

import numpy as np
import pandas as pd

from rockstudy.knockout import sequential

EFFECTS, PROBLEMS, CHANGING = (0, 0.01, 0.02, 0.04, 0.08), (300, 500), (0.1, 0.3)


def markdown(table: pd.DataFrame) -> list[str]:
    """The lines of a table with three decimals."""
    rows = [table.columns, ["---"] * table.shape[1]]
    for row in table.to_dict("records"):
        given = [f"{row[name]:g}" for name in ("n", "changing", "effect")]
        rows.append(given + [f"{value:.3f}" for value in list(row.values())[len(given) :]])
    return [f"| {' | '.join(map(str, row))} |" for row in rows]


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=5_000, help="knockouts of a row")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = np.random.default_rng(asked.seed)
    table = sequential.simulated(EFFECTS, PROBLEMS, CHANGING, asked.draws, rng)
    print("\n".join(markdown(table)))
    null, real = table[table.effect == 0], table[table.effect >= sequential.LEAST]
    print(
        json.dumps(
            {
                "false_strong": round(float((null.pillar + null.block).max()), 4),
                "coverage": round(float(table.covered.min()), 4),
                "power_lost": round(float((real.pillar_all - real.pillar).max()), 4),
                "problems_without_effect": round(float(null.problems.mean()), 4),
            }
        )
    )


if __name__ == "__main__":
    main()
