"""Tokens per second in float32 and in bfloat16 on this machine: training, prefill and decoding.

    python -m experiments.benchmarks.precision                  the embedded model, on one thread
    python -m experiments.benchmarks.precision --threads 2 --model FOLDER

Measured: what ``plan.calibrate`` measures, as medians of ``--repeats``; the precisions take turns.
The unit is tokens per second of CPU time, which other programs hardly change, or of wall time with
``--wall``, which several threads need. Compared: the two precisions, and the choice that
``model.dtype=auto`` would make, which the first line shows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from algorithms.engine import precision
from algorithms.engine.checkpoint import load_tokenizer
from algorithms.engine.learner import TrainingConfig
from algorithms.engine.models import embedded_model
from algorithms.engine.rendering import Renderer
from experiments.pipeline.precision import DTYPES
from experiments.plan import calibrate


def measure(model: Path, dtype: str, clock: Any) -> dict[str, float]:
    """Tokens per second: trained, prefilled, and decoded for each number of rows."""
    renderer, config = Renderer(load_tokenizer(model)), TrainingConfig(batch_size=1)
    kind = getattr(torch, dtype)
    training = calibrate.learning(model, kind, renderer, config, clock)
    sampling = calibrate.answering(model, kind, clock)
    decoded = {
        f"decode, {rows} rows": int(rows) / seconds for rows, seconds in sampling["decode"].items()
    }
    return {"train": training["train"], "prefill": sampling["prefill"], **decoded}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="model folder (default: the embedded model)")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--wall", action="store_true", help="wall time instead of CPU time")
    args = parser.parse_args()
    model = args.model or embedded_model()
    clock, unit = (time.monotonic, "wall") if args.wall else (time.process_time, "CPU")
    choice = precision.choose(model)
    print(f"{precision.machine()}, torch {torch.__version__}")
    print(f"auto: {choice.dtype}, {choice.threads} threads ({choice.why})", flush=True)
    torch.set_num_threads(args.threads)
    runs = [{d: measure(model, d, clock) for d in args.dtype} for _ in range(args.repeats)]
    print(f"\ntokens per {unit} second, {args.threads} threads, median of {args.repeats}:")
    print("| | " + " | ".join(args.dtype) + " |\n|---|" + "---:|" * len(args.dtype))
    for name in runs[0][args.dtype[0]]:
        medians = [statistics.median(run[d][name] for run in runs) for d in args.dtype]
        print(f"| {name} | " + " | ".join(f"{value:.3g}" for value in medians) + " |")


if __name__ == "__main__":
    main()
