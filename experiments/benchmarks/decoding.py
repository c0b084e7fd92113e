"""Sampled tokens per CPU second of the policy in this process, beside transformers' ``generate``.

    python -m experiments.benchmarks.decoding                      the embedded model, one thread
    python -m experiments.benchmarks.decoding --episodes 0         only single steps
    python -m experiments.benchmarks.decoding --rows --episodes 64 --repeats 3

To see a CPU without bfloat16 units, set ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2
MKL_ENABLE_INSTRUCTIONS=AVX2. The table has two kinds of lines.

Steps: rows whose prompts of 200 tokens are computed get one more token each. The limit is the time
of the matrix products of the step alone, with the model's own weights, measured between the steps.

Episodes: the model plays episodes of different length. All share a system prompt, and each turn has
an observation, a reply that the model ends itself (or the limit does), and a command that takes
some time. Observations are pieces of the source of Python's ``argparse``; lengths and times are
drawn from a seed. Compared:

- ``act``: all waiting episodes are asked in one call, and the next call waits for the slowest
  command, as in a roll-out that plays turn by turn;
- ``submit``: one thread per episode asks for its own replies;
- ``generate``: transformers' own loop, which computes the history again in each turn, for the first
  few episodes together, padded on the left.

``act`` and ``submit`` sample the same replies, up to rounding; those of ``generate`` differ. CPU
seconds are compared, since other programs hardly change them. The number of forward passes depends
on nothing but the replies.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import linear

from algorithms.engine import precision
from algorithms.engine.checkpoint import load_model, load_tokenizer
from algorithms.engine.decoding import Row
from algorithms.engine.hf_policy import HFPolicy
from algorithms.engine.kv import PrefixStore
from algorithms.engine.models import embedded_model
from swe_gym_env.policies.base import Reply, State, keyed_rng
from swe_gym_env.types import TaskInstance, Turn

SYSTEM = """You fix bugs in Python programs. In each turn you run one shell command and read its
output. Answer with the command alone, in one short line: for example ls, cat FILE, grep -n WORD
FILE, sed -n 1,40p FILE, python -m pytest -q, or submit when the tests pass. Explain nothing."""
OBSERVATION = 60, 150  # tokens
PROMPT, STEPS = 200, 16  # tokens of a prompt, and steps that are measured with it
HEAD = """| what | way | CPU ms a pass | tokens/CPU s | tokens/s | share of the limit |
|---|---|---:|---:|---:|---:|"""


@dataclass(frozen=True)
class Script:
    """What an episode will see.

    Attributes:
        number: Identifies it.
        observations: One for each turn.
        seconds: How long the command of each turn takes.
    """

    number: int
    observations: tuple[str, ...]
    seconds: tuple[float, ...]

    def state(self, turns: tuple[Turn, ...]) -> State:
        name = f"episode-{self.number}"
        task = TaskInstance(name, "", "", "", "", "", "", (), (), "")
        key = (0, 0, name, 0, len(turns), "student")
        return State(key, task, SYSTEM, turns, self.observations[len(turns)])

    def after(self, turns: tuple[Turn, ...], reply: Reply) -> tuple[Turn, ...]:
        seen = self.observations[len(turns)]
        return (*turns, Turn(seen, "student", reply.text or "", None, reply.token_ids))


class Run(NamedTuple):
    """One measurement: sampled tokens, seconds, CPU seconds, forward passes of the model, and the
    replies by episode and turn."""

    tokens: int
    wall: float
    cpu: float
    passes: int
    replies: dict[tuple[int, int], tuple[int, ...]]


def scripts(
    renderer: Any, count: int, turns: Sequence[int], seconds: float, seed: int = 0
) -> list[Script]:
    """Episodes whose commands take ``seconds`` on average."""
    rng, source = random.Random(seed), renderer.encode(inspect.getsource(argparse))

    def observation() -> str:
        size = rng.randint(*OBSERVATION)
        start = rng.randrange(len(source) - size)
        return renderer.decode(source[start : start + size])

    made = []
    for number in range(count):
        length = rng.randint(turns[0], turns[1])
        seen = tuple(observation() for _ in range(length))
        delays = tuple(rng.expovariate(1 / seconds) if seconds else 0.0 for _ in seen)
        made.append(Script(number, seen, delays))
    return made


def turn_by_turn(
    episodes: list[Script], ask: Callable[[list[State]], list[Reply]]
) -> Iterator[tuple[int, int, Reply]]:
    """Everyone waits for the slowest reply, and for the slowest command."""
    histories: dict[Script, tuple[Turn, ...]] = {episode: () for episode in episodes}
    while histories:
        going = list(histories)
        replies = ask([episode.state(histories[episode]) for episode in going])
        time.sleep(max(e.seconds[len(histories[e])] for e in going))
        for episode, reply in zip(going, replies, strict=True):
            turns = histories.pop(episode)
            yield episode.number, len(turns), reply
            if len(turns) + 1 < len(episode.observations):
                histories[episode] = episode.after(turns, reply)


def by_act(policy: HFPolicy, episodes: list[Script]) -> Iterator[tuple[int, int, Reply]]:
    yield from turn_by_turn(episodes, policy.act)


def by_submit(policy: HFPolicy, episodes: list[Script]) -> Iterator[tuple[int, int, Reply]]:
    """One thread for each episode."""

    def play(episode: Script) -> list[tuple[int, int, Reply]]:
        turns: tuple[Turn, ...] = ()
        replies = []
        for seconds in episode.seconds:
            reply = policy.submit(episode.state(turns)).result()
            replies.append((episode.number, len(turns), reply))
            turns = episode.after(turns, reply)
            time.sleep(seconds)
        return replies

    with ThreadPoolExecutor(len(episodes)) as pool:
        for replies in pool.map(play, episodes):
            yield from replies


def by_generate(policy: HFPolicy, episodes: list[Script]) -> Iterator[tuple[int, int, Reply]]:
    """transformers' ``generate``, turn by turn."""
    yield from turn_by_turn(episodes, lambda states: generated(policy, states))


def generated(policy: HFPolicy, states: list[State]) -> list[Reply]:
    prompts = [policy.renderer.prompt(s.system_prompt, s.turns, s.observation) for s in states]
    replies = []
    for row in generate(policy, prompts, policy.max_new_tokens):
        stops = [place for place, token in enumerate(row) if token in policy.stop_ids]
        tokens = row[: stops[0] + 1] if stops else row
        text = policy.renderer.decode(tokens[:-1] if stops else tokens)
        replies.append(Reply(text=text, token_ids=tuple(tokens)))
    return replies


def generate(policy: HFPolicy, prompts: list[list[int]], limit: int, **how: Any) -> list[list[int]]:
    """What transformers' ``generate`` samples after prompts that are padded on the left."""
    width, end = max(map(len, prompts)), policy.renderer.end_id
    ids = torch.tensor([[end] * (width - len(prompt)) + prompt for prompt in prompts])
    real = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    with torch.inference_mode():
        out = policy.model.generate(
            ids,
            attention_mask=real,
            do_sample=True,
            temperature=policy.temperature,
            top_p=policy.top_p,
            top_k=0,
            max_new_tokens=limit,
            eos_token_id=sorted(policy.stop_ids),
            pad_token_id=end,
            **how,
        )
    found: list[list[int]] = out[:, width:].tolist()
    return found


def measure(
    policy: HFPolicy,
    how: Callable[[HFPolicy, list[Script]], Iterator[tuple[int, int, Reply]]],
    episodes: list[Script],
) -> Run:
    policy.store = PrefixStore(policy.store.max_bytes)
    passes: list[int] = []
    hook = policy.model.base_model.register_forward_pre_hook(lambda *_: passes.append(1))
    wall, cpu = time.monotonic(), time.process_time()
    replies = {(n, turn): reply.token_ids for n, turn, reply in how(policy, episodes)}
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    hook.remove()
    return Run(sum(map(len, replies.values())), wall, cpu, len(passes), replies)


def compare(policy: HFPolicy, args: argparse.Namespace) -> str:
    """Print the lines of the episodes.

    Returns:
        What the episodes were like.
    """
    episodes = scripts(policy.renderer, args.episodes, args.turns, args.command_seconds)
    few = episodes[: args.generated]
    ways: dict[str, Callable[[], Run]] = {
        "act": lambda: measure(policy, by_act, episodes),
        "submit": lambda: measure(policy, by_submit, episodes),
    }
    if few:
        ways["generate"] = lambda: measure(policy, by_generate, few)
    policy.act([episodes[0].state(())])  # loads libraries
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for _ in range(args.repeats):  # they take turns, so that a disturbance affects all of them
        for name, way in ways.items():
            runs[name].append(way())
    for name, measured in runs.items():
        count = len(few) if name == "generate" else len(episodes)
        middle = [
            statistics.median(figures)
            for figures in zip(
                *((1000 * r.cpu / r.passes, r.tokens / r.cpu, r.tokens / r.wall) for r in measured),
                strict=True,
            )
        ]
        figures = " | ".join(f"{figure:.1f}" for figure in middle)
        print(f"| {count} episodes, {measured[0].passes} passes | {name} | {figures} | |")
    replies, submitted = runs["act"][0].replies, runs["submit"][0].replies
    lengths = sorted(map(len, replies.values()))
    stopped = sum(length < policy.max_new_tokens for length in lengths) / len(lengths)
    equal = sum(tokens == submitted[name] for name, tokens in replies.items())
    return (
        f"Episodes: {len(lengths)} turns, replies of {lengths[0]} to {lengths[-1]} tokens (mean "
        f"{statistics.mean(lengths):.0f}, {stopped:.0%} below the limit), commands of "
        f"{args.command_seconds:g} s on average, batch_size {policy.batch_size}, median of "
        f"{args.repeats}; {equal} of {len(submitted)} replies of act and submit are equal."
    )


def steps(policy: HFPolicy, count: int) -> None:
    """Print the lines of ``count`` rows that get one token in each step."""
    source = policy.renderer.encode(inspect.getsource(argparse))
    prompts = [source[PROMPT * n : PROMPT * (n + 1)] for n in range(count)]
    weights = [m.weight for m in policy.model.modules() if isinstance(m, torch.nn.Linear)]
    inputs = {
        size: torch.randn(count, size).to(weights[0]) for size in {w.shape[1] for w in weights}
    }
    stops, policy.stop_ids = policy.stop_ids, set()
    rows = [
        Row(key, list(ids), PROMPT, STEPS + 3, keyed_rng(key))
        for n, ids in enumerate(prompts)
        for key in [(0, 0, f"row-{n}", 0, 0, "student")]
    ]
    batch = policy.fixed_batch(rows)
    policy.step(batch)  # the prompts
    products, ours = [], []
    for _ in range(1 + STEPS):
        with torch.inference_mode():
            products.append(spent(lambda: [linear(inputs[w.shape[1]], w) for w in weights]))
        ours.append(spent(lambda: policy.step(batch)))
    policy.stop_ids = stops
    clock: list[tuple[float, float]] = []

    def note(*_: Any) -> torch.Tensor:  # called after each token
        clock.append((time.process_time(), time.monotonic()))
        return torch.zeros(count, dtype=torch.bool)

    generate(policy, prompts, STEPS + 2, min_new_tokens=STEPS + 2, stopping_criteria=[note])
    theirs = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(clock)]
    limit = statistics.median(cpu for cpu, _ in products[1:])
    for name, found in (("products alone", products), ("ours", ours), ("generate", theirs)):
        cpu, wall = (statistics.median(one[n] for one in found[1:]) for n in range(2))
        figures = f"{1000 * cpu:.1f} | {count / cpu:.1f} | {count / wall:.1f} | {limit / cpu:.0%}"
        print(f"| a step of {count} rows | {name} | {figures} |", flush=True)


def spent(call: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds and seconds."""
    cpu, wall = time.process_time(), time.monotonic()
    call()
    return time.process_time() - cpu, time.monotonic() - wall


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="model folder (default: the embedded model)")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--episodes", type=int, default=64, help="0 for none")
    parser.add_argument("--turns", type=int, nargs=2, default=(2, 12), help="fewest and most")
    parser.add_argument("--batch-size", type=int, default=64, help="as serving.batch_size")
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--command-seconds", type=float, default=0.1, help="mean; 0 for none")
    parser.add_argument("--generated", type=int, default=4, help="episodes for generate")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    model = args.model or embedded_model()
    choice = precision.choose(model, None if args.dtype == "auto" else args.dtype, args.threads)
    torch.set_num_threads(choice.threads)
    units = "with" if precision.has_units() else "without"
    print(
        f"{args.model or 'SmolLM2-135M'}, {choice.dtype}, threads used: {choice.threads}; "
        f"{precision.machine()}, {units} bfloat16 units; torch {torch.__version__}\n\n{HEAD}"
    )
    policy = HFPolicy(
        load_model(model, getattr(torch, choice.dtype)),
        load_tokenizer(model),
        max_new_tokens=args.max_new_tokens,
        batch_size=args.batch_size,
    )
    for count in args.rows:
        steps(policy, count)
    if args.episodes:
        print(f"\n{compare(policy, args)}")
    policy.close()


if __name__ == "__main__":
    main()
