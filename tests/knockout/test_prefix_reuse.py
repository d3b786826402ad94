"""Knockouts against the exactly enumerated policy; reuse, resume, controls, accounting."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from test_rollout import END, TOKENIZER, completions, enumerate_completions, sample, small_llama
from transformers import Qwen3Config, Qwen3ForCausalLM

from rockstudy import progress, tasks
from rockstudy.config.fields import EvalConfig, PairConfig, TaskConfig
from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.knockout import prefix_reuse
from rockstudy.knockout.prefix_reuse import Candidate, Screen, plan, resample, share
from rockstudy.models import loading
from rockstudy.runs import Run
from rockstudy.sampling import rollout, slots

N = 6_000
HOW = EvalConfig(n_prompts=1, samples=N, max_new_tokens=3, batch_size=1_500)


@pytest.fixture(scope="module")
def model():
    return small_llama(vocab_size=5, seed=3)


@pytest.fixture(scope="module")
def base(model):
    return sample(model, [[2, 3]], samples=N, max_new_tokens=3, batch_size=1_500)


def of(model, base, *candidates, mode="reuse", **how):
    return Screen(model, TOKENIZER, base, candidates, HOW.model_copy(update=how), 7, mode)


def changed(model, base, candidate, mode="reuse"):
    """The completions of the knockout policy: those that are kept, and those made anew."""
    screen = of(model, base, candidate, mode=mode)
    todo = plan(screen)
    new = resample(screen, todo)
    every = completions(base)
    for row, ids in zip(todo.row, new, strict=True):
        every[row] = ids.tolist()
    return every


def banned_distribution(model, banned):
    """Every completion of the knockout policy with its probability, by enumeration."""

    def without(ids):
        out = model(ids)
        out.logits[..., list(banned)] = -torch.inf
        return out

    return enumerate_completions(without, [2, 3], 3)


def fits(every, expected):
    """Chi-square p-value of completions against exact probabilities, rare ones pooled."""
    seen = Counter(map(tuple, every))
    assert seen.keys() <= expected.keys()
    counts = np.array([(seen[ids], len(every) * p) for ids, p in expected.items()])
    rare = counts[:, 1] < 5
    table = np.vstack([counts[~rare], counts[rare].sum(0)[None][: int(rare.any())]])
    return scipy.stats.chisquare(*table.T).pvalue


@pytest.mark.parametrize("banned", [(0,), (2,), (4,), (0, 3), (END,)])
@pytest.mark.parametrize("mode", ["reuse", "naive"])
def test_completions_follow_the_enumerated_knockout_policy(model, base, banned, mode):
    expected = banned_distribution(model, banned)
    assert sum(expected.values()) == pytest.approx(1)
    every = changed(model, base, Candidate(banned[0], banned), mode)
    assert not any(set(ids) & set(banned) for ids in every)
    assert fits(every, expected) > 1e-3


SHARING = (
    Candidate(0, (0,)), Candidate(2, (2,)), Candidate(3, (3, 2), "window"),
    Candidate(0, (3, 0), "window"), Candidate(2, (2, 0, 3), "window"),
    Candidate(2, (2, 0, 4), "window"), Candidate(4, (0, 4, 3), "window"),
    Candidate(4, (3, 2), "window"), Candidate(END, (END, 2), "window"),
)  # fmt: skip


def sharing(model, base, *candidates):
    """What each candidate's completions become, and what `share` returns."""
    screen = of(model, base, *candidates)
    todo = plan(screen)
    made = share(screen, todo)
    every = [completions(base) for _ in candidates]
    for candidate, row, place in zip(todo.candidate, todo.row, made.place, strict=True):
        every[candidate][row] = made.ids[place].tolist()
    return every, made, todo


@pytest.fixture(scope="module", params=["forked", "in rounds"])
def shared(request, model, base):
    """All candidates of a screen at once, by either way of writing."""
    with pytest.MonkeyPatch.context() as patched:
        if request.param == "in rounds":
            patched.setattr(slots, "forks", lambda model: False)
        return sharing(model, base, *SHARING)


@pytest.mark.parametrize("number", range(len(SHARING)))
def test_candidates_that_share_each_follow_their_own_enumerated_policy(model, shared, number):
    banned, every = SHARING[number].banned, shared[0][number]
    assert not any(set(ids) & set(banned) for ids in every)
    assert fits(every, banned_distribution(model, banned)) > 1e-3


def test_candidates_that_ban_the_same_ids_share_every_completion(shared):
    every, made, todo = shared
    assert every[2] == every[7]
    places = [made.place[todo.candidate == number] for number in (2, 7)]
    assert (places[0] == places[1]).all()
    assert made.new[todo.candidate == 2].sum() > made.new[todo.candidate == 7].sum() == 0


def test_one_banned_id_has_the_random_numbers_of_its_knockout_alone(model, base, shared):
    for number in (0, 1):
        assert shared[0][number] == changed(model, base, SHARING[number])


def test_what_a_candidate_writes_does_not_depend_on_who_shares(model, base, shared):
    alone, made, todo = sharing(model, base, SHARING[4])
    assert alone[0] == shared[0][4]
    assert (made.new + made.reused == [len(made.ids[i]) for i in made.place]).all()
    assert (made.reused == todo.start).all()


def test_new_tokens_are_those_of_distinct_texts(model, base):
    """Counted by hand: a token is written once for all who have the same text before it."""
    every, made, todo = sharing(model, base, *SHARING)
    written = {
        (row, tuple(every[c][row][: t + 1]))
        for c, row, start in zip(todo.candidate, todo.row, todo.start, strict=True)
        for t in range(start, len(every[c][row]))
    }
    assert made.new.sum() == len(written)
    assert made.new.sum() < 0.6 * sum(len(made.ids[i]) for i in made.place)


@pytest.mark.parametrize("window", [None, 2])
def test_a_forked_cache_gives_the_completions_of_whole_passes(window):
    """With windows that are shorter than the texts, and texts of different lengths."""
    sizes = {} if window is None else {"sliding_window": window, "use_sliding_window": True}
    config = Qwen3Config(
        vocab_size=7, hidden_size=8, intermediate_size=12, num_hidden_layers=2, head_dim=4,
        num_attention_heads=2, num_key_value_heads=1, max_window_layers=0, **sizes,
    )  # fmt: skip
    torch.manual_seed(1)
    model = Qwen3ForCausalLM(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    prompts = [[2], [4, 3, 5, 6, 2], [3, 3]]
    made = rollout.generate(
        model, TOKENIZER, prompts, samples=9, max_new_tokens=8, batch_size=8, seed=0
    )
    how = {"max_new_tokens": 8, "batch_size": 5}
    pair = [Candidate(2, (2,)), Candidate(3, (3, 2, 6), "window"), Candidate(5, (5, 4), "window")]
    screen = of(model, made, *pair, **how)
    assert slots.forks(model)
    forked = share(screen, plan(screen))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(slots, "forks", lambda model: False)
        rounds = share(screen, plan(screen))
    for one, other in zip(forked.place, rounds.place, strict=True):
        assert forked.ids[one].tolist() == rounds.ids[other].tolist()
    assert forked.new.sum() <= rounds.new.sum()


def test_sharing_more_than_a_word_of_candidates_changes_none_of_them(model, base):
    few = rollout.Rollouts(
        base.prompt_ids, base.completion_ids[:60], base.mask[:60], base.prompt_index[:60],
        base.sample_index[:60], base.stopped[:60],
    )  # fmt: skip
    many = [SHARING[i % len(SHARING)] for i in range(2 * slots.BITS + 3)]
    every, *_ = sharing(model, few, *many)
    once, *_ = sharing(model, few, *SHARING)
    assert every == [once[i % len(SHARING)] for i in range(len(many))]


def test_greedy_candidates_that_share_write_their_own_greedy_text(model):
    greedy = sample(model, [[2, 3], [4]], temperature=0, max_new_tokens=3)
    ids = greedy.completion_ids[0, :2].tolist()
    pair = [Candidate(ids[0], (ids[0],)), Candidate(ids[0], (ids[0], (ids[0] + 1) % 5), "window")]
    screen = of(model, greedy, *pair, temperature=0.0)
    todo = plan(screen)
    made = share(screen, todo)
    for candidate, row, place in zip(todo.candidate, todo.row, made.place, strict=True):
        prompt = greedy.prompt_ids[greedy.prompt_index[row]].tolist()
        expected = banned_greedy(model, prompt, list(pair[candidate].banned), 3)
        assert made.ids[place].tolist() == expected


def test_the_null_knockout_follows_the_policy_itself(model, base):
    expected = enumerate_completions(model, [2, 3], 3)
    every = changed(model, base, Candidate(2, (2,)), "null")
    assert every != completions(base)
    assert fits(every, expected) > 1e-3


def test_reuse_starts_at_the_first_banned_token_and_null_after_it(model, base):
    candidates = [Candidate(2, (2,)), Candidate(3, (2, 3), "window")]
    todo = plan(of(model, base, *candidates))
    rows = completions(base)
    for number, one in enumerate(candidates):
        mine = todo.candidate == number
        hits = {r: min(ids.index(t) for t in one.banned if t in ids)
                for r, ids in enumerate(rows) if set(ids) & set(one.banned)}  # fmt: skip
        assert dict(zip(todo.row[mine], todo.start[mine], strict=True)) == hits
    null = plan(of(model, base, candidates[0], mode="null"))
    after = {r: t + 1 for r, t in zip(todo.row[todo.candidate == 0], todo.start, strict=False)}
    kept = {r: t for r, t in after.items() if t < len(rows[r])}
    assert dict(zip(null.row, null.start, strict=True)) == kept


def test_a_prefix_is_kept_and_the_limit_counts_it(model, base):
    screen = of(model, base, Candidate(2, (2,)))
    todo = plan(screen)
    new = resample(screen, todo)
    whole = completions(base)
    for row, start, ids in zip(todo.row, todo.start, new, strict=True):
        assert ids[:start].tolist() == whole[row][:start]
        assert len(ids) == 3 or ids[-1] == END


def test_neither_the_batch_nor_the_other_candidates_change_a_completion(model, base):
    pair = [Candidate(2, (2,)), Candidate(4, (4, 0), "window")]
    few = rollout.Rollouts(
        base.prompt_ids, base.completion_ids[:60], base.mask[:60], base.prompt_index[:60],
        base.sample_index[:60], base.stopped[:60],
    )  # fmt: skip
    screen, small = of(model, few, *pair), of(model, few, pair[1], batch_size=7)
    both = plan(screen)
    together, apart = resample(screen, both), resample(small, plan(small))
    mine = [ids for c, ids in zip(both.candidate, together, strict=True) if c == 1]
    assert [a.tolist() for a in mine] == [b.tolist() for b in apart]


def test_greedy_knockout_is_greedy_decoding_without_the_token(model):
    greedy = sample(model, [[2, 3], [4]], temperature=0, max_new_tokens=3)
    token = int(greedy.completion_ids[0, 0])
    screen = of(model, greedy, Candidate(token, (token,)), temperature=0.0)
    new = resample(screen, plan(screen))
    expected = banned_greedy(model, [2, 3], token, 3)
    assert new[0].tolist() == expected


@torch.no_grad()
def banned_greedy(model, prompt, token, n):
    ids = []
    while len(ids) < n and END not in ids:
        logits = model(torch.tensor([[*prompt, *ids]])).logits[0, -1]
        logits[token] = -torch.inf
        ids.append(int(logits.argmax()))
    return ids


# A screen.


@pytest.fixture(scope="module")
def screen():
    pair = loading.tiny_pair()
    task = TaskConfig(name="lab_math", n_train=4, n_eval=6, max_prompt_tokens=256)
    how = EvalConfig(n_prompts=6, samples=2, max_new_tokens=16, batch_size=8)
    problems = tasks.load(task, "eval")
    ids = rollout.prompt_ids(pair.tokenizer, [p.prompt for p in problems], 256)
    made = rollout.generate(
        pair.student, pair.tokenizer, ids, samples=2, max_new_tokens=16, batch_size=8, seed=0
    )
    made = replace(made, correct=np.arange(len(made)) % 3 == 0)
    types, counts = np.unique(made.completion_ids[made.mask], return_counts=True)
    often = types[np.argsort(-counts)][:6]
    absent = next(i for i in range(len(pair.tokenizer)) if i not in types)
    candidates = [Candidate(int(t), (int(t),)) for t in [*often, absent]]
    return pair, task, how, made, candidates


def run_in(folder):
    return Run(from_parameters("tiny"), folder)


def outcomes(folder, screen, **given):
    pair, task, how, made, candidates = screen
    what = Screen(pair.student, pair.tokenizer, made, candidates, how, 3)
    return prefix_reuse.outcomes(run_in(folder), "x", what, task, inputs={}, **given)


def test_an_outcome_table_has_a_row_for_every_completion_that_changes(tmp_path, screen):
    *_, made, candidates = screen
    table = outcomes(tmp_path, screen)
    rows = [set(ids) for ids in completions(made)]
    for candidate in candidates:
        mine = table[table.target == candidate.target]
        assert len(mine) == sum(candidate.target in ids for ids in rows)
    assert (table.n_new_tokens >= 1).all()
    assert (table.n_new_tokens + table.reused_tokens <= 16).all()
    assert set(table.level) == {"token"} and set(table.benchmark) == {"lab_math"}


def test_a_token_that_never_occurs_has_a_difference_of_exactly_zero(tmp_path, screen):
    *_, candidates = screen
    delta = prefix_reuse.differences(outcomes(tmp_path, screen), candidates, 6, 2)
    assert delta.shape == (7, 6)
    assert (delta[-1] == 0).all()


def test_a_screen_in_which_no_candidate_occurs_has_no_rows(tmp_path, screen):
    pair, task, how, made, candidates = screen
    none = (pair, task, how, made, candidates[-1:])
    table = outcomes(tmp_path, none)
    assert len(table) == 0 and "n_new_tokens" in table
    assert (prefix_reuse.differences(table, candidates[-1:], 6, 2) == 0).all()


def test_differences_average_rollouts_within_a_problem():
    table = pd.DataFrame(
        {
            "level": ["token"] * 3,
            "target": [5, 5, 9],
            "prompt_index": [0, 0, 2],
            "correct": [True, False, False],
            "base_correct": [False, False, True],
        }
    )
    delta = prefix_reuse.differences(table, [Candidate(9, (9,)), Candidate(5, (5,))], 3, 4)
    assert delta.tolist() == [[0, 0, -0.25], [0.25, 0, 0]]


def test_a_killed_screen_goes_on_and_ends_the_same(tmp_path, screen, monkeypatch):
    whole = outcomes(tmp_path / "whole", screen, chunk=2)
    real, calls = prefix_reuse.share, []

    def killed(*arguments, **given):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **given)

    monkeypatch.setattr(prefix_reuse, "share", killed)
    with pytest.raises(KeyboardInterrupt):
        outcomes(tmp_path / "cut", screen, chunk=2)
    done = len(list((tmp_path / "cut").glob("knockout/x-*.json")))
    assert done == 2
    calls.clear()
    monkeypatch.setattr(prefix_reuse, "share", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    resumed = outcomes(tmp_path / "cut", screen, chunk=2)
    shards = len(list((tmp_path / "cut").glob("knockout/x-*.json")))
    assert len(calls) == shards - done
    pd.testing.assert_frame_equal(resumed, whole)


@pytest.mark.parametrize("kept", [0, 3], ids=["from nothing", "after a kill"])
def test_the_bar_counts_the_tokens_that_are_still_to_come(tmp_path, screen, monkeypatch, kept):
    outcomes(tmp_path / "run", screen, chunk=2)
    manifests = sorted((tmp_path / "run").glob("knockout/x-*.json"))
    for file in manifests[kept:]:
        file.unlink()
    monkeypatch.setenv("ROCKSTUDY_PROGRESS", str(tmp_path / "bar"))
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    table = outcomes(tmp_path / "run", screen, chunk=2)
    first, *lines = [json.loads(line) for line in (tmp_path / "bar").read_text().splitlines()]
    assert first["say"].endswith("completions each")  # what is about to be computed
    limits = 16 - table.reused_tokens
    assert {(line["total"], line["unit"]) for line in lines} == {(limits.sum(), "token")}
    seen = [line["n"] for line in lines]
    assert seen == sorted(seen) and (seen[0], seen[-1]) == (0, limits.sum())
    moves = np.diff(seen)
    fresh = moves[moves > 0][kept:]  # a finished shard moves the bar at once
    assert sorted(fresh) == sorted(limits[len(limits) - len(fresh) :])


KILLED = """
import sys
from pathlib import Path
import test_prefix_reuse
test_prefix_reuse.long_screen(Path(sys.argv[1]))
"""


def long_screen(folder):
    """A few hundred completions of the tiny student in shards of about ten."""
    pair = loading.tiny_pair()
    task = TaskConfig(name="lab_math", n_train=4, n_eval=6, max_prompt_tokens=256)
    how = EvalConfig(n_prompts=6, samples=4, max_new_tokens=64, batch_size=4)
    made, _ = rollout.answer(pair.student, pair.tokenizer, task, how, 0)
    types, counts = np.unique(made.completion_ids[made.mask], return_counts=True)
    often = types[np.argsort(-counts, kind="stable")][:40]
    candidates = [Candidate(int(t), (int(t),)) for t in often]
    what = Screen(pair.student, pair.tokenizer, made, candidates, how, 3)
    return prefix_reuse.outcomes(run_in(folder), "x", what, task, inputs={}, chunk=10)


@pytest.mark.slow
def test_a_screen_that_is_killed_for_real_redoes_no_finished_shard(tmp_path):
    whole = long_screen(tmp_path / "whole")
    script = tmp_path / "screen.py"
    script.write_text(KILLED)
    cut = tmp_path / "cut"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, script, cut], env=environment) as child:
        while child.poll() is None and len(list(cut.glob("knockout/x-*.json"))) < 4:
            time.sleep(0.005)
        child.kill()
    assert child.returncode == -signal.SIGKILL
    finished = {file.with_suffix(".parquet"): file for file in cut.glob("knockout/x-*.json")}
    total = len(list((tmp_path / "whole").glob("knockout/x-*.json")))
    assert 4 <= len(finished) < total - 4
    files = [*finished, *finished.values()]
    before = [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files]
    resumed = long_screen(cut)
    assert [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files] == before
    assert len(list(cut.glob("knockout/x-*.json"))) == total
    pd.testing.assert_frame_equal(resumed, whole)


def test_a_cut_completion_is_counted_as_cut_and_graded_as_it_stands(tmp_path, screen, monkeypatch):
    pair, _, how, made, candidates = screen
    asked = []

    def grade(task, problems, texts):
        asked.extend(zip(problems, texts, strict=True))
        return np.array([len(text) % 2 == 0 for text in texts])

    monkeypatch.setattr(tasks, "grade", grade)
    table = outcomes(tmp_path, screen)
    what = Screen(pair.student, pair.tokenizer, made, candidates, how, 3)
    todo = plan(what)
    new = resample(what, todo)
    texts = pair.tokenizer.batch_decode([ids.tolist() for ids in new], skip_special_tokens=True)
    problems = tasks.load(screen[1], "eval")
    asked_of = {(problem.key, text) for problem, text in asked}
    assert asked_of == {
        (problems[made.prompt_index[row]].key, text)
        for row, text in zip(todo.row, texts, strict=True)
    }
    assert table.correct.tolist() == [len(text) % 2 == 0 for text in texts]
    ends = rollout.eos_ids(pair.student, pair.tokenizer)
    assert table.stopped.tolist() == [int(ids[-1]) in ends for ids in new]
    cut = table[~table.stopped]
    assert len(cut) > 0 and (cut.n_new_tokens + cut.reused_tokens == 16).all()
    assert cut.correct.any() and not cut.correct.all()


# The lab's own student.


@pytest.fixture(scope="module")
def lab():
    """Forty problems answered three times by the shipped student, and six candidates."""
    pair = loading.load_pair(PairConfig(teacher="lab:teacher", student="lab:student"), device="cpu")
    task = TaskConfig(name="lab_math", n_train=1, n_eval=40, max_prompt_tokens=256)
    how = EvalConfig(n_prompts=40, samples=3, max_new_tokens=128, batch_size=128)
    made, _ = rollout.answer(pair.student, pair.tokenizer, task, how, 0)
    special = pair.tokenizer.all_special_ids
    types = np.unique(made.completion_ids[made.mask])
    types = types[~np.isin(types, special)]
    holding = np.array([(made.completion_ids == t).any(1).sum() for t in types])
    chosen = types[np.argsort(np.abs(holding - len(made) / 3), kind="stable")][:6]
    return pair, task, how, made, [Candidate(int(t), (int(t),)) for t in chosen]


def of_lab(lab, folder, mode, seed):
    pair, task, how, made, candidates = lab
    what = Screen(pair.student, pair.tokenizer, made, candidates, how, seed, mode)
    return prefix_reuse.outcomes(run_in(folder), mode, what, task, inputs={})


def under_knockout(table, lab, measure):
    """Mean over a problem's rollouts, kept and changed ones: (candidates, problems)."""
    *_, how, made, candidates = lab
    place = [[c.target for c in candidates].index(target) for target in table.target]
    rows = table.prompt_index * how.samples + table.sample_index
    base = {"correct": made.correct, "length": made.lengths}[measure]
    values = np.tile(base.astype(float), (len(candidates), 1))
    table = table.assign(length=table.n_new_tokens + table.reused_tokens)
    values[place, rows] = table[measure]
    return values.reshape(len(candidates), how.n_prompts, how.samples).mean(2)


@pytest.mark.slow
def test_reuse_and_naive_agree_on_the_lab_within_sampling_error(lab, tmp_path):
    reuse, naive = (of_lab(lab, tmp_path, *of) for of in (("reuse", 1), ("naive", 2)))
    assert (naive.reused_tokens == 0).all() and len(naive) == 6 * 120
    assert reuse.n_new_tokens.sum() < naive.n_new_tokens.sum() / 2
    for measure in ("correct", "length"):
        apart = under_knockout(reuse, lab, measure) - under_knockout(naive, lab, measure)
        z = apart.mean(1) / (apart.std(1, ddof=1) / np.sqrt(apart.shape[1]))
        assert (np.abs(z) < 3.3).all(), (measure, z)  # ours: one in a thousand, each


@pytest.mark.slow
def test_the_null_knockout_changes_nothing_on_the_lab(lab, tmp_path):
    *_, how, _, candidates = lab
    table = of_lab(lab, tmp_path, "null", 3)
    delta = prefix_reuse.differences(table, candidates, how.n_prompts, how.samples)
    assert (delta != 0).any()
    of_problem = delta.mean(0)
    lo, hi = scipy.stats.t.interval(
        0.95, len(of_problem) - 1, of_problem.mean(), scipy.stats.sem(of_problem)
    )
    assert lo <= 0 <= hi


@pytest.mark.slow
def test_a_token_that_the_lab_student_never_writes_has_a_difference_of_zero(lab, tmp_path):
    pair, task, how, made, _ = lab
    written = set(np.unique(made.completion_ids[made.mask]).tolist())
    absent = next(i for i in range(pair.student.config.vocab_size) if i not in written)
    candidates = [Candidate(absent, (absent,))]
    table = of_lab((pair, task, how, made, candidates), tmp_path, "reuse", 1)
    delta = prefix_reuse.differences(table, candidates, how.n_prompts, how.samples)
    assert len(table) == 0 and (delta == 0).all()


# What is refused.


@pytest.mark.parametrize(
    ("banned", "message"),
    [
        ((), "must ban ids from 0 to 4; got"),
        ((5,), "must ban ids from 0 to 4; got"),
        ((-1,), "must ban ids from 0 to 4; got"),
        ((0, 1, 2, 3, 4), "must leave at least one of 5 tokens"),
    ],
)
def test_candidates_that_make_no_sense_are_refused(model, base, banned, message):
    with pytest.raises(StudyError, match=message):
        plan(of(model, base, Candidate(0, banned)))


def test_prefix_reuse_is_refused_where_it_is_not_exact(model, base):
    screen = of(model, base, Candidate(2, (2,)), top_p=0.9)
    with pytest.raises(StudyError, match="knockout__top_p: must be 1 for prefix reuse"):
        resample(screen, plan(screen))


def test_rollouts_cut_at_another_limit_are_refused(model, base):
    screen = of(model, base, Candidate(2, (2,)), max_new_tokens=4)
    with pytest.raises(StudyError, match=r"max_new_tokens: must be the limit .* 3 tokens; got 4"):
        resample(screen, plan(screen))


def test_rollouts_without_grades_are_refused(tmp_path, screen):
    pair, task, how, made, candidates = screen
    plain = SimpleNamespace(**{**made.__dict__, "correct": None})
    what = Screen(pair.student, pair.tokenizer, plain, candidates, how, 0)
    with pytest.raises(StudyError, match="rollouts: must be graded"):
        prefix_reuse.outcomes(run_in(tmp_path), "x", what, task, inputs={})
