"""The cached steps of notebook 08: gradients and steps at checkpoints, and other optimisers.

Losses are followed on completions of the student after OPD (`rockstudy.rocks.steps`), whatever the
checkpoint; updates are made of a checkpoint's own completions of other prompts, as in training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rockstudy import progress, tasks
from rockstudy.beyond.persistence import coherence, interventions, suppression
from rockstudy.beyond.persistence.texts import FixedTexts
from rockstudy.beyond.persistence.updates import STEPS, Moments, clipped, steps_of
from rockstudy.config.fields import PersistenceConfig
from rockstudy.errors import StudyError
from rockstudy.gradients import steps as gradients_steps
from rockstudy.models import checkpoints, loading
from rockstudy.models.checkpoints import Checkpoint
from rockstudy.rocks import steps as rocks_steps
from rockstudy.rocks.causes import token_causes
from rockstudy.rocks.steps import TOKENS, measured
from rockstudy.runs import Run, table
from rockstudy.sampling.rollout import Rollouts, generate
from rockstudy.store.code import kept_apart
from rockstudy.store.fingerprints import content, fingerprint
from rockstudy.store.seeds import torch_seed
from rockstudy.training import stages
from rockstudy.training import steps as training_steps
from rockstudy.training.arm import Arm
from rockstudy.training.optimizers import read_moments

REST = "rest"
GROUPS = ("rock", "control", "high-KL", REST)  # "high-KL": rare types with a high early loss
GIVEN_LR = 2e-6  # paper 1: of stage 2
PER_PROMPT = 4  # paper 1: completions of a prompt in an update
KEYS = ["prompt_index", "sample_index", "position", "token_id"]
_OF = ("n_prompts", "batch", "batches", "rebuilt", "checkpoints", "moments_at", "seeds", "step_lr")
INSTRUMENT = (*TOKENS, "rocks", *(f"persistence.{name}" for name in _OF))
TRAINED = (*INSTRUMENT, "persistence.arms", "persistence.sgd_lr")


# --- which checkpoints ----------------------------------------------------------------------------


def places(run: Run) -> list[tuple[int, str]]:
    """Seeds and names of the checkpoints that are measured, in the order of training.

    `StudyError`: a name that is no checkpoint.
    """
    config, how = run.config, run.config.persistence
    if config.models is not None:
        seeds, every = (config.seeds[0],), list(checkpoints.steps(config.models))
    else:
        seeds = config.seeds[: how.seeds]
        every = list(how.moments_at or config.stage("stage2").keep)
    for name in how.checkpoints:
        if name not in every:
            legal = f"one of {', '.join(every)}"
            raise StudyError(f"persistence__checkpoints: must be {legal}; got {name!r}")
    return [(seed, name) for seed in seeds for name in every if name in (how.checkpoints or every)]


def shares(run: Run) -> dict[str, float]:
    """How much of stage 2 is done at each checkpoint; of given ones its place in their order."""
    config = run.config
    if config.models is not None:
        at = checkpoints.steps(config.models)
        return {name: step / max(at.values()) for name, step in at.items()}
    return dict(config.persistence.moments_at or config.stage("stage2").keep)


def adamw(run: Run) -> Arm:
    """The baseline with its running means kept."""
    counts = pd.Series(dtype=float)
    return interventions.arm_of("adamw", counts, run.config.persistence.moments_at, None)


@kept_apart
def students(run: Run) -> dict[tuple[int, str], Checkpoint]:
    """The checkpoints of `places`, trained where they are not yet."""

    def found() -> dict[tuple[int, str], Checkpoint]:
        run.needs_models("steps and gradients at checkpoints")
        wanted = places(run)
        if run.config.models is not None:
            return {at: measured(run).checkpoints[at[1]] for at in wanted}
        if not run.config.persistence.moments_at:
            made = training_steps.baselines(run)
        else:
            seeds = run.config.seeds[: run.config.persistence.seeds]
            training_steps.train_arms(run, [(adamw(run), seed, ()) for seed in seeds])
            made = {seed: training_steps.trained(run, adamw(run), seed) for seed in seeds}
        folders = {(seed, name): made[seed].checkpoints[name] for seed, name in wanted}
        return {
            at: checkpoints.in_folder(folder, run.config.pair) for at, folder in folders.items()
        }

    return run.in_memory("persistence students", found)


def _inputs(run: Run) -> dict[str, str]:
    """Checkpoints, token table and groups as inputs."""
    hashes = {f"{name}-s{seed}": one.hash for (seed, name), one in students(run).items()}
    known = rocks_steps.causes_hash if tasks.causes(run.config.benchmarks[0]) else None
    chosen = {"groups": fingerprint(content(gradients_steps.groups(run)))}
    return hashes | chosen | (known or rocks_steps.tokens_hash)(run)


# --- texts, groups, updates -----------------------------------------------------------------------


def prompts(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the prompts whose losses are followed, and of those that updates are made of.

    At most half of the prompts are followed. `StudyError`: fewer than four prompts.
    """
    every = np.unique(measured(run).rollouts.prompt_index)
    if len(every) < 4:
        legal = "at least 4, to follow some of them and to make updates of others"
        raise StudyError(
            f"statistics__n_prompts: must be {legal}; got {len(every)} with completions"
        )
    n = min(run.config.persistence.n_prompts, len(every) // 2)
    order = run.rng("persistence-prompts").permutation(every)
    return np.sort(order[:n]), order[n:]


def followed(run: Run, student: Any) -> FixedTexts:
    """The texts whose losses are followed, for one student."""
    rows = np.flatnonzero(np.isin(measured(run).rollouts.prompt_index, prompts(run)[0]))
    return FixedTexts(measured(run).rollouts, rows, student, measured(run).model("teacher"))


def labelled(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    """Positions with their ``group`` (`GROUPS`), and their ``cause``, empty without causes."""
    chosen = gradients_steps.groups(run).set_index("token_id").group
    group = frame.token_id.map(chosen[chosen.isin(GROUPS)]).fillna(REST)
    tokens = measured(run).tokens
    if "cause" not in tokens:
        return frame.assign(group=group.to_numpy(), cause="")
    cause = frame[KEYS].merge(tokens[[*KEYS, "cause"]], on=KEYS, how="left").cause
    return frame.assign(group=group.to_numpy(), cause=cause.astype(str).to_numpy())


def load(one: Checkpoint) -> Any:
    """A student in float32: a step of training is far below the rounding of bfloat16."""
    return one.load().float()


class _Batches:
    """Gradients of batches as training makes them, clipped: the mean over all tokens of a batch."""

    def __init__(self, run: Run, student: Any, seed: int, name: str) -> None:
        self.run, self.student, self.seed, self.name = run, student, seed, name
        self.settings = run.config.stage2
        self.others = prompts(run)[1]

    def gradient(self, number: int) -> Tensor:
        """The clipped gradient (P,) of a batch of the student's own completions."""
        run, corpus = self.run, measured(self.run)
        how: Any = self.settings or run.config.statistics
        per_prompt = self.settings.rollouts_per_prompt if self.settings else PER_PROMPT
        n = max(1, run.config.persistence.batch // per_prompt)
        chosen = self.others[np.arange(number * n, (number + 1) * n) % len(self.others)]
        written = generate(
            self.student,
            loading.tokenizer_of(run),
            [corpus.rollouts.prompt_ids[i].tolist() for i in chosen],
            samples=per_prompt,
            temperature=how.temperature,
            top_p=how.top_p,
            max_new_tokens=how.max_new_tokens,
            batch_size=run.config.statistics.batch_size,
            seed=torch_seed(self.seed, f"persistence-{self.name}", number),
            desc=None,
        )
        texts = FixedTexts(written, np.arange(len(written)), self.student, corpus.model("teacher"))
        mean = np.full((1, len(texts.frame)), 1 / len(texts.frame))
        most = self.settings.max_grad_norm if self.settings else 1.0  # paper 1, stage 2
        return clipped(texts.gradients(mean)[0], most)


def _kept_moments(one: Checkpoint, texts: FixedTexts) -> Moments:
    """The running means that a training of the run has left beside a checkpoint."""
    assert one.folder is not None
    found = read_moments(one.folder)
    names = [name.removeprefix("student.") for name in texts.parameters]
    flat = [
        torch.cat([found[what][name].reshape(-1) for name in names])
        for what in ("exp_avg", "exp_avg_sq")
    ]
    return Moments(*flat, int(found["step"][names[0]]))


# --- measured -------------------------------------------------------------------------------------


@table(*INSTRUMENT, inputs=_inputs)
def moved(run: Run, seed: int, name: str) -> pd.DataFrame:
    """What one step of each optimiser does to every type at a checkpoint, by prompt and cause.

    Sums over the occurrences of a type in a prompt, means over the updates: ``seed, checkpoint,
    prompt_index, token_id, group, cause, count, loss`` (nats, before), and for each step of
    `updates.STEPS` the fall of the loss, ``phi_<step>`` to first order and ``real_<step>`` when it
    is taken. At the first seed of a training that kept its running means also ``phi_rebuilt,
    real_rebuilt``: AdamW's step from rebuilt ones.
    """
    how = run.config.persistence
    progress.announce(f"steps of {', '.join(STEPS)} at the checkpoint {name}, seed {seed}")
    one = students(run)[seed, name]
    student = load(one)
    texts, batches = followed(run, student), _Batches(run, student, seed, name)
    has = bool(how.moments_at) and run.config.models is None
    also = has and seed == run.config.seeds[0]
    rebuilt = None
    if also or not has:
        numbers = range(how.batches, how.batches + how.rebuilt)
        rebuilt = Moments.rebuilt(map(batches.gradient, numbers))
    moments = _kept_moments(one, texts) if has else rebuilt
    assert moments is not None
    settings = run.config.stage2
    lr = how.step_lr or (settings.lr if settings else GIVEN_LR)
    before, sums = texts.losses(), {}
    for number in range(how.batches):
        gradient = batches.gradient(number)
        steps = steps_of(moments, gradient, lr)
        if also and rebuilt is not None:
            steps["rebuilt"] = rebuilt.after(gradient).step(lr)
        for step, move in steps.items():
            falls = {"phi": -texts.slopes(move), "real": before - texts.losses(move)}
            for kind, fall in falls.items():
                column = f"{kind}_{step}"
                sums[column] = sums.get(column, 0) + fall / how.batches
    frame = labelled(run, texts.frame).assign(count=1, loss=before, **sums)
    keys = ["prompt_index", "token_id", "group", "cause"]
    made = frame.groupby(keys, as_index=False)[["count", "loss", *sums]].sum()
    made = made.astype(dict.fromkeys(["loss", *sums], np.float32))
    return made.assign(seed=seed, checkpoint=name)


@table(*INSTRUMENT, inputs=_inputs)
def products(run: Run, seed: int, name: str) -> pd.DataFrame:
    """`coherence.products` of groups and causes at a checkpoint: ``seed, checkpoint, by``."""
    progress.announce(f"gradients of groups at the checkpoint {name}, seed {seed}")
    texts = followed(run, load(students(run)[seed, name]))
    frame, rng = labelled(run, texts.frame), run.rng("persistence-signs", seed)
    tables = []
    for by in ("group", "cause"):
        names = sorted(set(frame[by]) - {""})
        chosen = {one: (frame[by] == one).to_numpy() for one in names}
        if chosen:
            tables.append(coherence.products(texts, chosen, rng).assign(by=by))
    return pd.concat(tables, ignore_index=True).assign(seed=seed, checkpoint=name)


def _everywhere(run: Run, step: Any) -> pd.DataFrame:
    """A step at all of `places`."""
    return pd.concat([step(run, *place) for place in places(run)], ignore_index=True)


def all_moved(run: Run) -> pd.DataFrame:
    """`moved` at every seed and checkpoint."""
    return _everywhere(run, moved)


def last(run: Run) -> str:
    """The last checkpoint of `places`, at which claims are judged."""
    return places(run)[-1][1]


def all_products(run: Run) -> pd.DataFrame:
    """`products` at every seed and checkpoint."""
    return _everywhere(run, products)


# --- summaries ------------------------------------------------------------------------------------


@table(*INSTRUMENT)
def effects(run: Run, sums: pd.DataFrame) -> pd.DataFrame:
    """`suppression.of_groups` by group against the rest, and by cause against all: ``by``."""
    rng = run.rng("persistence-effects")
    tables = [suppression.of_groups(sums, "group", REST, rng).assign(by="group")]
    if set(sums.cause) != {""}:
        tables.append(suppression.of_groups(sums, "cause", None, rng).assign(by="cause"))
    return pd.concat(tables, ignore_index=True)


def frequencies(run: Run) -> pd.Series:
    """Occurrences of each type by id, in all completions of the statistics."""
    return rocks_steps.types(run).set_index("token_id")["count"]


def by_type(run: Run, sums: pd.DataFrame, checkpoint: str) -> pd.DataFrame:
    """Mean falls of each type with at least `suppression.LEAST` occurrences at one checkpoint.

    ``token_id, spelling, group, n`` (occurrences), and for each step ``phi_<step>, real_<step>`` in
    nats, seeds pooled.
    """
    here = sums[sums.checkpoint == checkpoint]
    falls = [f"{kind}_{step}" for kind in suppression.KINDS for step in STEPS]
    made = here.groupby(["token_id", "group"])[["count", *falls]].sum().reset_index()
    made[falls] = made[falls].div(made["count"], axis=0)
    made = made.assign(n=made["count"] // here.seed.nunique()).drop(columns="count")
    return gradients_steps.spelled(run, made[made.n >= suppression.LEAST])


def check_of_rebuilt(run: Run, sums: pd.DataFrame) -> pd.DataFrame:
    """S of the rocks against SGD at the first seed, from kept and from rebuilt running means.

    ``checkpoint, kept, rebuilt``; empty where training kept none.
    """
    if "phi_rebuilt" not in sums:
        return pd.DataFrame(columns=["checkpoint", "kept", "rebuilt"])
    first = sums[sums.seed == sums.seed.iloc[0]]
    swapped = first.assign(phi_adamw=first.phi_rebuilt, real_adamw=first.real_rebuilt)
    found = {}
    for name, some in (("kept", first), ("rebuilt", swapped)):
        made = suppression.of_groups(some, "group", REST, run.rng("persistence-rebuilt"))
        rocks = made[(made.group == "rock") & (made.measure == "S") & (made.kind == "phi")]
        found[name] = rocks[rocks.against == "sgd"].set_index("checkpoint").value
    return pd.DataFrame(found).rename_axis("checkpoint").reset_index()


def type_table(run: Run, sums: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`suppression.over_types`: S of every type with its group, and its regression."""
    chosen = gradients_steps.groups(run)
    rocks = chosen.token_id[chosen.group == "rock"].to_numpy()
    made = suppression.over_types(sums, frequencies(run), rocks, run.rng("persistence-types"))
    return labelled_types(run, made[0]), made[1]


def coherences(run: Run, found: pd.DataFrame) -> pd.DataFrame:
    """Kappa of every group and cause along training, over seeds and folds of prompts.

    ``by, checkpoint, group, measure`` (``kappa``, ``minus rest`` of the groups) and the columns of
    `suppression.pooled`; ``cosine`` is that of the halves' mean gradients, mean over seeds.
    """
    rows = []
    for (by, checkpoint), some in found.groupby(["by", "checkpoint"], sort=False):
        of, folds = {}, (int(some.fold.nunique()), suppression.FOLDS_OF)
        for group, mine in some.groupby("group", sort=False):
            made = [  # the same draws of folds for all groups and seeds
                coherence.kappa(one, run.rng("persistence-kappa"))
                for _, one in mine.groupby("seed")
            ]
            of[group] = (np.array([m[0] for m in made]), np.stack([m[1] for m in made]))
            at = {"by": by, "checkpoint": checkpoint, "group": group}
            cosine = float(np.mean([m[2] for m in made]))
            ends = suppression.pooled(*of[group], *folds)
            rows.append(at | {"measure": "kappa", "cosine": cosine} | ends)
        for group, (values, draws) in of.items():
            if by == "group" and group != REST and REST in of:
                apart = suppression.pooled(values - of[REST][0], draws - of[REST][1], *folds)
                at = {"by": by, "checkpoint": checkpoint, "group": group}
                rows.append(at | {"measure": "minus rest"} | apart)
    return pd.DataFrame(rows)


def type_coherence(run: Run) -> pd.DataFrame:
    """Kappa of each type in the space of the logits, after OPD, from notebook 04's gradients.

    ``token_id, count, kappa, group`` for types with at least `suppression.LEAST` occurrences.
    """
    made = gradients_steps.gradients(run)
    often = made[made["count"] >= suppression.LEAST]
    kappa = often.square_logit / often.mean_square_logit
    return labelled_types(run, often[["token_id", "count"]].assign(kappa=kappa).dropna())


def labelled_types(run: Run, types: pd.DataFrame) -> pd.DataFrame:
    """Types with their ``group`` (`GROUPS`)."""
    chosen = gradients_steps.groups(run).set_index("token_id").group
    return types.assign(group=types.token_id.map(chosen[chosen.isin(GROUPS)]).fillna(REST))


# --- interventions --------------------------------------------------------------------------------


def has_arms(run: Run) -> str:
    """Why the run trains no other optimisers; empty where it does."""
    if run.config.models is not None:
        return "This run's models are given, so that no other optimiser is trained."
    if not run.config.persistence.arms:
        return (
            "No other optimiser is trained in this run: persistence__arms names none, since each "
            "takes as long as stage 2."
        )
    return ""


def _seeds(run: Run) -> tuple[int, ...]:
    return run.config.seeds[: run.config.persistence.seeds]


def _arm(run: Run, name: str, lr: float | None = None) -> Arm:
    how: PersistenceConfig = run.config.persistence
    return interventions.arm_of(name, frequencies(run), how.moments_at, lr)


@kept_apart
def _trained(run: Run) -> dict[tuple[str, int], stages.TrainResult]:
    """Every arm at every seed by name; sgd at the rate that the first seed chose."""

    def made() -> dict[tuple[str, int], stages.TrainResult]:
        run.needs_models("arms of stage 2")
        arms = {"adamw": _arm(run, "adamw")}
        for name in run.config.persistence.arms:
            arms[name] = _arm(run, name, chosen_rate(run) if name == "sgd" else None)
        jobs = [(name, seed) for name in arms for seed in _seeds(run)]
        training_steps.train_arms(run, [(arms[name], seed, ()) for name, seed in jobs])
        return {(name, seed): training_steps.trained(run, arms[name], seed) for name, seed in jobs}

    return run.in_memory("persistence arms", made)


def _first_hashes(run: Run) -> dict[str, str]:
    first = _seeds(run)[:1]
    return {f"adamw-s{s}": training_steps.trained(run, adamw(run), s).hash for s in first}


@table(*TRAINED, inputs=_first_hashes)
def rates(run: Run) -> pd.DataFrame:
    """The trials of SGD's learning rate at the first seed, and AdamW's own end.

    ``lr, loss_others, loss_rocks`` (nats, in the last window of training), and ``chosen``, the
    trial whose loss of all types but the rocks is closest to AdamW's (lr NaN).
    """
    (first, *_), chosen = _seeds(run), gradients_steps.groups(run)
    rocks = chosen.token_id[chosen.group == "rock"].tolist()
    trials = [_arm(run, "sgd", lr) for lr in run.config.persistence.sgd_lr]
    every = [_arm(run, "adamw"), *trials]
    training_steps.train_arms(run, [(arm, first, ()) for arm in every])
    rows = []
    for arm in every:
        rock, others = interventions.last_losses(
            training_steps.trained(run, arm, first).type_losses, rocks
        )
        rows.append({"lr": arm.lr or np.nan, "loss_others": others, "loss_rocks": rock})
    made = pd.DataFrame(rows)
    apart = (made.loss_others - made.loss_others.iloc[0]).abs()
    return made.assign(chosen=made.index == apart.iloc[1:].idxmin())


def chosen_rate(run: Run) -> float:
    """The learning rate of SGD that `rates` chose."""
    made = rates(run)
    return float(made.lr[made.chosen].iloc[0])


def _ends_inputs(run: Run) -> dict[str, str]:
    hashes = {f"{name}-s{seed}": one.hash for (name, seed), one in _trained(run).items()}
    return hashes | {"texts": measured(run).sampled("pre")[1]}


@table(*TRAINED, inputs=_ends_inputs)
def ends(run: Run) -> pd.DataFrame:
    """Losses at the start of stage 2 and at the end of every arm, on texts of the start.

    Sums over the positions of a fold of prompts: ``arm, seed, fold, token_id, cause, count, start,
    end``.
    """
    trained = _trained(run)
    progress.announce(f"losses of {len(trained)} arms on texts of their common start")
    written, _ = measured(run).sampled("pre")
    start = measured(run).model("pre").float()
    rows = np.arange(len(written))
    texts = FixedTexts(written, rows, start, measured(run).model("teacher"))
    frame = texts.frame.assign(
        count=1, start=texts.losses(), cause=causes_of(run, written, texts.frame)
    )
    frame["fold"] = np.unique(frame.prompt_index, return_inverse=True)[1] % interventions.FOLDS
    frames, keys, pair = [], ["fold", "token_id", "cause"], run.config.pair
    for (name, seed), one in trained.items():
        student = load(checkpoints.in_folder(one.checkpoints["late"], pair))
        frame["end"] = texts.losses(weights=texts.weights_of(student))
        sums = frame.groupby(keys, as_index=False)[["count", "start", "end"]].sum()
        frames.append(sums.assign(arm=name, seed=seed))
    made = pd.concat(frames, ignore_index=True)
    return made.astype({"start": np.float32, "end": np.float32})


def causes_of(run: Run, written: Rollouts, frame: pd.DataFrame) -> np.ndarray:
    """The cause of each position of other texts than those of the statistics; empty without.

    `written` are answers to the first benchmark, and `frame` that of their `FixedTexts`.
    """
    task = run.config.benchmarks[0]
    if not tasks.causes(task):
        return np.full(len(frame), "")
    problems, tokenizer = tasks.load(task, "eval"), loading.tokenizer_of(run)
    asked = [problems[i] for i in written.prompt_index]
    found = token_causes(task, tokenizer, asked, written.completions)
    keys = KEYS[:3]
    known = pd.DataFrame(
        {
            "prompt_index": np.repeat(written.prompt_index, written.lengths),
            "sample_index": np.repeat(written.sample_index, written.lengths),
            "position": np.nonzero(written.mask)[1].astype(np.int32),
            "cause": np.concatenate(found).astype(str),
        }
    )
    return frame[keys].merge(known, on=keys, how="left").cause.to_numpy()


@table(*TRAINED)
def ratios(run: Run, made: pd.DataFrame) -> pd.DataFrame:
    """`interventions.ratios` of the arms, for as many rocks as the study has."""
    return interventions.ratios(made, rocks_steps.rock_count(run), run.rng("persistence-ratios"))


@table(*TRAINED)
def falls_by_cause(run: Run, made: pd.DataFrame) -> pd.DataFrame:
    """`interventions.by_cause` of the arms' `ends`; empty where the task names no causes."""
    return interventions.by_cause(made, run.rng("persistence-arms-causes"))
