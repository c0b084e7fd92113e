"""Which models give the same log-probs in the sampler, the scorer and the trainer.

They see a conversation in three ways (a cache of rows, a packed token tree, transformers' own
forward), and a difference between them is silent: every importance ratio is then wrong. So a model
type is accepted where ``tests/algorithms/test_supported.py`` compares the three, and nothing else
is. All of this reads a configuration and imports no torch, so that it can be asked before a run.
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
# Layers that look at earlier tokens by attention alone; anything else carries a state along.
ATTENTION = {"full_attention", "sliding_attention"}
# Rotations that depend on the position alone. "dynamic" and "longrope" depend on the length of the
# sequence too: keys that were cached early are rotated otherwise than in one long forward pass.
ROPES = {"default", "linear", "llama3", "yarn"}
# Why the common types that are not accepted are not
WHY = {
    "bloom": "it does not let its attention be replaced (ALiBi)",
    "falcon": "it does not let its attention be replaced",
    "gemma2": "its attention caps its scores (softcap)",
    "gemma3": "it reads images too; take the text model alone (gemma3_text)",
    "gpt_oss": "its attention has sinks (s_aux)",
    "llama4": "its attention works in chunks (chunked_attention)",
    "llama4_text": "its attention works in chunks (chunked_attention)",
    "mamba": "its layers carry recurrent states",
    "mamba2": "its layers carry recurrent states",
    "deepseek_v2": "its attention caches keys and values of different sizes (MLA)",
    "deepseek_v3": "its attention caches keys and values of different sizes (MLA)",
}


def check_config(config: Mapping[str, Any], name: str) -> None:
    """Raises SetupError unless ``config``, the content of a config.json, is of a model that can be
    sampled and scored exactly. ``name`` says which model it is."""
    if why := _obstacle(config):
        raise SetupError(
            f"{name} cannot be used here, since nothing shows that its sampler and its trainer "
            f"give equal log-probs: {why}. Model types that can: {', '.join(sorted(PROVEN))}."
        )


def check_student(config: Mapping[str, Any], name: str) -> None:
    """Likewise of a model that is to be trained: one with dropout is refused too."""
    check_config(config, name)
    if drops := _drops(config):
        raise SetupError(
            f"{name} cannot be trained here: {', '.join(drops)} would make the trainer's log-probs "
            f"differ from the sampler's. Set {'it' if len(drops) == 1 else 'them'} to 0 in its "
            "config.json."
        )


def check_folder(folder: str | Path, trained: bool = False) -> None:
    """Likewise of the model in ``folder``; one whose config.json cannot be read is refused."""
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SetupError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise SetupError(f"{path} holds no JSON object")
    (check_student if trained else check_config)(config, str(folder))


def layer_windows(config: Any) -> list[int | None]:
    """Of each layer of a text configuration: how many tokens it sees, itself included, or None for
    all. A layer that is said to have a window of unknown size has 0."""
    window = getattr(config, "sliding_window", None)
    plain = "sliding_attention" if window else "full_attention"
    kinds = getattr(config, "layer_types", None) or [plain] * config.num_hidden_layers
    return [window or 0 if kind == "sliding_attention" else None for kind in kinds]


def _obstacle(config: Mapping[str, Any]) -> str | None:
    kind = str(config.get("model_type"))
    if strange := sorted(set(map(str, config.get("layer_types") or ())) - ATTENTION):
        return f"it has layers of the types {', '.join(strange)}, which are no plain attention"
    if kind not in PROVEN:
        return WHY.get(kind, f"its model_type is {kind}, which no test here covers")
    if config.get("is_encoder_decoder"):
        return "it is an encoder and a decoder"
    if ropes := sorted(_ropes(config) - ROPES):
        return f"its rotary embedding ({', '.join(ropes)}) depends on the length of the sequence"
    if config.get("use_bidirectional_attention"):
        return "its tokens see later ones (use_bidirectional_attention)"
    sizes = ("num_attention_heads", "num_key_value_heads", "head_dim")
    if per_layer := [size for size in sizes if isinstance(config.get(size), (list, dict))]:
        return f"{', '.join(per_layer)} differs from layer to layer"
    return None


def _ropes(config: Mapping[str, Any]) -> set[str]:
    """The types of its rotary embedding, which may be given for each type of layer apart."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    each = [part for part in given.values() if isinstance(part, Mapping)] or [given]
    return {str(part.get("rope_type") or part.get("type") or "default") for part in each}


def _drops(config: Mapping[str, Any]) -> list[str]:
    """What would draw random numbers in training, such as ``attention_dropout=0.1``."""
    return [
        f"{key}={value}"
        for key, value in sorted(config.items())
        if re.search(r"drop|jitter", key) and not key.startswith(("classifier", "summary"))
        if isinstance(value, (int, float)) and value > 0
    ]
