"""The depth-pruned student: a model without every n-th of its decoder layers.

It has the same vocabulary and width but computes less; the more layers it lacks, the more its
habits differ from the teacher's (ours: the paper's students are smaller models of the same family).
The copy is built from a shorter configuration, as it is when it is loaded again, and compared with
the model while the left-out layers are skipped: an architecture in which a layer depends on its
place, or on another layer, is refused.
"""

import copy
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from rockstudy.errors import StudyError
from rockstudy.models.configuration import undecodable
from rockstudy.models.sources import one_line, quiet

_PROBE = 12  # ours: tokens that the copy and the model with skipped layers both read
_NOT_PER_LAYER = ("architectures", "mlp_only_layers")


def depth_pruned(model: PreTrainedModel, every: int) -> PreTrainedModel:
    """Return a copy of the model without its `every`-th, 2 x `every`-th, ... decoder layer.

    The model itself is left alone. With `every` = 2 the first, third, fifth, ... layer remain.

    `StudyError`: fewer than `every` layers, or an architecture whose layers are not independent.
    """
    config = model.config.get_text_config()
    n = config.num_hidden_layers
    must = f"drop_every: {every} needs a model with at least {every} layers that can be left out;"
    if n < every:
        raise StudyError(f"{must} got {config.model_type} with {n}")
    layers = _layers(model, n)
    if layers is None:
        raise StudyError(f"{must} got {config.model_type} without a list of {n} layers")
    kept = [i for i in range(n) if (i + 1) % every]
    try:
        pruned = _built(model, layers, kept)
        every_layer: Any = model.get_submodule(layers)
        dropped = [layer for i, layer in enumerate(every_layer) if i not in kept]
        reason = _differs(model, pruned, dropped)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = one_line(error)
    if reason:
        raise StudyError(f"{must} got {config.model_type}: {reason}")
    return pruned


def _layers(model: PreTrainedModel, n: int) -> str | None:
    """Name of the decoder's list of `n` layers in the model."""
    inside = set(model.get_decoder().modules())
    names = (
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n and module in inside
    )
    return min(names, key=lambda name: name.count("."), default=None)


def _built(model: PreTrainedModel, layers: str, kept: list[int]) -> PreTrainedModel:
    """Build the model of the shorter configuration, with copies of the tensors that it has."""
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    whole = text.num_hidden_layers
    shorter = {
        name: [values[i] for i in kept]
        for name, values in vars(text).items()
        if isinstance(values, list)
        and len(values) == whole
        and name not in _NOT_PER_LAYER
        and not name.endswith("token_id")
    }
    for name, values in (shorter | {"num_hidden_layers": len(kept)}).items():
        setattr(text, name, values)
    place = {str(old): str(new) for new, old in enumerate(kept)}
    layer = re.compile(rf"{re.escape(layers)}\.(\d+)\.")
    state, tied = {}, set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        at = layer.match(name)
        if id(tensor) not in tied and (at is None or at[1] in place):
            new = name if at is None else f"{layers}.{place[at[1]]}.{name[at.end() :]}"
            state[new] = tensor.detach().clone()
        tied.add(id(tensor))
    if reason := undecodable(config):
        raise ValueError(reason)
    with quiet():
        loaded: Any = type(model).from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=model.dtype,
            device_map={"": model.device},
            attn_implementation=model.config._attn_implementation,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported
        )
    pruned, info = loaded
    names = ("missing_keys", "unexpected_keys", "mismatched_keys")
    if wrong := [str(key) for name in names for key in info[name]]:
        raise ValueError(f"its layers differ, as in {min(wrong)}")
    pruned.generation_config = copy.deepcopy(model.generation_config)
    return pruned.eval()


@torch.no_grad()
def _differs(model: PreTrainedModel, pruned: PreTrainedModel, dropped: list[nn.Module]) -> str:
    """Why the copy is not the model with skipped layers; empty if it is, or without weights."""
    if model.device.type == "meta":
        return ""
    vocabulary = model.config.get_text_config().vocab_size
    ids = (torch.arange(_PROBE, device=model.device) * 37 % vocabulary)[None]
    with _skipped(dropped):
        wanted = model(input_ids=ids, use_cache=False).logits.float()
    given = pruned(input_ids=ids, use_cache=True).logits.float()  # it will be decoded
    near = 1e-4 if model.dtype == torch.float32 else 5e-2  # ours: of the largest logit
    same = (given - wanted).abs().max() <= near * wanted.abs().max()
    return "" if same else "its layers depend on their place or on one another"


@contextmanager
def _skipped(layers: list[nn.Module]) -> Iterator[None]:
    """Let layers return the hidden states that they get."""

    def skip(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_hook(skip, with_kwargs=True))
        yield
