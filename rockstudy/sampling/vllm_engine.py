"""Completions through a vLLM engine, for large models or many tokens.

Importing this module imports vLLM. Its requests are made as follows:

- Inputs and outputs are token ids, and the engine has no tokenizer: nothing is tokenised twice.
- A banned token has a logit bias of minus infinity, before any truncation. Both of vLLM's model
  runners apply logit biases; a custom logits processor would need a version for each.
- Every request has its own seed, so its noise depends on nothing else.
- Only the request's stop tokens end a completion, not the model's own, as in the other engine.

The engine runs in a separate process. It starts with the first rows, and `close` ends it and frees
its memory.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedModel
from vllm import LLM, SamplingParams, TokensPrompt  # pyright: ignore[reportMissingImports]

from rockstudy.errors import StudyError
from rockstudy.models import configuration, loading
from rockstudy.models.sources import readable, resolve
from rockstudy.parallel import placement
from rockstudy.sampling.decoding import Chooser
from rockstudy.sampling.engines import Engine, Left, Request
from rockstudy.store.seeds import torch_seed

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read when vLLM is imported
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # sends no statistics

SHARE = 0.9  # ours: share of the device's free memory for the engine
CPU_CACHE = 2**30  # ours: bytes of keys and values on a CPU
# torchrun's and accelerate's names for the processes that they start
LAUNCHED = (
    "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK MASTER_ADDR MASTER_PORT "
    "TORCHELASTIC_USE_AGENT_STORE"
).split()
MOST_BANNED = 1024  # vllm/v1/worker/gpu/sample/logit_bias.py: MAX_NUM_LOGIT_BIAS_TOKENS


class VllmEngine(Engine):
    """A model from the Hub or a folder, for rows up to `longest` tokens.

    While it runs, `resting` models wait in the machine's memory. Other arguments are those of
    `loading.load_model`.
    """

    def __init__(
        self,
        name: str,
        longest: int,
        *,
        revision: str | None = None,
        gguf_file: str | None = None,
        dtype: loading.DType = "auto",
        field: str = "model",
        adapter: str | None = None,
        resting: Sequence[PreTrainedModel] = (),
    ) -> None:
        source = resolve(name, revision, gguf_file, field, adapter)
        if source.adapter is not None or name.startswith("tiny:") or "gguf_file" in source.kwargs:
            raise StudyError(
                f"{field}: must be a Hub id or a folder with safetensors for the engine vllm; "
                f"got {name!r}; take the engine transformers"
            )
        where, how = source.where, source.kwargs
        with readable(source, "a model's configuration"):
            self.config = AutoConfig.from_pretrained(where, trust_remote_code=False, **how)
            try:
                self.generation_config = GenerationConfig.from_pretrained(where, **how)
            except OSError:  # optional
                self.generation_config = GenerationConfig.from_model_config(self.config)
        self._source, self._device = source, placement.default_device()
        self._resting = [(model, model.device) for model in resting]
        kind = loading.torch_dtype(dtype, self._device)
        context = configuration.context(self.config) or longest
        self._settings: dict[str, Any] = {
            "model": where,
            "revision": how.get("revision"),
            "dtype": str(kind).removeprefix("torch."),
            "max_model_len": min(longest, context),
            "skip_tokenizer_init": True,
            "generation_config": "vllm",  # the rows set the sampling, not the model
            "trust_remote_code": False,
        }
        self._llm: LLM | None = None

    def complete(
        self, rows: Sequence[Request], choose: Chooser, ends: Sequence[int], left: Left
    ) -> list[np.ndarray]:
        """Write the completions, all rows in one queue.

        `StudyError`: more than `MOST_BANNED` banned tokens in a row.
        """
        done: list[np.ndarray] = [np.empty(0, np.int32)] * len(rows)
        if not rows:
            return done
        llm = self._started()
        try:
            names = llm.enqueue(
                [TokensPrompt(prompt_token_ids=list(map(int, row.ids))) for row in rows],
                [_parameters(row, choose, ends) for row in rows],
                use_tqdm=False,
            )
            first = int(names[0].split("-")[0])  # requests are numbered, with or without a suffix
            while llm.llm_engine.has_unfinished_requests():
                for made in llm.llm_engine.step():
                    if made.finished:
                        i = int(made.request_id) - first
                        done[i] = np.array(made.outputs[0].token_ids, np.int32)
                        left(rows[i])
        except BaseException:
            self.close()  # queued rows would appear among the next ones
            raise
        for row, ids in zip(rows, done, strict=True):
            if not 0 < len(ids) <= row.limit or np.isin(ids, row.banned).any():
                raise RuntimeError(f"vLLM broke a row's limit or ban: {row.limit}, {row.banned}")
        return done

    def close(self) -> None:
        """End the engine and its process, if there is one."""
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
            for model, device in self._resting:
                placement.moved(model, device)

    def _started(self) -> LLM:
        if self._llm is None:
            for model, _ in self._resting:
                placement.moved(model, torch.device("cpu"))
            with readable(self._source, "a model for vLLM"), _alone():
                self._llm = LLM(**self._settings, **_of_device(self._device))
        return self._llm


@contextmanager
def _alone() -> Iterator[None]:
    """Start an engine's process independently of others, on this process's device.

    With a launcher's variables the engines would look for each other and all take the first device.
    """
    before = dict(os.environ)
    for name in LAUNCHED:
        os.environ.pop(name, None)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"  # in ours, it would end the process group
    if torch.cuda.is_available():
        shown = [d for d in before.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
        place = torch.cuda.current_device()
        os.environ["CUDA_VISIBLE_DEVICES"] = shown[place] if shown else str(place)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _of_device(device: torch.device) -> dict[str, Any]:
    """Memory of the engine, and on a CPU the features that it must do without.

    There, compiling does not pay, and a prompt read in parts stops an engine with seeds: vLLM then
    rewinds a generator, which is impossible on a CPU.
    """
    if device.type != "cuda":
        whole = {"enforce_eager": True, "enable_chunked_prefill": False}
        return {"kv_cache_memory_bytes": CPU_CACHE, **whole}
    torch.cuda.empty_cache()  # torch's reserve counts as used
    free, total = torch.cuda.mem_get_info(device)
    return {"gpu_memory_utilization": SHARE * free / total}


def _parameters(row: Request, choose: Chooser, ends: Sequence[int]) -> SamplingParams:
    if len(row.banned) > MOST_BANNED:
        raise StudyError(
            f"banned: must be at most {MOST_BANNED} tokens with the engine vllm; "
            f"got {len(row.banned)}"
        )
    return SamplingParams(
        **asdict(choose),  # temperature, top_p, top_k
        seed=torch_seed(*row.stream),
        max_tokens=row.limit,
        stop_token_ids=list(ends),
        ignore_eos=True,
        detokenize=False,
        logit_bias={i: float("-inf") for i in row.banned} or None,
    )
