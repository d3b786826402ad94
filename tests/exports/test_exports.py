"""Exports of the lab's reference: against its tables, plain loops and other readers."""

import json

import numpy as np
import pandas as pd
import pytest

from rockstudy import runs
from rockstudy.errors import StudyError
from rockstudy.exports import tables, targets, token_folder
from rockstudy.models import loading
from rockstudy.models.token_texts import token_texts
from rockstudy.rocks import steps as rocks_steps
from rockstudy.rocks import token_file
from rockstudy.sampling import given
from rockstudy.sampling.rollout import Rollouts
from rockstudy.store import files


@pytest.fixture(scope="module")
def run():
    return runs.opened(runs.reference_dir("lab"))


@pytest.fixture(scope="module")
def corpus(run):
    return rocks_steps.Measured(tables.reading(run))


def test_the_rocks_are_those_of_the_type_table_by_rank(run, tmp_path):
    made, types = tables.rocks(run), rocks_steps.types(run)
    made.write(tmp_path / "rocks.json")
    back = token_file.read(tmp_path / "rocks.json", loading.tokenizer_of(run))
    assert back == made
    assert back.types == rocks_steps.rock_set(run, types)
    first = types.set_index("rank").loc[1]
    one = back.tokens[0]
    assert (one.id, one.text, one.count) == (first.token_id, first.text, first["count"])
    assert one.score == first[run.config.rocks.selector] and one.rank == 1
    assert bytes.fromhex(one.bytes).decode(errors="replace") == first.text
    assert back.parameters["tau_post_nats"] == rocks_steps.thresholds(run).tau_post.iloc[0]
    assert "/" not in back.tokenizer.name


def test_rollouts_come_back_from_lines_of_json(run, corpus, tmp_path):
    frame, file = tables.rollouts(run), tmp_path / "rollouts.jsonl"
    targets.write_frame(frame, file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    names = "prompt prompt_ids completion completion_ids prompt_index sample_index correct stopped"
    assert list(rows[0]) == names.split()
    back = Rollouts.from_frame(pd.DataFrame(rows))
    for name in ("completion_ids", "mask", "prompt_index", "sample_index", "stopped", "correct"):
        assert np.array_equal(getattr(back, name), getattr(corpus.rollouts, name))
    assert all(map(np.array_equal, back.prompt_ids, corpus.rollouts.prompt_ids))
    tokenizer, row = loading.tokenizer_of(run), rows[0]
    assert tokenizer(row["prompt"], add_special_tokens=False)["input_ids"] == row["prompt_ids"]
    read = given.read(file, tokenizer).rollouts
    for name in ("completion_ids", "mask", "prompt_index", "sample_index", "stopped", "correct"):
        assert np.array_equal(getattr(read, name), getattr(back, name)), name
    stop = tokenizer.decode(row["completion_ids"][-1:]) if row["stopped"] else ""
    assert tokenizer.decode(row["completion_ids"]) == row["completion"] + stop


def test_weights_of_whole_types_are_zero_on_rocks_alone(run, corpus):
    frame, rocks = tables.weights(run, "types"), set(tables.rocks(run).types.ids)
    assert list(frame) == ["prompt_index", "sample_index", "completion_ids", "weights"]
    for ids, w in zip(frame.completion_ids, frame.weights, strict=True):
        assert [0.0 if i in rocks else 1.0 for i in ids.tolist()] == w.tolist()
    assert frame.completion_ids.map(len).sum() == corpus.rollouts.n_tokens


def test_weights_of_rock_freeze_cover_the_runs_of_high_loss_around_rocks(run, corpus):
    made, losses = tables.rocks(run), corpus.tokens
    by_row = {keys: rows.rkl_post.to_numpy() for keys, rows in losses.groupby(tables.KEYS)}
    rocks, width = set(made.types.ids), made.window.width
    frame = tables.weights(run).head(100)
    for p, s, ids, w in frame.itertuples(index=False):
        loss = by_row[p, s]
        high, wanted = loss >= made.window.threshold, np.ones(len(ids))
        for t in (t for t, i in enumerate(ids) if int(i) in rocks):
            wanted[t] = 0
            for way in (1, -1):
                for at in range(t + way, t + way * (width + 1), way):
                    if not (high[t] and 0 <= at < len(ids) and high[at]):
                        break
                    wanted[at] = 0
        assert w.tolist() == wanted.tolist()


def test_columns_lie_at_their_positions_in_any_order_of_the_completions(run, corpus):
    order = np.random.default_rng(0).permutation(len(corpus.rollouts))
    names = ("completion_ids", "mask", "prompt_index", "sample_index", "stopped")
    shuffled = {name: getattr(corpus.rollouts, name)[order] for name in names}
    made = Rollouts(corpus.rollouts.prompt_ids, **shuffled)
    found = tables.at_positions(made, corpus.tokens, "token_id")
    assert np.array_equal(found[made.mask], made.completion_ids[made.mask])


def test_completions_that_are_not_those_of_the_table_are_refused(run, corpus, monkeypatch):
    monkeypatch.setattr(rocks_steps.Measured, "tokens", corpus.tokens.iloc[1:])
    with pytest.raises(StudyError, match="rollouts: must be those of the token table"):
        tables.weights(run)


def test_weights_that_training_makes_are_refused(run):
    for arm in ("ramp", "redetected"):
        with pytest.raises(StudyError, match=f"weights stay the same during training; got '{arm}'"):
            tables.weights(run, arm)
    with pytest.raises(StudyError, match=r"must be one of .*rock-freeze"):
        tables.weights(run, "rock-frieze")


def test_what_is_not_stored_names_the_notebook_that_computes_it(run, tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    runs._record(tmp_path / "runs" / "mine", run.config, None)
    empty = runs.opened(tmp_path / "runs" / "mine")
    for export in (tables.rocks, tables.rollouts, tables.weights):
        with pytest.raises(StudyError, match="not stored in the run 'mine'; `rockstudy run 02"):
            export(empty)
    with pytest.raises(StudyError, match="claims: none by today's rules are stored"):
        tables.claims(empty)
    assert [path.name for path in empty.path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("suffix", targets.SUFFIXES["claims"])
def test_claims_are_read_back_in_every_format(run, tmp_path, suffix):
    table, file = tables.claims(run), tmp_path / f"claims{suffix}"
    targets.write_frame(table, file)
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".json": pd.read_json}
    back = readers[suffix](file)
    assert list(back) == list(table)
    assert back.claim.tolist() == table.claim.tolist()
    assert np.allclose(back.value, table.value, equal_nan=True, rtol=1e-9)


# --- the folder of tokens -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    to = tmp_path_factory.mktemp("export") / "tokens"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_folder, "BLOCK", 20_000)
        return to, token_folder.write(run, to)


def test_the_folder_is_read_by_the_datasets_library(run, corpus, folder, tmp_path):
    from datasets import load_dataset

    to, written = folder
    assert "holds no models" in written.without_top and written.files > 1
    rows = load_dataset("parquet", data_dir=str(to), cache_dir=str(tmp_path))["train"].to_pandas()
    tokens = corpus.tokens
    assert len(rows) == len(tokens) == written.rows
    pd.testing.assert_frame_equal(
        rows[tokens.columns.drop("cause")], tokens.drop(columns="cause"), check_dtype=False
    )
    assert rows.cause.tolist() == tokens.cause.tolist()
    assert rows.text.tolist() == token_texts(loading.tokenizer_of(run), tokens.token_id)
    assert rows.rock_type.equals(rows.token_id.isin(tables.rocks(run).types.ids))
    settings, both = run.config.rocks, rocks_steps.thresholds(run).iloc[0]
    pre, post = (rows[f"{settings.loss}_{stage}"] for stage in ("pre", "post"))
    persistent = (pre >= both.tau_pre) & (post >= both.tau_post)
    assert rows.persistent.equals(persistent)
    assert rows.rock_occurrence.sum() == both.rock_occurrences
    assert not (rows.rock_occurrence & ~rows.persistent).any()


def test_the_card_documents_every_column(folder):
    to, _ = folder
    card = (to / "README.md").read_text()
    columns = files.read_frame(next(to.glob("data/*.parquet"))).columns
    for column in columns:
        assert f"| `{column}` |" in card
    assert "as in the token table" not in card and str(to.parent) not in card


# --- targets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "name", "words"),
    [
        ("rock", "x.json", "WHAT: must be one of rocks, tokens, .*did you mean 'rocks'"),
        ("rocks", "x.csv", "--to: must end in .json for rocks; got "),
        ("rollouts", "x", "--to: must end in .jsonl or .parquet for rollouts; got "),
        ("tokens", "x.parquet", "--to: must name a folder for tokens; got "),
        ("claims", "no/x.csv", "--to: must be in a folder that exists; got "),
        ("rocks", "there.json", "--to: must not exist unless --overwrite is given; got "),
    ],
)
def test_a_target_that_cannot_be_is_refused(tmp_path, what, name, words):
    (tmp_path / "there.json").write_text("")
    with pytest.raises(StudyError, match=words):
        targets.check(what, tmp_path / name, overwrite=False)


def test_only_a_folder_that_an_export_wrote_is_overwritten(tmp_path):
    own, card = tmp_path / "own", "README.md"
    own.mkdir()
    (own / "thesis.tex").write_text("years of work")
    with pytest.raises(StudyError, match="must be a folder that an export wrote"):
        targets.check("tokens", own, overwrite=True)
    (own / card).write_text(targets.MARK)
    with pytest.raises(StudyError, match="with nothing else in it"):
        targets.check("tokens", own, overwrite=True)
    (own / "thesis.tex").unlink()
    targets.check("tokens", own, overwrite=True)
    with pytest.raises(StudyError, match="must be a file to be overwritten"):
        targets.check("rocks", own.rename(tmp_path / "own.json"), overwrite=True)


def test_a_folder_takes_its_place_whole_or_not_at_all(tmp_path):
    to = tmp_path / "tokens"
    to.mkdir()
    (to / "old").write_text("")
    with pytest.raises(KeyboardInterrupt), targets.folder(to) as waiting:
        (waiting / "new").write_text("")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["tokens", "old"]
    with targets.folder(to) as waiting:
        (waiting / "new").write_text("")
    assert [path.name for path in tmp_path.rglob("*")] == ["tokens", "new"]
