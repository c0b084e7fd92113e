"""What one GPU does, in eight minutes: training, decoding, memory beside the plan, a small run.

    python -m experiments.benchmarks.gpu                    all of it, on the first GPU
    python -m experiments.benchmarks.gpu --only decode      one section: train, decode or run
    python -m experiments.benchmarks.gpu --toy              very small, on a machine without a GPU

Time on a GPU is rare, so this script is prepared: it needs no model files (but for `run`, which
takes the embedded model), and gives up nothing that it has measured. Each case is a separate
process with a limit of time; one that runs out of memory or of time, or fails, is reported as such,
and the next one starts. Results are printed as they come, and written to `--out` as `gpu.json` and
`gpu.md`, also when the script is interrupted.

- `train`: tokens per second of the learner after its first step, and the peak of memory beside
  what `experiments.plan` says. Models have random weights, in the shapes of SmolLM2-135M and
  Qwen3-4B; all weights or an adapter of rank 16 are trained; on conversations (one path, as in SFT)
  and on trees (a label in each turn). The 4B model computes activations again.
- `decode`: milliseconds of one step for all rows: as the policy in this process does it now; its
  forward pass alone; and a forward pass of fixed shape over the whole cache, first launched kernel
  by kernel and then replayed as a CUDA graph, which must choose the same tokens (100 %).
- `run`: wall time of each phase of `experiment=fast`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from algorithms.engine.checkpoint import device
from algorithms.engine.decoding import Decoder, Row
from algorithms.engine.kv import RowCache
from algorithms.engine.learner import Learner, TrainingConfig
from algorithms.engine.tree import TokenTree
from experiments.benchmarks.cuda_graph import Stepper, WholeCache, recorded, tokens_of
from experiments.benchmarks.tree_training import peak, reset_peak, trajectory
from experiments.console.cli import CONF
from experiments.plan import config as _config  # noqa: F401  (stores the section `plan`)
from experiments.plan import memory
from experiments.plan.hardware import GPUS
from experiments.runs.folders import RunFolder, phases_so_far
from swe_gym_env.policies.base import keyed_rng

SECONDS = 480.0  # for all cases
GIB = 2**30
STEPS = 5  # that count, after the first one, which compiles kernels
RANK = 16
SHAPES: dict[str, dict[str, Any]] = {
    "toy": {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
    | {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 4096},
    "135m": {"num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536}
    | {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152},
    "4b": {"num_hidden_layers": 36, "hidden_size": 2560, "intermediate_size": 9728}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 151936, "head_dim": 128},
}

Send = Callable[[str, float, str], None]  # what, value, unit


@dataclass(frozen=True)
class Result:
    """One figure of a case, or (with the unit "") why there is none."""

    case: str
    what: str
    value: float | None
    unit: str

    def __str__(self) -> str:
        figure = self.what if self.value is None else f"{self.what}: {self.value:,.4g} {self.unit}"
        return f"{self.case:28} {figure}"


@dataclass(frozen=True)
class Case:
    """One process. ``seconds`` limits it; ``measure`` gets where to send its figures."""

    name: str
    seconds: float
    measure: Callable[[Send], None]


class NoTokenizer:
    """Takes the place of a tokenizer, which nothing here needs."""


def random_model(size: str) -> Any:
    """In bfloat16 on the device where it computes."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

    kind = Qwen3Config if size == "4b" else LlamaConfig
    config = kind(**SHAPES[size], tie_word_embeddings=True, max_position_embeddings=1 << 17)
    torch.manual_seed(0)
    with torch.device(device()):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    return model


# -- training ---------------------------------------------------------------------------------


def conversation(length: int, seed: int) -> TokenTree:
    """One path, on which about a third of the tokens are learned, in pieces of 40."""
    rng, nodes = np.random.default_rng(seed), np.arange(length)
    learned = (nodes // 40 % 3 == 2).astype(np.float32)
    ids = rng.integers(4096, size=length)
    return TokenTree(ids, nodes - 1, learned, np.zeros_like(nodes))


def planned_bytes(model: Any, config: TrainingConfig) -> float:
    """The most that training takes on one GPU, by ``experiments.plan``."""
    with (
        tempfile.TemporaryDirectory() as folder,
        initialize_config_dir(str(CONF), version_base="1.3"),
    ):
        model.config.save_pretrained(folder)
        section = ("lora_rank", "checkpointing", "max_tree_tokens")
        overrides = [f"training.{name}={getattr(config, name)}".lower() for name in section]
        overrides += [f"model.path={folder}", f"limits.max_tokens={config.max_tree_tokens}"]
        cfg = compose("planner", overrides=overrides)
        return memory.training(cfg, 1, GPUS["h100"]).total


def train(send: Send, size: str, rank: int, length: int) -> None:
    place = device().type
    config = TrainingConfig(
        batch_size=2,
        micro_batch_tokens=length,
        max_tree_tokens=length,
        lora_rank=rank,
        checkpointing=size == "4b",
        warmup_steps=0,
    )
    before = reset_peak(place)
    model = random_model(size)
    plan = planned_bytes(model, config)
    count = 2 * (1 + STEPS)
    kinds: dict[str, Callable[[int], TokenTree]] = {
        "conversations": lambda seed: conversation(length, seed),
        "trees": lambda seed: trajectory(0, seed, length).tree,
    }
    learner = Learner(model, NoTokenizer(), config)
    for name, make in kinds.items():
        seen = [(0, time.monotonic())]

        def progress(done: int, _: int, __: str, seen: list[tuple[int, float]] = seen) -> None:
            seen.append((done, time.monotonic()))

        learner.train([make(seed) for seed in range(count)], progress)
        speeds = [
            (done - earlier) / (now - then)
            for (earlier, then), (done, now) in itertools.pairwise(seen[1:])
        ]
        send(f"{name} of {length}, first step", seen[1][1] - seen[0][1], "s")
        send(f"{name} of {length}", statistics.median(speeds), "tokens/s")
    used = peak(place) - (before if place == "cpu" else 0)
    send("peak of memory", used / GIB, "GiB")
    send("the plan's figure", plan / GIB, "GiB")


# -- decoding ---------------------------------------------------------------------------------


def timed_steps(step: Callable[[], object], steps: int) -> float:
    """Median milliseconds."""
    taken = []
    for _ in range(steps):
        began = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


@torch.inference_mode()
def decode(send: Send, size: str, rows: Sequence[int], prompt: int, steps: int) -> None:
    model = random_model(size)
    for many in rows:
        decoder = Decoder(
            model,
            temperature=0.7,
            top_p=0.9,
            max_context=prompt + steps + 2,
            batch_size=many,
            cache_bytes=0,
            stop_ids=set(),
        )
        ids = np.random.default_rng(0).integers(4096, size=(many, prompt)).tolist()
        batch = decoder.fixed_batch(
            [
                Row(key, given, prompt, steps + 2, keyed_rng(key))
                for n, given in enumerate(ids)
                for key in [(0, 0, f"episode-{n}", 0, 0, "student")]
            ]
        )
        decoder.step(batch)  # the prompts
        now = timed_steps(partial(decoder.step, batch), steps)
        send(f"{many} rows, a step as it is now", now, "ms")
        send(f"{many} rows, as it is now", 1000 * many / now, "tokens/s")
        del batch
        plain = Stepper(decoder, RowCache, many, prompt, steps)
        send(f"{many} rows, its forward pass", timed_steps(plain.step, steps), "ms")
        del plain
        whole = Stepper(decoder, WholeCache, many, prompt, steps)
        send(f"{many} rows, of fixed shape", timed_steps(whole.step, steps), "ms")
        if torch.cuda.is_available():
            few = min(16, steps)
            expected = tokens_of(whole, whole.step, few)
            whole.restart()
            replay = recorded(whole)
            equal = np.mean(np.array(tokens_of(whole, replay, few)) == np.array(expected))
            send(f"{many} rows, tokens of the graph that are those of the step", 100 * equal, "%")
            whole.restart()
            send(f"{many} rows, as a CUDA graph", timed_steps(replay, steps), "ms")


# -- a whole run ------------------------------------------------------------------------------


def whole_run(send: Send, overrides: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments.run", *overrides, f"paths.runs={folder}"]
        began = time.monotonic()
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        seconds = time.monotonic() - began
        if done.returncode:
            raise RuntimeError(" / ".join(done.stdout.strip().splitlines()[-3:]))
        for run in (path for path in Path(folder).iterdir() if RunFolder(path).summary):
            for phase, taken in phases_so_far(run).items():
                send(phase, taken, "s")
        send("all of it", seconds, "s")


# -- all cases --------------------------------------------------------------------------------


def cases(only: Literal["train", "decode", "run"] | None, toy: bool) -> list[Case]:
    training = [("toy", 640)] if toy else [("135m", 8192), ("4b", 8192)]
    made = [
        Case(
            f"train {size} {'adapter' if rank else 'all weights'}",
            90.0 if size == "4b" else 60.0,
            partial(train, size=size, rank=rank, length=length),
        )
        for size, length in training
        for rank in (RANK, 0)
    ]
    if toy:
        made.append(
            Case("decode toy", 60.0, partial(decode, rows=(1, 2), size="toy", prompt=16, steps=4))
        )
    else:
        shape: dict[str, Any] = {"rows": (1, 8, 32, 128), "prompt": 1024, "steps": 32}
        made += [
            Case(f"decode {size}", 60.0, partial(decode, size=size, **shape))
            for size in ("135m", "4b")
        ]
        made.append(Case("run", SECONDS, partial(whole_run, overrides=["experiment=fast"])))
    return [case for case in made if only in (None, case.name.split()[0])]


def child(measure: Callable[[Send], None], there: Connection) -> None:
    os.setpgid(0, 0)  # what it starts is stopped with it

    def send(what: str, value: float | None, unit: str) -> None:
        there.send((what, value, unit))

    try:
        measure(send)
    except torch.OutOfMemoryError:
        send("out of memory", None, "")
    except Exception as error:
        traceback.print_exc()
        send(f"failed: {type(error).__name__}: {error}", None, "")


def results(case: Case, seconds: float) -> Iterator[Result]:
    """All that a case gives within ``seconds``, as it comes."""
    # forked from a process that has imported all this and computed nothing
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([child.__module__])
    here, there = server.Pipe(duplex=False)
    process = server.Process(target=child, args=(case.measure, there))
    deadline = time.monotonic() + seconds
    process.start()
    there.close()
    try:
        while here.poll(max(0.0, deadline - time.monotonic())):
            yield Result(case.name, *here.recv())
        yield Result(case.name, f"out of time ({seconds:.0f} s)", None, "")
    except EOFError:
        process.join()
        if process.exitcode:
            yield Result(case.name, f"failed: ended by {process.exitcode} (memory?)", None, "")
    finally:
        stop(process)


def stop(process: BaseProcess) -> None:
    """It and its group, which may hold a run that keeps the GPU."""
    assert process.pid is not None
    for number, seconds in ((signal.SIGTERM, 10.0), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.join(seconds)


def table(found: Sequence[Result]) -> str:
    rows = [
        f"| {one.case} | {one.what} | "
        + ("|" if one.value is None else f"{one.value:,.4g} {one.unit} |")
        for one in found
    ]
    return "\n".join(["| case | what | measured |", "|---|---|---|", *rows, ""])


def where() -> str:
    if not torch.cuda.is_available():
        return f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"
    total = torch.cuda.get_device_properties(0).total_memory / GIB
    return f"{torch.cuda.get_device_name(0)}, {total:.1f} GiB, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=("train", "decode", "run"))
    parser.add_argument("--toy", action="store_true", help="very small models; needs no GPU")
    parser.add_argument("--out", type=Path, default=Path("gpu_benchmark"), help="folder of results")
    args = parser.parse_args()
    if not args.toy and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU: give --toy to see that the script works")
    args.out.mkdir(parents=True, exist_ok=True)
    print(where(), flush=True)
    found: list[Result] = []
    end = time.monotonic() + SECONDS
    for case in cases(args.only, args.toy):
        left = min(case.seconds, max(0.0, end - time.monotonic()))
        for one in results(case, left):
            found.append(one)
            print(one, flush=True)
            content = {"machine": where(), "results": [asdict(result) for result in found]}
            (args.out / "gpu.json").write_text(json.dumps(content, indent=1))
            (args.out / "gpu.md").write_text(f"{where()}\n\n{table(found)}")
    if any(one.what.startswith("failed") for one in found):
        raise SystemExit("some cases failed")


if __name__ == "__main__":
    main()
