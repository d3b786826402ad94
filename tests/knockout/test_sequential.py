"""Knockouts that stop early: the boundary, the stated errors, resume, and what comes after."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rockstudy import tasks
from rockstudy.config.overrides import changed, from_parameters
from rockstudy.errors import StudyError
from rockstudy.knockout import claims, prefix_reuse, readings, sequential, steps, tables
from rockstudy.parallel import cpu_pool
from rockstudy.rocks import steps as rocks_steps
from rockstudy.runs import Run


@pytest.mark.parametrize(
    ("looks", "published"),  # Jennison and Turnbull 2000, table 2.3, two-sided at 0.05
    [(1, 1.960), (2, 1.977), (4, 2.024), (5, 2.040), (10, 2.087)],
)
def test_the_boundary_is_that_of_obrien_and_fleming(looks, published):
    times = np.arange(1, looks + 1) / looks
    assert sequential.crossing(published, times) == pytest.approx(0.05, abs=3e-4)


def test_the_chance_of_crossing_is_that_of_simulated_motions():
    plan, rng = sequential.plan(500, "window"), np.random.default_rng(0)
    steps_of = rng.standard_normal((40_000, len(plan.sizes)))
    paths = (steps_of * np.sqrt(np.diff(plan.times, prepend=0))).cumsum(1)
    for b in (1.0, 1.7, plan.bound):
        share = (np.abs(paths).max(1) >= b).mean()
        assert sequential.crossing(b, plan.times) == pytest.approx(share, abs=0.01)
    assert sequential.crossing(plan.bound, plan.times) == pytest.approx(0.05, abs=1e-6)


def trinomial(effect, share, n, draws, seed=0):
    chances = [(share + effect) / 2, 1 - share, (share - effect) / 2]
    return np.random.default_rng(seed).choice([-1.0, 0.0, 1.0], (draws, n), p=chances)


def test_what_lies_after_a_stop_is_not_looked_at():
    delta, plan = trinomial(0.05, 0.2, 300, 200), sequential.plan(300)
    found = sequential.decided(delta, plan)
    assert found.stopped.any() and not found.stopped.all()
    after = np.arange(300) >= found.n_problems.to_numpy()[:, None]
    assert after.any()
    again = sequential.decided(np.where(after, 1.0, delta), plan)
    pd.testing.assert_frame_equal(again, found)
    for number, size in enumerate(found.n_problems):
        assert found.delta[number] == pytest.approx(delta[number, :size].mean())


def test_p_is_below_alpha_where_the_interval_leaves_out_zero():
    delta = np.concatenate([trinomial(e, 0.2, 300, 300) for e in (0, 0.04, 0.08)])
    found = sequential.decided(delta, sequential.plan(300))
    excludes = (found.lo > 0) | (found.hi < 0)
    assert 0.1 < excludes.mean() < 0.9
    assert ((found.p < 0.05) == excludes).all()


def test_the_stated_errors_hold_where_the_truth_is_known():
    """No effect, and the one that all problems would find with 80% power."""
    n, share = 400, 0.2
    drift = sequential.DRIFT * np.sqrt(share / n)
    effect = drift / np.sqrt(1 + drift**2 / share)  # over its own standard error
    rng = np.random.default_rng(1)
    found = sequential.simulated([0, effect], [n], [share], 4_000, rng).set_index("effect")
    null, real = found.loc[0.0], found.loc[effect]
    noise = 3 * np.sqrt(0.05 * 0.95 / 4_000)
    assert null.pillar + null.block <= sequential.ALPHA + noise
    assert found.covered.min() >= 1 - sequential.ALPHA - noise
    assert real.pillar_all == pytest.approx(0.8, abs=0.03)
    misses = stats.norm.cdf(sequential.plan(n).bound - sequential.DRIFT)
    assert 1 - real.pillar <= misses / (1 - sequential.FUTILE) + 0.02
    assert null.problems < 0.8 and null.stopped > 0.8


def test_an_effect_beyond_the_share_that_changes_and_few_problems_are_refused():
    with pytest.raises(StudyError, match="effects: must be from 0 to the share that changes"):
        sequential.simulated([0.2], [300], [0.1], 10, np.random.default_rng(0))
    with pytest.raises(StudyError, match="with fewer than 100 problems; got 99"):
        sequential.plan(99)
    for values in ({"knockout__n_prompts": 50}, {"benchmarks__n_eval": 50}):
        with pytest.raises(StudyError, match=r"knockout__stop_early must be False.*got 50$"):
            from_parameters("lab", knockout__stop_early=True, **values)


SMALL = {
    "screened": [0],
    "benchmarks__n_eval": 100,
    "knockout__n_prompts": 100,
    "knockout__samples": 1,
    "knockout__max_new_tokens": 8,
}


@pytest.fixture(scope="module")
def graded():
    """Grades by a text's length, so that bans of a random model change them; one process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            tasks, "grade", lambda task, problems, texts: [len(t) % 3 == 0 for t in texts]
        )
        patched.setattr(cpu_pool, "run", lambda jobs, done: None)
        yield


def candidates(run):
    """The run's, which ban so many ids that most completions of a random model hold one."""
    chosen = steps.candidates(run)
    banned = [sorted({t, *range(i, 2_500, 12)}) for i, t in enumerate(chosen.target)]
    return chosen.assign(banned=banned)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, graded):
    run = Run(from_parameters("tiny", **SMALL), tmp_path_factory.mktemp("runs") / "whole")
    return run, steps.changes(run, candidates(run))


def stopping(whole, folder):
    """A run of the same models that stops early."""
    run, _ = whole
    return Run(changed(run.config, {"knockout__stop_early": True}), folder, (run.path,))


@pytest.fixture(scope="module")
def early(whole, tmp_path_factory):
    run = stopping(whole, tmp_path_factory.mktemp("runs") / "early")
    chosen = candidates(run)
    return run, chosen, steps.screen(run, chosen), steps.changes(run, chosen)


def test_a_knockout_that_stops_had_the_outcomes_of_one_that_does_not(whole, early):
    _, _, screen, found = early
    every = whole[1].merge(found[["prompt_index", "place"]].drop_duplicates(), on="prompt_index")
    keys = ["mode", "level", "target", "prompt_index", "change"]
    had = screen.set_index(["level", "target"]).n_problems
    for (level, target), n in had.items():
        sides = [
            some[(some["mode"] == "reuse") & (some.level == level) & (some.target == target)]
            for some in (every[every.place < n], found)
        ]
        one, other = (side.sort_values("prompt_index")[keys].to_numpy().tolist() for side in sides)
        assert one == other
    assert len(found) > 100 and screen.n_problems.nunique() > 2
    assert screen.stopped.any() and (screen.stopped == (screen.n_problems < 100)).all()
    assert (screen.n_planned == 100).all()


def test_the_baseline_is_that_of_a_screen_that_does_not_stop(whole, early):
    names = [
        {f.name for f in run.path.glob("rollouts/knockout-*.json")} for run in (whole[0], early[0])
    ]
    assert names[0] == names[1] and len(names[0]) == 1


def test_a_killed_screen_that_stops_early_ends_the_same(whole, early, tmp_path, monkeypatch):
    run, real, calls = stopping(whole, tmp_path / "cut"), prefix_reuse.share, []

    def killed(*arguments, **given):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **given)

    chosen = candidates(run)
    monkeypatch.setattr(prefix_reuse, "share", killed)
    with pytest.raises(KeyboardInterrupt):
        steps.screen(run, chosen)
    done = len(list(run.path.glob("knockout/screen-*.json")))
    assert done == 2
    calls.clear()
    monkeypatch.setattr(prefix_reuse, "share", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    again = Run(run.config, run.path, run.parents)  # another process: nothing in memory
    pd.testing.assert_frame_equal(steps.screen(again, chosen), early[2])
    pd.testing.assert_frame_equal(steps.changes(again, chosen), early[3])
    assert len(calls) == len(list(run.path.glob("knockout/screen-*.json"))) - done


def test_what_compares_knockouts_has_the_problems_of_the_first_look(early):
    run, chosen, screen, _ = early
    same = steps.compared(run, chosen)
    for table in (same.screen, same.knockouts):
        assert (table.n_problems == 50).all() and set(table.level) == {"token", "control"}
    assert same.changes.prompt_index.max() < 50
    naive = steps.naive(run, chosen)
    assert (naive.n_problems == 50).all()
    rng, types = np.random.default_rng(0), rocks_steps.types(run)
    modes = tables.modes(same.changes, same.knockouts, naive, rng)
    assert (modes.n == 50).all() and set(modes["mode"]) == {"naive", "reuse", "null"}
    effects = tables.with_predictors(*same, types)
    assert effects.d.notna().all() and len(effects) == (chosen.level == "token").sum()
    levels = tables.by_level(screen, chosen)
    assert levels.stopped.isin([True, False]).all() and levels.n_problems.max() <= 100
    tested = tables.tests(early[3], screen)
    assert (tested.exact == tested.bootstrap).all()
    assert "sequential tests reject" in readings.of_tests(tested)
    assert f"{screen.stopped.sum()} of {len(screen)} knockouts stopped" in readings.of_stops(screen)
    rows = claims.of_screen(
        screen,
        swaps=tables.swaps(same.changes, same.knockouts, rng),
        tested=tested,
        matched=tables.against_controls(same.changes, same.screen, chosen),
        modes=modes,
        digits=tables.digit_bans(same.changes, same.screen, chosen, rng),
    )
    assert next(r for r in rows if r["claim"].startswith("census-base"))["n"] == 100


def test_where_nothing_stops_early_the_tables_are_the_screens_own(whole):
    run, found = whole
    same = steps.compared(run, candidates(run))
    pd.testing.assert_frame_equal(same.changes, found)
    assert "place" not in found and "n_planned" not in same.knockouts
    assert readings.of_stops(same.screen) == ""
