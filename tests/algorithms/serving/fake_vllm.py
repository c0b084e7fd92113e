"""A server with vLLM's routes and no model: every turn is the number in the folder it serves.

Like the real one it has a second process that would outlive it. A turn takes ``FAKE_SECONDS``
and is answered with the weights that are loaded at its end. A prompt that exceeds ``FAKE_LIMIT``
tokens with its turn is refused with a message that no client knows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

END = 100  # <|im_end|> of the tiny tokenizer
LIMIT = {"max_model_len": int(os.environ["FAKE_LIMIT"])} if "FAKE_LIMIT" in os.environ else {}


class State:
    folder = Path()
    version = "default"
    adapters: dict[str, Path] = {}  # noqa: RUF012
    bodies: list[dict[str, Any]] = []  # noqa: RUF012


def number(folder: Path) -> int:
    return int((folder / "number").read_text())


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        names = ("student", *State.adapters)
        routes: dict[str, Any] = {
            "/health": {},
            "/weight_info": {"weight_version": State.version},
            "/v1/models": {"data": [{"id": name, **LIMIT} for name in names]},
            "/asked": State.bodies,
        }
        self._send(200, routes[self.path])

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or "{}")
        if self.path == "/v1/completions":
            self._complete(body)
            return
        if self.path == "/v1/load_lora_adapter":
            State.adapters[body["lora_name"]] = Path(body["lora_path"])
        elif self.path == "/v1/unload_lora_adapter":
            State.adapters.pop(body["lora_name"])
        elif self.path == "/collective_rpc":
            time.sleep(0.2)
            State.folder = Path(body["kwargs"]["weights_path"])
        elif self.path == "/update_weight_version":
            State.version = body["new_version"]
        self._send(200, {"success": True})

    def _complete(self, body: dict[str, Any]) -> None:
        State.bodies.append(body)
        name = body["model"]
        folder = State.adapters.get(name)
        if name != "student" and folder is None:
            self._send(404, {"error": f"The model {name} does not exist."})
            return
        if LIMIT and len(body["prompt"]) + body["max_tokens"] > LIMIT["max_model_len"]:
            self._send(400, {"error": "nein"})
            return
        time.sleep(float(os.environ.get("FAKE_SECONDS", 0)))
        ids = [number(folder or State.folder), END]
        choice = {
            "token_ids": ids,
            "logprobs": {"token_logprobs": [-0.5] * len(ids)},
            "finish_reason": "stop",
        }
        self._send(200, {"choices": [choice]})

    def _send(self, status: int, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


def main() -> None:
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
    if os.environ.get("FAKE_DIES"):
        sys.exit("RuntimeError: no memory is left\nfurther words")
    State.folder = Path(options["--model"])
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    ThreadingHTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()


if __name__ == "__main__":
    main()
