"""The cached steps of notebook 10: places of rocks and controls, their choices, the outcomes.

They use the candidates and the baselines of `rockstudy.knockout.steps`: the rocks among the
candidates and the control of each. Places are drawn from the graded completions of the first
screened benchmark, those of the student of each training seed apart; of given models there is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd

from rockstudy import progress, tasks
from rockstudy.beyond.teacher_help import choices, continuations
from rockstudy.beyond.teacher_help.effects import GROUPS, SIDES
from rockstudy.config.identity import identity
from rockstudy.errors import StudyError
from rockstudy.knockout.steps import screened_on
from rockstudy.models import checkpoints, loading
from rockstudy.models.checkpoints import Checkpoint
from rockstudy.models.token_texts import excerpt, token_texts
from rockstudy.parallel import cpu_pool, distributed
from rockstudy.parallel.out_of_memory import advised
from rockstudy.rocks import followed
from rockstudy.rocks.steps import TOKENS, measured
from rockstudy.runs import Run, table
from rockstudy.sampling import engines, evaluation, rollout
from rockstudy.sampling.rollout import Rollouts
from rockstudy.store.code import kept_apart
from rockstudy.store.fingerprints import content, fingerprint
from rockstudy.training.steps import baselines

PIECE = 64  # ours: places whose continuations are written between two writes to disk
AROUND = 14  # ours: tokens of context of an example on each side
SHOWN = 6  # ours: examples, as many as a reader looks at
READ = (*TOKENS, "knockout", "screened", "teacher_help")  # fields of the configuration


@kept_apart
def students(run: Run) -> dict[int, Checkpoint]:
    """The student after distillation by training seed; of given models the one there is."""

    def found() -> dict[int, Checkpoint]:
        if run.config.models is not None:
            return {run.config.seeds[0]: measured(run).checkpoints["post"]}
        seeds, trained = run.config.seeds[: run.config.teacher_help.seeds], baselines(run)
        folders = {seed: trained[seed].checkpoints["late"] for seed in seeds}
        pair = run.config.pair
        return {seed: checkpoints.in_folder(folder, pair) for seed, folder in folders.items()}

    return run.in_memory("students of the intervention", found)


def _inputs(run: Run) -> dict[str, str]:
    """The tokens, the benchmark and the students as inputs."""
    of_seeds = {f"student-s{seed}": one.hash for seed, one in students(run).items()}
    return screened_on(run) | of_seeds


def answered(run: Run, seed: int) -> Rollouts:
    """Graded completions of a seed's student; the first one's are the baseline of notebook 05."""
    task, student, how = run.config.screens[0], students(run)[seed], run.config.knockout
    first = seed == run.config.seeds[0]
    return evaluation.answered(
        run,
        "knockout",
        f"knockout-{task.label}" if first else f"knockout-{task.label}-s{seed}",
        task,
        lambda: evaluation.checkpoint(run, student, how),
        lambda: {"post": student.hash},
    )[0]


@table(*READ, inputs=_inputs)
def places(run: Run, chosen: pd.DataFrame) -> pd.DataFrame:
    """Places of rocks and of their controls, and what can stand there.

    `chosen` is `rockstudy.knockout.steps.candidates`. From the right and from the wrong completions
    of each seed's student, up to `teacher_help.occurrences` places of each group are drawn, all
    equally likely.

    Columns: ``seed, group`` (rock or control) ``, right`` (the completion) ``, row`` (of the
    completions) ``, prompt_index, sample_index, position, weight`` (places that it stands for), and
    those of `choices.at_places`.

    Without rows where no completion holds any of them.

    `StudyError`: a benchmark without answers, no rock with a control.
    """
    task, asked, how = run.config.screens[0], run.config.teacher_help, run.config.knockout
    rollout.gradable(task)  # refused before a model is opened
    run.needs_models("choices at rocks and controls")
    groups = groups_of(chosen)
    drawn = {
        seed: draw_places(answered(run, seed), groups, asked.occurrences, _rng(run, seed))
        for seed in students(run)
    }
    n = sum(map(len, drawn.values()))
    progress.announce(
        f"choices at {n:,} places of {len(drawn)} students, under teacher and student"
    )
    teacher, frames = measured(run).model("teacher"), []
    with advised("choices at places", {"knockout__max_new_tokens": how.max_new_tokens}):
        for seed, student in students(run).items():
            models = {"teacher": teacher, "student": student.load()}
            stream = (run.config.seed, f"help-choices-{seed}")
            given = (answered(run, seed), drawn[seed], models, how, asked.continuations, stream)
            found = choices.at_places(*given)
            frames.append(drawn[seed].join(found.drop(columns="token_id")).assign(seed=seed))
    made = pd.concat(frames, ignore_index=True)
    return made[["seed", *made.columns.drop("seed")]]


def _rng(run: Run, seed: int) -> np.random.Generator:
    return run.rng("help-places", seed)


def groups_of(chosen: pd.DataFrame) -> dict[int, str]:
    """The rocks that have a control, and these controls: group by token id.

    `StudyError`: there is none.
    """
    pairs = chosen[chosen.level == "control"]
    if pairs.empty:
        raise StudyError("rocks__k: must leave a rock that is no special token; all are")
    rocks = dict.fromkeys(pairs.paired_with.tolist(), "rock")
    return rocks | dict.fromkeys(pairs.target.tolist(), "control")


def draw_places(
    rollouts: Rollouts, groups: dict[int, str], most: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Up to `most` places of each group and side of the graded completions, equally likely.

    Columns: ``group, right, row, prompt_index, sample_index, position, token_id, weight``; in the
    order of groups and sides, then of the completions.
    """
    assert rollouts.correct is not None
    held = np.isin(rollouts.completion_ids, list(groups)) & rollouts.mask
    row, position = held.nonzero()
    token = rollouts.completion_ids[row, position]
    group = pd.Series(token).map(groups).to_numpy()
    right, frames = rollouts.correct[row], []
    for one, side in ((g, s) for g in GROUPS for s in SIDES.values()):
        mine = np.flatnonzero((group == one) & (right == side))
        some = np.sort(rng.choice(mine, min(most, len(mine)), replace=False))
        columns = {"group": one, "right": side, "row": row[some]}
        columns |= {"prompt_index": rollouts.prompt_index[row[some]]}
        columns |= {"sample_index": rollouts.sample_index[row[some]]}
        columns |= {"position": position[some].astype(np.int32), "token_id": token[some]}
        weight = np.full(len(some), len(mine) / max(len(some), 1))
        frames.append(pd.DataFrame(columns | {"weight": weight}))
    return pd.concat(frames, ignore_index=True).astype({"right": bool})


@table(*READ, inputs=_inputs)
def outcomes(run: Run, chosen: pd.DataFrame) -> pd.DataFrame:
    """Outcomes of every choice at `chosen`, the table of `places`: `continuations.outcomes`.

    Its ``place`` is the row of `chosen`. A killed step goes on after its last complete piece.
    """
    run.needs_models("continuations of choices")
    seeds = list(dict.fromkeys(chosen.seed.tolist()))
    if not seeds:
        return continuations.none()
    if run.config.knockout.engine == "transformers":
        jobs = {f"help of seed {seed}": (_continued, (run, chosen, seed)) for seed in seeds}
        cpu_pool.run(jobs, lambda name: False)
    return pd.concat([_continued(run, chosen, seed) for seed in seeds], ignore_index=True)


def _continued(run: Run, chosen: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The outcomes at the places of one seed's student."""
    task, how, student = run.config.screens[0], run.config.knockout, students(run)[seed]
    mine = chosen[chosen.seed == seed]
    first, mine = int(mine.index[0]), mine.reset_index(drop=True)
    problems = tasks.load(task, "eval")
    about = f"help-{task.label}-s{seed}"

    def grade(prompts: list[int], texts: list[str]) -> np.ndarray:
        return tasks.grade(task, [problems[i] for i in prompts], texts)

    @contextmanager
    def opened() -> Iterator[tuple[engines.Engine, Rollouts, progress.Bar]]:
        rollouts = answered(run, seed)
        own = pd.concat([mine.iloc[one] for one in distributed.mine(pieces())])
        n = int(continuations.planned(own).number.nunique())
        progress.announce(f"{about}: {n:,} continuations from {len(own):,} places")
        with (
            evaluation.checkpoint(run, student, how) as engine,
            progress.bar(n, about, "continuation") as bar,
        ):
            yield engine, rollouts, bar

    def pieces() -> list[slice]:
        return distributed.cut(len(mine), PIECE)

    def compute(tool: tuple[engines.Engine, Rollouts, progress.Bar], piece: slice) -> pd.DataFrame:
        engine, rollouts, bar = tool
        some = mine.iloc[piece].reset_index(drop=True)
        with advised(about, evaluation.sampling_knobs("knockout", how)):
            tokenizer, stream = loading.tokenizer_of(run), (run.config.seed, f"help-{seed}")
            made = continuations.outcomes(
                engine, tokenizer, rollouts, some, how, grade, stream, bar
            )
        return made.assign(place=made.place + piece.start + first)

    config = {"task": tasks.identity(task), "evaluation": identity(how), "seed": run.config.seed}
    return run.sampled(
        "knockout",
        about,
        config=config | {"places": fingerprint(content([mine])), "first": first},
        inputs=lambda: {"student": student.hash},
        by=continuations.outcomes,
        pieces=pieces,
        opened=opened,
        compute=compute,
    ).data


@table(*READ, "rocks", inputs=_inputs)
def examples(run: Run, some: pd.DataFrame) -> pd.DataFrame:
    """Some places of rocks with their text, where teacher and student disagree most.

    `some` is that of `effects.of_places`. Those of the followed token come first, one a completion.
    Columns: ``before, token, after`` (texts), ``best`` (the teacher's best, as text), ``rkl``
    (nats), ``right``, and ``p_stands, p_without, p_teacher, p_best``.
    """
    run.needs_models("texts around rocks")
    token = int(followed.token(run).token_id)
    rocks = some[some.group == "rock"].assign(own=lambda one: one.token_id == token)
    ranked = rocks.sort_values(["own", "rkl"], ascending=False, kind="stable")
    shown = ranked.drop_duplicates(["seed", "row"]).head(SHOWN)
    tokenizer, parts = loading.tokenizer_of(run), []
    made = {seed: answered(run, seed) for seed in shown.seed.unique().tolist()}
    for one in shown.itertuples():
        rollouts = made[one.seed]
        ids = rollouts.completion_ids[one.row][rollouts.mask[one.row]].tolist()
        parts.append(excerpt(tokenizer, ids, int(one.position), AROUND))
    best = token_texts(tokenizer, shown.best.tolist())
    numbers = ["rkl", "right", "p_stands", "p_without", "p_teacher", "p_best"]
    texts = pd.DataFrame(parts, columns=["before", "token", "after"]).assign(best=best)
    return texts.join(shown[numbers].reset_index(drop=True))


def with_spelling(run: Run, types: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """`effects.by_type` with ``spelling`` (text, blanks visible), from the candidates `chosen`."""
    known = chosen.drop_duplicates("target").set_index("target").spelling
    return types.assign(spelling=types.token_id.map(known))


def on_first(run: Run, screen: pd.DataFrame) -> pd.DataFrame:
    """The knockouts of notebook 05 on the benchmark of the places."""
    return screen[screen.benchmark == run.config.screens[0].label]
