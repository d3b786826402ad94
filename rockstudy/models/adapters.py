"""Low-rank adapters, which train a small part of the student (LoRA, arXiv 2106.09685).

A linear layer's weight W becomes W + (alpha / r) B A. A (r, in) starts random and B (out, r) zero;
only A and B are trained. Every linear layer except the head has adapters with alpha = 2 r, as
arXiv 2405.09673 recommends. W stays in float32, so that the stored sum equals the trained one; a
checkpoint is that sum, an ordinary model.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rockstudy.errors import StudyError

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
