"""A teacher behind HTTP that knows the repair and fails in every way that servers do."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.toy_tasks import FINISH, FIX, LOOK

FAULTS = ("500", "429", "timeout", "torn", "garbage", "empty", "malformed")
STUBBORN = 0.15  # share of the states in which every try fails


class FaultyTeacher:
    """``share`` of the answers are faults, by a seed and the request, whatever the order."""

    def __init__(self, share: float) -> None:
        self.share, self.url = share, ""
        self.sent: Counter[str] = Counter()
        self._tries: Counter[int] = Counter()
        self._lock = threading.Lock()

    def fault(self, seed: int) -> str:
        with self._lock:
            self._tries[seed] += 1
            tried = self._tries[seed]
            stubborn = self.share and random.Random(seed).random() < STUBBORN
            rng = random.Random(f"{seed}/{tried}")
            kind = rng.choice(FAULTS) if stubborn or rng.random() < self.share else "answer"
            self.sent[kind] += 1
            return kind

    @staticmethod
    def words(messages: list[dict[str, str]]) -> str:
        output = [m["content"] for m in messages if m["role"] == "assistant"]
        if any("a + b" in one for one in output):
            return FINISH
        return FIX if any("cat calc.py" in one for one in output) else LOOK


@contextmanager
def served(teacher: FaultyTeacher) -> Iterator[FaultyTeacher]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"data": [{"id": "teacher"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            kind = teacher.fault(body["seed"])
            if kind == "torn":
                self.connection.close()
            elif kind == "500":
                self._send(500, {"error": "out of luck"})
            elif kind == "429":
                self._send(429, {"error": "slower, please"}, ("Retry-After", "1"))
            elif kind == "garbage":
                self._send(200, "<html>not what you asked for")
            else:
                if kind == "timeout":
                    time.sleep(3.0)
                text = {"empty": None, "malformed": "```python\nprint(1)"}.get(
                    kind, teacher.words(body["messages"])
                )
                self._send(200, {"choices": [{"message": {"content": text}}]})

        def _send(self, status: int, output: object, header: tuple[str, str] = ("X", "-")) -> None:
            content = (output if isinstance(output, str) else json.dumps(output)).encode()
            try:
                self.send_response(status)
                self.send_header(*header)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                pass  # the client has gone

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    teacher.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield teacher
    server.shutdown()
    server.server_close()
