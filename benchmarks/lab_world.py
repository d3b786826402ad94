"""Sizes of the lab's world, and what its student's window hides (data/lab/README.md).

    types_*                 token types in the answers of a writer (teacher's habits, student's)
    tokens_*                mean tokens of an answer, and their 10th and 90th percentile
    setting_*               mean probability that a model gives to the wording that follows from the
                            setting, at the remark's first word, the closing and its end, in written
                            solutions of held-out problems
    nats_*                  mean loss of the teacher's register by cause, in nats a token, on the
                            same solutions: whether a model of the student's size learns what is
                            called learnable

``--steps N`` trains three models on the teacher's register for N steps each: one like the student,
one like it with a window that holds everything, one of the teacher's size. The written odds of the
wording are ``1 - noise + noise / choices``; a model that does not see the setting can reach
``1 / choices``.
"""

import argparse
import json
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedTokenizerFast

from rockstudy import paths
from rockstudy.config.fields import TaskConfig
from rockstudy.models.loading import load_model, load_tokenizer
from rockstudy.rocks.causes import token_causes
from rockstudy.tasks.lab import build, maths, register, units
from rockstudy.tasks.lab.register import STUDENT, TEACHER

LAB = paths.data_dir() / "lab"
CONTROLS = ("student", "student-whole-window", "teacher-size")
SLOTS = {"remark": units.REMARK, "closing": units.CLOSING, "tail": units.TAIL}


def world(tokenizer: PreTrainedTokenizerFast, n: int) -> dict[str, Any]:
    """Sizes of `n` answers by each writer."""
    drafts, sizes = maths.distinct("eval", n, seed=0), {}
    for name, habits in (("teacher", TEACHER), ("student", STUDENT)):
        rng = random.Random(5)
        texts = [register.write(draft, habits, rng) for draft in drafts]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        counts = np.array(sorted(Counter(i for row in ids for i in row).values()))
        lengths = np.array([len(row) + 1 for row in ids])
        sizes |= {
            f"types_{name}": len(counts),
            f"types_at_most_twice_{name}": int((counts <= 2).sum()),
            f"types_over_100_times_{name}": int((counts > 100).sum()),
            f"tokens_{name}": round(float(lengths.mean()), 1),
            f"tokens_10_to_90_{name}": np.quantile(lengths, (0.1, 0.9)).round().tolist(),
        }
    return sizes


def setting_odds(model: Any, tokenizer: PreTrainedTokenizerFast, n: int) -> dict[str, float]:
    """Mean probability of the wording that follows from the setting, by slot, over `n` solutions.

    The wordings' probabilities are normalised over the slot's wordings: each is scored whole, in
    place of the one written.
    """
    found: dict[str, list[float]] = {slot: [] for slot in SLOTS}
    rng = random.Random(7)
    for draft in maths.distinct("eval", n, seed=0):
        placed = register.compose(draft, TEACHER, rng)
        start = tokenizer.apply_chat_template(
            [{"role": "user", "content": draft.question}],
            add_generation_prompt=True,
            tokenize=False,
        )
        before = start
        for line, gap in placed:
            for part, text in zip(line.unit.parts, line.texts, strict=True):
                for slot, choice in SLOTS.items():
                    if part is choice:
                        options = [before + option for option in choice.groups[0]]
                        right = register.attributes(draft.setting)[slot]
                        found[slot].append(_share(model, tokenizer, options, right))
                before += text
            before += gap
    return {f"setting_{slot}": round(float(np.mean(v)), 3) for slot, v in found.items()}


def losses_by_cause(model: Any, tokenizer: PreTrainedTokenizerFast, n: int) -> dict[str, float]:
    """Mean negative log-likelihood of `n` solutions in the teacher's register, by cause, nats."""
    rng = random.Random(7)
    task = TaskConfig(name="lab_math", n_train=1, n_eval=n, max_prompt_tokens=400)
    drafts = maths.distinct("eval", n, seed=0)
    problems = [maths.problem_of(draft) for draft in drafts]
    texts = [register.write(draft, TEACHER, rng) for draft in drafts]
    rows = [np.array(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    found, losses = token_causes(task, tokenizer, problems, rows), []
    for problem, row in zip(problems, rows, strict=True):
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.prompt}], add_generation_prompt=True
        )["input_ids"]
        ids = torch.tensor([[*asked, *row]])
        with torch.no_grad():
            logp = model(ids).logits.float().log_softmax(-1)[0, len(asked) - 1 : -1]
        losses.append(-logp.gather(-1, ids[0, len(asked) :, None])[:, 0].double().numpy())
    frame = pd.DataFrame({"cause": np.concatenate(found), "nats": np.concatenate(losses)})
    means = frame.groupby("cause", sort=False).nats.mean()
    return {f"nats_{cause}": round(float(value), 3) for cause, value in means.items()}


def _share(model: Any, tokenizer: Any, texts: list[str], right: int) -> float:
    """Probability of one of some texts, normalised over them."""
    scores = []
    for text in texts:
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            logp = model(ids).logits.float().log_softmax(-1)[0, :-1]
        scores.append(logp.gather(-1, ids[0, 1:, None]).double().sum())
    return float(torch.stack(scores).softmax(0)[right])


def scores(model: Any, tokenizer: PreTrainedTokenizerFast, n: int) -> dict[str, float]:
    """`setting_odds` and `losses_by_cause`."""
    return setting_odds(model, tokenizer, n) | losses_by_cause(model, tokenizer, n)


def control(name: str, steps: int, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Train a model on the teacher's register alone, for `steps` steps, and load it."""
    student, teacher = build.CONFIG["student"], build.CONFIG["teacher"]
    spec = {
        "student": student,
        "student-whole-window": student | {"window": build.WHOLE},
        "teacher-size": teacher,
    }[name]
    config = {**build.CONFIG, "seed": 1, name: spec | {"examples": steps * spec["batch_size"]}}
    with tempfile.TemporaryDirectory() as folder:
        build.build_one(name, TEACHER, tokenizer, config, Path(folder))
        return load_model(str(Path(folder) / name))


def main() -> None:
    """Print the tables and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=500, help="answers to measure")
    parser.add_argument("--vocabularies", type=int, nargs="*", default=[], help="sizes to compare")
    parser.add_argument("--steps", type=int, default=0, help="train the controls for so many steps")
    parser.add_argument("--controls", nargs="*", default=CONTROLS, help="which of them")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shipped = load_tokenizer(str(LAB / "tokenizer"))
    rows = {"shipped": world(shipped, args.n)}
    for size in args.vocabularies:
        other = build.build_tokenizer({**build.CONFIG, "vocab_size": size})
        rows[str(size)] = world(other, args.n)
    odds = {}
    for role in ("teacher", "student"):
        odds[role] = scores(load_model(str(LAB / role)), shipped, min(args.n, 100))
    if args.steps:
        for name in args.controls:
            model = control(name, args.steps, shipped)
            odds[f"{name}, {args.steps} steps"] = scores(model, shipped, min(args.n, 100))
    print(pd.DataFrame(rows).to_string())
    print(pd.DataFrame(odds).T.to_string())
    print(json.dumps({"world": rows, "models": odds}))


if __name__ == "__main__":
    main()
