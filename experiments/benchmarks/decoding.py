"""Sampled tokens per second of the policy in this process: ``submit``, ``act`` and ``generate``.

    python -m experiments.benchmarks.decoding                      the embedded model, as auto
    python -m experiments.benchmarks.decoding --dtype float32 --command-seconds 0 --repeats 5
    python -m experiments.benchmarks.decoding --steps-only         only the speed of one step

To see a CPU without bfloat16 units, set ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2
MKL_ENABLE_INSTRUCTIONS=AVX2.

The model plays episodes of different length: a system prompt that all share, and in each turn an
observation, a reply that it ends itself (or the limit does), and a command that takes some time.
Observations are pieces of the source of Python's ``argparse``; lengths and times are drawn from a
seed. Compared:

- ``act``: all waiting episodes are asked in one call, and the next call waits for the slowest
  command, as in a roll-out that plays turn by turn;
- ``submit``: one thread per episode asks for its own replies;
- ``generate``: transformers' own loop, which computes the history again in each turn, for the first
  few episodes one at a time, and for all of them in batches, padded on the left.

``act`` and ``submit`` sample the same replies, up to rounding; those of ``generate`` differ. Wall
time counts; where other programs are running, compare tokens per second of CPU time. The second
table has the speed of decoding alone, without prompts, by the number of rows. The number of forward
passes depends on nothing but the replies: on a GPU, and wherever a pass takes as long for many rows
as for few, it is what counts.
"""

from __future__ import annotations

import argparse
import inspect
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from algorithms.engine import precision
from algorithms.engine.checkpoint import load_model, load_tokenizer
from algorithms.engine.hf_policy import HFPolicy
from algorithms.engine.kv import PrefixStore
from algorithms.engine.models import embedded_model
from swe_gym_env.policies.base import Reply, State
from swe_gym_env.types import TaskInstance, Turn

SYSTEM = """You fix bugs in Python programs. In each turn you run one shell command and read its
output. Answer with the command alone, in one short line: for example ls, cat FILE, grep -n WORD
FILE, sed -n 1,40p FILE, python -m pytest -q, or submit when the tests pass. Explain nothing."""
OBSERVATION = 60, 150  # tokens
DECODED = 32  # steps that are measured for the second table


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


def by_act(policy: HFPolicy, episodes: list[Script]) -> Iterator[tuple[int, int, Reply]]:
    """Turn by turn: everyone waits for the slowest reply, and for the slowest command."""
    histories: dict[Script, tuple[Turn, ...]] = {episode: () for episode in episodes}
    while histories:
        going = list(histories)
        replies = policy.act([episode.state(histories[episode]) for episode in going])
        time.sleep(max(e.seconds[len(histories[e])] for e in going))
        for episode, reply in zip(going, replies, strict=True):
            turns = histories.pop(episode)
            yield episode.number, len(turns), reply
            if len(turns) + 1 < len(episode.observations):
                histories[episode] = episode.after(turns, reply)


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


def by_generate(
    policy: HFPolicy, episodes: list[Script], rows: int
) -> Iterator[tuple[int, int, Reply]]:
    """transformers' ``generate``, for ``rows`` episodes at a time, turn by turn."""
    for low in range(0, len(episodes), rows):
        histories: dict[Script, tuple[Turn, ...]] = {e: () for e in episodes[low : low + rows]}
        while histories:
            going = list(histories)
            states = [episode.state(histories[episode]) for episode in going]
            replies = generated(policy, states)
            time.sleep(max(e.seconds[len(histories[e])] for e in going))
            for episode, reply in zip(going, replies, strict=True):
                turns = histories.pop(episode)
                yield episode.number, len(turns), reply
                if len(turns) + 1 < len(episode.observations):
                    histories[episode] = episode.after(turns, reply)


def generated(policy: HFPolicy, states: list[State]) -> list[Reply]:
    prompts = [policy.renderer.prompt(s.system_prompt, s.turns, s.observation) for s in states]
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
            max_new_tokens=policy.max_new_tokens,
            eos_token_id=sorted(policy.stop_ids),
            pad_token_id=end,
        )
    replies = []
    for row in out[:, width:].tolist():
        stops = [place for place, token in enumerate(row) if token in policy.stop_ids]
        tokens = row[: stops[0] + 1] if stops else row
        text = policy.renderer.decode(tokens[:-1] if stops else tokens)
        replies.append(Reply(text=text, token_ids=tuple(tokens)))
    return replies


def measure(
    policy: HFPolicy,
    how: Callable[..., Iterator[tuple[int, int, Reply]]],
    episodes: list[Script],
    *rest: int,
) -> Run:
    policy.store = PrefixStore(policy.store.max_bytes)
    passes: list[int] = []
    hook = policy.model.base_model.register_forward_pre_hook(lambda *_: passes.append(1))
    wall, cpu = time.monotonic(), time.process_time()
    replies = {(n, turn): reply.token_ids for n, turn, reply in how(policy, episodes, *rest)}
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    hook.remove()
    return Run(sum(map(len, replies.values())), wall, cpu, len(passes), replies)


def compare(policy: HFPolicy, args: argparse.Namespace) -> None:
    episodes = scripts(policy.renderer, args.episodes, args.turns, args.command_seconds)
    few = episodes[: args.alone]
    ways: dict[str, Callable[[], Run]] = {
        "act, all waiting episodes": lambda: measure(policy, by_act, episodes),
        "submit, a thread per episode": lambda: measure(policy, by_submit, episodes),
    }
    if not args.without_generate:
        alone, many = f"generate, 1 at a time ({len(few)} episodes)", args.generate_rows
        ways[alone] = lambda: measure(policy, by_generate, few, 1)
        ways[f"generate, batches of {many}"] = lambda: measure(policy, by_generate, episodes, many)
    policy.act([few[0].state(())])  # loads libraries
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for _ in range(args.repeats):  # they take turns, so that a disturbance affects all of them
        for name, way in ways.items():
            runs[name].append(way())
            print(f"  {name}: {runs[name][-1].wall:.1f} s", flush=True)
    first = next(iter(runs.values()))[0]
    lengths = sorted(map(len, first.replies.values()))
    stopped = sum(length < policy.max_new_tokens for length in lengths) / len(lengths)
    print(
        f"\n{args.episodes} episodes, {len(lengths)} turns, replies of {lengths[0]} to "
        f"{lengths[-1]} tokens (mean {statistics.mean(lengths):.0f}, {stopped:.0%} below the limit)"
        f", commands of {args.command_seconds:g} s on average, batch_size {policy.batch_size}, "
        f"median of {args.repeats}\n"
    )
    head = "tokens | passes | seconds | tokens/s | CPU seconds | tokens/CPU s | submit / this"
    print(f"| | {head} |\n|---|{'---:|' * 7}")

    def speed(name: str) -> float:
        return statistics.median(run.tokens / run.wall for run in runs[name])

    best = speed("submit, a thread per episode")
    for name, measured in runs.items():
        whole = [(run.tokens, run.wall, run.cpu, run.passes) for run in measured]
        tokens, wall, cpu, passes = map(statistics.median, zip(*whole, strict=True))
        of_cpu = statistics.median(run.tokens / run.cpu for run in measured)
        print(
            f"| {name} | {tokens:.0f} | {passes:.0f} | {wall:.1f} | {speed(name):.1f} "
            f"| {cpu:.1f} | {of_cpu:.1f} | {best / speed(name):.2f} |"
        )
    submitted = runs["submit, a thread per episode"][0].replies
    equal = sum(tokens == submitted[name] for name, tokens in first.replies.items())
    print(f"\nequal replies of act and submit: {equal} of {len(submitted)}")


def steps(policy: HFPolicy, args: argparse.Namespace) -> None:
    """The difference between long and short replies, whose prompts are in the store already."""
    limit, stops = policy.max_new_tokens, policy.stop_ids
    policy.stop_ids = set()
    print("\n| rows | ms per step | tokens/s | tokens/CPU s |\n|---:|---:|---:|---:|")
    for rows in args.rows:
        states = [
            episode.state(()) for episode in scripts(policy.renderer, rows, (1, 1), 0, seed=1)
        ]
        found = []
        for repeat in range(1 + args.repeats):
            spent = []
            for tokens in (1, 1 + DECODED):
                policy.max_new_tokens = tokens
                wall, cpu = time.monotonic(), time.process_time()
                policy.act(states)
                spent.append((time.monotonic() - wall, time.process_time() - cpu))
            if repeat:  # the first one computed the prompts
                found.append([more - less for less, more in zip(*spent, strict=True)])
        wall, cpu = (statistics.median(one[n] for one in found) / DECODED for n in range(2))
        print(f"| {rows} | {1000 * wall:.1f} | {rows / wall:.1f} | {rows / cpu:.1f} |", flush=True)
    policy.max_new_tokens, policy.stop_ids = limit, stops


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="model folder (default: the embedded model)")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--threads", type=int, help="default: one or all, whichever is faster")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64, help="as serving.batch_size")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--turns", type=int, nargs=2, default=(2, 12), help="fewest and most")
    parser.add_argument("--without-generate", action="store_true")
    parser.add_argument("--command-seconds", type=float, default=0.1, help="mean; 0 for none")
    parser.add_argument("--alone", type=int, default=4, help="episodes for generate, 1 at a time")
    parser.add_argument("--generate-rows", type=int, default=16, help="episodes in its batches")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--steps-only", action="store_true", help="only the second table")
    args = parser.parse_args()
    model = args.model or embedded_model()
    choice = precision.choose(model, None if args.dtype == "auto" else args.dtype, args.threads)
    torch.set_num_threads(choice.threads)
    units = "with" if precision.has_units() else "without"
    print(
        f"{args.model or 'SmolLM2-135M'}, {choice.dtype}, {choice.threads} threads; "
        f"{precision.machine()}, {units} bfloat16 units; torch {torch.__version__}"
    )
    policy = HFPolicy(
        load_model(model, getattr(torch, choice.dtype)),
        load_tokenizer(model),
        max_new_tokens=args.max_new_tokens,
        batch_size=args.batch_size,
    )
    if not args.steps_only:
        compare(policy, args)
    steps(policy, args)
    policy.close()


if __name__ == "__main__":
    main()
