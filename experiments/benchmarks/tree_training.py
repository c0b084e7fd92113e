"""Speed and memory of training on one token tree, against one sequence per label.

    OMP_NUM_THREADS=1 python -m experiments.benchmarks.tree_training --turns 5 10
    python -m experiments.benchmarks.tree_training --device cuda --repeats 5
    python -m experiments.benchmarks.tree_training --device cuda --length 65536 --checkpointing

Measured: forward and backward passes over all labels of one DAgger trajectory that has a label in
every turn. Observations, actions and labels are random tokens with the lengths of SmolLM2's
episodes. On a CPU seconds are CPU time, so other programs matter little. Memory is what a step
needs beyond the weights and the float32 sums of gradients.

Compared: ``tree``, the token tree; ``naive``, one sequence per label, one at a time; ``padded``,
the same sequences in padded batches. All three compute logits of label tokens only and add up
gradients in float32, as the learner does. The program ends with an error if their gradients differ.

``--random`` takes a model with random weights, which needs no files.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from algorithms.engine.checkpoint import load_model
from algorithms.engine.forward import forward, use_trees
from algorithms.engine.losses import predict, weighted_sums
from algorithms.engine.models import embedded_model
from algorithms.engine.tree import TokenTree, pack
from algorithms.objective import Objective

METHODS = ("tree", "naive", "padded")
PROMPT, OBSERVATION, REPLY = 300, (60, 120), (30, 50)  # tokens: system and task; per turn
LIMIT = {"float32": 1e-4, "bfloat16": 2e-1}  # gradients that differ by more are an error
VOCABULARY = 4096  # tokens are drawn from these; every model here has at least as many
SIZES = {  # layers, hidden, intermediate, heads, key-value heads, vocabulary
    "5m": (4, 256, 768, 4, 2, 4096),
    "135m": (30, 576, 1536, 9, 3, 49152),
    "1.7b": (24, 2048, 8192, 32, 32, 49152),
}


class Work(NamedTuple):
    """One trajectory.

    Attributes:
        tree: Its token tree.
        chains: One sequence for every label.
    """

    tree: TokenTree
    chains: list[TokenTree]

    @property
    def labels(self) -> float:
        return float(self.tree.ce_weight.sum())


def trajectory(turns: int, seed: int = 0, length: int = 0) -> Work:
    """A trajectory of ``turns`` turns or, if it is not 0, of ``length`` tokens."""
    rng = random.Random(seed)
    parent: list[int] = []
    weight: list[float] = []
    labeled: list[int] = []  # the last node of each label

    def grow(tip: int, count: int, learned: float = 0.0) -> int:
        for _ in range(count):
            parent.append(tip)
            weight.append(learned)
            tip = len(parent) - 1
        return tip

    tip = grow(-1, PROMPT)
    while len(labeled) < turns or len(parent) < length:
        tip = grow(tip, rng.randint(*OBSERVATION))
        labeled.append(grow(tip, rng.randint(*REPLY), 1.0))
        tip = grow(tip, rng.randint(*REPLY))
    cut = length or labeled[-1] + 1  # the executed last turn is not followed by any label
    ids = np.array([rng.randrange(VOCABULARY) for _ in range(cut)], dtype=np.int64)
    tree = _tree(ids, np.array(parent[:cut]), np.array(weight[:cut]))
    return Work(tree, [_chain(tree, end) for end in labeled if end < cut])


def _tree(ids: np.ndarray, parent: np.ndarray, weight: np.ndarray) -> TokenTree:
    return TokenTree(ids, parent, weight.astype(np.float32), np.zeros_like(ids))


def _chain(tree: TokenTree, end: int) -> TokenTree:
    """The path to ``end`` as a sequence, in which only the label at its end has weights."""
    path = []
    while end >= 0:
        path.append(end)
        end = int(tree.parent[end])
    nodes = np.array(path[::-1])
    return _tree(tree.token_ids[nodes], np.arange(len(nodes)) - 1, tree.ce_weight[nodes])


def _side_by_side(chains: Sequence[TokenTree]) -> TokenTree:
    """One tree with a root for each chain. ``pack`` would store their common beginning once."""
    starts = np.cumsum([0, *map(len, chains)])[:-1]
    pairs = zip(chains, starts, strict=True)
    parents = [np.arange(len(chain)) + start - 1 for chain, start in pairs]
    for parent in parents:
        parent[0] = -1
    ids = np.concatenate([chain.token_ids for chain in chains])
    weight = np.concatenate([chain.ce_weight for chain in chains])
    return _tree(ids, np.concatenate(parents), weight)


def sequences_loss(model: Any, chains: Sequence[TokenTree]) -> torch.Tensor:
    """The loss of a padded batch of sequences, with the model's own attention."""
    packed = pack([_side_by_side(chains)]).to(model.device)
    sizes = torch.tensor([len(chain) for chain in chains], device=model.device)
    real = torch.arange(int(sizes.max()), device=model.device) < sizes[:, None]
    ids = torch.zeros(real.shape, dtype=torch.int64, device=model.device)
    ids[real] = packed.input_ids[0]
    mask = None if len(chains) == 1 else real.long()
    hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    predicted = predict(model.get_output_embeddings(), hidden[real], packed)
    return weighted_sums(Objective(), predicted, packed).loss


def tree_loss(model: Any, tree: TokenTree) -> torch.Tensor:
    return weighted_sums(Objective(), *forward(model, [tree])).loss


class Measured(NamedTuple):
    """One measurement.

    Attributes:
        tokens: Tokens that went through the model, including padding.
        seconds: Median time of a step.
        memory: Peak bytes of a step beyond weights and gradients.
        loss: Loss per label token.
    """

    tokens: int
    seconds: float
    memory: int
    loss: float


def measure(args: argparse.Namespace, method: str, work: Work, gradient: Path) -> Measured:
    """Run one method ``args.repeats`` times after a warm-up, and save the gradient of a step."""
    model = make_model(args)
    if method == "tree":
        use_trees(model)
    pieces, tokens = parts(args, method, model, work)
    sums = [torch.zeros_like(p, dtype=torch.float32) for p in model.parameters()]
    before, seconds = reset_peak(args.device), []
    if args.device == "cpu":
        step(model, parts(args, method, model, trajectory(1))[0], sums)
    else:  # kernels are compiled for this length; the memory of compiling is not the step's
        step(model, pieces, sums)
        before = reset_peak(args.device)
    for _ in range(args.repeats):
        for grad in sums:
            grad.zero_()
        started = clock(args.device)
        loss = step(model, pieces, sums) / work.labels
        seconds.append(clock(args.device) - started)
    used = peak(args.device) - before
    torch.save([grad.div_(work.labels).cpu() for grad in sums], gradient)
    return Measured(tokens, statistics.median(seconds), used, loss)


def parts(
    args: argparse.Namespace, method: str, model: Any, work: Work
) -> tuple[list[Callable[[], torch.Tensor]], int]:
    """The calls that compute the loss, one after another, and the tokens of all of them."""
    if method == "tree":
        return [partial(tree_loss, model, work.tree)], len(work.tree)
    width = 1 if method == "naive" else args.batch
    groups = [work.chains[n : n + width] for n in range(0, len(work.chains), width)]
    tokens = sum(len(group) * max(map(len, group)) for group in groups)
    return [partial(sequences_loss, model, group) for group in groups], tokens


def step(model: Any, pieces: Sequence[Callable[[], torch.Tensor]], sums: list) -> float:
    """Forward and backward pass of every piece; gradients are summed in float32 and freed."""
    total = 0.0
    for piece in pieces:
        loss = piece()
        loss.backward()
        total += float(loss.detach())
        for grad, parameter in zip(sums, model.parameters(), strict=True):
            if parameter.grad is not None:
                grad.add_(parameter.grad)
                parameter.grad = None
    return total


def make_model(args: argparse.Namespace) -> Any:
    dtype = getattr(torch, args.dtype)
    if args.random:
        from transformers import AutoModelForCausalLM, LlamaConfig

        layers, hidden, intermediate, heads, kv, vocabulary = SIZES[args.random]
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv,
            tie_word_embeddings=True,
            max_position_embeddings=1 << 17,
        )
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(dtype)
    else:
        model = load_model(args.model or embedded_model(), dtype)
    if args.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.to(args.device).train()


def clock(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def reset_peak(device: str) -> int:
    """Bytes in use now; the peak is measured from here on."""
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak(device: str) -> int:
    return _status("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def case(args: argparse.Namespace, method: str, work: Work, gradient: Path) -> Measured:
    """One measurement; on a CPU in a fresh process, so that its memory is clean."""
    if args.device != "cpu":
        return measure(args, method, work, gradient)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, args, method, work, gradient).result()


def distance(reference: Path, gradient: Path) -> float:
    """||a - b|| / ||a|| over all weights."""
    pairs = zip(torch.load(reference), torch.load(gradient), strict=True)
    squares = torch.tensor([[(a - b).square().sum(), a.square().sum()] for a, b in pairs])
    return float((squares[:, 0].sum() / squares[:, 1].sum()).sqrt())


def compare(args: argparse.Namespace, folder: Path) -> None:
    head = (
        "turns | labels | method | tokens | x | seconds | x | memory MB | loss | gradient distance"
    )
    print(f"| {head} |\n|{'---|' * 10}")
    worst = 0.0
    for turns in args.turns:
        work = trajectory(turns)
        first: Measured | None = None
        for method in args.methods:
            measured = case(args, method, work, folder / method)
            first = first or measured
            gap = distance(folder / args.methods[0], folder / method)
            worst = max(worst, gap)
            print(
                f"| {turns} | {len(work.chains)} | {method} | {measured.tokens} "
                f"| {measured.tokens / first.tokens:.1f} | {measured.seconds:.2f} "
                f"| {measured.seconds / first.seconds:.1f} | {measured.memory / 1e6:.0f} "
                f"| {measured.loss:.6f} | {gap:.1e} |",
                flush=True,
            )
    if not worst < LIMIT[args.dtype]:
        raise SystemExit(f"The gradients of the same loss differ by {worst:.1e}: there is a bug.")


def one_long_tree(args: argparse.Namespace, folder: Path) -> None:
    work = trajectory(0, length=args.length)
    measured = case(args, "tree", work, folder / "tree")
    print(
        f"One tree of {measured.tokens} tokens, {len(work.chains)} labels, the longest path "
        f"{int(work.tree.depth.max()) + 1}: {measured.seconds:.2f} s forward and backward, "
        f"{measured.tokens / measured.seconds:.0f} tokens/s, "
        f"{measured.memory / 1e9:.2f} GB beyond weights and gradients, loss {measured.loss:.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--model", help="folder of a Hugging Face model (default: the embedded model)"
    )
    parser.add_argument("--random", choices=SIZES, help="size of a model with random weights")
    parser.add_argument("--turns", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--batch", type=int, default=8, help="sequences in a padded batch")
    parser.add_argument(
        "--length", type=int, default=0, help="measure one tree with this many tokens instead"
    )
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    gpu = args.device == "cuda"
    where = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    what = f"random {args.random}" if args.random else args.model or "SmolLM2-135M"
    print(f"{what}, {args.dtype}, {where}, torch {torch.__version__}, {args.repeats} repeats\n")
    with tempfile.TemporaryDirectory() as folder:
        (one_long_tree if args.length else compare)(args, Path(folder))


if __name__ == "__main__":
    main()
