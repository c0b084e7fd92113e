"""Checkpoints are plain Hugging Face folders, written aside and renamed: there or not there."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from algorithms.engine.adapters import base_of, is_adapter, saved_alone, with_adapter
from algorithms.engine.supported import check_folder
from swe_gym_env.disk import room_for
from swe_gym_env.errors import SetupError

AGAIN = (
    "Those of a round of a run are made again from its episodes, by the same command, once "
    "train.done beside that folder is deleted."
)


def device() -> torch.device:
    """This process's GPU where there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def load_model(
    folder: str | Path, dtype: torch.dtype | str = torch.bfloat16, place: str | None = None
) -> Any:
    """A causal language model from a local folder, on ``place``, by default :func:`device`; nothing
    is ever fetched. An adapter comes as PEFT's model around its base, ready to be trained on.
    SetupError where its log-probs would not be the same everywhere (``supported.py``)."""
    from transformers import AutoModelForCausalLM

    _check(folder)
    check_folder(base_of(folder))
    for part in (folder, base_of(folder)):
        _check_weights(Path(part))
    try:
        with quiet():
            model: Any = AutoModelForCausalLM.from_pretrained(
                str(base_of(folder).absolute()),
                dtype=dtype,
                local_files_only=True,
                attn_implementation="sdpa",
            )
        if is_adapter(folder):
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    except SafetensorError as error:
        raise SetupError(f"the weights in {folder} cannot be read ({error}). {AGAIN}") from error
    return model.to(place or device())


def load_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a local folder."""
    from transformers import AutoTokenizer

    _check(folder)
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def save_checkpoint(model: Any, tokenizer: Any, folder: str | Path) -> Path:
    """Write ``folder`` whole or not at all; an older one is replaced. Of a model with an adapter
    only that is written; it is merged where its base came from no folder that could be named."""
    folder = Path(folder)
    aside = folder.with_name(f".{folder.name}.tmp")  # one writer: what a kill left goes now
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with room_for(folder), quiet():
            aside.mkdir(parents=True)
            if saved_alone(model):
                model.config.save_pretrained(str(aside))  # the base's, so that the family is known
                model.generation_config.save_pretrained(str(aside))
            else:
                model = with_adapter(model, 0, 0)
            model.save_pretrained(str(aside), safe_serialization=True)
            tokenizer.save_pretrained(str(aside))
            publish(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def publish(aside: Path, folder: Path) -> None:
    """Rename ``aside`` to ``folder``; what stood there is moved away first, then deleted."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.rename(old)
    aside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _check(folder: str | Path) -> None:
    if not (Path(folder) / "config.json").is_file():
        raise SetupError(
            f"{folder} is no Hugging Face model folder (no config.json). "
            "Give the path of one, or use the embedded model smollm2-135m."
        )


def _check_weights(folder: Path) -> None:
    """Those of old rounds are what one deletes when the disk is full."""
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise SetupError(
            f"the weights in {folder} are gone (no *.safetensors): put them back. {AGAIN}"
        )


class quiet:  # noqa: N801  (reads as a word in a with statement)
    """Hide the loading bars of transformers: ours say what is going on."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._was_on = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        if self._was_on:
            logging.enable_progress_bar()
