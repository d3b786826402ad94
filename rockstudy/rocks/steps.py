"""The cached steps of notebooks 02 and 03: rollouts, token table, scored types, controls, examples.

A step takes an opened run and returns a frame, which is computed once (`rockstudy.runs.table`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from rockstudy import tasks
from rockstudy.claims import paper
from rockstudy.config.fields import EvalConfig, RockConfig
from rockstudy.display import Html
from rockstudy.errors import StudyError
from rockstudy.models import checkpoints, loading
from rockstudy.models.checkpoints import Checkpoint
from rockstudy.models.token_texts import excerpt, token_texts, visible
from rockstudy.parallel.out_of_memory import advised
from rockstudy.rocks import categories, controls, detection, selectors, subcorpora, token_table
from rockstudy.rocks.aligned_texts import aligned, aligned_table
from rockstudy.rocks.causes import token_causes
from rockstudy.rocks.encoders import needs_student
from rockstudy.rocks.token_set import TokenSet
from rockstudy.runs import NotStored, Run, notice, table
from rockstudy.sampling import engines, evaluation, given, mismatch, rollout
from rockstudy.store.code import kept_apart
from rockstudy.store.fingerprints import content, fingerprint
from rockstudy.training import steps as training_steps
from rockstudy.training.steps import TRAINED

BOTH = ("score", "score_ctx")  # the paper's two scores: R and R_ctx
SWEEP: dict[str, tuple[Any, ...]] = {  # ours: around the defaults, each way
    "tau": (0.5, 0.7, 0.8, 0.9, 0.95, 0.98),
    "window": (1, 2, 4, 8, 16),
    "gamma": (0.25, 0.4, 0.5, 0.6, 0.75),
    "eta": (0.0, 0.05, 0.1, 0.2, 0.4),
    "repeats": ("bound", "share"),
    "encoder": ("bag", "embedding", "hidden"),
    "loss": ("rkl", "log_ratio"),
    "selector": BOTH,
}
CUTOFFS = (5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500)  # paper figure 2d
FEW = 20  # ours: draws for a score whose sub-corpora are found one at a time
ANSWER_SHARE = 0.01  # ours: of the gold answers; from it on a type is answer-bearing
SHARES = (0.1, 0.2, 0.4, 0.6, 0.8)  # paper 2: 50, 100, 200, 300, 400 of 500 prompts
ROCKS = tuple(f"rocks.{name}" for name in RockConfig.model_fields if name not in ("k", "selector"))
TOKENS = (*TRAINED, "benchmarks", "statistics")  # fields of the configuration behind the tokens


class Measured:
    """Checkpoints of a run, rollouts of the last one, and their token table, made on demand."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @cached_property
    def checkpoints(self) -> dict[str, Checkpoint]:
        """The student by name: ``pre`` (before OPD), ``post`` and those in between.

        Between are those that were given, or ``early`` where stage 2 names it.
        """
        if self.run.config.models is not None:
            return checkpoints.given(self.run.config.models)
        last = training_steps.first_baseline(self.run).checkpoints
        folders = {"pre": training_steps.stage1(self.run).checkpoints["late"], "post": last["late"]}
        folders |= {"early": last["early"]} if "early" in last else {}
        return {
            name: checkpoints.in_folder(folder, self.run.config.pair)
            for name, folder in folders.items()
        }

    @property
    def names(self) -> list[str]:
        """The names of `checkpoints`, which need not be trained to be known."""
        config = self.run.config
        if config.models is not None:
            return ["pre", "post", *config.models.between]
        return ["pre", "post", *(["early"] if "early" in config.stage("stage2").keep else [])]

    @property
    def early(self) -> str:
        """The checkpoint that notebook 04 compares with ``post``: ``early``, of given ones or pre.

        `StudyError` where stage 2 names none.
        """
        if "early" in self.names:
            return "early"
        if self.run.config.models is not None:
            return "pre"
        raise StudyError(
            "stage2__keep: must name a checkpoint early, such as {'early': 0.5, 'late': 1.0}; got "
            f"{self.run.config.stage('stage2').keep}"
        )

    @cached_property
    def rollouts(self) -> rollout.Rollouts:
        """Graded completions of the student after OPD."""
        return self.sampled("post")[0]

    @cached_property
    def table(self) -> token_table.TokenTable:
        """The token table of the rollouts, for every checkpoint."""
        return self.token_table("post", self.names)

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """The token table as a frame, with ``cause`` where the task names causes."""
        return _with_causes(self.run, self.table.read())

    @cached_property
    def detection(self) -> detection.Detection:
        """Scored types and persistent occurrences with the rock settings of the study."""
        return detection.detect(self.tokens, self.rollouts, self.run.config.rocks, self.encoder())

    def model(self, name: str) -> PreTrainedModel:
        """Load the ``teacher`` or a checkpoint by name; nothing keeps it in memory.

        The steps after a measurement, such as training, need the devices for themselves.
        """
        if name == "teacher":
            return loading.pair_of(self.run).teacher
        self.run.needs_models(f"checkpoint {name}")
        if name == "pre" and self.run.config.models is not None:  # loaded with the teacher
            return loading.pair_of(self.run).student
        return self.checkpoints[name].load()

    def encoder(self) -> PreTrainedModel | None:
        """The student that encodes contexts, where the study's encoder needs one."""
        return self.model("post") if needs_student(self.run.config.rocks.encoder) else None

    def sampler(self, name: str, how: EvalConfig) -> AbstractContextManager[engines.Engine]:
        """Open an engine that samples from a checkpoint; `how` names the kind."""
        return evaluation.checkpoint(self.run, self.checkpoints[name], how)

    @cached_property
    def given(self) -> given.GivenRollouts | None:
        """The completions of the student after distillation that were sampled elsewhere, if any."""
        where = self.run.config.rollouts
        if where is None:
            return None
        how = where.model_dump(include={"reward_column", "chat"})
        return given.read(where.path, loading.tokenizer_of(self.run), **how)

    def sampled(self, name: str) -> tuple[rollout.Rollouts, str]:
        """Graded completions of a checkpoint, and their hash."""
        if name == "post" and self.given is not None:
            return self.given.rollouts, self.given.hash
        return evaluation.answered(
            self.run,
            "statistics",
            name,
            self.run.config.benchmarks[0],
            lambda: self.sampler(name, self.run.config.statistics),
            lambda: {name: self.checkpoints[name].hash},
        )

    def token_table(self, name: str, checkpoints: Sequence[str]) -> token_table.TokenTable:
        """The token table of a checkpoint's rollouts for some checkpoints."""
        rows, hash_of_rows = self.sampled(name)
        knobs = {"statistics__max_new_tokens": self.run.config.statistics.max_new_tokens}

        def inputs() -> dict[str, str]:
            teacher = loading.identity_of(self.run.config.pair, "teacher")
            students = {one: self.checkpoints[one].hash for one in checkpoints}
            return {"rollouts": hash_of_rows, "teacher": teacher} | students

        with advised("token table", knobs):
            return token_table.token_table(
                self.run, name, rows, self.model, checkpoints, inputs=inputs
            )

    def texts(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """Decoded single tokens."""
        return token_texts(loading.tokenizer_of(self.run), ids)


def measured(run: Run) -> Measured:
    """The run's measurement, which all steps of a process share."""
    return run.in_memory("measured", lambda: Measured(run))


def tokens_hash(run: Run) -> dict[str, str]:
    """The token table as an input."""
    return {"tokens": measured(run).table.hash}


def annotator_hash(run: Run) -> dict[str, str]:
    """The benchmark, the code that finds its causes and the tokenizer as inputs."""
    annotator = tasks.annotator(run.config.benchmarks[0])
    return _tokenized(run) | {"annotator": annotator}


def _tokenized(run: Run) -> dict[str, str]:
    """The benchmarks and the tokenizer as inputs."""
    tokenizer = loading.identity_of(run.config.pair, "teacher")
    return evaluation.graded_on(run) | {"tokenizer": tokenizer}


@kept_apart
@table(*TOKENS, inputs=lambda run: tokens_hash(run) | annotator_hash(run))
def causes(run: Run) -> pd.DataFrame:
    """The cause of every position of the token table: its keys, and ``cause`` by name.

    A table of its own: an edited annotator computes it again and leaves the forward passes alone.
    Only for a task that names causes (`tasks.causes`); a reference has it or does not.
    """
    run.needs_models("causes of tokens")
    rollouts, task = measured(run).rollouts, run.config.benchmarks[0]
    problems, tokenizer = tasks.load(task, "eval"), loading.tokenizer_of(run)
    asked = [problems[i] for i in rollouts.prompt_index]
    found = token_causes(task, tokenizer, asked, rollouts.completions)
    keys = {
        "prompt_index": np.repeat(rollouts.prompt_index, rollouts.lengths),
        "sample_index": np.repeat(rollouts.sample_index, rollouts.lengths),
        "position": np.nonzero(rollouts.mask)[1].astype(np.int32),
    }
    frame = pd.DataFrame(keys | {"cause": np.concatenate(found)})
    return frame.sort_values(list(keys), kind="stable", ignore_index=True)


def causes_hash(run: Run) -> dict[str, str]:
    """The token table and the causes of its positions as inputs."""
    return tokens_hash(run) | {"causes": fingerprint(content(causes(run)))}


@kept_apart
def _with_causes(run: Run, tokens: pd.DataFrame) -> pd.DataFrame:
    """The token table with ``cause``, a category in the task's order, where there are causes."""
    names = tasks.causes(run.config.benchmarks[0])
    try:
        found = causes(run) if names else None
    except NotStored:  # a reference that was made before the task named them
        found = None
    if found is None:
        return tokens
    keys = ["prompt_index", "sample_index", "position"]
    if not (tokens[keys].equals(found[keys]) and found.cause.isin(names).all()):
        must = f"must be {', '.join(names)} for the positions of the token table"
        raise StudyError(f"causes of tokens: {must}; those stored are others")
    return tokens.assign(cause=pd.Categorical(found.cause, categories=names))


@kept_apart
@table("pair", "benchmarks", inputs=_tokenized)
def answer_types(run: Run) -> pd.DataFrame:
    """Share of the benchmark's gold answers that hold a type (`detection.answer_types`)."""
    task, where = run.config.benchmarks[0], run.config.rollouts
    alone = where is not None and task.path == where.path  # a file of rollouts has no problems
    answers = [] if alone else [p.answer for p in tasks.load(task, "eval") if p.answer]
    return detection.answer_types(loading.tokenizer_of(run), answers)


def _scored(run: Run) -> dict[str, str]:
    """The token table and the types of gold answers as inputs."""
    return tokens_hash(run) | {"answers": fingerprint(content(answer_types(run)))}


@table(*TOKENS, *ROCKS, "rocks.selector", inputs=_scored)
def types(run: Run) -> pd.DataFrame:
    """The scored types (`detection.Detection`) as notebooks show them.

    Adds ``text, spelling`` (the text, blanks made visible), ``initial_share`` (of occurrences that
    start a line or a sentence), ``category``, and ``answer_bearing``: whether at least
    `ANSWER_SHARE` of the benchmark's gold answers hold the type, so that a ban of it is mechanical.
    """
    corpus = measured(run)
    tokens, table = corpus.tokens, corpus.detection.types
    starts, escaped = (
        flags.groupby(tokens.token_id).mean().reindex(table.token_id).to_numpy()
        for flags in _places(corpus, tokens)
    )
    text = corpus.texts(table.token_id.to_numpy())
    category = categories.categorize(text, starts, escaped)
    spelling = [visible(one) for one in text]
    held = answer_types(run)
    bearing = table.token_id.isin(held.token_id[held.share >= ANSWER_SHARE])
    named = table.assign(text=text, spelling=spelling, initial_share=starts, category=category)
    return named.assign(answer_bearing=bearing)


def _places(corpus: Measured, tokens: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Whether each position starts a line or a sentence, and whether it follows a backslash.

    Markup such as ``- **`` is looked through: the last other token before a position decides.
    """
    before = tokens.token_id.shift(fill_value=-1).where(tokens.position > 0, -1)
    ids, place = np.unique(before, return_inverse=True)  # -1 first: before it there is nothing
    texts = np.array(["", *corpus.texts(ids[1:])], object)
    marks = np.array([categories.is_markup(text) for text in texts])[place]
    behind = pd.Series(place).where(~marks).ffill().astype(int)  # never past a completion's start
    escaped = np.array([text.endswith("\\") for text in texts])[place]
    return pd.Series(categories.starts_sentence(texts)[behind]), pd.Series(escaped)


@table(*TOKENS, *ROCKS, inputs=tokens_hash)
def persistent(run: Run) -> pd.DataFrame:
    """The persistent occurrences: keys of the position, ``token_id, rho, rock``.

    ``rho`` is NaN without a second one of the type; ``rock`` tells whether the context repeats.
    """
    found = measured(run).detection.occurrences
    return found.astype({"rho": np.float32}).reset_index(drop=True)


@table(*TOKENS, *ROCKS, inputs=tokens_hash)
def thresholds(run: Run) -> pd.DataFrame:
    """Both thresholds in nats, occurrences above them, and the sizes of the corpus: one row."""
    corpus = measured(run)
    tokens, scored = corpus.tokens, corpus.detection
    row = {
        "prompts": corpus.rollouts.n_prompts,
        "completions": len(corpus.rollouts),
        "tokens": len(tokens),
        "vocabulary": int(training_steps.pair_sizes(run).vocabulary.iloc[0]),
        "tau_pre": scored.tau_pre,
        "tau_post": scored.tau_post,
        "persistent": len(scored.occurrences),
        "rock_occurrences": int(scored.occurrences.rock.sum()),
        "rkl_pre_mean": tokens.rkl_pre.astype(np.float64).mean(),
        "rkl_post_mean": tokens.rkl_post.astype(np.float64).mean(),
    }
    return pd.DataFrame([row])


@table(*TOKENS, "rocks", inputs=tokens_hash)
def outputs(run: Run) -> pd.DataFrame:
    """Density of rocks in each completion, by both definitions, and the loss on them.

    `detection.density` with ``loss_sum`` and ``loss_rocks`` (nats, after OPD).
    """
    corpus = measured(run)
    tokens, rocks = corpus.tokens, corpus.detection.rocks()
    table = detection.density(tokens, rocks, corpus.detection.occurrences)
    loss = tokens[f"{run.config.rocks.loss}_post"].astype(np.float64)
    keys = [tokens.prompt_index, tokens.sample_index]
    of_rocks = loss.where(rocks.mask(tokens.token_id.to_numpy()), 0.0)
    table["loss_sum"] = loss.groupby(keys).sum().to_numpy()
    return table.assign(loss_rocks=of_rocks.groupby(keys).sum().to_numpy())


@table(*TOKENS, "rocks", inputs=tokens_hash)
def stability(run: Run, draws: int) -> pd.DataFrame:
    """`subcorpora.stability` over sub-corpora of 10% to 80% of the prompts."""
    corpus, features = _with_features(run, draws)
    tokens, scored = corpus.tokens, corpus.detection
    n = tokens.prompt_index.nunique()
    sizes = sorted({max(1, min(n - 1, round(share * n))) for share in SHARES})
    ks = cutoffs(scored.types, run.config.rocks.selector, scored.k)
    rng = run.rng("stability")
    return subcorpora.stability(tokens, scored, features, sizes, ks, draws, rng)


@table(*TOKENS, "rocks", inputs=tokens_hash)
def halves(run: Run, draws: int) -> pd.DataFrame:
    """`subcorpora.halves` of the first K / 2 and K types by the study's score, by R and by R_ctx.

    Adds ``selector``, and the measures ``size`` (types with a positive score among the first K) and
    ``overlap``, the Jaccard index with the set of the study's own score.
    """
    corpus, features = _with_features(run, draws)
    scored, rng, frames = corpus.detection, run.rng("halves"), []
    ks = sorted({max(1, scored.k // 2), scored.k})
    for name in dict.fromkeys((run.config.rocks.selector, *BOTH)):
        found = scored.by(name)
        rows = [(k, "size", min(k, found.able), "types") for k in ks]
        rows += [(k, "overlap", scored.top(k).jaccard(found.top(k)), "types") for k in ks]
        counted = pd.DataFrame(rows, columns=["k", "measure", "value", "unit"])
        some = draws if name == "score" else min(draws, FEW)
        measured_on = subcorpora.halves(corpus.tokens, found, features, ks, some, rng)
        both = pd.concat([counted.assign(n=len(found.types)), measured_on], ignore_index=True)
        frames.append(both.assign(selector=name))
    return pd.concat(frames, ignore_index=True)


def _with_features(run: Run, draws: int) -> tuple[Measured, detection.Features]:
    """The measurement and the encoded contexts of its persistent occurrences."""
    if not 2 <= draws <= 1_000:
        raise StudyError(f"draws: must be from 2 to 1000; got {draws}")
    corpus = measured(run)
    occurrences, settings = corpus.detection.occurrences, run.config.rocks
    return corpus, detection.encode(corpus.rollouts, occurrences, settings, corpus.encoder())


def cutoffs(types: pd.DataFrame, selector: str, own: int) -> list[int]:
    """Cut-offs K to look at, up to all types with a positive score.

    The study's `own` and its half, the paper's, as numbers and as shares of the observed types, and
    a log grid.
    """
    able = int((types[selector] > 0).sum())
    grid = np.geomspace(3, max(able, 3), 20).round().astype(int).tolist()
    observed = paper.number("observed-types").value
    shares = [round(step / observed * len(types)) for step in CUTOFFS]
    wanted = (own, own // 2, *grid, *CUTOFFS, *shares, able)
    return sorted({step for step in wanted if 0 < step <= able})


@table(*TOKENS, "rocks", inputs=tokens_hash)
def sensitivity(run: Run) -> pd.DataFrame:
    """`detection.sensitivity` over `SWEEP`; a reference leaves out encoders that need a model."""
    corpus, sweep, student = measured(run), dict(SWEEP), None
    if run.reference is None:
        student = corpus.model("post")
    else:
        sweep["encoder"] = tuple(name for name in SWEEP["encoder"] if not needs_student(name))
        notice("sensitivity: encoders that need a model are left out of what a reference gives")
    return detection.sensitivity(corpus.tokens, corpus.rollouts, run.config.rocks, sweep, student)


@table(*TOKENS, "rollouts", inputs=tokens_hash)
def log_probabilities(run: Run) -> pd.DataFrame:
    """Logged log-probabilities of given rollouts against the student's own: `mismatch.table`."""
    corpus, where = measured(run), run.config.rollouts
    if corpus.given is None or where is None:
        raise StudyError("rollouts: must be given, with the log-probabilities that were logged")
    after, known = corpus.model("post"), corpus.given.rollouts
    own = mismatch.log_probs(after, known, temperature=where.temperature)
    return mismatch.table(corpus.given, own)


@table(*TOKENS, "rollouts", inputs=tokens_hash)
def mismatches(run: Run) -> pd.DataFrame:
    """The mismatch of each token type: `mismatch.by_type` with ``text``, the largest first."""
    types = mismatch.by_type(log_probabilities(run), run.rng("mismatches"))
    texts = measured(run).texts(types.token_id.to_numpy())
    how = {"ascending": False, "kind": "stable", "ignore_index": True}
    return types.assign(text=texts).sort_values("absolute_mean", **how)


def reading_of_mismatch(run: Run) -> str:
    """What logged log-probabilities show, or why there is nothing to compare; one sentence."""
    if run.config.rollouts is None:
        return "The rollouts were sampled by this run: there are no logged log-probabilities."
    given = measured(run).given
    if given is None or given.log_probs is None:
        return "The given rollouts hold no log-probabilities to compare with the student's own."
    types, whole = mismatches(run), log_probabilities(run)
    overall = mismatch.overall(whole, run.rng("mismatch"))
    return mismatch.reading(overall, types, [visible(text) for text in types.text])


def papers_curves() -> pd.DataFrame:
    """The points of the paper's figures 2c and 2d: ``curve, k, value, share`` of its types."""
    points = paper.points("figure2")
    return points.assign(share=points.k / paper.number("observed-types").value)


def reading_of_paper(points: pd.DataFrame) -> str:
    """A sentence on the paper's own mean curve: where its two statements about it hold."""
    bound, cutoff, floor, start = (
        paper.number(name).value
        for name in ("jaccard-to-cutoff", "cutoff", "jaccard-floor", "jaccard-floor-cutoff")
    )
    mean = points[points.curve == "jaccard_mean"].set_index("k").value
    fails = mean[(mean.index <= cutoff) & (mean <= bound)]
    where = ", ".join(f"K = {k} ({value:.3f})" for k, value in fails.items())
    near = mean[(mean.index >= start) & (mean - floor < 0.01)]  # ours: equal to two digits
    return (
        f"The paper's own points: the mean index is above {bound:.2f} for every K up to "
        f"{cutoff:.0f}{f' but {where}' if where else ''}. At K = {start:.0f} it is "
        f"{mean[start]:.3f}; it comes within 0.01 of {floor:.2f} at K = {near.index[0]} and ends "
        f"between {near.min():.3f} and {near.max():.3f}."
    )


def reading_of_halves(table: pd.DataFrame) -> str:
    """Sentences on `halves`: what each set carries on fresh prompts, and how far halves agree."""
    told = []
    for name, rows in table[table.k == table.k.max()].groupby("selector", sort=False):
        one = rows.set_index("measure")
        fresh, value = one.loc["fresh"], one.value
        told.append(
            f"The first {value['size']:.0f} types by {name} carry {value['own']:.1%} of the loss "
            f"of the half that chose them and {fresh.value:.1%} [{fresh.lo:.1%}, {fresh.hi:.1%}] "
            f"of the other half's. A half's set agrees with that of all prompts at a Jaccard index "
            f"of {value['nested']:.2f}, and with the other half's at {value['disjoint']:.2f}."
        )
    other = table[(table.k == table.k.max()) & (table.measure == "overlap")]
    apart = "; ".join(f"{row.selector} {row.value:.2f}" for row in other[1:].itertuples())
    return " ".join(told) + (
        f" Jaccard index of the sets with the first one: {apart}." * bool(apart)
    )


def rock_count(run: Run) -> int:
    """K, the number of rocks among the run's observed types."""
    return run.config.rocks.size(len(types(run)))


def rock_set(run: Run, types: pd.DataFrame) -> TokenSet:
    """The rocks of the type table: the first K by rank."""
    k = run.config.rocks.size(len(types))
    return TokenSet.of("rocks", types.nsmallest(k, "rank").token_id)


@table(*TOKENS, "rocks", inputs=tokens_hash)
def token_sets(run: Run) -> pd.DataFrame:
    """The rocks, those of the other score, and as many types by every selector: ``name, token_id``.

    The controls are matched to the rocks by frequency.
    """
    corpus, k = measured(run), measured(run).detection.k
    types, rocks = corpus.detection.types, corpus.detection.rocks()
    sets = [rocks, *(corpus.detection.by(n).top(k) for n in BOTH if n != run.config.rocks.selector)]
    sets += [selectors.select(corpus.tokens, name, k) for name in selectors.SELECTORS]
    sets.append(TokenSet.of("control", controls.assign(types, rocks.ids).pairs.token_id_control))
    rows = [(one.name, token) for one in sets for token in one.ids]
    return pd.DataFrame(rows, columns=["name", "token_id"])


def answer_ids(types: pd.DataFrame) -> list[int] | None:
    """Ids of the answer-bearing types; None for a reference that does not say which are."""
    if "answer_bearing" not in types:
        return None
    return types.token_id[types.answer_bearing].tolist()


def sets_of(table: pd.DataFrame) -> list[TokenSet]:
    """The sets of `token_sets`, in its order."""
    return [TokenSet.of(str(n), ids) for n, ids in table.groupby("name", sort=False).token_id]


def overlap(table: pd.DataFrame) -> pd.DataFrame:
    """Jaccard index of every two of the sets of `token_sets` (`selectors.overlap`)."""
    return selectors.overlap(sets_of(table))


@table(*TOKENS, "rocks", inputs=tokens_hash)
def examples(run: Run, per_type: int, around: int = 14) -> pd.DataFrame:
    """Rock occurrences in context: the most consistent ones of each rock.

    Returns
    -------
    DataFrame
        ``before, token, after`` (text), ``rho, rkl_pre, rkl_post``, and the keys of the position.
    """
    found, made = measured(run), measured(run).detection
    ranked = made.types.nsmallest(made.k, "rank").token_id
    best = made.occurrences[made.occurrences.rock].sort_values(
        ["rho", "prompt_index", "position"], ascending=[False, True, True], kind="stable"
    )
    chosen = best.groupby("token_id").head(per_type)
    order = {token: place for place, token in enumerate(ranked)}
    chosen = chosen[chosen.token_id.isin(order)]
    chosen = chosen.sort_values("token_id", key=lambda t: t.map(order), kind="stable")
    keys = ["prompt_index", "sample_index", "position"]
    losses = found.tokens[[*keys, "rkl_pre", "rkl_post"]]
    shown = chosen.merge(losses, on=keys).drop(columns="rock")
    return shown.assign(**_contexts(found, shown, around)).drop(columns="token_id")


def _contexts(found: Measured, shown: pd.DataFrame, around: int) -> dict[str, list[str]]:
    """Decoded text before, at and after each occurrence."""
    rows = {key: row for row, key in enumerate(zip(
        found.rollouts.prompt_index.tolist(), found.rollouts.sample_index.tolist(), strict=True
    ))}  # fmt: skip
    tokenizer, parts = loading.tokenizer_of(found.run), []
    for one in shown.itertuples():
        row = rows[one.prompt_index, one.sample_index]
        ids = found.rollouts.completion_ids[row][found.rollouts.mask[row]].tolist()
        parts.append(excerpt(tokenizer, ids, int(one.position), around))
    return {name: [part[name] for part in parts] for name in ("before", "token", "after")}


def examples_html(table: pd.DataFrame) -> Html:
    """A table of occurrences aligned on the token, with their losses; all text is escaped."""
    rows = [
        f"<tr><td class='number'>{one.rho:.2f}</td><td class='number'>{one.rkl_pre:.2f}</td>"
        f"<td class='number'>{one.rkl_post:.2f}</td>{aligned(one.before, one.token, one.after)}"
        "</tr>"
        for one in table.itertuples()
    ]
    return aligned_table(["similar contexts", "before OPD", "after"], rows)


def matched(types: pd.DataFrame, rocks: TokenSet) -> controls.Matched:
    """Controls of the rocks, one as frequent type for each (`controls.assign`)."""
    return controls.assign(types, rocks.ids)


def enrichment(
    types: pd.DataFrame, chosen: TokenSet, tolerance: float, rng: np.random.Generator
) -> tuple[pd.DataFrame | None, str]:
    """`controls.enrichment` against matched controls; without a match, None and the reason."""
    try:
        pairs = controls.match(types, chosen.ids, tolerance=tolerance).pairs
    except StudyError as error:
        return None, str(error)
    category = types.set_index("token_id").category
    sides = (category.loc[pairs[f"token_id_{side}"]].tolist() for side in ("rock", "control"))
    return controls.enrichment(*sides, rng), "matched"


def frequency_reading(types: pd.DataFrame) -> str:
    """A sentence on how many types there are, and how many of them are rare or frequent."""
    counts = types["count"]
    often = counts > 100  # ours: enough for a mean of its own
    return (
        f"{len(counts)} token types in {counts.sum()} tokens: {(counts == 1).sum()} occur once, "
        f"{(counts == 2).sum()} twice and {often.sum()} more than 100 times, which hold "
        f"{counts[often].sum() / counts.sum():.0%} of all tokens."
    )


def with_categories(sets: pd.DataFrame, types: pd.DataFrame) -> pd.DataFrame:
    """Share of each category (column) in each set (row)."""
    table = sets.merge(types[["token_id", "category"]], on="token_id")
    table = table.groupby(["name", "category"], sort=False).size().unstack(fill_value=0)
    order = [c for c in categories.CATEGORIES if c in table.columns]
    return table.div(table.sum(axis=1), axis=0)[order]
