"""Decoder layers compiled for a CPU, where eager PyTorch spends most of a pass between products.

The layers of a decoder have one form, so what the compiler makes for the first serves all of them,
for any number and length of rows.
"""

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from rockstudy.errors import StudyError, shortened

COMPILERS = ("g++", "clang++")


def check_compiler(field: str) -> None:
    """Refuse a machine without a C++ compiler; `StudyError` names the `field` that wants one."""
    named = os.environ.get("CXX")
    wanted = (named,) if named else COMPILERS
    if not any(map(shutil.which, wanted)):
        must = f"{field}: must be false on a machine without a C++ compiler"
        raise StudyError(f"{must}; {' and '.join(wanted)} cannot be found")


def compile_layers(model: PreTrainedModel) -> None:
    """Compile the layers of a model on a CPU in place; on another device do nothing.

    Attention over whole texts becomes plain products: torch's fused one has a slow backward pass on
    a CPU, and the compiler fuses all that lies between products. It holds length x length values
    for each head. With a cache of keys and values all stays as it was: tokens that are sampled one
    by one are not worth it, and every state of a cache would be compiled.

    `StudyError`: a decoder without ``layers``, or a compiler that is there and fails, for example
    without Python's headers.
    """
    if model.device.type != "cpu":
        return
    decoder: Any = model.get_decoder()
    if not hasattr(decoder, "layers"):
        must = "compiled: must be false for a model whose decoder has no `layers`"
        raise StudyError(f"{must}; got {model.config.model_type}")
    _compiling(torch.compile(torch.neg), torch.ones(2))  # before anything expensive runs
    decoder.forward = _Attending(decoder)
    for layer in decoder.layers:
        layer.forward = _Compiled(layer.forward)


def _compiling(compiled: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call what may have to be compiled."""
    try:
        return compiled(*args, **kwargs)
    except torch._dynamo.exc.TorchDynamoException as error:
        must = "compiled: must be false where the C++ compiler fails"
        raise StudyError(f"{must}; {shortened(str(error).strip())}") from error


class _Attending:
    """The forward pass of a decoder, with plain attention over whole texts.

    What it chooses stays until the next pass: a checkpointed layer runs again in the backward pass.
    """

    def __init__(self, decoder: Any) -> None:
        self.forward, self.config = decoder.forward, decoder.config
        self.before = self.config._attn_implementation

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        makes_one = kwargs.get("use_cache")
        makes_one = self.config.use_cache if makes_one is None else makes_one
        cached = makes_one or kwargs.get("past_key_values") is not None
        self.config._attn_implementation = self.before if cached else "eager"
        return self.forward(*args, **kwargs)


class _Compiled:
    """The forward pass of a layer: compiled for whole texts, as it is written with a cache."""

    def __init__(self, eager: Callable[..., Any]) -> None:
        self.eager, self.compiled = eager, torch.compile(eager, dynamic=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("past_key_values") is not None:
            return self.eager(*args, **kwargs)
        return _compiling(self.compiled, *args, **kwargs)
