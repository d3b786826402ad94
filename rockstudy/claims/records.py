"""The claims table: checked, stored with the run, read back."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rockstudy import paths
from rockstudy.claims.verdicts import VERDICTS
from rockstudy.config.identity import identity
from rockstudy.errors import StudyError
from rockstudy.runs import Run
from rockstudy.store import cache
from rockstudy.store.fingerprints import fingerprint

CLAIM_COLUMNS = (
    *("notebook", "claim", "statement", "locator", "paper", "value", "lo", "hi", "unit", "n"),
    *("verdict", "reason", "headline", "preset", "run_id"),
)
KINDS = (
    dict.fromkeys(CLAIM_COLUMNS, "str")
    | dict.fromkeys(("paper", "value", "lo", "hi"), "float64")
    | {"n": "int64", "headline": "bool"}
)
OF_THE_RUN = ("notebook", "preset", "run_id")
EMPTY = {"str": "", "float64": float("nan"), "int64": 0, "bool": True}  # by type; nothing is hidden
ABSENT = {name: EMPTY[kind] for name, kind in KINDS.items()}  # for a value that is missing


def claims(
    run: Run,
    notebook: str,
    rows: Iterable[Mapping[str, Any]],
    *,
    inputs: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Check a notebook's claims, store them as ``claims/<notebook>``, and return them as a table.

    A reference is not written to. `rows` are as `rockstudy.claims.verdicts` makes them: ``claim``
    (an id), ``statement`` (in our words), ``locator`` (in the paper), ``verdict``; optionally
    ``reason`` (the verdict's rule, required with ``not run``), ``headline`` (whether a short table
    shows it), ``paper`` (its number), and ``measured``, an `intervals.Estimate`, or its value, lo,
    hi, unit and n by name. `inputs` are hashes of the artefacts that the numbers come from.

    `StudyError`: a missing or unknown column, an unknown verdict, a claim twice, a verdict without
    a number, ``not run`` without a reason.
    """
    table = _claim_table([_claim(row, number) for number, row in enumerate(rows, start=1)])
    repeated = table.claim[table.claim.duplicated()]
    if len(repeated):
        raise StudyError(f"claim: must be unique within a notebook; got {repeated.iloc[0]!r} twice")
    table["notebook"], table["preset"], table["run_id"] = notebook, run.config.preset, run.id
    if run.path != run.reference:
        config = {"notebook": notebook, "config": fingerprint(identity(run.config))}
        path = run.path / "claims" / notebook
        cache.save(path, table, config=config, inputs=dict(inputs or {}), seed=run.config.seed)
    return table


def _claim(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    given = dict(row)
    measured = given.pop("measured", None)
    if measured is not None:
        given |= {k: getattr(measured, k) for k in ("value", "lo", "hi", "unit", "n")}
    legal = set(CLAIM_COLUMNS) - set(OF_THE_RUN)
    required = {"claim", "statement", "locator", "verdict"}
    wrong = sorted((set(given) - legal) | (required - set(given)))
    if wrong:
        must, may = (", ".join(sorted(names)) for names in (required, legal - required))
        rule = f"must have {must} and may have measured, {may}"
        raise StudyError(f"claims row {number}: {rule}; missing or unknown: {', '.join(wrong)}")
    given = {name: value for name, value in given.items() if not pd.isna(value)}
    claim = ABSENT | {"headline": False} | given
    verdict, of = claim["verdict"], f"for the claim {claim['claim']!r}"
    if verdict not in VERDICTS:
        raise StudyError(f"verdict: must be one of {', '.join(VERDICTS)}; got {verdict!r} {of}")
    if verdict != "not run" and pd.isna(claim["value"]):
        legal = "a number, or else the verdict 'not run'"
        raise StudyError(f"value: must be {legal}; got {verdict!r} without one {of}")
    if verdict == "not run" and not claim["reason"]:
        raise StudyError(f"reason: must be given with the verdict 'not run'; got none {of}")
    return claim


def _claim_table(rows: pd.DataFrame | list[dict[str, Any]]) -> pd.DataFrame:
    """The rows with every column in its type; a missing text is empty, and a missing n is 0."""
    table = pd.DataFrame(rows, columns=list(CLAIM_COLUMNS)).astype(object)
    try:
        return table.where(table.notna(), pd.Series(ABSENT), axis=1).astype(KINDS)
    except (ValueError, TypeError) as error:
        line = f"claims: paper, value, lo, hi must be numbers, n an integer; got {error}"
        raise StudyError(line) from None


def read_claims(run: Path | Run, before: str | None = None) -> pd.DataFrame:
    """Return the claims of all notebooks of a run in the notebooks' order; empty without any.

    With the name of a notebook in `before`, only of earlier ones, which are all it can depend on.
    """
    folder = run.path if isinstance(run, Run) else run
    files = [f for end in ("json", "parquet") for f in (folder / "claims").glob(f"*.{end}")]
    stored = list({file.with_suffix("") for file in files})  # one without the other is damaged
    stored.sort(key=lambda path: paths.notebook_order(path.name))
    tables = [_claim_table([])]
    for path in stored:
        if before is None or paths.notebook_order(path.name) < paths.notebook_order(before):
            table = _claim_table(cache.load(path))
            tables.append(table.assign(notebook=table.notebook.replace("", path.name)))
    return pd.concat(tables, ignore_index=True)
