"""Which weights a server answers with, and how they get there: over vLLM's own routes, from disk.

An adapter is loaded under a name of its own, so a request names the version that it wants, and one
that has been unloaded is answered by nobody. Whole weights are read into the running server; it
keeps the version's name, which is compared whenever turns are asked for.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from algorithms.engine.adapters import base_folder, is_adapter
from algorithms.serving.server import Server
from swe_gym_env.errors import PolicyError

BASE = (
    "student"  # what the weights below all adapters are called, and whole weights whatever is new
)
PREFIX = f"{BASE}-"


@dataclass(frozen=True)
class Version:
    """``mark`` tells apart what was written into one folder at different times."""

    folder: Path
    mark: str

    @classmethod
    def of(cls, folder: Path) -> Version:
        files = sorted(folder.glob("*.safetensors"))
        told = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        digest = hashlib.sha256(repr([str(folder.absolute()), told]).encode()).hexdigest()
        return cls(folder.absolute(), digest[:12])

    @property
    def model(self) -> str:
        """The name to ask for."""
        return PREFIX + self.mark if is_adapter(self.folder) else BASE

    @property
    def base(self) -> Path:
        """What a server starts from to serve this."""
        return base_folder(self.folder)

    @property
    def ties_head(self) -> bool:
        """Whether the output layer is the embedding. vLLM's CPU kernels keep a packed copy of it,
        which reading new weights into a running server leaves as it was."""
        config = json.loads((self.base / "config.json").read_text())
        return bool(config.get("tie_word_embeddings", True))


class Routes:
    """vLLM's administrative routes. ``timeout`` in seconds is for loading weights."""

    def __init__(self, client: httpx.Client, timeout: float = 600.0) -> None:
        self._client, self._timeout = client, timeout

    def bring(self, server: Server, version: Version) -> None:
        """Have ``server``, which is healthy, serve ``version`` and no other adapter. PolicyError,
        with its words, if it would not."""
        below = Version.of(version.base)
        if not self.serves(server, below):
            self._reload(server, below)
        if is_adapter(version.folder):
            self._adapter(server, version)
        self._unload(server, keep=version.model)

    def serves(self, server: Server, version: Version) -> bool:
        """Of whole weights: whether those in the server are of ``version``."""
        return bool(self._get(server, "weight_info")["weight_version"] == version.mark)

    def name(self, server: Server, version: Version) -> None:
        """Of a server that was started with the whole weights of ``version``."""
        self._post(server, "update_weight_version", {"new_version": version.mark})

    def _adapter(self, server: Server, version: Version) -> None:
        if version.model not in self._served(server):
            body = {"lora_name": version.model, "lora_path": str(version.folder)}
            self._post(server, "v1/load_lora_adapter", body)

    def _unload(self, server: Server, keep: str) -> None:
        """After the new one is there. Turns under way end with the adapter they began with."""
        for name in self._served(server):
            if name.startswith(PREFIX) and name != keep:
                self._post(server, "v1/unload_lora_adapter", {"lora_name": name})

    def _reload(self, server: Server, version: Version) -> None:
        """The name is changed last: a server that dies on the way has the wrong one."""
        call = {"method": "reload_weights", "kwargs": {"weights_path": str(version.folder)}}
        self._post(server, "update_weight_version", {"new_version": "changing"})
        self._post(server, "collective_rpc", call)
        for _ in range(20):
            if self._post(server, "reset_prefix_cache", None).json()["success"]:
                break
            time.sleep(0.5)
        else:
            raise PolicyError(f"{server.url} does not forget what older weights computed")
        self.name(server, version)

    def _served(self, server: Server) -> list[str]:
        return [str(row["id"]) for row in self._get(server, "v1/models")["data"]]

    def _get(self, server: Server, route: str) -> Any:
        return _good(self._client.get(f"{server.url}/{route}", timeout=30.0)).json()

    def _post(self, server: Server, route: str, body: Mapping[str, Any] | None) -> httpx.Response:
        url = f"{server.url}/{route}"
        return _good(self._client.post(url, json=body, timeout=self._timeout))


def _good(answer: httpx.Response) -> httpx.Response:
    if answer.status_code == 404:
        raise PolicyError(
            f"{answer.url} is not there: start the server with VLLM_SERVER_DEV_MODE=1 and, for "
            "adapters, VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora"
        )
    if answer.status_code != 200:
        raise PolicyError(f"{answer.url}: HTTP {answer.status_code}: {answer.text[:300]}")
    return answer
