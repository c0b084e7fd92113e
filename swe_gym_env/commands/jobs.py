"""Run one job for each of many items in parallel, and store each result as soon as it exists.

A folder has ``results.jsonl`` with one line for each finished job. After a kill at any moment, the
same command repeats only the jobs without a complete line.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from swe_gym_env.errors import SetupError
from swe_gym_env.sandbox.base import SandboxProvider
from swe_gym_env.text import shown
from swe_gym_env.types import Outcome, TaskInstance

Result = dict[str, Any]
Item = TypeVar("Item")

EVERY = 5.0  # seconds between two lines of progress if standard error is not a terminal


class Results:
    """The stored results of a folder. It may be used by several threads.

    For each ``key``, which is a digest of what a result depends on (``identity.py``), and for each
    id, the last complete line counts. A line of an older version has no key and never matches.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "results.jsonl"
        self._lock = threading.Lock()
        self.found: dict[str, Result] = {}
        self.last: dict[str, Result] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            text = self.path.read_bytes().decode(errors="replace") if self.path.exists() else ""
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise SetupError(f"cannot write to {folder}: {error.strerror}") from None
        if text and not text.endswith("\n"):  # a kill has cut the last line
            self._file.write("\n")
        for line in text.split("\n"):
            try:
                result = json.loads(line)
            except ValueError:
                continue
            if isinstance(result, dict) and {"instance_id", "key"} <= result.keys():
                self._remember(result)

    def _remember(self, result: Result) -> None:
        self.found[result["key"]] = self.last[result["instance_id"]] = result

    def of(self, key: str, instance_id: str) -> Result:
        """The result for ``key``, or the last one of the task.

        The key changes if an image appears while the command runs, because it is part of the key.
        """
        return self.found.get(key) or self.last[instance_id]

    def add(self, result: Result) -> None:
        with self._lock:
            self._remember(result)
            self._file.write(json.dumps(result) + "\n")
            self._file.flush()


def run(
    items: Sequence[Item],
    job: Callable[[Item], Result],
    results: Results,
    workers: int,
    word: Callable[[Mapping[str, Any]], str],
) -> None:
    """Run the jobs and store their results.

    Args:
        items: What is passed to ``job``, one after the other.
        job: Returns a result with ``instance_id``. An exception ends the command.
        results: Where results are stored.
        workers: Number of threads.
        word: Under which name a result is counted in the line of progress.
    """
    if not items:
        return
    progress = Progress(len(items))
    pool = ThreadPoolExecutor(workers)
    waiting: set[Future[Result]] = {pool.submit(job, item) for item in items}
    try:
        while waiting:
            done, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                result = future.result()
                results.add(result)
                progress.step(word(result), result["instance_id"])
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def graded(task: TaskInstance, patch: str, sandboxes: SandboxProvider, **options: Any) -> Outcome:
    """As ``grading.grade``, but a SetupError, such as a missing image, concerns this task only."""
    from swe_gym_env.grading import grade

    try:
        return grade(task, patch, sandboxes, **options)
    except SetupError as error:
        return Outcome("infra_error", mask=True, reason=str(error))


class Progress:
    """Progress on standard error: one line that is redrawn on a terminal, else a line at times."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.counts: Counter[str] = Counter()
        self._started = time.monotonic()
        self._last = 0.0
        self._live = sys.stderr.isatty()

    def step(self, word: str, name: str) -> None:
        self.done += 1
        self.counts[word] += 1
        now = time.monotonic()
        last = self.done == self.total
        if not (self._live or last or now - self._last > EVERY):
            return
        self._last = now
        left = (now - self._started) / self.done * (self.total - self.done)
        parts = ", ".join(f"{count} {word}" for word, count in self.counts.most_common())
        text = f"{self.done}/{self.total}  {parts}" + ("" if last else f"  ~{_span(left)} left")
        text = shown(f"{text}  {name}")
        if self._live:
            print(f"\r\x1b[K{text[:150]}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)


def _span(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes >= 1 else f"{seconds:.0f} s"
