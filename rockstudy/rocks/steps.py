"""The cached steps of notebooks 02 and 03: rollouts, token table, scored types, controls, examples.

Like `training.steps`: a function takes the run that a notebook opened and returns a frame, which
is computed once and kept under ``tables/``; a replayed run only reads it.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from rockstudy.config.fields import EvalConfig, StudyConfig
from rockstudy.display import Html
from rockstudy.errors import StudyError
from rockstudy.models import loading
from rockstudy.models.token_texts import token_texts, visible
from rockstudy.parallel import distributed
from rockstudy.parallel.out_of_memory import advised
from rockstudy.rocks import categories, controls, detection, selectors, token_table
from rockstudy.rocks.encoders import needs_student
from rockstudy.rocks.token_set import TokenSet
from rockstudy.runs import Run
from rockstudy.sampling import backends, evaluation, rollout
from rockstudy.store import cache, files
from rockstudy.store.seeds import generator
from rockstudy.training import steps as training_steps

SWEEP: dict[str, tuple[Any, ...]] = {  # ours: around the defaults, each way
    "tau": (0.5, 0.7, 0.8, 0.9, 0.95, 0.98),
    "window": (1, 2, 4, 8, 16),
    "gamma": (0.25, 0.4, 0.5, 0.6, 0.75),
    "eta": (0.0, 0.05, 0.1, 0.2, 0.4),
    "encoder": ("bag", "embedding", "hidden"),
    "loss": ("rkl", "log_ratio"),
    "selector": ("score_ctx", "score"),
}
SHARES = (0.1, 0.2, 0.4, 0.6, 0.8)  # paper 2: 50, 100, 200, 300, 400 of 500 prompts


class _Students(Mapping[str, PreTrainedModel]):
    """Checkpoints by name, read from disk when they are asked for and kept by who asked.

    What follows a measurement, such as the training of arms, needs the devices for itself.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.folders = folders

    def __getitem__(self, name: str) -> PreTrainedModel:
        return loading.load_model(str(self.folders[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.folders)

    def __len__(self) -> int:
        return len(self.folders)


class Measured:
    """A run's checkpoints, the rollouts of the last one and their token table."""

    def __init__(self, config: StudyConfig, path: Path) -> None:
        self.config, self.path = config, path
        self.pair = evaluation.loaded_pair(config.pair)
        self.tokenizer = self.pair.tokenizer
        run = Run(config, path)
        first, (last,) = (
            training_steps.stage1(run),
            training_steps.train_seeds(run, config.seeds[:1]).values(),
        )
        self.folders = {"pre": first.checkpoints["late"], "post": last.checkpoints["late"]}
        if "early" in last.checkpoints:
            self.folders["early"] = last.checkpoints["early"]
        self.hashes = {name: files.hash_folder(folder) for name, folder in self.folders.items()}
        self.rollouts, _ = self.sampled("post")
        self.table = self.token_table("post", list(self.folders))
        self.tokens = self.table.read()

    def student(self, name: str) -> PreTrainedModel:
        """Load a checkpoint: ``pre`` (end of stage 1), ``early`` or ``post`` (stage 2)."""
        return _Students(self.folders)[name]

    def encoder(self) -> PreTrainedModel | None:
        """The student that encodes contexts, where the study's encoder needs one."""
        return self.student("post") if needs_student(self.config.rocks.encoder) else None

    def sampler(self, name: str, how: EvalConfig) -> AbstractContextManager[backends.Backend]:
        """What samples from a checkpoint, by the backend that `how` asks for."""
        return evaluation.checkpoint(self.config, self.folders[name], how)

    def sampled(self, name: str) -> tuple[rollout.Rollouts, str]:
        """Graded completions of a checkpoint, and their hash."""
        return evaluation.answered(
            Run(self.config, self.path),
            "statistics",
            name,
            self.config.benchmarks[0],
            lambda: self.sampler(name, self.config.statistics),
            self.tokenizer,
            inputs={name: self.hashes[name]},
        )

    def token_table(self, name: str, checkpoints: Sequence[str]) -> token_table.TokenTable:
        """The token table of a checkpoint's rollouts for some checkpoints."""
        rows, of_rows = self.sampled(name)
        inputs = {"rollouts": of_rows, "teacher": loading.weights_hash(self.pair.teacher)}
        knobs = {"statistics__max_new_tokens": self.config.statistics.max_new_tokens}
        with advised("token table", knobs):
            return token_table.token_table(
                self.path,
                name,
                rows,
                self.pair.teacher,
                _Students({one: self.folders[one] for one in checkpoints}),
                inputs=inputs | {one: self.hashes[one] for one in checkpoints},
            )

    def texts(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """Decoded single tokens."""
        return token_texts(self.tokenizer, ids)


def measured(config: StudyConfig, path: Path) -> Measured:
    """The last measurement is kept: a notebook asks for it in every step."""
    return _kept("measured", config, path, lambda: Measured(config, path))


def detected(config: StudyConfig, path: Path) -> detection.Detection:
    """What detection makes of it with the study's rock settings, kept likewise."""
    found = measured(config, path)
    return _kept(
        "detected",
        config,
        path,
        lambda: detection.detect(found.tokens, found.rollouts, config.rocks, found.encoder()),
    )


_LAST: dict[str, tuple[tuple[str, str], Any]] = {}


def _kept(name: str, config: StudyConfig, path: Path, compute: Callable[[], Any]) -> Any:
    key = (config.fingerprint(), str(path))
    if name not in _LAST or _LAST[name][0] != key:
        _LAST.pop(name, None)  # frees the models of another run before loading these
        _LAST[name] = (key, compute())
    return _LAST[name][1]


def cached_table(run: Run, name: str, settings: Mapping[str, Any], compute: Any) -> pd.DataFrame:
    """A table that depends on the token table, the rock settings and some of its own."""
    if run.replay:
        return cache.load(run.path / "tables" / name)
    config, path = run.config, Path(run.path)
    own = {"rocks": config.rocks.model_dump(mode="json"), "seed": config.seed, **settings}
    inputs = {"tokens": measured(config, path).table.hash}
    return distributed.cached(path, "tables", name, config=own, inputs=inputs, compute=compute).data


def types(run: Run) -> pd.DataFrame:
    """The scored types (`rocks.Detection`) as they are shown.

    Adds ``text, spelling`` (the text, blanks made visible), ``initial_share, category``.
    """

    def compute() -> pd.DataFrame:
        found = measured(run.config, Path(run.path))
        table = detected(run.config, Path(run.path)).types
        text = found.texts(table.token_id.to_numpy())
        share = _initial_share(found).reindex(table.token_id).to_numpy()
        category = categories.categorize(text, share)
        spelling = [visible(one) for one in text]
        return table.assign(text=text, spelling=spelling, initial_share=share, category=category)

    return cached_table(run, "rock_types", {}, compute)


def _initial_share(found: Measured) -> pd.Series:
    """Share of each type's occurrences that start a line or a sentence, by token id."""
    rows = found.tokens
    before = rows.token_id.shift(fill_value=-1).to_numpy().copy()
    before[rows.position.to_numpy() == 0] = -1
    ids, place = np.unique(before, return_inverse=True)
    text = np.array(["", *found.texts(ids[1:])] if ids[0] == -1 else found.texts(ids), object)
    starts = categories.starts_sentence(text)[place]
    return pd.Series(starts).groupby(rows.token_id.to_numpy()).mean()


def thresholds(run: Run) -> pd.DataFrame:
    """Both thresholds in nats, occurrences above them, and the sizes of the corpus: one row."""

    def compute() -> pd.DataFrame:
        found, made = measured(run.config, Path(run.path)), detected(run.config, Path(run.path))
        row = {
            "prompts": found.rollouts.n_prompts,
            "completions": len(found.rollouts),
            "tokens": len(found.tokens),
            "vocabulary": found.pair.teacher.config.vocab_size,
            "tau_pre": made.tau_pre,
            "tau_post": made.tau_post,
            "persistent": len(made.occurrences),
            "rock_occurrences": int(made.occurrences.rock.sum()),
            "rkl_pre_mean": found.tokens.rkl_pre.astype(np.float64).mean(),
            "rkl_post_mean": found.tokens.rkl_post.astype(np.float64).mean(),
        }
        return pd.DataFrame([row])

    return cached_table(run, "rock_thresholds", {}, compute)


def outputs(run: Run) -> pd.DataFrame:
    """Per completion: density by both definitions, and the loss that the rocks carry.

    Returns
    -------
    DataFrame
        `rocks.density` and ``loss_sum``, ``loss_rocks`` (nats, after OPD).
    """

    def compute() -> pd.DataFrame:
        found, made = measured(run.config, Path(run.path)), detected(run.config, Path(run.path))
        chosen = made.rocks()
        table = detection.density(found.tokens, chosen, made.occurrences)
        loss = found.tokens[f"{run.config.rocks.loss}_post"].astype(np.float64)
        keys = [found.tokens.prompt_index, found.tokens.sample_index]
        of_rocks = loss.where(chosen.mask(found.tokens.token_id.to_numpy()), 0.0)
        table["loss_sum"] = loss.groupby(keys).sum().to_numpy()
        return table.assign(loss_rocks=of_rocks.groupby(keys).sum().to_numpy())

    return cached_table(run, "rock_outputs", {}, compute)


def stability(run: Run, draws: int) -> pd.DataFrame:
    """`rocks.stability_table` over sub-corpora of 10% to 80% of the prompts."""
    if not 2 <= draws <= 1_000:
        raise StudyError(f"draws: must be from 2 to 1000; got {draws}")

    def compute() -> pd.DataFrame:
        found, made = measured(run.config, Path(run.path)), detected(run.config, Path(run.path))
        features = detection.encode(
            found.rollouts, made.occurrences, run.config.rocks, found.encoder()
        )
        n = found.tokens.prompt_index.nunique()
        sizes = sorted({max(1, min(n - 1, round(share * n))) for share in SHARES})
        each = detection.stability(
            found.tokens,
            made,
            features,
            sizes,
            cutoffs(made.types, run.config.rocks.selector, run.config.rocks.k),
            draws,
            generator(run.config.seed, "stability"),
        )
        return detection.stability_table(each)

    return cached_table(run, "rock_stability", {"draws": draws, "shares": SHARES}, compute)


def cutoffs(types: pd.DataFrame, selector: str, k: int) -> list[int]:
    """Cut-offs K to look at: about eight a decade up to all types with a positive score, and k."""
    able = int((types[selector] > 0).sum())
    steps = np.unique(np.geomspace(3, max(able, 3), 20).round().astype(int))
    return sorted({int(step) for step in steps if step <= able} | ({k} if k <= able else {able}))


def sensitivity(run: Run) -> pd.DataFrame:
    """`rocks.sensitivity` over `SWEEP`."""

    def compute() -> pd.DataFrame:
        found = measured(run.config, Path(run.path))
        return detection.sensitivity(
            found.tokens, found.rollouts, run.config.rocks, SWEEP, found.student("post")
        )

    return cached_table(run, "rock_sensitivity", {"sweep": SWEEP}, compute)


def rock_set(run: Run, types: pd.DataFrame) -> TokenSet:
    """The rocks of the type table: the first K by rank."""
    k = run.config.rocks.k
    return TokenSet.of("rocks", types.nsmallest(k, "rank").token_id.to_numpy(), k=k)


def token_sets(run: Run) -> pd.DataFrame:
    """The rocks and every comparison selector's answer of the same size: ``name, token_id``."""

    def compute() -> pd.DataFrame:
        found, made = measured(run.config, Path(run.path)), detected(run.config, Path(run.path))
        k = run.config.rocks.k
        by_score = made.types.nlargest(k, "score").token_id
        sets = [made.rocks(), TokenSet.of("score", by_score.to_numpy(), selector="score", k=k)]
        sets += [selectors.select(found.tokens, name, k) for name in selectors.SELECTORS]
        ids = controls.assign(made.types, made.rocks().ids).pairs.token_id_control
        sets.append(TokenSet.of("control", ids.to_numpy(), selector="matched", k=k))
        rows = [(one.name, token) for one in sets for token in one.ids]
        return pd.DataFrame(rows, columns=["name", "token_id"])

    return cached_table(run, "token_sets", {}, compute)


def sets_of(table: pd.DataFrame) -> list[TokenSet]:
    """The sets of `token_sets`, in its order."""
    return [
        TokenSet.of(str(name), group.token_id.to_numpy())
        for name, group in table.groupby("name", sort=False)
    ]


def examples(run: Run, per_type: int, around: int = 14) -> pd.DataFrame:
    """Rock occurrences in context: the most consistent ones of each of the first types.

    Returns
    -------
    DataFrame
        ``before, token, after`` (text), ``rho, rkl_pre, rkl_post``, and the keys of the position.
    """

    def compute() -> pd.DataFrame:
        found, made = measured(run.config, Path(run.path)), detected(run.config, Path(run.path))
        ranked = made.types.nsmallest(run.config.rocks.k, "rank").token_id
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

    return cached_table(run, "rock_examples", {"per_type": per_type, "around": around}, compute)


def _contexts(found: Measured, shown: pd.DataFrame, around: int) -> dict[str, list[str]]:
    """Decoded text before, at and after each occurrence."""
    rows = {key: row for row, key in enumerate(zip(
        found.rollouts.prompt_index.tolist(), found.rollouts.sample_index.tolist(), strict=True
    ))}  # fmt: skip
    parts: dict[str, list[str]] = {"before": [], "token": [], "after": []}
    for one in shown.itertuples():
        row = rows[one.prompt_index, one.sample_index]
        ids = found.rollouts.completion_ids[row][found.rollouts.mask[row]].tolist()
        t = int(one.position)
        cut = {"before": ids[max(0, t - around) : t], "token": [ids[t]], "after": ids[t + 1 :]}
        for name, some in cut.items():
            parts[name].append(found.tokenizer.decode(some[:around]))
    return parts


def examples_html(table: pd.DataFrame) -> Html:
    """Show occurrences with the token highlighted and blanks visible; all text is escaped."""

    def shown(text: str) -> str:
        return html.escape(visible(text))

    rows = [
        f"<tr><td>{one.rho:.2f}</td><td>{one.rkl_pre:.2f}</td><td>{one.rkl_post:.2f}</td>"
        f"<td>{shown(one.before)}<b>&#x27E6;{shown(one.token)}&#x27E7;</b>{shown(one.after)}</td>"
        "</tr>"
        for one in table.itertuples()
    ]
    head = "<tr><th>rho</th><th>rkl pre</th><th>rkl post</th><th>occurrence in context</th></tr>"
    return Html(f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>")


def enrichment(
    types: pd.DataFrame, chosen: TokenSet, tolerance: float, rng: np.random.Generator
) -> tuple[pd.DataFrame | None, str]:
    """`controls.enrichment` against matched controls, or None and why there is no match."""
    try:
        pairs = controls.match(types, chosen.ids, tolerance=tolerance).pairs
    except StudyError as error:
        return None, str(error)
    category = types.set_index("token_id").category
    sides = [category.loc[pairs[f"token_id_{side}"]].tolist() for side in ("rock", "control")]
    return controls.enrichment(sides[0], sides[1], rng), "matched"


def with_categories(sets: pd.DataFrame, types: pd.DataFrame) -> pd.DataFrame:
    """Share of each category in every set: a frame, sets in rows, categories in columns."""
    merged = sets.merge(types[["token_id", "category"]], on="token_id")
    table = merged.groupby(["name", "category"], sort=False).size().unstack(fill_value=0)
    order = [c for c in categories.CATEGORIES if c in table.columns]
    return table.div(table.sum(axis=1), axis=0)[order]
