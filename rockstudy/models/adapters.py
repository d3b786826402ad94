"""Low-rank adapters, which train a small part of the student (LoRA, arXiv 2106.09685).

A linear layer's weight W becomes W + (alpha / r) B A. A (r, in) starts random and B (out, r) zero;
only A and B are trained. Every linear layer except the head has adapters with alpha = 2 r, as
arXiv 2405.09673 recommends. W stays in float32, so that the stored sum equals the trained one; a
checkpoint is that sum, an ordinary model.

An adapter that somebody else trained, in peft's format, is added to its base when it is loaded, by
peft itself (`applied`).
"""

import warnings
from collections.abc import Mapping
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rockstudy.errors import StudyError
from rockstudy.models.sources import ADAPTER, ADAPTER_WEIGHTS, Source, file_of, readable

SCALE = 2.0  # alpha / r
_PREFIX = "base_model.model."  # peft's, of every name
_ADAPTER = "default"  # peft's name for the only one


def adapters(rank: int) -> Any:
    """Return peft's configuration; `StudyError` if peft is not installed."""
    try:
        from peft import LoraConfig
    except ImportError:
        run = "run `pip install 'rockstudy[lora]'`, or give None"
        raise StudyError(f"lora_rank: needs peft; {run}") from None
    return LoraConfig(
        r=rank,
        lora_alpha=int(SCALE * rank),
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def merged(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of an ordinary model, on the CPU, from a state with adapters under peft's names.

    `model` is the one with the adapters: GPT-2 has layers with weights (in, out).
    """
    turned = {
        name.removeprefix(_PREFIX)
        for name, module in model.named_modules()
        if isinstance(getattr(module, "base_layer", None), Conv1D)
    }
    whole = {}
    for name, weight in state.items():
        if ".lora_" in name:
            continue
        layer, based, _ = name.partition(".base_layer.weight")
        if based:  # a bias has no adapter
            a, b = (state[f"{layer}.lora_{side}.{_ADAPTER}.weight"] for side in "AB")
            added = b @ a
            is_turned = layer.removeprefix(_PREFIX) in turned
            weight = weight + SCALE * (added.T if is_turned else added)
        plain = name.removeprefix(_PREFIX).replace(".base_layer.", ".")
        whole[plain] = weight.cpu()
    return whole


def applied(model: PreTrainedModel, source: Source) -> PreTrainedModel:
    """Merge the adapter of a source into its base `model`, which is changed and returned.

    `StudyError`: as `tuned`, and weights that are not finite afterwards.
    """
    with readable(source, "an adapter"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft tells what `_untied` does
        whole: Any = tuned(model, source).merge_and_unload(safe_merge=True)
    return _untied(whole)


def tuned(model: PreTrainedModel, source: Source) -> Any:
    """Put the adapter of a source into its base `model`, as peft's model of both.

    The base may be on the device ``meta``: then names and shapes are checked.

    `StudyError`: peft is not installed, an adapter that is no LoRA or has no safetensors, or one
    with a tensor missing, in a wrong shape or without a place in the base.
    """
    adapter: Any = source.adapter
    must = f"{source.field}: must have an adapter"
    if (file := file_of(adapter, ADAPTER_WEIGHTS)) is None:
        remedy = "save it with `save_pretrained` of peft"
        raise StudyError(f"{must} with {ADAPTER_WEIGHTS}; {adapter.where} has none: {remedy}")
    try:
        import peft
    except ImportError:
        run = "run `pip install 'rockstudy[lora]'`, or merge it"
        raise StudyError(f"{source.field}: an adapter needs peft; {run}") from None
    with readable(adapter, "an adapter"), warnings.catch_warnings():
        # peft reads an old property of every model, and tells of tied weights that it saves
        warnings.simplefilter("ignore")
        config = peft.PeftConfig.from_pretrained(str(file.parent))
        if not isinstance(config, peft.LoraConfig) or config.alora_invocation_tokens:
            kind = f"{adapter.where} is of the kind {getattr(config.peft_type, 'value', 'none')}"
            raise StudyError(f"{must} of low rank (LORA) that adds to the weights; {kind}")
        config.inference_mode = True
        both = peft.PeftModel(model, config, _ADAPTER)
        how: Any = {"torch_device": "cpu", "low_cpu_mem_usage": model.device.type == "meta"}
        result: Any = both.load_adapter(str(file.parent), _ADAPTER, **how)
        # peft fills a missing tensor with its start, and drops one without a place
        needed = peft.get_peft_model_state_dict(both, save_embedding_layers=False)
        with safe_open(file, "pt") as tensors:
            held = set(tensors.keys())
    whole = sorted(name for name in needed if ".lora_" not in name and name not in held)
    if missing := [*result.missing_keys, *whole]:
        lacks = f"{adapter.where} lacks {missing[0]}"
        raise StudyError(f"{must} with every tensor that {ADAPTER} describes; {lacks}")
    if result.unexpected_keys:
        spare = result.unexpected_keys[0]
        raise StudyError(f"{must} of this base; {spare} has no place in {source.where}")
    return both


def _untied(model: PreTrainedModel) -> PreTrainedModel:
    """State in the configuration that an adapter of the head has parted it from the embeddings."""
    head: Any = model.get_output_embeddings()
    text = model.config.get_text_config()
    if text.tie_word_embeddings and head.weight is not model.get_input_embeddings().weight:
        text.tie_word_embeddings = model.config.tie_word_embeddings = False
    return model
