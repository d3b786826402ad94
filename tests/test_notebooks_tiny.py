"""Every notebook runs its measuring code on the tiny preset; what it recorded is then checked.

All share one run, in the study's order: a later notebook reuses what an earlier one trained.
The numbers of this preset mean nothing: what is checked is that they are there, and consistent.
"""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import recompute

from rockstudy import paths
from rockstudy.claims import records, verdicts
from rockstudy.cli import parameters, running, scaffold
from rockstudy.config.fields import StudyConfig
from rockstudy.config.presets import PRESETS
from rockstudy.notebooks import read
from rockstudy.runs import open_run
from rockstudy.store import cache

pytestmark = pytest.mark.slow

NUMBERED = sorted(paths.notebooks_dir().glob("[0-9][0-9]_*.ipynb"))
NAMES = [*(path.stem for path in NUMBERED), "fresh"]

RECORDER = Path(__file__).parent / "reads"
KEYED_BY_CONTENT = {
    "type_texts": {"pair"},  # the tokenizer's files are an input of the step
    "pair_sizes": {"train_task", "benchmarks"},  # whether the pair must have a chat template
}


def _python_path() -> list[str]:
    return [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]


def run_study(notebooks):
    values, _ = parameters.assign(notebooks, "tiny")
    return running.run_study(notebooks, values, open_run("tiny", "tiny").path)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of one run of all notebooks and a fresh fork, and the report's path."""
    home = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROCKSTUDY_HOME", str(home))
        patch.setenv("FIELDS_READ", str(home / "fields-read.jsonl"))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(RECORDER), *_python_path()]))
        fork = scaffold.write("fresh", home, preset="tiny", run_id="tiny")
        notebooks = [*NUMBERED, fork]
        page = run_study(notebooks)
        yield home / "runs" / "tiny", page, notebooks


def tables(folder) -> dict[str, pd.DataFrame]:
    found = cache.manifests(folder)
    return {n: cache.load(folder / n) for n, m in found.items() if m.file.endswith(".parquet")}


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_records_its_claims(study, name):
    folder, _, _ = study
    executed = read(folder / "notebooks" / f"{name}.ipynb")
    assert executed.metadata.papermill.exception is None
    claims = cache.load(folder / "claims" / name)
    assert tuple(claims.columns) == records.CLAIM_COLUMNS
    assert set(claims.preset) <= {"tiny"}
    findings = claims[claims.kind == verdicts.FINDING]
    judged = findings[["direction", "size"]]
    assert judged.isin([*verdicts.VERDICTS, ""]).all(axis=None)
    assert (judged != "").any(axis=1).all()
    assert (findings.reason != "").all()
    assert not claims.headline[claims.kind != verdicts.FINDING].any()
    assert set(claims.direction[claims.kind == verdicts.CHECK]) <= {"passed", "failed"}
    assert judged[findings.value.isna()].isin([*verdicts.UNMEASURED, ""]).all(axis=None)
    measured = claims[claims.value.notna()]
    assert np.isfinite(measured.value).all()
    assert not (measured.lo > measured.value).any()
    assert not (measured.hi < measured.value).any()


def test_every_finding_is_computed_again_from_the_tables(study):
    folder, _, _ = study
    table = recompute.compare(folder)
    assert len(table)
    assert recompute.differing(table).empty, recompute.differing(table).to_string()


@pytest.mark.parametrize("name", NAMES)
def test_what_the_figures_module_returns_is_shown_as_an_image(study, name):
    folder, _, _ = study
    for cell in read(folder / "notebooks" / f"{name}.ipynb").cells:
        if cell.cell_type == "code" and cell.source.strip().splitlines()[-1].startswith("figures."):
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), (
                cell.source
            )


def test_every_table_is_whole_and_none_is_empty_but_claims(study):
    folder, _, _ = study
    found = tables(folder)
    assert len(found) >= len(NAMES)
    empty = [name for name, table in found.items() if not len(table)]
    # a student that is never right changes nothing; few completions may lack the followed token
    able = ("claims/", "tables/knockout.changes", "tables/knockout.followed.banned")
    able += ("tables/selective.followed.along",)
    able += ("tables/beyond.teacher_help.",)  # nor any rock or control
    assert [name for name in empty if not name.startswith(able)] == []


def test_nothing_is_left_half_written(study):
    folder, _, _ = study
    names = [path.name for path in folder.rglob("*")]
    assert [n for n in names if ".partial" in n or n.endswith(".tmp") or ".failed" in n] == []


def test_a_step_reads_only_fields_that_are_part_of_its_key(study):
    """A field that a step reads and does not declare would be taken over by `--from` wrongly."""
    folder, _, _ = study
    log = (folder.parent.parent / "fields-read.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in log.splitlines()]
    assert len({line["step"] for line in lines}) > 20
    harmless = {"plugins"} | {
        name for name, info in StudyConfig.model_fields.items() if info.json_schema_extra
    }
    undeclared = {}
    for line in lines:
        whole = {name for name in line["declared"] if "." not in name}
        whole |= KEYED_BY_CONTENT.get(line["step"], set())
        parts = {name for name in line["declared"] if "." in name}
        sections = {name.split(".")[0] for name in parts}
        read = {name.removeprefix("StudyConfig.") for name in line["read"] if "StudyConfig" in name}
        rocks = {name.replace("RockConfig", "rocks") for name in line["read"] if "Rock" in name}
        missing = (read - whole - sections - harmless) | (
            set() if "rocks" in whole else rocks - parts
        )
        if missing:
            undeclared[line["step"]] = sorted(missing)
    assert undeclared == {}


def test_the_report_shows_every_notebook(study):
    _, page, _ = study
    html = page.read_text(encoding="utf-8")
    assert [name for name in NAMES if f'class="notebook" id="{name}"' not in html] == []


def test_a_second_run_executes_the_notebooks_and_computes_nothing(study):
    folder, page, notebooks = study
    stages = ("tables", "training", "rollouts", "evaluation", "knockout", "tokens")

    def stored():
        files = [p for stage in stages for p in (folder / stage).rglob("*") if p.is_file()]
        return {path: path.stat().st_mtime_ns for path in files}

    before = stored()
    assert run_study(notebooks) == page
    assert stored() == before


def table_of(folder, name: str) -> pd.DataFrame:
    """The table of a step, with or without arguments."""
    (file,) = (p for p in (folder / "tables").glob(f"{name}*.json") if p.name[len(name)] in ".-")
    return cache.load(file.with_suffix(""))


@pytest.mark.skipif("01_distillation" not in NAMES, reason="needs notebook 01")
def test_training_recorded_finite_losses_and_a_divergence_for_each_token_type(study):
    folder, _, _ = study
    metrics, types = (table_of(folder, f"training.{n}") for n in ("metrics", "type_losses"))
    assert np.isfinite(metrics.loss).all()
    assert (metrics.rkl >= 0).all()
    assert (metrics.n_tokens > 0).all()
    assert (types["count"] > 0).all()
    assert (types.rkl_sum >= 0).all()
    assert set(metrics.seed) == set(types.seed) == set(PRESETS["tiny"].seeds)


def test_rock_tables_agree_with_each_other(study):
    folder, _, _ = study
    types, outputs, sets = (
        table_of(folder, f"rocks.{n}") for n in ("types", "outputs", "token_sets")
    )
    assert (types.n_rock <= types.n_persistent).all()
    assert types["count"].sum() == outputs.n_tokens.sum()
    assert types.score.sum() == pytest.approx(outputs.loss_sum.sum())
    k = PRESETS["tiny"].rocks.size(len(types))
    assert set(sets.groupby("name").size()) == {k}
    rocks = set(sets.token_id[sets.name == "rocks"])
    assert rocks == set(types.nsmallest(k, "rank").token_id)
    assert not rocks & set(sets.token_id[sets.name == "control"])
    chosen = types.token_id.isin(rocks)
    assert (outputs.types * outputs.n_tokens).sum() == pytest.approx(types["count"][chosen].sum())
    assert (outputs.occurrences <= outputs.types).all()


def test_gradient_tables_speak_of_the_same_types(study):
    folder, _, _ = study
    types, losses, groups, norms = (
        table_of(folder, f"gradients.{n}")
        for n in ("gradients", "losses", "groups", "gradient_medians")
    )
    assert types.token_id.tolist() == losses.token_id.tolist()
    assert types["count"].tolist() == losses["count"].tolist()
    assert groups.token_id.is_unique and set(groups.token_id) <= set(types.token_id)
    assert (types[["norm_logit", "norm_hidden"]] >= 0).all(axis=None)
    assert {name for name in norms.group if " - " not in name} == set(groups.group)


def test_every_candidate_control_and_null_is_knocked_out_on_every_benchmark(study):
    folder, _, _ = study
    screen, candidates, knockouts, changes, naive = (
        table_of(folder, f"knockout.{n}")
        for n in ("screen", "candidates", "knockouts", "changes", "naive")
    )
    n, k = candidates.target[candidates.level == "token"].nunique(), PRESETS["tiny"].rocks.k
    assert k <= n <= PRESETS["tiny"].screen
    sizes = screen.groupby(["benchmark", "level"]).target.nunique().unstack()
    assert (sizes[["token", "window"]] == n).all(axis=None) and (sizes.control <= k).all()
    assert set(knockouts["mode"]) == {"reuse", "null"} and set(naive["mode"]) == {"naive"}
    nulls = knockouts[knockouts["mode"] == "null"]
    assert set(nulls.level) == {"token"} and set(nulls.groupby("benchmark").size()) == {n}
    assert (screen.delta[screen.completions == 0] == 0).all()
    assert (screen.tokens_generated <= screen.tokens_naive * 24).all()
    assert (changes.change != 0).all()
    assert screen.delta.sum() * 16 == pytest.approx(
        changes.change[changes["mode"] == "reuse"].sum()
    )
    own = [row.target in row.banned for row in candidates.itertuples()]
    assert all(own)
