"""The HTML report of a run: its notebooks, figures, claims and provenance."""

import base64
from pathlib import Path
from typing import Any

import pandas as pd

from rockstudy import runs
from rockstudy.claims import records
from rockstudy.errors import StudyError
from rockstudy.notebooks import read
from rockstudy.report import example, listing, page, sentences
from rockstudy.runs import provenance
from rockstudy.store import cache, files
from rockstudy.viewer import study

WORLDS = ("lab", "smollm2")  # with a committed reference
CLOSING = "_report"  # ends the name of the notebook whose first figure is figure 1


def _facts(run: Path, table: pd.DataFrame) -> list[tuple[str, str]]:
    made_with = pd.DataFrame([m.versions for m in cache.manifests(run).values()])
    versions = {name: sorted(set(made_with[name].dropna().astype(str))) for name in made_with}
    named = [f"{name} {' and '.join(those)}" for name, those in sorted(versions.items())]
    seconds = table.seconds.astype(float).sum()
    took = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    size = sum(runs.artefacts(run).values()) / 1e6
    return [
        ("run", run.name),
        ("parameters", runs.described(run) if runs.record_of(run) else "not recorded"),
        ("notebooks", ", ".join(runs.notebook_states(run)) or "–"),
        ("artefacts", f"{len(table)}, {size:.0f} MB, computed in {took}"),
        ("code", ", ".join(sorted(set(table.code))) or "–"),
        ("device", ", ".join(sorted(set(table.device.dropna().astype(str)))) or "–"),
        ("versions", ", ".join(named) or "–"),
    ]


def executed(run: Path) -> list[Path]:
    """Return the completely executed notebooks of a run, in their order."""
    unfinished = (".partial.ipynb", ".failed.ipynb")
    notebooks = sorted((run / "notebooks").glob("*.ipynb"))
    return [path for path in notebooks if not path.name.endswith(unfinished)]


def render(folder: Path) -> Path:
    """Write the report of a run as one self-contained HTML file and return its path.

    The figures are also written as files under ``figures/``. The report does not depend on the time
    of rendering. `StudyError` for a run without executed notebooks.
    """
    notebooks = {path.stem: read(path) for path in executed(folder)}
    if not notebooks:
        raise StudyError(f"run: must have executed notebooks; got {folder.name!r}, which has none")
    for name, notebook in notebooks.items():
        _write_figures(folder / "figures", name, page.images(notebook))
    table = provenance(folder)
    seconds = [None if pd.isna(s) else f"{s:.4g}" for s in table.seconds]
    shown = table.assign(seconds=seconds).astype(object)
    claims = records.read_claims(folder)
    other, elsewhere = _other_world(folder, set(claims.claim[claims.headline]))
    html = page.page(
        title=f"rockstudy: {folder.name}",
        sections=[page.section(notebook, name) for name, notebook in notebooks.items()],
        overview=next((name for name in notebooks if name.endswith(CLOSING)), ""),
        rock=example.ROCK,
        example=example.of_run(runs.opened(folder)) if runs.has_record(folder) else None,
        findings=sentences.told(claims),
        run=folder.name,
        facts=_facts(folder, table),
        failures=[
            f"{path.name.removesuffix('.failed.ipynb')} did not run to its end: see {path.name}"
            for path in sorted((folder / "notebooks").glob("*.failed.ipynb"))
        ],
        claims=claims.to_dict("records"),
        preset=runs.recorded(folder).preset if runs.record_of(folder) else "this run",
        other=other,
        elsewhere=elsewhere,
        summary=listing.summary(claims),
        verdicts=listing.verdicts(claims),
        provenance_columns=list(shown.columns),
        provenance=shown.where(shown.notna(), "–").to_numpy().tolist(),
        viewer=study.embedded(folder) or "",
    )
    target = folder / "report.html"
    with files.temporary(target) as waiting:
        waiting.write_text(html, encoding="utf-8")
        waiting.replace(target)
    return target


def _other_world(folder: Path, headlines: set[str]) -> tuple[str, dict[str, dict[str, Any]]]:
    """The committed reference of another world that has some headlines, and its claims by name."""
    own = runs.recorded(folder).preset if runs.record_of(folder) else ""
    for preset in WORLDS:
        reference = runs.reference_dir(preset)
        if preset != own and reference.is_dir():
            there = {row["claim"]: row for row in records.read_claims(reference).to_dict("records")}
            if headlines & set(there):
                return preset, there
    return "", {}


def _write_figures(folder: Path, name: str, images: list[tuple[str, str]]) -> None:
    for stale in folder.glob(f"{name}-[0-9]*.*"):
        stale.unlink()
    for number, (suffix, data) in enumerate(images, start=1):
        folder.mkdir(exist_ok=True)
        content = data.encode() if suffix == "svg" else base64.b64decode(data)
        (folder / f"{name}-{number}.{suffix}").write_bytes(content)
