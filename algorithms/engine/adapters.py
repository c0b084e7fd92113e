"""Checkpoints of adapters: a few megabytes beside a base model that never changes.

Such a folder is PEFT's own (``adapter_config.json`` names the base folder), so that a server can
load it as it lies, with a tokenizer and the base's ``config.json`` beside it. The adapter is kept
apart from the weights wherever it is used: merging rounds every weight again, and then the model
that samples is not the one that is trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swe_gym_env.errors import SetupError

CONFIG = "adapter_config.json"


def is_adapter(folder: str | Path) -> bool:
    return (Path(folder) / CONFIG).is_file()


def base_of(folder: str | Path) -> Path:
    """The whole weights below the checkpoint in ``folder``: its own, unless it is an adapter.
    SetupError where an adapter's base is gone."""
    if not is_adapter(folder):
        return Path(folder)
    base = json.loads((Path(folder) / CONFIG).read_text())["base_model_name_or_path"] or ""
    if not (Path(base) / "config.json").is_file():
        raise SetupError(
            f"{folder} is an adapter of the model in {base or 'no folder'}, which is not there: "
            f"put it back, or write its new place into base_model_name_or_path of {CONFIG}."
        )
    return Path(base)


def plain(model: Any) -> Any:
    """``model`` as transformers knows it; adapters stay in its layers."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def saved_alone(model: Any) -> bool:
    """Whether a checkpoint of ``model`` is its adapter: the base lies in a folder with a name."""
    return hasattr(model, "peft_config") and bool(plain(model).name_or_path)


def with_adapter(model: Any, rank: int, seed: int) -> Any:
    """For training: the adapter that the checkpoint brought, else a new one that changes nothing
    yet. ``rank`` 0 wants none: one that is there becomes part of the weights."""
    if not hasattr(model, "peft_config"):
        return _new(model, rank, seed) if rank else model
    if not rank:
        return model.merge_and_unload()
    (config,) = model.peft_config.values()
    if config.r != rank:
        raise SetupError(
            f"training.lora_rank={rank}, but the adapter that training goes on with has rank "
            f"{config.r}: give that, or begin from a checkpoint of whole weights."
        )
    return model


def _new(model: Any, rank: int, seed: int) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng():  # the same adapters in every process and every run
        torch.manual_seed(seed)
        return get_peft_model(model, config)
