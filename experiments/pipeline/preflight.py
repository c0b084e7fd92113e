"""Says within seconds what a configuration lacks on this machine, before anything heavy starts.

Imports no torch: asking nvidia-smi takes a moment, importing torch takes many. Everything that is
missing is listed at once, with the nearest thing that does run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from algorithms.engine.supported import check_folder
from experiments.config import values
from experiments.pipeline import precision, serving
from experiments.runs.folders import runs
from swe_gym_env.disk import unwritable
from swe_gym_env.errors import SetupError
from swe_gym_env.paths import home

NEAREST = (
    "The nearest thing that runs here: python -m experiments.run\n"
    "(SmolLM2-135M, the built-in expert as teacher, bugs put into PyPI packages, no GPU, no Docker)"
)

HUB_URL = "https://huggingface.co"
EMBEDDED = "smollm2"  # as in algorithms/engine/models.py, which imports torch


def check(cfg: DictConfig, trains: bool = True) -> None:
    """Raises SetupError with everything that is missing. ``trains``: the student is not only
    measured, so its model must be one that can be trained here, with any serving."""
    _check_values(cfg)
    student = partial(_model, trained=trains)
    asked = (_folders, _gpus, _tasks, _sandbox, _teacher, student, serving.missing)
    found = [missing for ask in asked if (missing := ask(cfg))]
    if found:
        lines = "\n".join(f"  - {one}" for one in found)
        what = f"model={cfg.model.name} tasks={cfg.tasks.name}"
        raise SetupError(f"{what} cannot run on this machine yet:\n{lines}\n{NEAREST}")


def _check_values(cfg: DictConfig) -> None:
    """SetupError where a value has not been given, or is one that cannot be."""
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise SetupError(f"give {', '.join(f'{key}=...' for key in missing)}: there is no default")
    values.check(cfg)
    precision.check(cfg)


def check_teacher(cfg: DictConfig) -> None:
    """Raises SetupError where the teacher cannot be asked."""
    precision.check(cfg)
    if missing := _teacher(cfg):
        raise SetupError(missing)


def _folders(cfg: DictConfig) -> str | None:
    """Where the run is kept, and where what can be made again is."""
    if problem := unwritable(runs(cfg)):
        return f"paths.runs={cfg.paths.runs}: {problem}; give another folder"
    if not home().is_dir() and (problem := unwritable(home())):
        return f"SWE_GYM_HOME={home()}: {problem}; give another folder"
    return None


def _gpus(cfg: DictConfig) -> str | None:
    needs = cfg.model.requires
    if not needs.gpus:
        return None
    here = gpu_gigabytes()
    enough = [size for size in here if size >= 0.9 * needs.gpu_gb]
    if len(enough) >= needs.gpus:
        return None
    have = f"{len(here)} with {', '.join(f'{size:.0f}' for size in here)} GB" if here else "none"
    return f"GPU: {cfg.model.path} needs {needs.gpus} with {needs.gpu_gb} GB each; found {have}"


def gpu_gigabytes() -> list[float]:
    """Memory of each NVIDIA GPU. AMD and others are not looked for."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [float(line) / 1024 for line in answer.stdout.split("\n") if line.strip().isdigit()]


def _tasks(cfg: DictConfig) -> str | None:
    from swe_gym_env import tasks

    if cfg.tasks.name not in tasks.names():
        return (
            f"tasks: there is no source {cfg.tasks.name} (there are {', '.join(tasks.names())}); "
            "rows in swebench's columns can be given with tasks=jsonl"
        )
    rows = cfg.tasks.options.get("path")
    if rows and not Path(rows).exists():
        return f"tasks: tasks.options.path={rows} is not there"
    try:
        hub = tasks.hub(cfg.tasks.name)
    except SetupError as error:
        return f"tasks: {error}"
    if hub is None or rows or _cached(hub) or _answers(HUB_URL):
        return None
    return (
        f"tasks: the rows of {cfg.tasks.name} come from {HUB_URL}/datasets/{hub}, which does not "
        "answer; fetch them elsewhere and give the file or folder as tasks.options.path"
    )


def _cached(hub: str) -> bool:
    root = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(root) / "hub")
    return (cache / f"datasets--{hub.replace('/', '--')}").is_dir()


def _answers(url: str) -> bool:
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        return False
    try:
        urllib.request.urlopen(url, timeout=3)
    except (OSError, ValueError):
        return False
    return True


def _sandbox(cfg: DictConfig) -> str | None:
    from swe_gym_env import sandbox

    try:
        sandbox.provider(cfg.sandbox.name)
    except SetupError as error:
        return f"sandbox: {error}"
    return None


def _teacher(cfg: DictConfig) -> str | None:
    from experiments.pipeline import teachers

    if cfg.teacher.name in teachers.IN_PROCESS:
        try:
            check_folder(teachers.folder(cfg))
        except SetupError as error:
            return f"teacher: {error}"
    if cfg.teacher.name != "server":
        return None
    url = f"{cfg.teacher.base_url.rstrip('/')}/models"
    try:
        urllib.request.urlopen(url, timeout=3)
    except urllib.error.HTTPError:
        return None  # it answers, if only to ask for a key
    except (OSError, ValueError) as error:
        return (
            f"teacher: no server answers at {cfg.teacher.base_url} ({error}); "
            f"start one (vllm serve {cfg.teacher.model}) or give teacher.base_url"
        )
    return None


def _model(cfg: DictConfig, trained: bool) -> str | None:
    for module in ("torch", "transformers"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: pip install -e '.[train]'"
    path = cfg.model.path
    if path != EMBEDDED and not (Path(path) / "config.json").is_file():
        if Path(path).is_absolute():
            return f"model: model.path={path} is no Hugging Face folder: it has no config.json"
        return (
            f"model: {path} is no local Hugging Face folder; fetch it "
            f"(hf download {path} --local-dir FOLDER) and give model.path=FOLDER"
        )
    if path == EMBEDDED or not (trained or cfg.serving.name == "hf"):
        return None
    try:
        check_folder(path, trained)
    except SetupError as error:
        return f"model: {error}"
    return None
