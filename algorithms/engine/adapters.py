"""LoRA adapters: checkpoints of a few megabytes beside a base model that never changes.

An adapter folder has PEFT's format (``adapter_config.json`` names the folder of the base model), so
a server can load it directly; a tokenizer and the base's ``config.json`` are stored beside it. An
adapter is kept apart from the base weights wherever it is used. Merging would round every weight
again, and then the model that samples would not be the model that is trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swe_gym_env.errors import SetupError

CONFIG = "adapter_config.json"


def is_adapter(folder: str | Path) -> bool:
    """Whether the checkpoint in ``folder`` is an adapter."""
    return (Path(folder) / CONFIG).is_file()


def base_folder(folder: str | Path) -> Path:
    """Folder of the full weights of a checkpoint: ``folder`` itself unless it is an adapter.

    Raises:
        SetupError: The base model of an adapter does not exist.
    """
    if not is_adapter(folder):
        return Path(folder)
    base = json.loads((Path(folder) / CONFIG).read_text())["base_model_name_or_path"] or ""
    if not (Path(base) / "config.json").is_file():
        raise SetupError(
            f"{folder} is an adapter of the model in {base or 'no folder'}, which does not exist: "
            f"put it back, or write its new path into base_model_name_or_path of {CONFIG}."
        )
    return Path(base)


def unwrap_adapter(model: Any) -> Any:
    """The transformers model inside PEFT's wrapper; the adapter stays active in its layers."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def saves_adapter_only(model: Any) -> bool:
    """Whether a checkpoint of ``model`` is its adapter alone.

    That needs a base model that was loaded from a folder, which the adapter can name.
    """
    return hasattr(model, "peft_config") and bool(unwrap_adapter(model).name_or_path)


def with_adapter(model: Any, rank: int, seed: int) -> Any:
    """The model to train.

    Args:
        model: A model, possibly with the adapter that its checkpoint has.
        rank: Rank of the adapter to train. An existing adapter is trained on; a new one changes
            nothing at first. 0 means no adapter: an existing one is merged into the weights.
        seed: Seed of a new adapter, so that it is the same in every process and every run.

    Raises:
        SetupError: The existing adapter has another rank.
    """
    if not hasattr(model, "peft_config"):
        return _new_adapter(model, rank, seed) if rank else model
    if not rank:
        return model.merge_and_unload()
    (config,) = model.peft_config.values()
    if config.r != rank:
        raise SetupError(
            f"training.lora_rank={rank}, but the adapter that training continues from has rank "
            f"{config.r}: set training.lora_rank={config.r}, or start from full weights."
        )
    return model


def _new_adapter(model: Any, rank: int, seed: int) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)
