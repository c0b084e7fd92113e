"""Which weights a server answers with, and how they are loaded: from disk, by vLLM's own routes.

Each adapter is loaded under another name, so each request names the version that it wants, and
an adapter that was unloaded cannot answer. Full weights are read into the running server, which
stores a version string that is compared when turns are asked for.
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

BASE = "student"  # model name of full weights, of whatever version, and of the base of adapters
PREFIX = f"{BASE}-"  # model names of adapters begin with it


@dataclass(frozen=True)
class Version:
    """The weights in a folder at one time.

    Attributes:
        folder: The checkpoint.
        digest: Identifies the content. A folder that is written again gets another digest.
    """

    folder: Path
    digest: str

    @classmethod
    def of(cls, folder: Path) -> Version:
        """The version that is in ``folder`` now, by size and time of its weight files."""
        files = sorted(folder.glob("*.safetensors"))
        stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        digest = hashlib.sha256(repr([str(folder.absolute()), stats]).encode()).hexdigest()
        return cls(folder.absolute(), digest[:12])

    @property
    def model(self) -> str:
        """The model name for requests."""
        return PREFIX + self.digest if is_adapter(self.folder) else BASE

    @property
    def base(self) -> Path:
        """Folder of the full weights that a server starts with to serve this version."""
        return base_folder(self.folder)

    @property
    def ties_head(self) -> bool:
        """Whether the output layer shares its weights with the embedding.

        vLLM's CPU kernels keep a packed copy of such an output layer, which stays unchanged when
        new weights are read into a running server. The server must then be restarted.
        """
        config = json.loads((self.base / "config.json").read_text())
        return bool(config.get("tie_word_embeddings", True))


class Routes:
    """vLLM's administrative routes.

    Args:
        client: The HTTP client.
        timeout: Seconds that loading weights may take.
    """

    def __init__(self, client: httpx.Client, timeout: float = 600.0) -> None:
        self._client, self._timeout = client, timeout

    def switch(self, server: Server, version: Version) -> None:
        """Make a healthy server serve ``version`` and no other adapter.

        Raises:
            PolicyError: The server refused; the message has its answer.
            httpx.HTTPError: The server did not answer.
        """
        base = Version.of(version.base)
        if not self.serves(server, base):
            self._reload(server, base)
        if is_adapter(version.folder):
            self._load_adapter(server, version)
        self._unload_adapters(server, keep=version.model)

    def serves(self, server: Server, version: Version) -> bool:
        """Whether the full weights in the server are those of ``version``."""
        return bool(self._get(server, "weight_info")["weight_version"] == version.digest)

    def set_version(self, server: Server, version: Version) -> None:
        """Record that the full weights in the server are those of ``version``."""
        self._post(server, "update_weight_version", {"new_version": version.digest})

    def _load_adapter(self, server: Server, version: Version) -> None:
        if version.model not in self._served(server):
            body = {"lora_name": version.model, "lora_path": str(version.folder)}
            self._post(server, "v1/load_lora_adapter", body)

    def _unload_adapters(self, server: Server, keep: str) -> None:
        """Unload all but one adapter, once that one is loaded.

        vLLM finishes turns under way with the adapter that they began with.
        """
        for name in self._served(server):
            if name.startswith(PREFIX) and name != keep:
                self._post(server, "v1/unload_lora_adapter", {"lora_name": name})

    def _reload(self, server: Server, version: Version) -> None:
        """Read full weights into the running server.

        The version string is invalid meanwhile and set last, so a server that fails on the way
        never claims weights that it does not have.
        """
        call = {"method": "reload_weights", "kwargs": {"weights_path": str(version.folder)}}
        self._post(server, "update_weight_version", {"new_version": "changing"})
        self._post(server, "collective_rpc", call)
        # Cached keys and values of the old weights must go; this fails while requests still run.
        for _ in range(20):
            if self._post(server, "reset_prefix_cache", None).json()["success"]:
                break
            time.sleep(0.5)
        else:
            raise PolicyError(f"{server.url} does not clear the prefix cache of older weights")
        self.set_version(server, version)

    def _served(self, server: Server) -> list[str]:
        return [str(row["id"]) for row in self._get(server, "v1/models")["data"]]

    def _get(self, server: Server, route: str) -> Any:
        return _checked(self._client.get(f"{server.url}/{route}", timeout=30.0)).json()

    def _post(self, server: Server, route: str, body: Mapping[str, Any] | None) -> httpx.Response:
        url = f"{server.url}/{route}"
        return _checked(self._client.post(url, json=body, timeout=self._timeout))


def _checked(answer: httpx.Response) -> httpx.Response:
    """The answer itself; PolicyError unless it is a success."""
    if answer.status_code == 404:
        raise PolicyError(
            f"{answer.url} does not exist: start the server with VLLM_SERVER_DEV_MODE=1 and, for "
            "adapters, VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora"
        )
    if answer.status_code != 200:
        raise PolicyError(f"{answer.url}: HTTP {answer.status_code}: {answer.text[:300]}")
    return answer
