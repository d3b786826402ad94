"""The cached steps of notebook 09: arms of equal shares, their accuracy, their way from the start.

They stand beside the arms of notebook 07, which are trained at every seed: the tables here hold
both. `rockstudy.beyond.freezing.arms` describes the arms, `frontier` what is made of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open

from rockstudy.beyond.freezing import arms, orders
from rockstudy.beyond.freezing.weights import SplitTypes, Unlikely, Zone
from rockstudy.errors import StudyError
from rockstudy.gradients import steps as gradient_steps
from rockstudy.models.divergence import Head, token_log_prob
from rockstudy.rocks.steps import TOKENS, measured, tokens_hash
from rockstudy.runs import Run, table
from rockstudy.sampling import evaluation
from rockstudy.sampling.rollout import completion_states
from rockstudy.selective import arms as selective
from rockstudy.selective import steps as selective_steps
from rockstudy.selective.material import Material
from rockstudy.selective.steps import Trained
from rockstudy.store.code import kept_apart
from rockstudy.training import steps as training_steps
from rockstudy.training.position_weights import Batch, Redetected, WeightFunction, evaluate

ARMS = (*TOKENS, "evaluation", "rocks", "freezing")  # fields of the configuration behind the arms
BOTH = (*ARMS, "freeze")  # and behind those of notebook 07 as well
KEYS = ["arm", "seed", "step", "benchmark", "prompt_index"]
_ROWS = 64  # ours: rollouts in one forward


@table(*TOKENS, inputs=tokens_hash)
def surprisals(run: Run) -> pd.DataFrame:
    """``surprisal``: -log p of every token of the statistics by the student after OPD, in nats.

    Float32, a row per row of the token table.
    """
    run.needs_models("surprisals of the tokens")
    corpus, rows = measured(run), measured(run).rollouts
    student, found = corpus.model("post"), np.zeros(rows.mask.shape, np.float32)
    written = np.flatnonzero(rows.lengths > 0)
    for start in range(0, len(written), _ROWS):
        batch = written[start : start + _ROWS]
        states, mask = completion_states(student, rows, batch).float(), rows.mask[batch]
        ids = torch.from_numpy(rows.completion_ids[batch][mask].astype(np.int64))
        with torch.no_grad():
            log_prob, _ = token_log_prob(states, Head.of(student), ids.to(states.device))
        some = found[batch]
        some[mask] = -log_prob.float().cpu().numpy()
        found[batch] = some
    return pd.DataFrame({"surprisal": found[rows.mask]})


def equal_share(made: Material, selector: str, of: str) -> WeightFunction:
    """Weights that leave out the share ``freezing__share`` of the ``positions`` or the ``loss``."""
    if made.run is None:
        raise StudyError(f"arm {made.name}: must be made from the measurements of a run; got none")
    run, share, tokens = made.run, made.config.freezing.share, made.tokens
    held = np.ones(len(tokens)) if of == "positions" else tokens.rkl_post.to_numpy(np.float64)
    if selector in orders.ZONES:
        lengths = tokens.groupby(["prompt_index", "sample_index"]).position.transform("size")
        places = (tokens.position.to_numpy() + 0.5) / lengths.to_numpy()
        part = orders.part_of_zone(places, held, selector, share)
        return Zone(*orders.ZONES[selector], part, made.seed)
    if selector == orders.UNLIKELY:
        rarity = surprisals(run).surprisal.to_numpy(np.float64)
        return Unlikely(orders.least_probable(rarity, held, share))
    gradients = gradient_steps.gradients(run) if selector in orders.GRADIENTS else None
    order = orders.of_types(selector, made, gradients)
    one = orders.cut(order, orders.held_by_types(tokens, of), share)
    return SplitTypes(one.ids, one.split, one.part, made.seed)


def planned(run: Run) -> pd.DataFrame:
    """Arms of this notebook in their order: ``arm, seeds`` and the number of graded checkpoints."""
    rows = pd.DataFrame(arms.plan(run.config), columns=["arm", "seed", "along"])
    counted = rows.groupby(["arm", "along"], sort=False).size().reset_index(name="seeds")
    kept = len(run.config.stage("stage2").keep)
    return counted.drop(columns="along").assign(graded=np.where(counted.along, kept, 1))


@kept_apart
def trained(run: Run, *, grade: bool = True) -> Trained:
    """Train the arms of this notebook in their order and grade them, once in a run."""

    def train() -> Trained:
        run.needs_models("arms of stage 2")
        made, every = selective_steps.material(run), tuple(run.config.stage("stage2").keep)
        jobs = [
            (selective.build(name, made, seed), seed, every if along else ("late",))
            for name, seed, along in arms.plan(run.config)
        ]
        training_steps.train_arms(run, jobs if grade else [(arm, s, ()) for arm, s, _ in jobs])
        return [
            (arm, seed, training_steps.trained(run, arm, seed), names) for arm, seed, names in jobs
        ]

    return run.in_memory(f"arms of equal shares, graded {grade}", train)


def _hashes(run: Run) -> dict[str, str]:
    """The trained arms of this notebook as inputs."""
    return {f"{arm.name}-s{seed}": one.hash for arm, seed, one, _ in trained(run, grade=False)}


def _all_hashes(run: Run) -> dict[str, str]:
    """The trained arms of both notebooks as inputs; those of this one are trained first."""
    return _hashes(run) | selective_steps.trained_hashes(run)


@table(*BOTH, inputs=lambda run: _all_hashes(run) | evaluation.graded_on(run))
def accuracy(run: Run) -> pd.DataFrame:
    """`selective.steps.accuracy` of the arms of both notebooks, with the same columns."""
    frames = []
    for arm, seed, result, names in trained(run):
        folders = {name: result.checkpoints[name] for name in names}
        rows = training_steps.along_training(run, arm, seed, folders).assign(arm=arm.name)
        grouped = rows.groupby(KEYS, sort=False).correct
        frames.append(grouped.agg(accuracy="mean", samples="size").reset_index())
    return pd.concat([selective_steps.accuracy(run), *frames], ignore_index=True)


@table(*BOTH, inputs=_all_hashes)
def trainings(run: Run) -> pd.DataFrame:
    """What each training of both notebooks left out, how far it went and how long it took.

    Columns: ``arm, seed, share`` (1 - mean weight over all tokens), ``loss_share`` (of the reverse
    KL that the weights take away; NaN where positions skip the heads, so that it is not known),
    ``moved`` (L2 distance of all weights from the start of stage 2), ``start`` (the L2 norm of the
    weights there) and ``seconds`` of all steps, on a machine that may have trained two at a time.
    """
    start, rows = training_steps.stage1(run).checkpoints["late"], []
    steps = run.config.stage("stage2").steps
    for arm, seed, one, _ in selective_steps.trained(run, grade=False) + trained(run, grade=False):
        logged, (far, norm) = one.metrics, moved(start, one.checkpoints["late"])
        row: dict[str, Any] = {"arm": arm.name, "seed": seed} | left_out_in(logged)
        row |= {"moved": far, "start": norm, "seconds": one.timing.seconds_step.mean() * steps}
        rows.append(row)
    return pd.DataFrame(rows)


def left_out_in(metrics: pd.DataFrame) -> dict[str, float]:
    """``share`` of the positions and ``loss_share`` of the loss left out in one training."""
    tokens = metrics.n_tokens.to_numpy(np.float64)
    kept, loss, whole = (float((metrics[c] * tokens).sum()) for c in ("mean_weight", "loss", "rkl"))
    known = bool((metrics.n_kept == metrics.n_tokens).all())
    return {"share": 1 - kept / tokens.sum(), "loss_share": 1 - loss / whole if known else np.nan}


def moved(start: Path, end: Path) -> tuple[float, float]:
    """L2 distance of all weights of two checkpoints, and the L2 norm of the first one's.

    Tensor by tensor, so that no model is in memory. `StudyError`: other tensors or shapes.
    """
    before, after = _files(start), _files(end)
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())[0]
        raise StudyError(f"{end}: must hold the tensors of {start}; {odd} is in one of them alone")
    far = norm = 0.0
    for name in sorted(before):
        old, new = (_tensor(files[name], name) for files in (before, after))
        if old.shape != new.shape:
            shapes = f"{list(old.shape)}; got {list(new.shape)}"
            raise StudyError(f"{end}: {name} must have the shape {shapes}")
        far += float((new - old).square().sum())
        norm += float(old.square().sum())
    return far**0.5, norm**0.5


def _files(folder: Path) -> dict[str, Path]:
    """The file of each tensor of a checkpoint."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= dict.fromkeys(file.keys(), path)
    return found


def _tensor(path: Path, name: str) -> torch.Tensor:
    with safe_open(path, "pt") as file:
        return file.get_tensor(name).double()


@table(*ARMS, inputs=tokens_hash)
def matched(run: Run) -> pd.DataFrame:
    """What each arm of this notebook leaves out of the rollouts of the statistics.

    Columns: ``arm, share, loss_share`` (by weight), of the first seed's draw.
    """
    made, rollouts, rows = selective_steps.material(run), measured(run).rollouts, []
    rarity = surprisals(run).surprisal.to_numpy(np.float64)
    log_ratio = made.tokens.log_ratio_post.to_numpy(np.float64)
    losses, log_probs = (np.zeros((n, *rollouts.mask.shape)) for n in (1, 2))
    losses[0][rollouts.mask] = made.tokens.rkl_post
    for place, of in enumerate((-rarity, -rarity - log_ratio)):
        log_probs[place][rollouts.mask] = of
    ids = torch.from_numpy(rollouts.completion_ids.astype(np.int64))
    mask, loss = torch.from_numpy(rollouts.mask), torch.from_numpy(losses[0]).float()
    batch = Batch(ids, mask, log_probs=torch.from_numpy(log_probs).float())
    for name in run.config.freezing.arms:
        weights = selective.build(name, made, run.config.seeds[0]).weights
        row: dict[str, Any] = {"arm": name, "share": np.nan, "loss_share": np.nan}
        if not isinstance(weights, Redetected):  # which finds its types in training
            w = evaluate(weights, batch, loss)
            kept = float((w * loss)[mask].sum() / loss[mask].sum())
            row |= {"share": 1 - float(w[mask].mean()), "loss_share": 1 - kept}
        rows.append(row)
    return pd.DataFrame(rows, columns=["arm", "share", "loss_share"])
