"""Checkpoints are Hugging Face folders. They are written aside and renamed, so they are never
half written."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from algorithms.engine.adapters import base_folder, is_adapter, saves_adapter_only, with_adapter
from algorithms.engine.supported import check_folder
from swe_gym_env.disk import room_for
from swe_gym_env.errors import SetupError

RETRAIN = (
    "If it is the checkpoint of a round, it can be trained again from the round's episodes: delete "
    "train.done beside that folder and give the same command again."
)


def device() -> torch.device:
    """The GPU of this process if there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def load_model(
    folder: str | Path, dtype: torch.dtype | str = torch.bfloat16, place: str | None = None
) -> Any:
    """Load a causal language model from a local folder; nothing is ever downloaded.

    Args:
        folder: A Hugging Face folder, or an adapter folder. An adapter is loaded as PEFT's model
            around its base, ready to be trained further.
        dtype: Precision of the weights.
        place: Device to load to; None for :func:`device`.

    Raises:
        SetupError: The folder is no model, its weights are missing or damaged, or its log-probs
            would differ between sampler and trainer (``supported.py``).
    """
    from transformers import AutoModelForCausalLM

    _check_is_model(folder)
    check_folder(base_folder(folder))
    for part in (folder, base_folder(folder)):
        _check_weights(Path(part))
    try:
        with quiet():
            model: Any = AutoModelForCausalLM.from_pretrained(
                str(base_folder(folder).absolute()),
                dtype=dtype,
                local_files_only=True,
                attn_implementation="sdpa",
            )
        if is_adapter(folder):
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    except SafetensorError as error:
        raise SetupError(f"the weights in {folder} cannot be read ({error}). {RETRAIN}") from error
    return model.to(place or device())


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a local folder."""
    from transformers import AutoTokenizer

    _check_is_model(folder)
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def save_checkpoint(model: Any, tokenizer: Any, folder: str | Path) -> Path:
    """Write ``folder`` completely or not at all; an older one is replaced.

    Of a model with an adapter, only the adapter is written. If its base model was not loaded from a
    folder, so that the adapter could not name it, the adapter is merged into the weights.
    """
    folder = Path(folder)
    # There is one writer per folder, so this can only be what a killed process left.
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with room_for(folder), quiet():
            temporary.mkdir(parents=True)
            if saves_adapter_only(model):
                # The config of the base lets readers see the model type without opening the base.
                model.config.save_pretrained(str(temporary))
                model.generation_config.save_pretrained(str(temporary))
            else:
                model = with_adapter(model, 0, 0)
            model.save_pretrained(str(temporary), safe_serialization=True)
            tokenizer.save_pretrained(str(temporary))
            publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def publish(temporary: Path, folder: Path) -> None:
    """Rename ``temporary`` to ``folder``. An older folder is renamed first and deleted last."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _check_is_model(folder: str | Path) -> None:
    if not (Path(folder) / "config.json").is_file():
        raise SetupError(
            f"{folder} is not a Hugging Face model folder (it has no config.json). "
            "Give the path of one, or use the embedded model smollm2-135m."
        )


def _check_weights(folder: Path) -> None:
    """The weights of old rounds are what people delete when a disk is full."""
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise SetupError(
            f"the weights in {folder} are gone (no *.safetensors): put them back. {RETRAIN}"
        )


class quiet:  # noqa: N801  (reads as a word in a with statement)
    """Hide the loading bars of transformers while our own display shows progress."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._was_on = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        if self._was_on:
            logging.enable_progress_bar()
