"""Choose float32 or bfloat16, and one CPU thread or all, by measuring this machine.

A CPU with bfloat16 units (AMX, AVX-512 BF16) trains up to four times as fast in bfloat16; one
without them takes more than ten times as long, although it decodes a single row faster. A table of
processors would be out of date soon, so matrices with the model's own shapes are multiplied for
about a second, as training, prefill and decoding do.

The measurement must give the same answer on a busy machine as on an idle one:

- the precision is decided by the CPU time of one thread, which other programs hardly change;
- numbers of threads are compared by wall time, unless other programs used the processor, and then
  by CPU time;
- the fastest of several repetitions counts;
- near a tie, the side that the processor's instruction set suggests wins.
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

from algorithms.engine.adapters import base_folder
from algorithms.engine.checkpoint import device

TOKENS, THREAD_TOKENS = 128, 512  # tokens of one pass; several threads need more to share
ROWS = 16  # rows that are decoded together
PREFILLED, DECODED = 0.6, 0.25  # tokens of a run per trained token (docs/research/results.md)
REPEATS, SECONDS = 5, 0.25  # limits of one candidate, whichever is reached first
MIN_SIZE = 512  # smaller matrices would measure the calls and not the arithmetic
MAX_LAYER, MAX_HEAD = 2**21, 2**25  # most elements of a layer's matrix and of the output layer
DEFAULT_SIZES = (1024, 4096, 32_768, 24)  # see _sizes
CLEAR_SPEEDUP = 1.25  # needed to choose what the instruction set does not suggest
MAX_SHARE = 0.85  # all threads are used if they take at most this share of the time of one
BUSY = 1.3  # wall time over CPU time of a thread: above it, other programs used the processor
CGROUP = Path("/sys/fs/cgroup")
NO_KERNEL = (RuntimeError, NotImplementedError)  # what torch raises if it lacks a kernel


@dataclass(frozen=True)
class Choice:
    """How to compute.

    Attributes:
        dtype: Name of a torch dtype, "float32" or "bfloat16".
        threads: Number of CPU threads.
        why: One line with the measured figures; empty if nothing had to be decided.
    """

    dtype: str
    threads: int
    why: str = ""


def choose(folder: str | Path, dtype: str | None = None, threads: int | None = None) -> Choice:
    """Choose for the model in ``folder`` on this machine.

    Args:
        folder: A Hugging Face folder.
        dtype: If not None, it is taken and not measured.
        threads: If not None, it is taken and not measured.
    """
    reasons = []
    if dtype is None:
        dtype, why = _precision_of_gpu() if _has_gpu() else _precision(folder)
        reasons.append(why)
    if threads is None:
        threads, why = _threads(folder, getattr(torch, dtype))
        reasons.append(why)
    return Choice(dtype, threads, "; ".join(filter(None, reasons)))


def machine() -> str:
    """The hardware that a choice is valid for: processor, instruction set, number of threads."""
    if _has_gpu():
        return f"{torch.cuda.get_device_name()}, {ALL_THREADS} threads"
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}, {ALL_THREADS} threads"


def _has_gpu() -> bool:
    return device().type != "cpu"


def _allowed() -> float:
    """CPUs that the control group of a container allows; torch counts those of the machine."""
    limits = []
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((CGROUP / name).read_text() for name in files).split()
        except (OSError, ValueError):
            continue
        if quota.isdigit():  # "max" (version 2) and -1 (version 1) mean no limit
            limits.append(int(quota) / int(period))
    return min(limits, default=math.inf)


# Read before anything changes it. Launchers may set it by the environment (OMP_NUM_THREADS).
ALL_THREADS = max(1, math.floor(min(torch.get_num_threads(), _allowed() + 0.5)))


@dataclass(frozen=True)
class _Speed:
    """Measured seconds.

    Attributes:
        train: A forward and backward pass over one layer.
        prefill: A forward pass over one layer.
        decode: One decoding step of the whole model for ROWS rows.
    """

    train: float
    prefill: float
    decode: float

    def fastest(self, previous: _Speed | None) -> _Speed:
        """The smaller of both measurements for each kind of work."""
        if previous is None:
            return self
        pairs = zip(self.kinds().values(), previous.kinds().values(), strict=True)
        return _Speed(*(min(pair) for pair in pairs))

    def kinds(self) -> dict[str, float]:
        return {
            "training": self.train,
            "prefill": self.prefill,
            f"decoding {ROWS} rows": self.decode,
        }


class _Work:
    """Random matrices with the shapes of a layer and of the output layer; large ones are cut."""

    def __init__(self, folder: str | Path, dtype: torch.dtype, tokens: int) -> None:
        hidden, inner, vocabulary, self.layers = _sizes(folder)
        rng = torch.Generator().manual_seed(0)  # leaves the global generator alone

        def random(rows: int, columns: int) -> torch.Tensor:
            return (torch.randn(rows, columns, generator=rng) / math.sqrt(columns)).to(dtype)

        inner, width = (min(size, max(MIN_SIZE, MAX_LAYER // hidden)) for size in (inner, hidden))
        up, down, square = random(inner, hidden), random(hidden, inner), random(width, hidden)
        self.weights = [up, down, square]
        head = min(vocabulary, MAX_HEAD // hidden)
        self.head = random(MIN_SIZE, hidden).repeat(max(1, head // MIN_SIZE), 1)
        self.tokens, self.rows = random(tokens, hidden), random(ROWS, hidden)

    def measure(self, clock: Callable[[], float] = time.thread_time) -> _Speed:
        """Do every kind of work once."""

        def seconds(call: Callable[[], object]) -> float:
            began = clock()
            call()
            return max(1e-9, clock() - began)  # a coarse clock may show no time at all

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
        """Seconds of a run per trained token, including the tokens prefilled and decoded for it."""
        passes = (speed.train + PREFILLED * speed.prefill) * self.layers / len(self.tokens)
        return passes + DECODED * speed.decode / ROWS

    def _layer(self, states: torch.Tensor) -> torch.Tensor:
        for weight in self.weights:
            states = linear(states, weight)
        return states


def _sizes(folder: str | Path) -> tuple[int, int, int, int]:
    """Width, inner width of the MLP, vocabulary size and number of layers.

    A model that transformers does not know gets common sizes; loading it later reports the error.
    """
    from transformers import AutoConfig

    try:
        path = str(base_folder(folder).absolute())
        config = AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError):
        return DEFAULT_SIZES
    text = config.get_text_config(decoder=True)
    hidden = max(MIN_SIZE, int(text.hidden_size))
    sizes = (getattr(text, f"{prefix}intermediate_size", None) for prefix in ("moe_", ""))
    inner = next((size for size in sizes if isinstance(size, int)), 4 * hidden)
    return hidden, max(MIN_SIZE, inner), int(text.vocab_size), int(text.num_hidden_layers)


def has_units() -> bool:
    """Whether this CPU has instructions for bfloat16 products, according to oneDNN.

    A torch without oneDNN, or for another kind of processor, lacks the function.
    """
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, *NO_KERNEL):
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
    for possible, missing in (("float32", "bfloat16"), ("bfloat16", "float32")):
        if missing not in best:
            return possible, f"this machine cannot compute in {missing}"
    float32, bfloat16 = (works[name].cost(best[name]) for name in works)
    units = has_units()
    factor = CLEAR_SPEEDUP if units else 1 / CLEAR_SPEEDUP
    name = "bfloat16" if bfloat16 < float32 * factor else "float32"
    pairs = zip(best["float32"].kinds().items(), best["bfloat16"].kinds().values(), strict=True)
    ratios = ", ".join(f"{kind} {slow / fast:.2g}" for (kind, slow), fast in pairs)
    having = "with" if units else "without"
    return name, f"a CPU {having} bfloat16 units; speed of bfloat16 over float32: {ratios}"


def _race(works: dict[str, _Work]) -> dict[str, _Speed]:
    """The fastest measurement of each candidate; one without a kernel is left out.

    Candidates take turns, so that a disturbance affects all of them.
    """
    best: dict[str, _Speed] = {}
    spent = dict.fromkeys(works, 0.0)
    for _ in range(1 + REPEATS):  # the first repetition loads libraries
        for name in list(spent):
            began = time.thread_time()
            try:
                best[name] = works[name].measure().fastest(best.get(name))
            except NO_KERNEL:
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
                    work.measure()
                except NO_KERNEL:
                    return ALL_THREADS, ""
                now, used = time.monotonic() - now, time.process_time() - used
                if repeat:  # the first repetition starts the threads
                    wall[count], cpu[count] = min(wall[count], now), min(cpu[count], used)
            if repeat and time.monotonic() - began > 2 * SECONDS:
                break
    share, measure = wall[ALL_THREADS] / wall[1], "time"
    if any(wall[count] > BUSY * cpu[count] / count for count in counts):
        # Other programs ran; CPU time estimates the wall time without them.
        share, measure = cpu[ALL_THREADS] / ALL_THREADS / cpu[1], "CPU time"
    threads = ALL_THREADS if share < MAX_SHARE else 1
    return threads, f"{ALL_THREADS} threads take {share:.2f} of the {measure} of one"


@contextmanager
def _threads_set(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _processor() -> str:
    """Name of the processor as the operating system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine()
