"""What a run found: opening it from a notebook, its claims table, its provenance, its HTML report.

A notebook opens its run by `open_run`. The run id ``reference`` stands for the tables that are
committed under ``data/reference/<preset>/``: read, never written, so that a fresh clone can step
through every notebook. `rockstudy run` always passes a run of its own.
"""

import base64
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from nbformat import NotebookNode

from rockstudy import config as configuration
from rockstudy import files, listing, page, paths, stamps, store
from rockstudy.config import StudyConfig, StudyError
from rockstudy.parameters import read
from rockstudy.verdicts import VERDICTS

REFERENCE = "reference"
PARAMETERS = "parameters.json"  # what a run was opened with, for those who replay it
OVERVIEW = "09_report"  # its first figure stands above the claims
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


@dataclass(frozen=True)
class Run:
    """An opened run: its resolved configuration and its folder; usable wherever a path is."""

    config: StudyConfig
    path: Path
    replay: bool

    def __fspath__(self) -> str:
        return str(self.path)


def open_run(
    preset: str = "lab",
    run_id: str = REFERENCE,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> Run:
    """Check a notebook's parameters and return the run that they name.

    Parameters
    ----------
    preset, seed, overrides
        See `rockstudy.config.from_parameters`; ``overrides`` holds its nested names.
    run_id
        Name of a folder under ``runs/``, made here; or ``reference``.

    Raises
    ------
    StudyError
        A value that is not legal, or a reference that does not exist or cannot be altered.
    """
    config = configuration.from_parameters(preset, seed, **(overrides or {}))
    if run_id != REFERENCE:
        path = paths.run_dir(run_id)
        path.mkdir(parents=True, exist_ok=True)
        given = {"preset": preset, "seed": seed, "overrides": dict(overrides or {})}
        files.write_json(path / PARAMETERS, given)
        return Run(config, path, replay=False)
    path = paths.data_dir() / REFERENCE / preset
    if overrides:
        raise StudyError(
            f"run_id: overrides need a run of their own, such as {preset + '-2'!r}; got {run_id!r}"
        )
    if not path.is_dir():
        raise StudyError(
            f"run_id: no reference tables for preset {preset!r}; "
            f"`rockstudy run --preset {preset}` makes the run {preset!r}; got {run_id!r}"
        )
    return Run(_recorded(path) or config, path, replay=True)


def _recorded(path: Path) -> StudyConfig | None:
    """The configuration that a run was made with: a reference is larger than its preset."""
    if not (path / PARAMETERS).is_file():
        return None
    given = json.loads((path / PARAMETERS).read_text(encoding="utf-8"))
    return configuration.from_parameters(given["preset"], given["seed"], **given["overrides"])


# --- claims ---------------------------------------------------------------------------------------


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
        From `open_run`. A replayed run is not written to.
    notebook
        The notebook's name: the table is ``claims/<notebook>``.
    rows
        Mappings with ``claim`` (an id), ``statement`` (in our words), ``locator`` (in the paper),
        ``verdict``, and optionally ``reason`` (the verdict's rule, or why there is none; required
        where the verdict is ``not run``), ``headline`` (whether a short table shows it), ``paper``
        (the paper's number) and the measured number: either ``measured``, an `inference.Estimate`,
        or its value, lo, hi, unit and n by name. `rockstudy.verdicts` makes such rows.
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
    table["notebook"], table["preset"] = notebook, run.config.preset
    table["run_id"] = run.path.name
    if not run.replay:
        settings = {"notebook": notebook, "config": run.config.fingerprint()}
        seed = run.config.seed
        path = run.path / "claims" / notebook
        store.save(path, table, config=settings, inputs=dict(inputs or {}), seed=seed)
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
    stored = [path.with_suffix("") for path in (Path(run) / "claims").glob("*.parquet")]
    if before is not None:
        stored = [path for path in stored if stamps.order(path.name) < stamps.order(before)]
    stored.sort(key=lambda path: stamps.order(path.name))
    tables = [_completed(store.load(path), path.name) for path in stored]
    tables = [table for table in tables if len(table)]
    return pd.concat(tables, ignore_index=True) if tables else _claim_table([])


def _completed(table: pd.DataFrame, notebook: str) -> pd.DataFrame:
    """A stored table with the columns that it may be too old to have."""
    absent = dict(zip(LATER_COLUMNS, (notebook, "", True), strict=True))  # nothing is left out
    given = {name: value for name, value in absent.items() if name not in table}
    return table.assign(**given)[list(CLAIM_COLUMNS)].astype(KINDS)


# --- provenance -----------------------------------------------------------------------------------


def provenance(run: Path | Run) -> pd.DataFrame:
    """Return a row for each artefact of a run: what it is, what it depends on, what it took."""
    return pd.DataFrame(
        [
            {
                "artefact": name,
                "rows": manifest.rows,
                "hash": manifest.sha256[:12],
                "inputs": ", ".join(sorted(manifest.inputs)),
                "seed": manifest.seed,
                "seconds": manifest.seconds,
                "device": manifest.device,
                "code": _code(manifest),
            }
            for name, manifest in stamps.manifests(Path(run)).items()
        ],
        columns=["artefact", "rows", "hash", "inputs", "seed", "seconds", "device", "code"],
    )


def _code(manifest: store.Manifest) -> str:
    if not manifest.git:
        return "not a checkout"
    return manifest.git["commit"][:12] + (" with changes" if manifest.git["dirty"] else "")


def _facts(
    run: Path, table: pd.DataFrame, notebooks: Mapping[str, NotebookNode]
) -> list[tuple[str, str]]:
    """What the report says on top: which run, which code, where, how long."""
    versions: dict[str, set[str]] = {}
    for manifest in stamps.manifests(run).values():
        for name, version in manifest.versions.items():
            versions.setdefault(name, set()).add(str(version))
    named = [f"{name} {' and '.join(sorted(found))}" for name, found in sorted(versions.items())]
    seconds = table.seconds.astype(float).sum()
    took = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    return [
        ("run", run.name),
        ("parameters", _given(notebooks)),
        ("artefacts", f"{len(table)}, computed in {took}"),
        ("code", ", ".join(sorted(set(table.code))) or "–"),
        ("device", ", ".join(sorted(set(table.device.dropna().astype(str)))) or "–"),
        ("versions", ", ".join(named) or "–"),
    ]


def _given(notebooks: Mapping[str, NotebookNode]) -> str:
    """The values that the notebooks ran with, all of them where they differ."""
    seen: dict[str, None] = {}
    for notebook in notebooks.values():
        values = dict(notebook.metadata.get("papermill", {}).get("parameters", {}))
        values |= values.pop("overrides", {})
        values.pop("run_id", None)
        seen |= dict.fromkeys(f"{name} {value}" for name, value in values.items())
    return ", ".join(seen) or "–"


# --- the report -----------------------------------------------------------------------------------


def executed(run: Path) -> list[Path]:
    """Return the notebooks of a run that were executed to their end, in their order."""
    unfinished = (".partial.ipynb", ".failed.ipynb")
    found = sorted((run / "notebooks").glob("*.ipynb"))
    return [path for path in found if not path.name.endswith(unfinished)]


def render(run: Path | Run) -> Path:
    """Write the report of a run, one HTML file that needs nothing else, and return its path.

    The figures are written as files as well, under ``figures/``. Nothing in the report depends on
    when it was made.

    Raises
    ------
    StudyError
        A run without an executed notebook.
    """
    folder = Path(run)
    notebooks = {path.stem: read(path) for path in executed(folder)}
    if not notebooks:
        raise StudyError(f"run: must have executed notebooks; got {folder.name!r}, which has none")
    for name, notebook in notebooks.items():
        _write_figures(folder / "figures", name, page.images(notebook))
    table = provenance(folder)
    shown = table.assign(seconds=[page.number(s) for s in table.seconds]).astype(object)
    found = read_claims(folder)
    html = page.page(
        title=f"rockstudy: {folder.name}",
        sections=[page.section(notebook, name) for name, notebook in notebooks.items()],
        facts=_facts(folder, table, notebooks),
        failures=[
            f"{path.name.removesuffix('.failed.ipynb')} did not run to its end: see {path.name}"
            for path in sorted((folder / "notebooks").glob("*.failed.ipynb"))
        ],
        claims=found.to_dict("records"),
        overview=OVERVIEW,
        summary=listing.summary(found),
        verdicts=[(name, int((found.verdict == name).sum())) for name in VERDICTS],
        provenance_columns=list(shown.columns),
        provenance=shown.where(shown.notna(), "–").to_numpy().tolist(),
    )
    target = folder / "report.html"
    temporary = target.with_suffix(".html.tmp")
    temporary.write_text(html, encoding="utf-8")
    os.replace(temporary, target)
    return target


def _write_figures(folder: Path, name: str, images: list[tuple[str, str]]) -> None:
    for stale in folder.glob(f"{name}-[0-9]*.*"):
        stale.unlink()
    for number, (suffix, data) in enumerate(images, start=1):
        folder.mkdir(exist_ok=True)
        content = data.encode() if suffix == "svg" else base64.b64decode(data)
        (folder / f"{name}-{number}.{suffix}").write_bytes(content)
