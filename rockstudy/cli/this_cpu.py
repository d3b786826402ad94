"""How fast this machine's CPU trains and decodes, measured for five seconds.

A model with the shapes of the student, but with two layers and a small vocabulary, trains for half
of the time and decodes for the other half, in float32. Rates are in the units of the arithmetic of
`rockstudy.cli.estimates`, so that hours are what was measured times how much there is to do.
"""

import copy
import functools
import json
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from rockstudy.cli import estimates
from rockstudy.cli.dimensions import Dimensions

NAME = "this CPU"
SECONDS = 5.0  # ours: of the whole measurement
LAYERS, VOCABULARY = 2, 8_192  # ours: at most
LENGTH, TOKENS = 64, 1_024  # ours: of a row in training, and of a batch at most
BATCH_FLOPS = 5e10  # ours: of a batch in training, about a second on two cores
DECODED, READ = 16, 4  # ours: rows that decode together, tokens that they have read


def memory() -> float:
    """Bytes of this machine."""
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def device(student: Dimensions) -> estimates.Device:
    """The CPU as a device, at the rates that it reached with the student's shapes."""
    config = copy.deepcopy(student.config)
    config.num_hidden_layers = min(config.num_hidden_layers, LAYERS)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    config.vocab_size = min(config.vocab_size, VOCABULARY)
    return _measured(config.to_json_string(), type(config))


@functools.cache  # several checks of one process
def _measured(text: str, kind: Any) -> estimates.Device:
    config = kind.from_dict(json.loads(text))
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    sizes = Dimensions(model)
    fit = int(BATCH_FLOPS / sizes.training_flops(LENGTH, LENGTH, False))
    rows = min(max(fit, 1), TOKENS // LENGTH)
    made = sizes.training_flops(rows * LENGTH, LENGTH, False)
    training = made / _seconds(_trains(model, rows))
    read = 2 * sizes.parameters + sizes.cache(DECODED, READ)
    decoding = read / _seconds(_decodes(model))
    flops, bandwidth = training / estimates.TRAINING, decoding / estimates.READING
    return estimates.Device(NAME, memory(), flops, bandwidth)


def _seconds(call: Callable[[], None]) -> float:
    """Seconds of a call: the mean of those after the first that fit into half of the time."""
    spent = []
    while sum(spent) < SECONDS / 2:
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)
    return sum(spent[1:]) / (len(spent) - 1) if len(spent) > 1 else spent[0]


def _trains(model: Any, rows: int) -> Callable[[], None]:
    """One batch, forward and backward."""
    ids = torch.zeros(rows, LENGTH, dtype=torch.int64)

    def once() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        model.zero_grad()

    return once


def _decodes(model: Any) -> Callable[[], None]:
    """One further token for each row."""
    ids = torch.zeros(DECODED, READ, dtype=torch.int64)
    with torch.no_grad():
        cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

    @torch.no_grad()
    def once() -> None:
        model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
        cache.crop(-1)

    return once


def described(cpu: estimates.Device) -> str:
    """The measured rates, in words."""
    flops = cpu.flops * estimates.TRAINING / 1e9
    bandwidth = cpu.bandwidth * estimates.READING / 1e9
    return f"{flops:.0f} GFLOP/s in training and {bandwidth:.2f} GB/s in decoding"
