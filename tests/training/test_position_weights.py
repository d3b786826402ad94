"""Position weights: on which column they fall, what is refused, what identifies them."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

from rockstudy.errors import StudyError
from rockstudy.training.position_weights import (
    Batch,
    Constant,
    Ramp,
    Redetected,
    TokenWeights,
    TypeWeights,
    describe,
    evaluate,
    level,
    persistence_weights,
)


@pytest.fixture
def batch():
    ids = torch.tensor([[5, 7, 5, 9], [7, 7, 0, 0]])
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    return Batch(ids, mask, step=3)


def test_a_token_weight_lies_on_the_column_that_predicts_the_token(batch):
    w = evaluate(TokenWeights({5}, 0.25), batch, None)
    assert w.tolist() == [[0.25, 1, 0.25, 1], [1, 1, 0, 0]]


def test_padding_weighs_nothing_even_where_its_id_is_chosen(batch):
    w = evaluate(TokenWeights({0}, 3.0), batch, None)
    assert w.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_no_weights_and_a_constant_of_one_are_the_same(batch):
    assert torch.equal(evaluate(None, batch, None), evaluate(Constant(), batch, None))
    assert evaluate(Constant(0.5), batch, None).sum() == 3.0


def test_the_order_and_repetition_of_ids_do_not_make_another_arm():
    assert TokenWeights([9, 5, 5], 0) == TokenWeights({5, 9}, 0.0)
    assert describe(TokenWeights([9, 5], 0)) == {
        "name": "TokenWeights",
        "ids": (5, 9),
        "value": 0.0,
        "keep": False,
    }
    assert describe(None) == describe(Constant(1.0)) != describe(Constant(0.9))


def test_a_set_can_be_what_is_kept(batch):
    w = evaluate(TokenWeights({5}, 0.25, keep=True), batch, None)
    assert w.tolist() == [[1, 0.25, 1, 0.25], [0.25, 0.25, 0, 0]]


def test_a_ramp_goes_from_its_first_to_its_last_value_and_stays(batch):
    ramp = Ramp(0.0, 1.0, 4)
    assert [level(ramp, step) for step in (0, 1, 4, 9)] == [0.0, 0.25, 1.0, 1.0]
    w = evaluate(TokenWeights({5}, ramp), batch, None)  # step 3
    assert w.tolist() == [[0.75, 1, 0.75, 1], [1, 1, 0, 0]]
    assert describe(TokenWeights({5}, ramp))["value"] == {"first": 0.0, "last": 1.0, "steps": 4}


def test_each_type_can_have_its_own_weight(batch):
    w = evaluate(TypeWeights([9, 7], [0.0, 0.5]), batch, None)
    assert w.tolist() == [[1, 0.5, 1, 0], [0.5, 0.5, 0, 0]]


def test_soft_weights_fall_with_the_share_of_persistent_occurrences():
    types = pd.DataFrame({"token_id": [4, 7, 9], "count": [10, 4, 5], "n_persistent": [0, 1, 5]})
    soft = persistence_weights(types, [9, 7, 4], 0.2)
    assert dict(zip(soft.ids, soft.values, strict=True)) == pytest.approx({4: 1, 7: 0.8, 9: 0.2})
    with pytest.raises(StudyError, match="observed token types; got 5"):
        persistence_weights(types, [5], 0.2)


def test_what_is_redetected_are_the_types_with_most_loss_in_the_steps_before(batch):
    rows = [(2, 7, 3, 9.0), (4, 7, 3, 1.0), (4, 9, 9, 3.0), (4, 5, 1, 2.0), (6, 11, 1, 99.0)]
    batch = replace(batch, step=5, type_losses=np.array(rows))
    again = Redetected(2, 2, 0.0)
    assert again.redetected(batch) == (5, 9)  # of the steps 3 and 4
    assert evaluate(again, batch, None).tolist() == [[0, 1, 0, 0], [1, 1, 0, 0]]
    first = replace(batch, step=1)
    assert again.redetected(first) == ()
    assert evaluate(again, first, None).sum() == 6


@dataclass(frozen=True)
class Above:
    """Weighs the positions whose loss is above a threshold."""

    threshold: float
    needs_losses: ClassVar[bool] = True

    def __call__(self, batch, losses):
        return (losses > self.threshold).float()


def test_a_function_of_the_losses_gets_them(batch):
    losses = torch.tensor([[0.1, 2.0, 0.3, 4.0], [5.0, 0.0, 0.0, 0.0]])
    assert evaluate(Above(1.0), batch, losses).tolist() == [[0, 1, 0, 1], [1, 0, 0, 0]]
    assert describe(Above(1.0)) == {"name": "Above", "threshold": 1.0}


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda batch: Constant(-0.1), "value"),
        (lambda batch: Constant(float("nan")), "value"),
        (lambda batch: Constant(float("inf")), "value"),
        (lambda batch: TokenWeights([], 0.0), "ids"),
        (lambda batch: TokenWeights([-1], 0.0), "ids"),
        (lambda batch: TokenWeights([1], Ramp(0.0, 1.0, 0)), "steps"),
        (lambda batch: TokenWeights([1], Ramp(0.0, float("inf"), 2)), "last"),
        (lambda batch: TypeWeights([], []), "ids"),
        (lambda batch: TypeWeights([1], [-1.0]), "value"),
        (lambda batch: Redetected(0, 2, 0.0), "k must be"),
        (lambda batch: Redetected(2, 0, 0.0), "every must be"),
        (lambda batch: describe(lambda batch, losses: batch.mask), "dataclass"),
        (lambda batch: describe(Above), "dataclass"),
        (lambda batch: evaluate(lambda b, _: b.mask[:, :1].float(), batch, None), r"\(2, 4\)"),
        (lambda batch: evaluate(lambda b, _: -b.mask.float(), batch, None), "negative"),
        (lambda batch: evaluate(lambda b, _: b.mask / 0.0, batch, None), "finite"),
    ],
)
def test_what_cannot_be_a_weight_is_refused_in_one_line(batch, make, named):
    with pytest.raises(StudyError, match=named) as error:
        make(batch)
    assert "\n" not in str(error.value)
