"""Which models give the same log-probs in the sampler, the scorer and the trainer.

A conversation is computed in three ways (with a cache of rows, as a packed token tree, and by
transformers' own forward pass). A difference between them would be silent, and would make every
importance ratio wrong. A model type is therefore accepted only if
``tests/algorithms/test_supported.py`` compares the three for it. This module reads configurations
and does not import torch, so a model can be checked before a run starts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swe_gym_env.errors import SetupError

_TYPES = """
apertus arcee cohere cohere2 cwm ernie4_5 exaone4 gemma gemma3_text glm glm4 gpt_neox granite
granitemoe helium hunyuan_v1_dense llama ministral ministral3 mistral mixtral olmo olmo2 olmo3
olmoe phi phi3 qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3 starcoder2
"""
PROVEN = frozenset(_TYPES.split())
# Layers that use earlier tokens through attention only; all other types carry a state along.
ATTENTION = {"full_attention", "sliding_attention"}
# Rotary embeddings that depend on the position only. "dynamic" and "longrope" also depend on the
# length of the sequence, so keys that were cached early differ from those of one long forward pass.
ROPES = {"default", "linear", "llama3", "yarn"}
# Reasons for common types that are not accepted
WHY = {
    "bloom": "it does not let its attention be replaced (ALiBi)",
    "falcon": "it does not let its attention be replaced",
    "gemma2": "its attention caps its scores (softcap)",
    "gemma3": "it also reads images; use the text model alone (gemma3_text)",
    "gpt_oss": "its attention has sinks (s_aux)",
    "llama4": "its attention works in chunks (chunked_attention)",
    "llama4_text": "its attention works in chunks (chunked_attention)",
    "mamba": "its layers carry recurrent states",
    "mamba2": "its layers carry recurrent states",
    "deepseek_v2": "its attention caches keys and values of different sizes (MLA)",
    "deepseek_v3": "its attention caches keys and values of different sizes (MLA)",
}


def check_config(config: Mapping[str, Any], name: str) -> None:
    """Check that a model can be sampled and scored exactly.

    Args:
        config: Content of its config.json.
        name: Identifies the model in the message.

    Raises:
        SetupError: It cannot.
    """
    if reason := _obstacle(config):
        raise SetupError(
            f"{name} is not supported, because no test shows that its sampler and its trainer "
            f"give equal log-probs: {reason}. Supported model types: {', '.join(sorted(PROVEN))}."
        )


def check_student(config: Mapping[str, Any], name: str) -> None:
    """:func:`check_config` for a model that will be trained: dropout is refused too."""
    check_config(config, name)
    if dropout := _dropout(config):
        raise SetupError(
            f"{name} cannot be trained: {', '.join(dropout)} would make the trainer's log-probs "
            f"differ from the sampler's. Set {'it' if len(dropout) == 1 else 'them'} to 0 in its "
            "config.json."
        )


def check_folder(folder: str | Path, trained: bool = False) -> None:
    """Check the model in ``folder``, with :func:`check_student` if it is to be ``trained``.

    Raises:
        SetupError: It is not supported, or its config.json cannot be read.
    """
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SetupError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise SetupError(f"{path} contains no JSON object")
    (check_student if trained else check_config)(config, str(folder))


def layer_windows(config: Any) -> list[int | None]:
    """The sliding window of each layer: how many tokens it sees, itself included, or None for all.

    Args:
        config: A text configuration of transformers. A layer with a sliding window whose size is
            not given gets 0.
    """
    window = getattr(config, "sliding_window", None)
    usual = "sliding_attention" if window else "full_attention"
    kinds = getattr(config, "layer_types", None) or [usual] * config.num_hidden_layers
    return [window or 0 if kind == "sliding_attention" else None for kind in kinds]


def _obstacle(config: Mapping[str, Any]) -> str | None:
    """Why a configuration is not supported, or None."""
    kind = str(config.get("model_type"))
    if unknown := sorted(set(map(str, config.get("layer_types") or ())) - ATTENTION):
        return f"it has layers of the types {', '.join(unknown)}, which are not plain attention"
    if kind not in PROVEN:
        return WHY.get(kind, f"its model_type is {kind}, which no test here covers")
    if config.get("is_encoder_decoder"):
        return "it is an encoder and a decoder"
    if ropes := sorted(_ropes(config) - ROPES):
        return f"its rotary embedding ({', '.join(ropes)}) depends on the length of the sequence"
    if config.get("use_bidirectional_attention"):
        return "its tokens attend to later ones (use_bidirectional_attention)"
    sizes = ("num_attention_heads", "num_key_value_heads", "head_dim")
    if per_layer := [size for size in sizes if isinstance(config.get(size), (list, dict))]:
        return f"{', '.join(per_layer)} differs from layer to layer"
    return None


def _ropes(config: Mapping[str, Any]) -> set[str]:
    """The types of the rotary embedding. A configuration may have one for each type of layer."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    parts = [part for part in rope.values() if isinstance(part, Mapping)] or [rope]
    return {str(part.get("rope_type") or part.get("type") or "default") for part in parts}


def _dropout(config: Mapping[str, Any]) -> list[str]:
    """Options that would make training random, such as ``attention_dropout=0.1``."""
    return [
        f"{key}={value}"
        for key, value in sorted(config.items())
        if re.search(r"drop|jitter", key) and not key.startswith(("classifier", "summary"))
        if isinstance(value, (int, float)) and value > 0
    ]
