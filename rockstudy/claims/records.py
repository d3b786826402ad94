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
LATER_COLUMNS = ("notebook", "reason", "headline")  # a stored table may be older than these


def claims(
    run: Run,
    notebook: str,
    rows: Iterable[Mapping[str, Any]],
    *,
    inputs: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Check a notebook's claims, store them with the run, and return them as a table.

    Parameters
    ----------
    run
        The run (`rockstudy.runs.open_run`); a reference is not written to.
    notebook
        The notebook's name: the table is ``claims/<notebook>``.
    rows
        Mappings with ``claim`` (an id), ``statement`` (in our words), ``locator`` (in the paper),
        ``verdict``, and optionally ``reason`` (the verdict's rule, or why there is none; required
        with the verdict ``not run``), ``headline`` (whether a short table shows it), ``paper`` (the
        paper's number) and the measured number: ``measured``, an `intervals.Estimate`, or its
        value, lo, hi, unit and n by name. `rockstudy.claims.verdicts` makes such rows.
    inputs
        Hashes of the artefacts that the numbers come from.

    Raises
    ------
    StudyError
        A missing or unknown column, an unknown verdict, a claim twice, a verdict without a number,
        ``not run`` without a reason.
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
        raise StudyError(
            f"claims row {number}: must have {', '.join(sorted(required))} and may have measured, "
            f"{', '.join(sorted(legal - required))}; missing or unknown: {', '.join(wrong)}"
        )
    claim = {"paper": None, "value": None, "lo": None, "hi": None, "unit": "", "n": 0}
    claim |= {"reason": "", "headline": False} | given | dict.fromkeys(OF_THE_RUN, "")
    if claim["verdict"] not in VERDICTS:
        raise StudyError(
            f"verdict: must be one of {', '.join(VERDICTS)}; got {claim['verdict']!r} "
            f"for the claim {claim['claim']!r}"
        )
    if claim["verdict"] != "not run" and pd.isna(claim["value"]):
        raise StudyError(
            f"value: a claim without a measured number must have the verdict 'not run'; "
            f"got {claim['verdict']!r} for the claim {claim['claim']!r}"
        )
    if claim["verdict"] == "not run" and not claim["reason"]:
        raise StudyError(
            f"reason: a claim that was not run must say why; got none for {claim['claim']!r}"
        )
    return claim


def _claim_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(CLAIM_COLUMNS))
    try:
        return table.astype(KINDS)
    except (ValueError, TypeError) as error:
        raise StudyError(
            f"claims: paper, value, lo, hi must be numbers, n an integer; got {error}"
        ) from None


def read_claims(run: Path | Run, before: str | None = None) -> pd.DataFrame:
    """Return the claims of all notebooks of a run in the notebooks' order; empty without any.

    Parameters
    ----------
    run
        Folder of the run.
    before
        A notebook: only those that come earlier, which are what it can depend on.
    """
    folder = run.path if isinstance(run, Run) else run
    files = [f for end in ("json", "parquet") for f in (folder / "claims").glob(f"*.{end}")]
    stored = list({file.with_suffix("") for file in files})  # one without the other is damaged
    if before is not None:
        stored = [
            path
            for path in stored
            if paths.notebook_order(path.name) < paths.notebook_order(before)
        ]
    stored.sort(key=lambda path: paths.notebook_order(path.name))
    tables = [_completed(cache.load(path), path.name) for path in stored]
    tables = [table for table in tables if len(table)]
    return pd.concat(tables, ignore_index=True) if tables else _claim_table([])


def _completed(table: pd.DataFrame, notebook: str) -> pd.DataFrame:
    """A stored table with the columns that it may be too old to have."""
    absent = dict(zip(LATER_COLUMNS, (notebook, "", True), strict=True))  # nothing is left out
    given = {name: value for name, value in absent.items() if name not in table}
    return table.assign(**given)[list(CLAIM_COLUMNS)].astype(KINDS)
