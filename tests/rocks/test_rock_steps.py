"""The steps of notebooks 02 and 03: what is loaded, verdicts, cut-offs, HTML, categories."""

import gc
import json
import weakref

import numpy as np
import pandas as pd
import pytest

from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.models import loading
from rockstudy.rocks import claims as rocks_claims
from rockstudy.rocks import steps as rocks_steps
from rockstudy.runs import Run, open_run
from rockstudy.store import cache
from rockstudy.training import steps as training_steps


def test_the_clusters_are_one_finding_that_words_are_rarer_among_rocks():
    columns = ["category", "difference", "lo", "hi", "unit", "n"]
    table = pd.DataFrame(
        [
            ("latex", 0.2, 0.1, 0.3, "matched pairs", 20),
            ("digit", -0.2, -0.3, -0.1, "matched pairs", 20),
            ("word", -0.2, -0.3, -0.1, "matched pairs", 20),
            ("marker", 0.1, 0.0, 0.3, "matched pairs", 20),
        ],
        columns=columns,
    )
    word, *clusters = rocks_claims.category_claims(table)
    assert (word["claim"], word["direction"]) == ("rocks-word", "reproduced")
    assert [row["claim"] for row in clusters] == ["rocks-latex", "rocks-marker", "rocks-digit"]
    assert {row["kind"] for row in clusters} == {"shown"}
    (alone,) = rocks_claims.category_claims(None)
    assert alone["direction"] == "not run"


@pytest.mark.parametrize("k", [22, 100])
def test_findings_of_figure_2_compare_sets_of_one_share(k):
    """The paper's coverage is over 500 prompts; its Jaccard index has no interval of its own."""
    run = Run(from_parameters("tiny", rocks__k=k), None)
    outputs = pd.DataFrame({"prompt_index": range(9), "types": 0.5, "occurrences": 0.1})
    halves = pd.DataFrame(
        [(name, cut, what, v, v - 0.02, v + 0.02, "prompts", 500)
         for name in ("score", "score_ctx") for cut in (k // 2, k)
         for what, v in (("whole", 0.62), ("fresh", 0.6))],
        columns=["selector", "k", "measure", "value", "lo", "hi", "unit", "n"],
    )  # fmt: skip
    stable = pd.DataFrame(
        [(kind, n, cut, v, v - 0.03, v + 0.03)
         for kind, n in (("average", 0), ("fall", 0), ("nested", 50), ("disjoint", 50))
         for cut, v in ((k // 2, 0.8), (k, 0.8), (5 * k, 0.2))],
        columns=["kind", "n", "k", "jaccard", "lo", "hi"],
    )  # fmt: skip
    types, rng = pd.DataFrame({"token_id": range(1000)}), np.random.default_rng(0)
    rows = rocks_claims.rock_claims(run, types, outputs, stable, halves, 5000, rng)
    found = {row["claim"]: row for row in rows if row["kind"] == "finding"}
    directions = {claim: row.get("direction", "") for claim, row in found.items()}
    assert directions == {
        "rock-coverage": "reproduced",
        "rock-coverage-half": "",
        "rock-jaccard": "reproduced",
        "rock-jaccard-falls": "reproduced",
        "rock-density-types": "",
        "rock-density-occurrences": "",
    }
    sizes = {claim: row["size"] for claim, row in found.items() if "size" in row}
    if k == 22:
        assert sizes == {
            "rock-coverage": "reproduced",
            "rock-coverage-half": "differs",
            "rock-jaccard": "not testable here",
            "rock-density-types": "inconclusive",  # no spread in these outputs
            "rock-density-occurrences": "inconclusive",
        }
    else:  # a tenth of the types
        assert set(sizes.values()) == {"not testable here"}
    near = rocks_claims.rock_claims(run, types, outputs, stable[stable.k <= k], halves, 5000, rng)
    falls = next(row for row in near if row["claim"] == "rock-jaccard-falls")
    assert falls["direction"] == "not run"


def test_cut_offs_grow_to_the_number_of_types_with_a_score_and_hold_the_papers():
    types = pd.DataFrame({"score": [1.0] * 250 + [0.0] * 50})
    found = rocks_steps.cutoffs(types, "score", 34)
    assert found[0] >= 1 and found[-1] == 250
    assert found == sorted(set(found))
    assert {17, 34, *(k for k in rocks_steps.CUTOFFS if k <= 250)} < set(found)
    assert rocks_steps.cutoffs(types.head(2), "score", 34) == [2]
    many = pd.DataFrame({"score": [1.0] * 914})  # a fifth of the paper's 4,570
    assert {k // 5 for k in rocks_steps.CUTOFFS} < set(rocks_steps.cutoffs(many, "score", 34))


def test_the_papers_own_curve_is_read_against_its_own_statements():
    points = pd.DataFrame(
        [("jaccard_mean", k, v) for k, v in ((5, 0.65), (100, 0.71), (150, 0.66), (300, 0.575))],
        columns=["curve", "k", "value"],
    )
    told = rocks_steps.reading_of_paper(points)
    assert "above 0.70 for every K up to 100 but K = 5 (0.650)" in told
    assert "At K = 150 it is 0.660; it comes within 0.01 of 0.57 at K = 300" in told
    shares = rocks_steps.papers_curves()
    assert shares.share.max() <= 1 and {"coverage", "jaccard_mean"} < set(shares.curve)


def test_both_sets_are_read_from_their_halves():
    rows = {"size": 4, "own": 0.5, "fresh": 0.4, "nested": 0.8, "disjoint": 0.6, "overlap": 1}
    table = pd.DataFrame({"measure": list(rows), "value": list(rows.values()), "k": 4})
    table = table.assign(lo=table.value - 0.1, hi=table.value + 0.1)
    both = [table.assign(selector="score"), table.assign(selector="score_ctx", value=0.5)]
    told = rocks_steps.reading_of_halves(pd.concat(both))
    assert "4 types by score carry 50.0% of the loss of the half that chose them" in told
    assert "40.0% [30.0%, 50.0%] of the other half's" in told
    assert told.endswith("Jaccard index of the sets with the first one: score_ctx 0.50.")


def test_token_text_is_escaped_and_its_blanks_are_shown():
    table = pd.DataFrame(
        [{"before": "a <b>", "token": "<script>\n", "after": " & c", "rho": 1, "rkl_pre": 1,
          "rkl_post": 1}]
    )  # fmt: skip
    shown = rocks_steps.examples_html(table)._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;⏎" in shown
    assert "a &lt;b&gt;" in shown and " &amp; c" in shown  # running text keeps its spaces


def test_shares_of_categories_add_up_to_one_in_every_set():
    sets = pd.DataFrame({"name": ["rocks", "rocks", "tip", "tip"], "token_id": [1, 2, 2, 3]})
    types = pd.DataFrame({"token_id": [1, 2, 3], "category": ["digit", "latex", "digit"]})
    table = rocks_steps.with_categories(sets, types)
    assert list(table.columns) == ["latex", "digit"]
    assert (table.sum(axis=1) == 1).all() and table.loc["rocks", "latex"] == 0.5
    assert [one.ids for one in rocks_steps.sets_of(sets)] == [(1, 2), (2, 3)]


def test_rare_and_frequent_types_are_counted_in_words():
    told = rocks_steps.frequency_reading(pd.DataFrame({"count": [1, 1, 2, 100, 296]}))
    assert told == (
        "5 token types in 400 tokens: 2 occur once, 1 twice and 1 more than 100 times, which hold "
        "74% of all tokens."
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of a tiny run whose student is trained and of which nothing is measured."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    training_steps.first_baseline(Run(from_parameters("tiny"), folder))
    return folder


@pytest.fixture
def loaded(monkeypatch):
    """Weak references to the models that are loaded from now on."""
    real, seen = loading.load_model, []

    def load_model(*arguments, **named):
        model = real(*arguments, **named)
        seen.append(weakref.ref(model))
        return model

    monkeypatch.setattr(loading, "load_model", load_model)
    return seen


def test_a_measurement_that_is_there_loads_no_checkpoint_and_a_new_one_keeps_none(trained, loaded):
    """The arms train with the devices for themselves."""
    run = Run(from_parameters("tiny"), trained)
    loading.pair_of(run)
    loaded.clear()
    first = rocks_steps.measured(run)
    assert not loaded  # nothing is computed before it is asked for
    assert first is rocks_steps.measured(run) and len(first.tokens)
    gc.collect()
    assert len(loaded) >= len(first.checkpoints) and not any(one() for one in loaded)
    loaded.clear()
    again = rocks_steps.measured(Run(run.config, trained))
    assert again.table.hash == first.table.hash and not loaded
    encoded = Run(from_parameters("tiny", rocks__encoder="hidden"), trained)
    assert len(rocks_steps.measured(encoded).detection.types)
    assert len(loaded) == 1


def test_a_replayed_run_reads_tables_and_loads_no_model(trained, loaded, tmp_path, monkeypatch):
    run = Run(from_parameters("tiny"), trained)
    types = rocks_steps.types(run)
    committed = tmp_path / "data" / "reference" / "tiny"
    cache.link(trained / "tables" / "rocks.types", committed / "tables" / "rocks.types")
    record = {"preset": "tiny", "from": None, "config": run.config.model_dump(mode="json")}
    (committed / "run.json").write_text(json.dumps(record))
    monkeypatch.setenv("ROCKSTUDY_HOME", str(tmp_path))
    loaded.clear()
    replayed = open_run("tiny", "reference")
    pd.testing.assert_frame_equal(rocks_steps.types(replayed), types)
    with pytest.raises(StudyError, match="needs models, which the reference of tiny") as error:
        rocks_steps.thresholds(replayed)
    assert "\n" not in str(error.value) and not loaded
    assert [path.name for path in tmp_path.iterdir()] == ["data"]  # a reference computes nothing
