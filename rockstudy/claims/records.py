"""The claims table: checked, stored with the run, read back."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rockstudy import paths
from rockstudy.claims.verdicts import (
    CHECK,
    FAILED,
    FINDING,
    KINDS,
    PASSED,
    SHOWN,
    UNMEASURED,
    VERDICTS,
)
from rockstudy.config.identity import identity
from rockstudy.errors import StudyError
from rockstudy.runs import Run
from rockstudy.store import cache
from rockstudy.store.fingerprints import fingerprint

CLAIM_COLUMNS = (
    *("notebook", "kind", "claim", "statement", "locator", "paper", "paper_lo", "paper_hi"),
    *("value", "lo", "hi", "unit", "n", "direction", "size", "reason", "headline"),
    *("preset", "run_id"),
)
NUMBERS = ("paper", "paper_lo", "paper_hi", "value", "lo", "hi")
TYPES = (
    dict.fromkeys(CLAIM_COLUMNS, "str")
    | dict.fromkeys(NUMBERS, "float64")
    | {"n": "int64", "headline": "bool"}
)
OF_THE_RUN = ("notebook", "preset", "run_id")
EMPTY = {"str": "", "float64": float("nan"), "int64": 0, "bool": False}  # by type
ABSENT = {name: EMPTY[kind] for name, kind in TYPES.items()}  # for a value that is missing
REQUIRED = ("kind", "claim", "statement", "locator")


def claims(
    run: Run,
    notebook: str,
    rows: Iterable[Mapping[str, Any]],
    *,
    inputs: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Check a notebook's claims, store them as ``claims/<notebook>``, and return them as a table.

    A reference is not written to. `rows` are those of `rockstudy.claims.verdicts`. `inputs` are
    hashes of the artefacts that the numbers come from.

    `StudyError`: a missing or unknown column, an unknown kind or verdict, a claim twice, a finding
    without a verdict, a verdict without a number or its reason, an interval from high to low.
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
    legal = set(CLAIM_COLUMNS) - set(OF_THE_RUN)
    wrong = sorted((set(row) - legal) | (set(REQUIRED) - set(row)))
    if wrong:
        may = ", ".join(sorted(legal - set(REQUIRED)))
        rule = f"must have {', '.join(REQUIRED)} and may have {may}"
        raise StudyError(f"claims row {number}: {rule}; missing or unknown: {', '.join(wrong)}")
    claim = ABSENT | {name: value for name, value in row.items() if not pd.isna(value)}
    of = f"for the claim {claim['claim']!r}"
    if claim["kind"] not in KINDS:
        raise StudyError(f"kind: must be one of {', '.join(KINDS)}; got {claim['kind']!r} {of}")
    judged = [claim[name] for name in ("direction", "size") if claim[name]]
    able = {FINDING: VERDICTS, CHECK: (PASSED, FAILED)}.get(claim["kind"], ())
    for verdict in judged:
        if verdict not in able:
            rule = f"must be one of {', '.join(able)}" if able else "must be empty"
            raise StudyError(f"verdict: {rule}; got {verdict!r} {of}")
    if claim["kind"] == FINDING and not judged:
        raise StudyError(f"verdict: must be given for a finding; got none {of}")
    unmeasured = bool(judged) and set(judged) <= set(UNMEASURED)
    if pd.isna(claim["value"]) and claim["kind"] != SHOWN and not unmeasured:
        rule = f"must be a number, or else the verdicts {' or '.join(UNMEASURED)}"
        raise StudyError(f"value: {rule}; got none {of}")
    if judged and not claim["reason"]:
        raise StudyError(f"reason: must be given with a verdict; got none {of}")
    if claim["lo"] > claim["hi"]:
        raise StudyError(f"lo: must not be above hi; got {claim['lo']:g} and {claim['hi']:g} {of}")
    return claim


def _claim_table(rows: pd.DataFrame | list[dict[str, Any]]) -> pd.DataFrame:
    """The rows with every column in its type; a missing text is empty, and a missing n is 0."""
    table = pd.DataFrame(rows, columns=list(CLAIM_COLUMNS)).astype(object)
    try:
        return table.where(table.notna(), pd.Series(ABSENT), axis=1).astype(TYPES)
    except (ValueError, TypeError) as error:
        line = f"claims: {', '.join(NUMBERS)} must be numbers, n an integer; got {error}"
        raise StudyError(line) from None


def read_claims(run: Path | Run, before: str | None = None) -> pd.DataFrame:
    """Return the claims of all notebooks of a run in the notebooks' order; empty without any.

    With the name of a notebook in `before`, only of earlier ones, which are all it can depend on.
    Claims that were recorded by other rules than today's, with other columns, are left out.
    """
    folder = run.path if isinstance(run, Run) else run
    files = [f for end in ("json", "parquet") for f in (folder / "claims").glob(f"*.{end}")]
    stored = list({file.with_suffix("") for file in files})  # one without the other is damaged
    stored.sort(key=lambda path: paths.notebook_order(path.name))
    tables = [_claim_table([])]
    for path in stored:
        if before is None or paths.notebook_order(path.name) < paths.notebook_order(before):
            stored_rows = cache.load(path)
            if set(REQUIRED) <= set(stored_rows.columns):
                table = _claim_table(stored_rows)
                tables.append(table.assign(notebook=table.notebook.replace("", path.name)))
    return pd.concat(tables, ignore_index=True)
