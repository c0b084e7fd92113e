"""How large a model is, from the numbers in its config.json, without loading it.

For models that are not on this machine the same numbers stand here, as their config.json on the hub
has them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BF16 = 2  # bytes


@dataclass(frozen=True)
class Shape:
    """A decoder with grouped-query attention and gated MLPs, or with ``experts`` of them a layer,
    of which each token uses ``active_experts``. ``inner`` is the width of one MLP."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocabulary: int
    tied: bool
    experts: int = 1
    active_experts: int = 1
    head_norms: bool = False  # norms of queries and keys, as Qwen3 has them

    @classmethod
    def of(cls, config: dict[str, Any]) -> Shape:
        """From the content of a config.json."""
        heads, many = config["num_attention_heads"], config.get("num_experts")
        return cls(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            inner=config["moe_intermediate_size"] if many else config["intermediate_size"],
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", True)),
            experts=many or 1,
            active_experts=config["num_experts_per_tok"] if many else 1,
            head_norms=str(config.get("model_type", "")).startswith("qwen3"),
        )

    @property
    def queries(self) -> int:
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def embedding(self) -> int:
        return self.vocabulary * self.hidden

    def layer(self, experts: int) -> int:
        """Parameters of one layer with so many of its experts."""
        attention = 2 * self.hidden * (self.queries + self.keys)
        router = self.hidden * self.experts if self.experts > 1 else 0
        norms = 2 * self.hidden + (2 * self.head_dim if self.head_norms else 0)
        return attention + experts * 3 * self.hidden * self.inner + router + norms

    @property
    def parameters(self) -> int:
        outside = self.embedding * (1 if self.tied else 2) + self.hidden
        return self.layers * self.layer(self.experts) + outside

    @property
    def active(self) -> int:
        """Parameters that one token is multiplied with: the embedding is only looked up."""
        return self.layers * self.layer(self.active_experts) + self.embedding

    @property
    def kv_bytes(self) -> int:
        """Of the keys and values of one token, in bfloat16."""
        return 2 * self.layers * self.keys * BF16

    def lora(self, rank: int) -> int:
        """Trainable parameters of adapters on all linear layers but the head."""
        attention = 2 * (self.hidden + self.queries) + 2 * (self.hidden + self.keys)
        mlp = 3 * self.experts * (self.hidden + self.inner)
        return rank * self.layers * (attention + mlp)


_QWEN3 = {"model_type": "qwen3", "head_dim": 128, "vocab_size": 151936, "num_attention_heads": 32}
# huggingface.co/<name>/blob/main/config.json, read in November 2026
KNOWN = {
    "Qwen/Qwen3-4B-Instruct-2507": Shape.of(
        {**_QWEN3, "num_hidden_layers": 36, "hidden_size": 2560, "intermediate_size": 9728}
        | {"num_key_value_heads": 8, "tie_word_embeddings": True}
    ),
    "Qwen/Qwen3-8B": Shape.of(
        {**_QWEN3, "num_hidden_layers": 36, "hidden_size": 4096, "intermediate_size": 12288}
        | {"num_key_value_heads": 8, "tie_word_embeddings": False}
    ),
    "Qwen/Qwen3-Coder-30B-A3B-Instruct": Shape.of(
        {**_QWEN3, "num_hidden_layers": 48, "hidden_size": 2048, "moe_intermediate_size": 768}
        | {"num_key_value_heads": 4, "tie_word_embeddings": False}
        | {"num_experts": 128, "num_experts_per_tok": 8}
    ),
    # the embedded model: HuggingFaceTB/SmolLM2-135M-Instruct
    "smollm2": Shape.of(
        {"num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536}
        | {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152}
    ),
}


def shape(path: str) -> Shape | None:
    """Of a folder with a config.json, or of a model that is known by name."""
    file = Path(path) / "config.json"
    if file.is_file():
        return Shape.of(json.loads(file.read_text()))
    return KNOWN.get(path)
