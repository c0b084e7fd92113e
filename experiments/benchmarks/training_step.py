"""A step of training against TRL's: the same model, the same examples, the same loss.

    python -m experiments.benchmarks.training_step            (needs trl, of the extra "dev")
    python -m experiments.benchmarks.training_step --cases sft grpo

Measured: forward and backward pass over one batch on one CPU thread, in float32. A token counts
once for each example that contains it, and padding does not count, so all methods of a case have
the same number of tokens. Seconds are processor time (user and system), the median of ``--repeats``
measurements; methods take turns, each in a separate process. Memory is the peak of a step above
the weights, gradients included.

Three cases: ``sft``, chains of which a third is trained; ``grpo``, a group of answers to one prompt
with a policy gradient; ``dagger``, a trajectory of 20 turns with a label in each, which TRL must
take as one sequence per label. Compared: TRL with a padded batch and with packed sequences, both
with its fused output layer, which is what its trainers compute; a plain loop over single sequences
with the model's own loss; and the learner, also with LoRA.

The last column divides the speed by the machine's limit: the matrix products alone that the
examples need if every token is computed once for each example, measured in the same run. Shared
beginnings and LoRA, which needs fewer products, may pass 100 %. The program ends with an error if
the losses of the methods differ.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from algorithms.engine.checkpoint import load_model
from algorithms.engine.export import IGNORED, paths
from algorithms.engine.learner import Learner, TrainingConfig
from algorithms.engine.models import embedded_model
from algorithms.engine.tree import TokenTree
from experiments.benchmarks.tree_training import peak, reset_peak

CASES = {
    "sft": ("TRL, padded", "TRL, packed", "plain loop", "ours", "ours, LoRA"),
    "grpo": ("TRL, padded", "ours"),
    "dagger": ("TRL, padded", "TRL, packed", "ours"),
}
RANK, ADVANTAGES = 16, (1.0, -0.5, 0.5, -1.0)
WIDTH = 4  # sequences in one padded batch of TRL's; more pad more
LIMIT = 1e-4  # relative difference of losses that is an error


class Example(NamedTuple):
    """One sequence of n tokens, with the weight of each in the loss -sum(weight * log p)."""

    ids: list[int]
    weights: list[float]


def trees(case: str) -> list[TokenTree]:
    rng = random.Random(0)
    if case == "sft":
        return [_chain(rng, length) for length in (150, 230, 290, 354)]
    if case == "grpo":
        prompt = [rng.randrange(4096) for _ in range(200)]
        return [_answer(rng, prompt, advantage) for advantage in ADVANTAGES]
    return [_trajectory(rng)]


def _chain(rng: random.Random, length: int) -> TokenTree:
    weight = np.array([float(n > 60 and n % 90 >= 60) for n in range(length)])
    ids = np.array([rng.randrange(4096) for _ in range(length)])
    return _tree(ids, np.arange(length) - 1, ce_weight=weight)


def _answer(rng: random.Random, prompt: list[int], advantage: float) -> TokenTree:
    answer = [rng.randrange(4096) for _ in range(rng.randint(40, 120))]
    ids = np.array(prompt + answer)
    taken = np.array([0.0] * len(prompt) + [1.0] * len(answer))
    # At the policy that sampled, -advantage * log p has the gradient of the clipped surrogate.
    return _tree(ids, np.arange(len(ids)) - 1, taken * advantage, "g")


def _trajectory(rng: random.Random, turns: int = 20) -> TokenTree:
    parent: list[int] = []
    weight: list[float] = []

    def grow(tip: int, count: int, learned: float = 0.0) -> int:
        for _ in range(count):
            parent.append(tip)
            weight.append(learned)
            tip = len(parent) - 1
        return tip

    tip = grow(-1, 100)
    for _ in range(turns):
        tip = grow(tip, rng.randint(8, 16))
        grow(tip, rng.randint(6, 10), 1.0)
        tip = grow(tip, rng.randint(6, 10))
    ids = np.array([rng.randrange(4096) for _ in parent])
    return _tree(ids, np.array(parent), ce_weight=np.array(weight))


def _tree(ids: np.ndarray, parent: np.ndarray, ce_weight: np.ndarray, group: str = "") -> TokenTree:
    return TokenTree(ids, parent, ce_weight.astype(np.float32), np.zeros_like(ids), group=group)


def examples(case: str) -> list[Example]:
    """The plain sequences of a case, the longest first."""
    found = []
    for tree in trees(case):
        learned = (tree.ce_weight != 0) & (tree.parent >= 0)
        for nodes, shared in paths(tree, learned):
            weights = np.where(learned, tree.ce_weight, 0)[nodes]
            weights[:shared] = 0
            found.append(Example(tree.token_ids[nodes].tolist(), weights.tolist()))
    return sorted(found, key=lambda example: -len(example.ids))


def trl_loss(model: Any, rows: list[Example], packed: bool) -> torch.Tensor:
    """What SFTTrainer and GRPOTrainer compute: log-probs of the fused output layer, weighted."""
    if packed:
        ids = torch.tensor([[token for row in rows for token in row.ids]])
        weights = torch.tensor([[w for row in rows for w in (0.0, *row.weights[1:])]])
        positions = torch.tensor([[n for row in rows for n in range(len(row.ids))]])
        inputs = {"position_ids": positions}
    else:
        width = max(len(row.ids) for row in rows)
        ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows])
        weights = torch.tensor([row.weights + [0.0] * (width - len(row.ids)) for row in rows])
        mask = [[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows]
        inputs = {"attention_mask": torch.tensor(mask)}
    labels = torch.where(weights != 0, ids, IGNORED)
    outputs = model(input_ids=ids, labels=labels, fused_lm_head=True, use_cache=False, **inputs)
    found = outputs.log_probs
    weights = weights[:, weights.shape[1] - found.shape[1] :]
    return -(weights * found).sum()


def plain_loss(model: Any, row: Example) -> torch.Tensor:
    ids, weights = torch.tensor([row.ids]), torch.tensor(row.weights[1:])
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    of_token = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    return (weights * of_token).sum()


_step: Callable[[], float] | None = None
_weights: list[Any] = []


def prepare(case: str, method: str) -> None:
    """Load the model in a worker, and make one step on little to load the libraries."""
    global _step
    torch.set_num_threads(1)
    model, rows = load_model(embedded_model(), torch.float32), examples(case)
    pieces: list[Callable[[], torch.Tensor]]
    if method.startswith("ours"):
        config = TrainingConfig(lora_rank=RANK if "LoRA" in method else 0)
        learner = Learner(model, None, config)
        model, of_case = learner.model, trees(case)
        pieces = [lambda: learner.loss(of_case).loss]
        warm: Callable[[], torch.Tensor] = lambda: learner.loss([_chain(random.Random(0), 90)]).loss  # noqa: E731
    else:
        if method.startswith("TRL"):
            from trl.trainer.utils import add_fused_lm_head

            add_fused_lm_head(model)
            one = method == "TRL, packed"
            groups = [rows[n : n + WIDTH] for n in range(0, len(rows), WIDTH)]
            pieces = [partial(trl_loss, model, group, one) for group in groups]
        else:
            pieces = [partial(plain_loss, model, row) for row in rows]
        warm = partial(plain_loss, model, Example([1] * 90, [1.0] * 90))
    model.train()
    _weights[:] = [p for p in model.parameters() if p.requires_grad]
    run([warm])
    _step = partial(run, pieces)


def run(pieces: list[Callable[[], torch.Tensor]]) -> float:
    """Forward and backward pass of every piece; the gradients are dropped afterwards."""
    total = 0.0
    for piece in pieces:
        loss = piece()
        loss.backward()
        total += float(loss.detach())
    for weight in _weights:
        weight.grad = None
    return total


def measure() -> tuple[float, int, float]:
    """Seconds, bytes above the weights, and the loss of one step."""
    assert _step is not None
    before, started = reset_peak("cpu"), time.process_time()
    loss = _step()
    return time.process_time() - started, peak("cpu") - before, loss


def products(case: str) -> float:
    """Seconds of the matrix products of a step alone: forward, and gradients of both factors."""
    torch.set_num_threads(1)
    model, rows = load_model(embedded_model(), torch.float32), examples(case)
    tokens = sum(len(row.ids) for row in rows)
    trained = sum(weight != 0 for row in rows for weight in row.weights)
    head = model.get_output_embeddings()
    total = 0.0
    layers = [m for m in model.model.layers[0].modules() if isinstance(m, torch.nn.Linear)]
    for linear in (*layers, head):
        count = trained if linear is head else tokens
        weight, x = linear.weight.detach(), torch.randn(count, linear.in_features)
        y, of_weight = torch.randn(count, linear.out_features), torch.empty_like(linear.weight)
        seconds = []
        for _ in range(4):  # the first loads the library
            started = time.process_time()
            torch.mm(x, weight.T, out=y)
            torch.mm(y, weight, out=x)
            torch.mm(y.T, x, out=of_weight.detach())
            seconds.append(time.process_time() - started)
        times = 1 if linear is head else len(model.model.layers)
        total += times * statistics.median(seconds[1:])
    return total


def compare(case: str, repeats: int) -> None:
    tokens = sum(len(row.ids) for row in examples(case))
    limits: list[float] = []
    runs: dict[str, list[tuple[float, int, float]]] = {method: [] for method in CASES[case]}
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(ProcessPoolExecutor(1, context))
            for name in (*CASES[case], "limit")
        }
        for method in runs:
            workers[method].submit(prepare, case, method).result()
        for _ in range(repeats):
            limits.append(workers["limit"].submit(products, case).result())
            for method, found in runs.items():
                found.append(workers[method].submit(measure).result())
    limit = tokens / statistics.median(limits)
    first = 0.0
    for method, found in runs.items():
        speed = tokens / statistics.median(seconds for seconds, _, _ in found)
        first = first or speed
        memory = max(used for _, used, _ in found) / 1e9
        print(
            f"| {case} | {method} | {tokens} | {speed:.1f} | {speed / first:.2f} | {memory:.2f} "
            f"| {speed / limit:.0%} | {found[0][2]:.3f} |",
            flush=True,
        )
    losses = [found[0][2] for found in runs.values()]
    if max(losses) - min(losses) > LIMIT * sum(map(abs, losses)):
        raise SystemExit(f"{case}: the losses differ, so the methods do not compute the same.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"SmolLM2-135M, float32, one CPU thread, {capability}, torch {torch.__version__}\n")
    heads = "case | method | tokens | tokens per CPU s | x | GB | of the limit | loss"
    print(f"| {heads} |\n|{'---|' * 8}", flush=True)
    for case in args.cases:
        compare(case, args.repeats)


if __name__ == "__main__":
    main()
