"""Whether a model computes in float32 or bfloat16, on one CPU thread or on all: measured.

A CPU with bfloat16 units (AMX, AVX-512 BF16) trains up to four times as fast in bfloat16; one
without them takes more than ten times as long, although it decodes a single row faster. So matrices
of the model's own shapes are multiplied for about a second, as training, prefill and decoding do.

The CPU time of one thread decides the precision, since other programs hardly change it. The numbers
of threads are compared by wall time, as long as nothing else had the processor. The quickest of
some repetitions counts, and near a tie the likelier side wins, so that a busy machine decides as an
idle one does.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import linear

from algorithms.engine.adapters import base_of
from algorithms.engine.checkpoint import device

TOKENS, THREAD_TOKENS = 128, 512  # of one pass; threads need more of them to share out
ROWS = 16  # that are decoded together
PREFILLED, DECODED = 0.6, 0.25  # tokens of a run for each that is trained (docs/results.md)
REPEATS, SECONDS = 5, 0.25  # of one candidate, whichever is reached first
LEAST = 512  # smaller sizes would measure the calls and not the arithmetic
MOST, HEAD = 2**21, 2**25  # elements of a layer's matrix, and of the output layer, at most
USUAL = (1024, 4096, 32_768, 24)  # see _sizes
CLEARLY = 1.25  # so many times as fast must be what the processor is not said to be made for
WORTH = 0.85  # all threads must take at most this share of the time of one
BUSY = 1.3  # wall time over CPU time of a thread: above, other programs had the processor
CGROUP = Path("/sys/fs/cgroup")
MISSING = (RuntimeError, NotImplementedError)  # what torch raises where it has no such kernel


@dataclass(frozen=True)
class Choice:
    """``dtype`` is a name of torch's; ``why`` is one line with the measured figures, empty where
    nothing had to be decided."""

    dtype: str
    threads: int
    why: str = ""


def choose(folder: str | Path, dtype: str | None = None, threads: int | None = None) -> Choice:
    """For the model in ``folder``, on this machine. What is given (not None) is not measured."""
    found = []
    if dtype is None:
        dtype, why = _precision_of_gpu() if _has_gpu() else _precision(folder)
        found.append(why)
    if threads is None:
        threads, why = _threads(folder, getattr(torch, dtype))
        found.append(why)
    return Choice(dtype, threads, "; ".join(filter(None, found)))


def machine() -> str:
    """Where a choice holds: the processor, its instructions and how many threads it offers."""
    if _has_gpu():
        return f"{torch.cuda.get_device_name()}, {ALL_THREADS} threads"
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}, {ALL_THREADS} threads"


def _has_gpu() -> bool:
    return device().type != "cpu"


def _allowed() -> float:
    """CPUs that a container may use; torch only counts those that are there."""
    found = []
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((CGROUP / name).read_text() for name in files).split()
        except (OSError, ValueError):
            continue
        if quota.isdigit():  # else "max", or -1: there is no limit
            found.append(int(quota) / int(period))
    return min(found, default=math.inf)


# Taken before anything changes it. The environment may say it, as launchers do (OMP_NUM_THREADS).
ALL_THREADS = max(1, math.floor(min(torch.get_num_threads(), _allowed() + 0.5)))


@dataclass(frozen=True)
class _Speed:
    """Seconds: a forward and backward pass over a layer, a forward pass, and one decoding step of
    the whole model for ``ROWS`` rows."""

    train: float
    prefill: float
    decode: float

    def least(self, other: _Speed | None) -> _Speed:
        if other is None:
            return self
        pairs = zip(self.kinds().values(), other.kinds().values(), strict=True)
        return _Speed(*(min(pair) for pair in pairs))

    def kinds(self) -> dict[str, float]:
        return {
            "training": self.train,
            "prefill": self.prefill,
            f"decoding {ROWS} rows": self.decode,
        }


class _Work:
    """Random matrices of the shapes of a layer (large ones are cut) and of the output layer."""

    def __init__(self, folder: str | Path, dtype: torch.dtype, tokens: int) -> None:
        hidden, inner, vocabulary, self.layers = _sizes(folder)
        rng = torch.Generator().manual_seed(0)  # the global one stays as it was

        def random(rows: int, columns: int) -> torch.Tensor:
            return (torch.randn(rows, columns, generator=rng) / math.sqrt(columns)).to(dtype)

        inner, own = (min(size, max(LEAST, MOST // hidden)) for size in (inner, hidden))
        up, down, square = random(inner, hidden), random(hidden, inner), random(own, hidden)
        self.weights = [up, down, square]
        head = min(vocabulary, HEAD // hidden)
        self.head = random(LEAST, hidden).repeat(max(1, head // LEAST), 1)
        self.tokens, self.rows = random(tokens, hidden), random(ROWS, hidden)

    def once(self, clock: Callable[[], float] = time.thread_time) -> _Speed:
        def seconds(call: Callable[[], object]) -> float:
            began = clock()
            call()
            return max(1e-9, clock() - began)  # some clocks have coarse steps

        for weight in self.weights:
            weight.requires_grad_(False).grad = None
        prefill = seconds(lambda: self._layer(self.tokens))
        row = seconds(lambda: self._layer(self.rows))
        head = seconds(lambda: linear(self.rows, self.head))
        for weight in self.weights:
            weight.requires_grad_()
        train = seconds(lambda: self._layer(self.tokens.requires_grad_()).sum().backward())
        self.tokens.requires_grad_(False).grad = None
        return _Speed(train, prefill, self.layers * row + head)

    def cost(self, speed: _Speed) -> float:
        """Seconds of a run for each trained token, with what is prefilled and decoded meanwhile."""
        passes = (speed.train + PREFILLED * speed.prefill) * self.layers / len(self.tokens)
        return passes + DECODED * speed.decode / ROWS

    def _layer(self, states: torch.Tensor) -> torch.Tensor:
        for weight in self.weights:
            states = linear(states, weight)
        return states


def _sizes(folder: str | Path) -> tuple[int, int, int, int]:
    """Width, inner width of an MLP, vocabulary, number of layers. Of a model that transformers does
    not know, the usual ones: what is wrong with it is told where it is loaded."""
    from transformers import AutoConfig

    try:
        path = str(base_of(folder).absolute())
        config = AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError):
        return USUAL
    text = config.get_text_config(decoder=True)
    hidden = max(LEAST, int(text.hidden_size))
    named = (getattr(text, f"{kind}intermediate_size", None) for kind in ("moe_", ""))
    inner = next((size for size in named if isinstance(size, int)), 4 * hidden)
    return hidden, max(LEAST, inner), int(text.vocab_size), int(text.num_hidden_layers)


def _has_units() -> bool:
    """Whether this CPU is said to multiply bfloat16 by itself. A torch without oneDNN, or for
    another kind of processor, may not know the question."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, *MISSING):
        return False


def _precision_of_gpu() -> tuple[str, str]:
    name = torch.cuda.get_device_name()
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16", f"{name} computes in bfloat16"
    return "float32", f"{name} cannot compute in bfloat16"


def _precision(folder: str | Path) -> tuple[str, str]:
    works = {name: _Work(folder, getattr(torch, name), TOKENS) for name in ("float32", "bfloat16")}
    with _threads_set(1):
        best = _race(works)
    for one, other in (("float32", "bfloat16"), ("bfloat16", "float32")):
        if other not in best:
            return one, f"this machine cannot compute in {other}"
    full, half = (works[name].cost(best[name]) for name in works)
    units = _has_units()
    clearly = CLEARLY if units else 1 / CLEARLY
    name = "bfloat16" if half < full * clearly else "float32"
    pairs = zip(best["float32"].kinds().items(), best["bfloat16"].kinds().values(), strict=True)
    ratios = ", ".join(f"{kind} {slow / fast:.2g}" for (kind, slow), fast in pairs)
    there = "with" if units else "without"
    return name, f"a CPU {there} bfloat16 units; bfloat16 is so many times as fast: {ratios}"


def _race(works: dict[str, _Work]) -> dict[str, _Speed]:
    """The best of each, taken in turn so that what disturbs one disturbs all. One that cannot be
    computed is left out."""
    best: dict[str, _Speed] = {}
    spent = dict.fromkeys(works, 0.0)
    for _ in range(1 + REPEATS):  # the first one loads libraries
        for name in list(spent):
            began = time.thread_time()
            try:
                best[name] = works[name].once().least(best.get(name))
            except MISSING:
                del spent[name]
                continue
            spent[name] += time.thread_time() - began
        spent = {name: seconds for name, seconds in spent.items() if seconds < SECONDS}
    return best


def _threads(folder: str | Path, dtype: torch.dtype) -> tuple[int, str]:
    if ALL_THREADS == 1 or _has_gpu():
        return ALL_THREADS, ""
    counts = (1, ALL_THREADS)
    wall, cpu = (dict.fromkeys(counts, math.inf) for _ in range(2))
    began = time.monotonic()
    with _threads_set(ALL_THREADS):
        work = _Work(folder, dtype, THREAD_TOKENS)
        for repeat in range(1 + REPEATS):
            for count in counts:
                torch.set_num_threads(count)
                now, used = time.monotonic(), time.process_time()
                try:
                    work.once()
                except MISSING:
                    return ALL_THREADS, ""
                now, used = time.monotonic() - now, time.process_time() - used
                if repeat:  # the first one starts the threads
                    wall[count], cpu[count] = min(wall[count], now), min(cpu[count], used)
            if repeat and time.monotonic() - began > 2 * SECONDS:
                break
    share, how = wall[ALL_THREADS] / wall[1], "time"
    if any(wall[count] > BUSY * cpu[count] / count for count in counts):
        # Other programs ran: this is what it would be without them
        share, how = cpu[ALL_THREADS] / ALL_THREADS / cpu[1], "CPU time"
    threads = ALL_THREADS if share < WORTH else 1
    return threads, f"{ALL_THREADS} threads take {share:.2f} of the {how} of one"


@contextmanager
def _threads_set(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _processor() -> str:
    """Its name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine()
