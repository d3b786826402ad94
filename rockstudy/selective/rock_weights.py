"""Position weights of rock tokens for any trainer.

`RockWeights` turns what every trainer has, the token ids that are being predicted and a mask, into
a factor on the loss at each position: the paper's lambda (paper 5), here the dose, on the rocks or
on the rocks with their windows, and 1 elsewhere. Column t belongs to the loss of predicting
``completion_ids[:, t]``. With labels that are shifted inside a loss, pass ``labels[:, 1:]`` and
``labels[:, 1:] != -100``.

In TRL's own trainer:

```python
weights = RockWeights.of(token_file.read("rocks.json", tokenizer), dose=0.0)
weigh(trainer, weights)
trainer.train()
```

In a loop of one's own, which has logits over the whole vocabulary at the positions that predict
``completion_ids``:

```python
weights = RockWeights.of(token_file.read("rocks.json", tokenizer), dose=0.0, windows=True)
log_p = student_logits.float().log_softmax(-1)  # (R, T, V)
log_q = teacher_logits.float().log_softmax(-1)
rkl = (log_p.exp() * (log_p - log_q)).sum(-1)  # (R, T), nats
w = weights(completion_ids, mask, rkl.detach())
loss = (w * rkl).sum() / mask.sum()
loss.backward()
```

Divide by the number of tokens, not by the sum of the weights: with another normaliser the other
positions train with a larger step, and two arms differ in that too.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from rockstudy.errors import StudyError
from rockstudy.rocks.detection import Detection
from rockstudy.rocks.token_file import TokenFile
from rockstudy.rocks.token_set import TokenSet
from rockstudy.selective.windows import WindowWeights
from rockstudy.training.position_weights import Batch, TokenWeights, WeightFunction, evaluate


@dataclass(frozen=True)
class RockWeights:
    """A weight on some token types, or on them and their windows; call it with a batch."""

    function: WeightFunction

    @classmethod
    def of(
        cls,
        rocks: TokenFile | Detection | TokenSet | Collection[int],
        dose: float = 0.0,
        *,
        windows: bool = False,
        threshold: float | None = None,
        width: int | None = None,
    ) -> Self:
        """Make the weights of some token types.

        `dose` is the weight of what is chosen: 0 leaves it out of the loss, 1 changes nothing. With
        `windows` that is also the run of positions around each occurrence whose loss is at least
        `threshold` in nats, at most `width` positions on each side. A `TokenFile` brings both, and
        so does a `Detection` by the reverse KL; for other sets they must be given.

        `StudyError`: no ids, a dose or threshold that is negative or not finite, windows without
        threshold and width, or these without windows.
        """
        if isinstance(rocks, Detection):
            own = rocks.tau_post if rocks.settings.loss == "rkl" else None, rocks.settings.window
            ids: Collection[int] = rocks.rocks().ids
        elif isinstance(rocks, TokenFile):
            own, ids = (rocks.window.threshold, rocks.window.width), rocks.types.ids
        else:
            own, ids = (None, None), rocks.ids if isinstance(rocks, TokenSet) else rocks
        if not windows:
            if (threshold, width) != (None, None):
                raise StudyError("windows: must be True where a threshold or a width is given")
            return cls(TokenWeights(ids, dose))
        least, most = (b if a is None else a for a, b in zip((threshold, width), own, strict=True))
        if least is None or most is None:
            raise StudyError("threshold, width: must be given for the windows of ids; got none")
        return cls(WindowWeights(ids, dose, least, most))

    def __call__(
        self, completion_ids: Tensor, mask: Tensor, losses: Tensor | None = None
    ) -> Tensor:
        """Return the weights, float32 (R, T) on the device of the ids, 0 outside the mask.

        `completion_ids` are the tokens that are being predicted, any integers (R, T); `mask` is
        where the loss counts, bool or 0 and 1 (R, T). `losses`, float (R, T), is the current loss
        in nats at each position, which windows need and nothing else.

        `StudyError`: other shapes, ids that are no integers, windows without losses.
        """
        shape = tuple(completion_ids.shape)
        for name, one in (("mask", mask), ("losses", losses)):
            if one is not None and (len(shape) != 2 or tuple(one.shape) != shape):
                must = f"must have the two axes of completion_ids, {shape}"
                raise StudyError(f"{name}: {must}; got {tuple(one.shape)}")
        if completion_ids.is_floating_point():
            raise StudyError(f"completion_ids: must be integers; got {completion_ids.dtype}")
        batch = Batch(completion_ids.long(), mask.bool())
        return evaluate(self.function, batch, None if losses is None else losses.detach().float())
