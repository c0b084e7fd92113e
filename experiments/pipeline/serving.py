"""Who serves the student: from the section ``serving`` of the configuration to servers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from algorithms.engine.adapters import CONFIG, is_adapter
from swe_gym_env.errors import SetupError

if TYPE_CHECKING:
    from algorithms.engine.rendering import Renderer
    from algorithms.serving.fleet import Fleet
    from algorithms.serving.server import Server
    from algorithms.serving.vllm_policy import VLLMPolicy

# Ranks that vLLM has memory laid out for
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
PROCESSED = "processed_logprobs"
START_TIMEOUT = 900.0  # seconds that the start of a server may take
ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",  # the routes that change weights
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def fleet(cfg: DictConfig, options: Callable[[], list[str]]) -> Fleet:
    """The servers of the student; none is started yet. ``options`` gives vLLM's, where the run
    starts its own (:func:`arguments`)."""
    from algorithms.serving.fleet import Fleet
    from algorithms.serving.server import Server

    serving = cfg.serving
    servers = [Server(url=url.rstrip("/").removesuffix("/v1")) for url in serving.urls or ()]
    if not servers:
        given = options()
        servers = [_launched(cfg, given, index) for index in range(serving.server.replicas)]
    return Fleet(servers, timeout=serving.timeout, concurrency=serving.concurrency)


def student(
    fleet: Fleet, renderer: Renderer, folder: Path, max_context: int, **sampling: Any
) -> VLLMPolicy:
    """Asks for the checkpoint in ``folder``, once it is published."""
    from algorithms.serving.vllm_policy import VLLMPolicy
    from algorithms.serving.weights import Version

    version = Version.of(folder)
    ends = _stop_ids(version.base) | {renderer.end_id}
    return VLLMPolicy(fleet, version, renderer, sorted(ends), max_context=max_context, **sampling)


def missing(cfg: DictConfig) -> str | None:
    """What stands in the way of ``serving=vllm``, found out in seconds."""
    if cfg.serving.name != "vllm":
        return None
    if cfg.serving.urls:
        silent = [url for url in cfg.serving.urls if not _answers(url)]
        if silent:
            return f"serving: no model server answers at {', '.join(silent)}"
        return _untempered(cfg)
    python = cfg.serving.server.python
    if python and _imports_vllm(str(python)):
        return None
    found = f"{python} cannot import it" if python else "serving.server.python names none"
    return (
        f"serving: vLLM needs a separate environment, and {found}; make one "
        "(docs/guides/scale.md) and give serving.server.python=VENV/bin/python, or the URLs of "
        "running servers as serving.urls=[...], or take serving=hf"
    )


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(f"{url.rstrip('/').removesuffix('/v1')}/health", timeout=3.0).is_success
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


def _untempered(cfg: DictConfig) -> str | None:
    """Whether a method whose log-probs must be those at its own temperature would get others."""
    if cfg.algorithm.get("temperature", 1.0) == 1:
        return None
    raw = [url for url in cfg.serving.urls if _logprobs_mode(url) not in (None, PROCESSED)]
    if not raw:
        return None
    return (
        f"serving: {', '.join(raw)} gives log-probs at temperature 1, and algorithm="
        f"{cfg.algorithm.name} needs those of algorithm.temperature={cfg.algorithm.temperature}: "
        f"start it with --logprobs-mode {PROCESSED}"
    )


def _logprobs_mode(url: str) -> str | None:
    """None where the server does not report it (it does with VLLM_SERVER_DEV_MODE=1)."""
    import httpx

    where = f"{url.rstrip('/').removesuffix('/v1')}/server_info"
    try:
        answer = httpx.get(where, params={"config_format": "json"}, timeout=3.0)
        if not answer.is_success:
            return None
        return str(answer.json()["vllm_config"]["model_config"]["logprobs_mode"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return None


def _imports_vllm(python: str) -> bool:
    look = "import sys, importlib.util as u; sys.exit(u.find_spec('vllm') is None)"
    try:
        return subprocess.run([python, "-c", look], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _launched(cfg: DictConfig, options: list[str], index: int) -> Server:
    from algorithms.serving.server import Launch, Server

    server = cfg.serving.server
    gpus = ",".join(
        _gpus(server)[index * server.tensor_parallel : (index + 1) * server.tensor_parallel]
    )
    return Server(
        launch=Launch(
            command=[str(server.python), "-m", "vllm.entrypoints.openai.api_server"],
            arguments=options,
            environment={
                **ENVIRONMENT,
                "CUDA_VISIBLE_DEVICES": gpus,
                **{str(name): str(value) for name, value in (server.environment or {}).items()},
            },
            log=Path(cfg.paths.runs).absolute() / "serving" / f"{os.getpid()}-{index}.log",
            restarts=server.restarts,
            start_timeout=START_TIMEOUT,
        )
    )


def arguments(cfg: DictConfig, precision: str, start: Path) -> list[str]:
    """All of vLLM's options but the model and the place. ``start`` is the untrained student."""
    from algorithms.serving.weights import BASE

    server = cfg.serving.server
    options: dict[str, Any] = {
        "served_model_name": BASE,
        "dtype": precision,
        "max_model_len": cfg.serving.max_context,
        "tensor_parallel_size": server.tensor_parallel,
        "gpu_memory_utilization": server.memory_share,
        "enable_prefix_caching": True,
        "logprobs_mode": PROCESSED,  # of the distribution that tokens are drawn from
        "generation_config": "vllm",  # no sampling settings but those of each request
        "disable_uvicorn_access_log": True,
    }
    if rank := _rank(cfg, start):
        room = next((one for one in RANKS if one >= rank), rank)
        options |= {"enable_lora": True, "max_lora_rank": room}
        options |= {"max_loras": 2, "max_cpu_loras": 2}  # the old one's last turns, and the new one
    options |= {str(name): value for name, value in (server.arguments or {}).items()}
    flags: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        flags += [flag] if value is True else [] if value is False else [flag, str(value)]
    return flags


def _rank(cfg: DictConfig, start: Path) -> int:
    """Of the adapters that will be served; 0: whole weights."""
    if is_adapter(start):
        return int(json.loads((start / CONFIG).read_text())["r"])
    return int(cfg.training.lora_rank)


def _gpus(server: DictConfig) -> list[str]:
    needed = server.replicas * server.tensor_parallel
    if server.gpus is not None:
        given = [str(gpu) for gpu in server.gpus]
    else:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        given = [gpu for gpu in seen.split(",") if gpu] or [str(gpu) for gpu in range(needed)]
    if len(given) < needed:
        raise SetupError(
            f"serving.server: {server.replicas} replicas of {server.tensor_parallel} GPUs each "
            f"need {needed}, and there are {len(given)} ({', '.join(given) or 'none'})"
        )
    return given


def _stop_ids(folder: Path) -> set[int]:
    """What the model's own generation settings end a turn with."""
    try:
        ids = json.loads((folder / "generation_config.json").read_text()).get("eos_token_id")
    except FileNotFoundError:
        return set()
    return set(ids if isinstance(ids, list) else [] if ids is None else [ids])
