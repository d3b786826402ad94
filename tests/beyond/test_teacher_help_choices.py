"""The choices at a place and their continuations, against enumeration of a tiny vocabulary."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from test_rollout import END, enumerate_completions, next_probabilities, small_llama

from rockstudy.beyond.teacher_help import choices, continuations, effects
from rockstudy.beyond.teacher_help.choices import CHOICES
from rockstudy.config.fields import EvalConfig
from rockstudy.errors import StudyError
from rockstudy.models.divergence import Head, States, token_divergence
from rockstudy.sampling.decoding import Chooser
from rockstudy.sampling.rollout import Rollouts, completion_states

HOW = EvalConfig(n_prompts=2, samples=2, max_new_tokens=4, batch_size=512)
TOKENIZER = SimpleNamespace(
    eos_token_id=END,
    added_tokens_decoder={},
    batch_decode=lambda rows, **how: [" ".join(map(str, row)) for row in rows],
)


@pytest.fixture(scope="module")
def models():
    return {"teacher": small_llama(5, seed=4), "student": small_llama(5, seed=3)}


@pytest.fixture(scope="module")
def rollouts():
    """Four completions of two prompts, at most four tokens, two of them ended."""
    ids = np.array([[2, 0, 3, 4], [3, 2, END, 0], [4, 4, 2, 0], [0, END, 0, 0]], np.int32)
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]], bool)
    prompts = [np.array([2, 3]), np.array([4, 0, 2])]
    where = np.array([0, 0, 1, 1], np.int32), np.array([0, 1, 0, 1], np.int16)
    return Rollouts(prompts, ids, mask, *where, np.array([False, True, False, True]))


def placed(rollouts, rows, positions):
    rows, positions = np.array(rows), np.array(positions)
    keys = {
        "row": rows,
        "position": positions,
        "token_id": rollouts.completion_ids[rows, positions],
    }
    return pd.DataFrame(keys | {"prompt_index": rollouts.prompt_index[rows]})


def right(ids):
    """A verdict on the tokens of a completion."""
    return sum(ids) % 3 == 0


def grade(prompts, texts):
    return [right(map(int, text.split())) for text in texts]


def chance(model, rollouts, place, token):
    """P(correct) with a token set at a place: every continuation, by enumeration."""
    held = [*rollouts.completion_ids[place.row, : place.position].tolist(), token]
    left = HOW.max_new_tokens - len(held)
    if token == END or not left:
        return float(right(held))
    prompt = rollouts.prompt_ids[rollouts.prompt_index[place.row]].tolist()
    every = enumerate_completions(model, [*prompt, *held], left)
    return sum(p * right([*held, *ids]) for ids, p in every.items())


def exact(models, rollouts, place):
    """P(correct) of each choice at a place."""
    prompt = rollouts.prompt_ids[rollouts.prompt_index[place.row]].tolist()
    before = [*prompt, *rollouts.completion_ids[place.row, : place.position].tolist()]
    p, q = (next_probabilities(models[name], before) for name in ("student", "teacher"))
    right_if = np.array([chance(models["student"], rollouts, place, v) for v in range(5)])
    stands = place.token_id
    without = np.where(np.arange(5) == stands, 0, p)
    return {
        "stands": right_if[stands],
        "again": right_if[stands],
        "without": without @ right_if / without.sum(),
        "fresh": p @ right_if,
        "teacher": q @ right_if,
        "best": right_if[q.argmax()],
    }


def test_every_choice_has_its_enumerated_probability_of_a_right_answer(models, rollouts):
    places = placed(rollouts, [0, 0, 1, 2, 3], [0, 3, 1, 1, 0])
    draws = 1_200
    found = choices.at_places(rollouts, places, models, HOW, draws, (5, "x"))
    places = places.join(found.drop(columns="token_id"))
    given = (models["student"], TOKENIZER, rollouts, places, HOW, grade, (5, "x"))
    made = continuations.outcomes(*given)
    assert len(made) == len(places) * draws
    for number, place in enumerate(places.itertuples()):
        mine, wanted = made[made.place == number], exact(models, rollouts, place)
        for name in CHOICES:
            error = np.sqrt(wanted[name] * (1 - wanted[name]) / draws)
            assert abs(mine[name].mean() - wanted[name]) <= 4 * error + 1e-12, (number, name)
        for what, minus in effects.MEASURES.values():  # common random numbers change no mean
            apart = mine[what].astype(float) - mine[minus].astype(float)
            error = apart.std() / np.sqrt(draws)
            assert abs(apart.mean() - (wanted[what] - wanted[minus])) <= 4 * error + 1e-12


@pytest.mark.parametrize("how", [(1.0, 1.0), (0.6, 1.0), (1.7, 0.8), (0.0, 1.0)], ids=str)
def test_a_distribution_is_what_the_chooser_samples(how):
    rng = torch.Generator().manual_seed(1)
    z = torch.randn(6, 9, generator=rng) * 2
    u = (torch.arange(4_000, dtype=torch.float64) + 0.5) / 4_000
    probs = choices.distribution(z, *how)
    assert probs.sum(-1).numpy() == pytest.approx(np.ones(6))
    for row in range(len(z)):
        drawn, _ = Chooser(*how)(z[row].expand(len(u), -1), u)
        shares = np.bincount(drawn.numpy(), minlength=9) / len(u)
        assert shares == pytest.approx(probs[row].numpy(), abs=1e-3)


@pytest.mark.parametrize("how", [(1.0, 1.0), (0.7, 0.9)], ids=str)
def test_coupled_draws_have_their_distributions_and_differ_with_the_total_variation(how):
    rng = torch.Generator().manual_seed(2)
    z_p, z_q = torch.randn(3, 7, generator=rng), torch.randn(3, 7, generator=rng)
    n = 40_000
    u = torch.rand(3, n, 5, generator=rng, dtype=torch.float64)
    sampled = EvalConfig(
        n_prompts=1, samples=1, max_new_tokens=1, batch_size=1, temperature=how[0], top_p=how[1]
    )
    stands = z_p.argmax(-1)
    made = choices.draw(z_p, z_q, stands, sampled, u)
    p, q = choices.distribution(z_p, *how), choices.distribution(z_q, *how)
    masked = choices.distribution(z_p.scatter(-1, stands[:, None], -torch.inf), *how)
    for drawn, wanted in ((made.fresh, p), (made.teacher, q), (made.without, masked)):
        for row in range(3):
            seen = np.bincount(drawn[row].numpy(), minlength=7)
            able = wanted[row].numpy() > 0
            assert (seen[~able] == 0).all()
            test = scipy.stats.chisquare(seen[able], n * wanted[row].numpy()[able])
            assert able.sum() == 1 or test.pvalue > 1e-3
    apart = (q - p).clamp(min=0).sum(-1).numpy()
    differ = (made.fresh != made.teacher).double().mean(-1).numpy()
    assert differ == pytest.approx(apart, abs=4 * 0.5 / np.sqrt(n))
    assert not (made.without == stands[:, None]).any()


def test_equal_models_never_differ_and_a_fresh_draw_without_the_token_is_kept():
    z = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    u = torch.rand(4, 500, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    stands = torch.tensor([0, 1, 2, 3])
    made = choices.draw(z, z.clone(), stands, HOW, u)
    assert (made.teacher == made.fresh).all()
    other = made.fresh != stands[:, None]
    assert (made.without == made.fresh)[other].all() and not other.all()


def test_kl_and_probabilities_are_those_of_the_position_that_predicts_the_token(models, rollouts):
    places = placed(rollouts, [2, 0, 1, 0], [3, 2, 0, 0])
    found = choices.at_places(rollouts, places, models, HOW, 2, (5, "x"))
    assert found.token_id.tolist() == places.token_id.tolist()
    for place, one in zip(places.itertuples(), found.itertuples(), strict=True):
        prompt = rollouts.prompt_ids[rollouts.prompt_index[place.row]].tolist()
        before = [*prompt, *rollouts.completion_ids[place.row, : place.position].tolist()]
        p, q = (next_probabilities(models[name], before) for name in ("student", "teacher"))
        assert one.rkl == pytest.approx((p * np.log(p / q)).sum(), abs=1e-5)
        assert one.tv == pytest.approx(np.abs(p - q).sum() / 2, abs=1e-5)
        assert one.student_p == pytest.approx(p[place.token_id], abs=1e-5)
        assert one.teacher_p == pytest.approx(q[place.token_id], abs=1e-5)
        assert one.best == q.argmax()
    states = [
        States(completion_states(models[name], rollouts, [0]), Head.of(models[name]))
        for name in ("student", "teacher")
    ]
    every, _ = token_divergence(*states[0], *states[1])
    assert found.rkl[[3, 1]].to_numpy() == pytest.approx(every[[0, 2]].detach().numpy(), abs=1e-5)


def test_small_chunks_of_the_vocabulary_change_nothing(models, rollouts, monkeypatch):
    places = placed(rollouts, [0, 0, 1, 2, 3], [0, 3, 1, 1, 0])
    whole = choices.at_places(rollouts, places, models, HOW, 3, (5, "x"))
    monkeypatch.setattr(choices, "CELLS", 5)
    parts = choices.at_places(rollouts, places, models, HOW, 3, (5, "x"))
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-5)
    alone = choices.at_places(rollouts, places.iloc[[3]], models, HOW, 3, (5, "x"))
    assert alone.fresh[0].tolist() == whole.fresh[3].tolist()


# Continuations.


def hand_made(rollouts):
    """Two places with draws by hand."""
    places = placed(rollouts, [0, 1], [1, 0])
    of = {"without": [[2, 3], [0, 0]], "fresh": [[0, 3], [3, 0]], "teacher": [[0, 4], [2, 0]]}
    lists = {name: [np.array(one, np.int32) for one in rows] for name, rows in of.items()}
    return places.assign(**lists, best=np.array([4, 3], np.int32))


def test_choices_of_the_same_token_share_a_continuation(models, rollouts):
    places = hand_made(rollouts)
    plan = continuations.planned(places)
    assert len(plan) == 2 * 2 * len(CHOICES)
    tokens = plan.pivot(index=["place", "draw"], columns="choice", values="token")
    numbers = plan.pivot(index=["place", "draw"], columns="choice", values="number")
    for one, two in product(CHOICES, CHOICES):
        same = tokens[one] == tokens[two]
        if "again" in (one, two) and one != two:
            same = same & False
        assert ((numbers[one] == numbers[two]) == same).all(), (one, two)
    made = continuations.outcomes(
        models["student"], TOKENIZER, rollouts, places, HOW, grade, (5, "x")
    )
    # at the last, 3 stands and is best, and 0 is drawn each time: two tokens and the null
    assert made.continuations.tolist() == [4, 4, 4, 3]
    wide = tokens.reset_index(drop=True)
    for one, two in product(CHOICES, CHOICES):
        if "again" not in (one, two):
            same = wide[one] == wide[two]
            assert (made[one] == made[two])[same].all()


def test_a_continuation_depends_on_its_place_draw_and_token_alone(models, rollouts):
    places = hand_made(rollouts)
    todo = continuations.planned(places).drop_duplicates("number", ignore_index=True)
    stream = (5, "x")
    given = (TOKENIZER, rollouts, places)
    whole = continuations.written(models["student"], *given, todo, HOW, stream)
    small = HOW.model_copy(update={"batch_size": 1})
    for number in range(len(todo)):
        one = todo.iloc[[number]]
        alone = continuations.written(models["student"], *given, one, small, stream)
        assert alone[0].tolist() == whole[number].tolist()
    held = [rollouts.completion_ids[p.row, : p.position].tolist() for p in places.itertuples()]
    for one, ids in zip(todo.itertuples(), whole, strict=True):
        begin = [*held[one.place], one.token]
        assert ids[: len(begin)].tolist() == begin and len(ids) <= HOW.max_new_tokens


def test_a_token_that_ends_the_text_or_is_the_last_allowed_is_followed_by_nothing(models, rollouts):
    places = hand_made(rollouts)
    places.loc[0, "position"] = 3
    places.at[1, "fresh"] = np.array([END, END], np.int32)
    todo = continuations.planned(places).drop_duplicates("number", ignore_index=True)
    made = continuations.written(
        models["student"], TOKENIZER, rollouts, places, todo, HOW, (5, "x")
    )
    lengths = np.array([*map(len, made)])
    assert (lengths[todo.place == 0] == 4).all()
    assert (lengths[(todo.place == 1) & (todo.token == END)] == 1).all()


def test_models_of_different_vocabularies_are_refused(models, rollouts):
    other = {"teacher": small_llama(6), "student": models["student"]}
    with pytest.raises(StudyError, match="must share one vocabulary"):
        choices.at_places(rollouts, placed(rollouts, [0], [0]), other, HOW, 2, (5, "x"))
