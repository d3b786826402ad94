"""A model's configuration: what cannot run is refused, what would change a training is set back.

Everything is known from ``config.json`` alone, before weights are read. Dropout, skipped layers and
router noise are set to 0, since a student is trained without them (ours: the paper names none; TRL
resets ``torch.nn.Dropout`` but not the numbers that attention reads). Options of outputs and of the
cache get transformers' defaults. The text part of a nested configuration counts.
"""

import inspect
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers import cache_utils as caches
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from rockstudy.errors import StudyError
from rockstudy.models.sources import Source, readable

_SIZES = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
    "num_key_value_heads head_dim max_position_embeddings num_experts_per_tok"
).split()
_RANDOM = re.compile(r"dropout|pdrop|layerdrop|jitter_noise|drop_path")
_POSITIVE = re.compile(
    r"(_eps|epsilon|(final|attn)_logit_softcapping|rope_theta|pre_attn_scalar|logits?_scal\w+)$"
)
_DEFAULTS = {
    "output_attentions": False,
    "output_hidden_states": False,
    "output_router_logits": False,
    "return_dict": True,
    "torchscript": False,
    "use_cache": True,
}
_PACKED = ("quantization_config", "compression_config", "quantization")  # the last is MLX's
_CACHES = (  # the kinds that `sampling.decoding` can fill, spread and shrink
    caches.DynamicLayer,
    caches.DynamicSlidingWindowLayer,
    caches.LinearAttentionLayer,
    caches.LinearAttentionAndFullAttentionLayer,
    caches.DummyLayer,
)
# ours: batches differ from their rows; `sampling.decoding.check_recurrent` finds others
_UNLIKE = ("git", "moshi", "nemotron_h", "recurrent_gemma", "zamba2")


def read(source: Source) -> PreTrainedConfig:
    """Return the checked configuration of a model; `StudyError` if it cannot be trained."""
    with readable(source, "a model's configuration"):
        if "gguf_file" not in source.kwargs:
            raw, _ = PreTrainedConfig.get_config_dict(source.where, **source.kwargs)
            _check_file(raw, source)
        config = AutoConfig.from_pretrained(source.where, trust_remote_code=False, **source.kwargs)
        return settled(config, source)


def context(config: Any) -> int | None:
    """Largest number of tokens that a model reads; None without a limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def vocabulary(config: Any) -> int:
    """Number of ids that a model's head has."""
    return config.get_text_config().vocab_size


def settled(config: PreTrainedConfig, source: Source) -> PreTrainedConfig:
    """Set back the options that change a training; `StudyError` for what cannot run."""
    config.__dict__.pop("auto_map", None)  # the architecture is one of transformers' own
    text: Any = config.get_text_config()
    for part in [config] if text is config else [config, text]:
        for name, default in _DEFAULTS.items():
            if getattr(part, name, default) != default:
                setattr(part, name, default)
    numbers = {n: v for n, v in text.to_dict().items() if type(v) in (int, float)}
    for name, value in numbers.items():
        is_random = _RANDOM.search(name) and text.model_type != "phimoe"  # it always reads jitter
        must = "from 0 to below 1" if is_random else "above 0" if _POSITIVE.search(name) else ""
        if not math.isfinite(value):
            raise _wrong(source, f"{name} must be finite; got {value}")
        if (is_random and not 0 <= value < 1) or (must == "above 0" and value <= 0):
            raise _wrong(source, f"{name} must be {must}; got {value}")
        if is_random:
            setattr(text, name, 0.0)
    _check_sizes(text.to_dict(), type(text), source)
    if reason := undecodable(config):
        raise _wrong(source, reason)
    return config


def _check_file(raw: Any, source: Source) -> None:
    """Refuse what transformers would read differently, or only after the weights."""
    if not isinstance(raw, dict):
        raise _wrong(source, f"it must hold a JSON object; got a {type(raw).__name__}")
    kind = raw.get("model_type")
    if kind not in CONFIG_MAPPING:
        code = f"{kind!r} needs the code that comes with the model, which never runs here"
        known = f"model_type must be one that transformers has; got {kind!r}"
        raise _wrong(source, code if raw.get("auto_map") else known)
    for name in _PACKED:
        if raw.get(name) is not None:
            raise _wrong(source, f"the weights must be plain; {name} names a packed format")
    for part in (raw, raw.get("text_config")):
        if not isinstance(part, dict):
            continue
        if part.get("model_type") in CONFIG_MAPPING:
            _check_sizes(part, CONFIG_MAPPING[part["model_type"]], source)
        for name in ("dtype", "torch_dtype"):
            given = part.get(name)
            named = str(given).removeprefix("torch.")
            if given is not None and not isinstance(getattr(torch, named, None), torch.dtype):
                raise _wrong(source, f"{name} must be a type of torch; got {given!r}")


def _check_sizes(values: Mapping[str, Any], kind: Any, source: Source) -> None:
    """Refuse sizes that are no positive numbers; some architectures have lists, by layer."""
    windowed = values.get("use_sliding_window", values.get("model_type") == "mistral")
    windows = ("sliding_window",) if windowed else ()
    for name in (*_SIZES, *windows):
        name = kind.attribute_map.get(name, name)
        value = values.get(name)
        if not isinstance(value, list | None) and (type(value) is not int or value < 1):
            raise _wrong(source, f"{name} must be a whole number of at least 1; got {value!r}")


def undecodable(config: Any) -> str | None:
    """Why an architecture does not write from left to right with a cache that we handle."""
    kind, mapping = config.model_type, AutoModelForCausalLM._model_mapping
    encodes = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    encodes |= config.is_encoder_decoder or kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    if encodes or type(config) not in mapping:
        return f"it must be of a decoder-only language model; got {kind}"
    model: Any = mapping[type(config)]
    takes = inspect.signature(model.forward).parameters
    if "past_key_values" not in takes or not model._supports_default_dynamic_cache():
        return f"{kind} has a cache of its own, which the decoder cannot handle"
    if kind in _UNLIKE:
        return f"{kind} writes different completions in batches, which the decoder cannot handle"
    layers = caches.DynamicCache(config=config).layers
    for layer in layers:
        if type(layer) not in _CACHES:
            return f"{kind} has {type(layer).__name__}s, which the decoder cannot handle"
    if not any(isinstance(layer, caches.DynamicLayer) for layer in layers):
        return f"{kind} has no layer of attention here, which the decoder cannot handle"
    return None


def _wrong(source: Source, reason: str) -> StudyError:
    return StudyError(f"{source.field}: config.json of {source.where}: {reason}")
