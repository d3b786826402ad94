"""The files of a model's weights, and whether they hold what its configuration describes.

transformers fills missing tensors with random numbers, drops those without a place, and leaves a
head untied that its configuration ties. Each of these is an error here.
"""

import json
import re
from collections.abc import Mapping, Sized
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from rockstudy.errors import StudyError
from rockstudy.models.sources import ADAPTER, INDEX, WHOLE, Source, one_line, readable

_SAVE = "save it with `save_pretrained` of transformers"
_CONVERT = f"convert it, then {_SAVE}"
# ours: what other programs write, by names in the folder, and the way to plain safetensors
_FORMATS = {
    "*.gguf": ("a GGUF file", "give its name as gguf_file"),
    "zero_to_fp32.py": ("shards of DeepSpeed", "run its zero_to_fp32.py with --safe_serialization"),
    "global_step*": ("shards of DeepSpeed", "run DeepSpeed's zero_to_fp32.py"),
    "pytorch_model_fsdp*": ("shards of FSDP", "run `accelerate merge-weights`"),
    "*.distcp */*.distcp": ("shards of FSDP or Megatron", "run `accelerate merge-weights`"),
    "latest_checkpointed_iteration.txt mp_rank_* iter_*": ("shards of Megatron", _CONVERT),
    "*.h5": ("weights of TensorFlow", f"load it with from_tf (transformers 4), then {_SAVE}"),
    "*.ckpt*": ("weights of TensorFlow or Lightning", _CONVERT),
    "*.msgpack": ("weights of Flax", f"load it with from_flax (transformers 4), then {_SAVE}"),
    "*.npz": ("weights of MLX or numpy", _CONVERT),
    "*.onnx": ("an ONNX graph", "take the model that it was exported from"),
    "consolidated*": ("weights of the model's own program", _CONVERT),
    "*.bin": ("pickled weights, which are never read", _SAVE),
    "*.pt *.pth": ("pickled weights, which are never read", _CONVERT),
    "*.safetensors": ("safetensors under other names", f"name one {WHOLE}, or {_SAVE}"),
}
# Buffers of older versions of transformers, which the model computes by itself.
_COMPUTED = re.compile(r"\.(inv_freq|masked_bias|position_ids|attn\.bias|attention\.bias)$")


def files(source: Source) -> list[Path]:
    """The files with the weights of a folder; `StudyError` for another program's format."""
    folder, gguf = Path(source.where), source.kwargs.get("gguf_file")
    must = f"{source.field}: must hold {WHOLE}; {source.where} has"
    if gguf is None and (folder / ADAPTER).is_file():  # transformers would add it to the model
        raise StudyError(f"{must} an adapter: merge it into its model (`merge_and_unload` of peft)")
    if gguf is not None or (folder / WHOLE).is_file():
        wanted = [folder / (gguf or WHOLE)]
    elif (folder / INDEX).is_file():
        wanted = _shards(folder, source.field)
    else:
        for patterns, (what, remedy) in _FORMATS.items():
            if any(any(folder.glob(pattern)) for pattern in patterns.split()):
                raise StudyError(f"{must} {what}: {remedy}")
        raise StudyError(f"{must} none")
    if missing := [file.name for file in wanted if not file.is_file()]:
        raise StudyError(f"{source.field}: must hold {missing[0]}; {source.where} has none")
    return wanted


def _shards(folder: Path, field: str) -> list[Path]:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return [folder / name for name in sorted(set(index["weight_map"].values()))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        must = f"{field}: must hold a readable {INDEX}; {folder}"
        raise StudyError(f"{must}: {one_line(error)}") from None


def loaded(source: Source, config: PreTrainedConfig | None, **how: Any) -> PreTrainedModel:
    """Return a model with all tensors of its files in their places.

    `config` was checked by `configuration.read`; a GGUF file, which holds its own, has None. `how`
    goes to ``from_pretrained``; ``device_map="meta"`` compares the tensors by name and shape and
    keeps none.

    `StudyError`: weights in a different format, damaged, or with a tensor missing, in a wrong
    shape, without a place, or different from the one that it is tied to.
    """
    if Path(source.where).is_dir():
        files(source)
    safe = {} if config is None else {"config": config, "use_safetensors": True}
    how = safe | how | source.kwargs
    with readable(source, "a model"):
        result: Any = AutoModelForCausalLM.from_pretrained(
            source.where,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported, and refused below
            **how,
        )
    model, info = result
    _check(model, info, source, compared=how.get("device_map") != "meta")
    return model


def _check(
    model: PreTrainedModel, info: Mapping[str, Any], source: Source, *, compared: bool
) -> None:
    """Refuse tensors that the configuration does not describe, or that the files lack."""

    def wrong(must: str, given: str, all_: Sized = "") -> StudyError:
        number = f" ({len(all_)} in all)" if all_ else ""
        return StudyError(f"{source.field}: must {must}; {source.where} {given}{number}")

    if model.get_decoder() is model:
        kind = f"is of {model.config.model_type}, whose transformers class has none"
        raise wrong("have a decoder that gives hidden states", kind)
    must = "hold every tensor in its shape"
    if missing := sorted(info["missing_keys"]):
        raise wrong(must, f"lacks {missing[0]}", missing)
    if other := sorted(info["mismatched_keys"]):
        name, has, needs = other[0]
        shapes = f"{tuple(has)}, and config.json describes {tuple(needs)}"
        raise wrong(must, f"has {name} of {shapes}", other)
    if spare := sorted(name for name in info["unexpected_keys"] if not _COMPUTED.search(name)):
        only = "hold the tensors that config.json describes and no others"
        raise wrong(only, f"has {spare[0]}", spare)
    if info.get("error_msgs"):
        raise wrong(must, " ".join(str(info["error_msgs"][0]).split())[:200])
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    head: Any = model.get_output_embeddings()
    if compared and tied and head.weight is not model.get_input_embeddings().weight:
        has = "has a different one (tie_word_embeddings must be false)"
        raise wrong("have the head that config.json ties to the embeddings", has)
