"""Loading the teacher and the student, which must share a vocabulary.

A name is a Hub id, a local folder in the transformers format, or built in (`sources.BUILT_IN`).
Weights come from safetensors, or from a GGUF file, which transformers de-quantises; an adapter is
merged into its base. Code that comes with a model never runs. A loader's error becomes a
`StudyError` of one line, and a checkpoint that lacks tensors is refused rather than completed with
random ones.
"""

import copy
import hashlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rockstudy.config.fields import CheckpointConfig, ModelsConfig, PairConfig
from rockstudy.errors import StudyError
from rockstudy.models import adapters, chats, configuration, sources, vocabularies, weights
from rockstudy.models.pruning import depth_pruned
from rockstudy.models.sources import Role, readable, resolve, role_of, split_digits
from rockstudy.parallel.out_of_memory import advised
from rockstudy.parallel.placement import Places, default_device, places
from rockstudy.runs import Run

_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
_TINY: dict[Role, tuple[int, int]] = {  # ours: hidden size, seed
    "teacher": (32, 0),
    "student": (16, 1),
    "student-wide": (32, 2),
}

DType = Literal["auto", "float32", "bfloat16", "fastest"]


@dataclass
class Pair:
    """A teacher, a student and the tokenizer they share."""

    teacher: PreTrainedModel
    student: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on CUDA, float32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware: CUDA, or a CPU with AMX or AVX512-BF16.

    On another CPU torch emulates it, far slower than float32.
    """
    if device.type != "cpu":
        return device.type == "cuda"
    ask = getattr(torch.cpu, "get_capabilities", dict)  # an older torch cannot tell
    has = ask()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


def is_fastest_in_bfloat16(pair: PairConfig) -> bool:
    """Whether a pair of the type ``fastest`` is bfloat16 here."""
    return pair.dtype == "fastest" and multiplies_bfloat16(default_device())


def load_pair(
    config: PairConfig,
    device: torch.device | str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    others: Mapping[str, int] | None = None,
    needs_template: bool = True,
) -> Pair:
    """Load teacher, student and tokenizer; what both have is read once.

    A model that is both is one object on one device: a pair is never changed, and who trains the
    student copies it.

    Both models go to `device`, or where `placement.places` chooses; `tokenizer` is the pair's
    (`pair_tokenizer`), if it is in memory. Heads of different sizes are cut to the shared ids
    (`vocabularies`), also those of the `others` that the pair is compared with, by name. The
    tokenizer must have a chat template, unless `needs_template` is False.

    `StudyError`: missing or damaged weights or tokenizer, different vocabularies, too few devices.
    """
    one, two = (resolve(**of_role(config, role)) for role in ("teacher", "student"))
    same = one.files == two.files
    if device is None:
        at, computes = places(config.teacher_device), default_device()
    else:
        computes = torch.device(device)
        at = Places(computes, computes)
    dtype = torch_dtype(config.dtype, computes)
    if tokenizer is None:
        tokenizer = pair_tokenizer(config)
    other = tokenizer if same else load_tokenizer(**of_role(config, "student"))
    if needs_template:
        chats.check_template(tokenizer, config.chat_template)
    if needs_template and (differs := chats.difference(tokenizer, other)):
        choice = "both get prompts by the teacher's (pair__chat_template)"
        line = f"student: its chat template differs from the teacher's in {differs}; {choice}"
        warnings.warn(line, stacklevel=2)
    teacher = load_model(**of_role(config, "teacher"), dtype=dtype, device=at.teacher)
    student = teacher
    if not same:
        student = load_model(**of_role(config, "student"), dtype=dtype, device=at.student)
    if config.drop_every is not None:
        student = _moved(depth_pruned(student, config.drop_every), at.student)
    elif same and at.student != at.teacher:
        student = _moved(copy.deepcopy(teacher), at.student)
    both = {"teacher": teacher, "student": student}
    sizes = {role: configuration.vocabulary(model.config) for role, model in both.items()}
    sizes |= others or {}
    n = vocabularies.shared(sizes, tokenizer, other)
    if cut := vocabularies.note(sizes, n):
        warnings.warn(f"vocabulary: {cut}", stacklevel=2)
        teacher, student = (vocabularies.cut(model, n, role) for role, model in both.items())
    for field, model in (("teacher", teacher), ("student", student)):
        chats.ends_of(model.generation_config, field)
    return Pair(teacher, student, tokenizer)


def pair_of(run: Run) -> Pair:
    """The run's pair, loaded once and never changed; `StudyError` for a committed reference."""
    run.needs_models("teacher and student")
    config, models = run.config, run.config.models
    of_training = () if config.train_task is None else (config.train_task,)
    asked = any(task.chat == "template" for task in (*of_training, *config.benchmarks))

    def load() -> Pair:
        others = {} if models is None else vocabulary_sizes(models, ("after", "between"))
        how: Any = {"others": others, "needs_template": asked}
        return load_pair(config.pair, None, tokenizer_of(run), **how)

    return run.in_memory("pair", load)


def tokenizer_of(run: Run) -> PreTrainedTokenizerBase:
    """The pair's tokenizer, loaded without its models."""
    return run.in_memory("tokenizer", lambda: pair_tokenizer(run.config.pair))


def pair_tokenizer(pair: PairConfig) -> PreTrainedTokenizerBase:
    """The teacher's tokenizer, with the chat template that makes the prompts of both."""
    tokenizer = load_tokenizer(**of_role(pair, "teacher"))
    if pair.chat_template == "student":
        tokenizer.chat_template = load_tokenizer(**of_role(pair, "student")).chat_template
    return tokenizer


def of_role(pair: PairConfig, role: str) -> dict[str, Any]:
    """Arguments of `load_model`, `load_tokenizer` and `sources.resolve` for one of the pair.

    The GGUF file belongs to the teacher's name; a student of a different name has its own.
    """
    shares_file = role == "teacher" or pair.student == pair.teacher
    own_file = None if role == "teacher" else pair.student_gguf_file
    return {
        "name": getattr(pair, role),
        "revision": getattr(pair, f"{role}_revision"),
        "gguf_file": own_file or (pair.gguf_file if shares_file else None),
        "adapter": getattr(pair, f"{role}_adapter"),
        "field": role,
    }


def of_checkpoint(checkpoint: CheckpointConfig, name: str) -> dict[str, Any]:
    """The same arguments for a given checkpoint of ``models``, by its name there."""
    return checkpoint.model_dump(exclude={"at_step"}) | {"field": f"models__{name}"}


def of_checkpoints(models: ModelsConfig) -> dict[str, dict[str, Any]]:
    """The same arguments for all given models by name, the teacher and the student before first."""
    between = {f"between__{name}": one for name, one in models.between.items()}
    given = {"teacher": models.teacher, "before": models.before, "after": models.after, **between}
    return {name: of_checkpoint(one, name) for name, one in given.items()}


def vocabulary_sizes(models: ModelsConfig, kinds: tuple[str, ...] = ("",)) -> dict[str, int]:
    """Numbers of ids that given models' heads have, by name, where a configuration tells.

    Of all, or of those whose names begin with one of `kinds`.
    """
    sizes = {}
    for name, how in of_checkpoints(models).items():
        if name.startswith(kinds) and not how["name"].startswith("tiny:"):
            source = resolve(**how)
            if "gguf_file" not in source.kwargs:  # it is slow to read
                sizes[name] = configuration.vocabulary(configuration.read(source))
    return sizes


def shared_size(models: ModelsConfig) -> int | None:
    """Number of ids that all given models have; None where none has more."""
    sizes = vocabulary_sizes(models).values()
    return min(sizes) if len(set(sizes)) > 1 else None


def identity_of(pair: PairConfig, role: Literal["teacher", "student"]) -> str:
    """Identity of a model before any training: its files and how they are read.

    The teacher's is also that of the pair's tokenizer and prompts.
    """
    made = f"{sources.identity(**of_role(pair, role))} {pair.dtype}"
    if role == "student" and pair.drop_every:
        made += f" drop_every {pair.drop_every}"
    if role == "teacher" and pair.chat_template == "student":
        made += f" chat template of {sources.identity(**of_role(pair, 'student'))}"
    return made


def load_model(
    name: str,
    *,
    revision: str | None = None,
    gguf_file: str | None = None,
    dtype: DType | torch.dtype = "auto",
    device: torch.device | str | None = None,
    field: str = "model",
    adapter: str | None = None,
    vocabulary: int | None = None,
) -> PreTrainedModel:
    """Load one model in evaluation mode; errors name the parameter `field`.

    `adapter` is a folder or Hub id with an adapter of the model, to be merged into it; a name may
    also be an adapter's own. `vocabulary` is a number of ids that others share with it: its head
    loses those beyond (`vocabularies.cut`).

    `StudyError`: unknown name, missing, incomplete or damaged weights, no connection to the Hub,
    an adapter without its base or of a different one, fewer ids than `vocabulary`.
    """
    device = default_device() if device is None else torch.device(device)
    kind = torch_dtype(dtype, device)
    if name.startswith("tiny:"):
        tiny: Any = tiny_model(role_of(name, field), load_tokenizer(name, field=field))
        return tiny.to(device=device, dtype=kind)
    source = resolve(name, revision, gguf_file, field, adapter)
    config = None if "gguf_file" in source.kwargs else configuration.read(source)
    model = weights.loaded(source, config, dtype=kind)
    if getattr(model, "hf_quantizer", None) is not None:  # GGUF, by now plain weights
        model.hf_quantizer.remove_quantization_config(model)
    if source.adapter is not None:
        model = adapters.applied(model, source)
    configuration.settled(model.config, source)
    _settle_generation(model)
    model = _text_part(model)
    if vocabulary is not None:
        model = vocabularies.cut(model, vocabulary, field)
    return _moved(model, device, field).eval()


def _settle_generation(model: PreTrainedModel) -> None:
    """Keep the special tokens alone of a generation configuration that could not be saved."""
    generation: Any = model.generation_config
    try:
        generation.validate(strict=True)
    except ValueError:
        kept = {name: getattr(generation, name, None) for name in _SPECIAL}
        model.generation_config = GenerationConfig(**kept)


def _text_part(model: PreTrainedModel) -> PreTrainedModel:
    """The language model of one that reads images or sound as well, with the same weights."""
    config: Any = model.config.get_text_config()
    if config is model.config:
        return model
    with torch.device("meta"):
        how = {"attn_implementation": config._attn_implementation}
        text: Any = AutoModelForCausalLM.from_config(config, **how)
    setattr(text, text.base_model_prefix, model.get_decoder())
    text.set_output_embeddings(model.get_output_embeddings())
    text.generation_config = model.generation_config
    return text


def torch_dtype(dtype: DType | torch.dtype, device: torch.device) -> torch.dtype:
    """The type that weights get on a device."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "fastest":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    return default_dtype(device) if dtype == "auto" else getattr(torch, dtype)


def _moved(model: PreTrainedModel, device: torch.device, field: str = "student") -> PreTrainedModel:
    """Move a model to a device that may be too small for it."""
    with advised(f"{field}: loading onto {device}", {}):
        return model.to(device)


def load_tokenizer(
    name: str,
    revision: str | None = None,
    gguf_file: str | None = None,
    field: str = "tokenizer",
    adapter: str | None = None,
) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer; without a padding token it pads with its end of text.

    It is that of the adapter, where there is one that comes with a tokenizer.

    `StudyError`: a missing or damaged tokenizer, or no connection to the Hub.
    """
    source = resolve(name, revision, gguf_file, field, adapter)
    with readable(source, "a tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            source.tokenizer, trust_remote_code=False, **source.tokenizer_kwargs
        )
    if len(tokenizer.get_vocab()) <= len(tokenizer.added_tokens_decoder):
        # transformers makes an empty tokenizer for a folder that has none
        raise StudyError(f"{field}: must come with a tokenizer; {source.tokenizer!r} has none")
    if source.smollm:
        split_digits(tokenizer)
        # as in the file; transformers 5.17 takes the token that begins a turn for both
        tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    chats.room(tokenizer, field)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        must = "must have an end-of-text or a padding token"
        raise StudyError(f"{field}: its tokenizer {must}; it has neither")
    return tokenizer


def tiny_pair() -> Pair:
    """The random pair of the `tiny` preset, on the CPU in float32: the same weights every time."""
    return load_pair(PairConfig(teacher="tiny:teacher", student="tiny:student"), device="cpu")


def tiny_model(role: Role, tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """A random Qwen3 model of two layers whose distributions are far from uniform."""
    hidden, seed = _TINY[role]
    special: Any = (None, tokenizer.eos_token_id, tokenizer.pad_token_id)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=True,
        **dict(zip(_SPECIAL, special, strict=True)),
    )
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config).eval()


def weights_hash(model: PreTrainedModel) -> str:
    """SHA-256 over the names, types, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode without gradients; the previous mode is restored."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
