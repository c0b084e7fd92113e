"""32 environments side by side in Gymnasium's AsyncVectorEnv, each with its own tasks.

    python -m examples.vector_env

Every environment is a process with its own sandbox. With autoreset off, an environment that has
ended waits until a ``reset_mask`` names it.
"""

import argparse
import collections
from functools import partial

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from swe_gym_env import tasks


def agent(observations: tuple[str, ...], turn: int) -> tuple[str, ...]:
    """Yours goes here: one batch of observations in, one batch of turns out."""
    command = "grep -rn 'def ' --include=*.py . | head" if turn == 0 else "finish"
    return tuple(f"```bash\n{command}\n```" for _ in observations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", help="rows in a file; else bugs of `pypi`")
    parser.add_argument("--envs", type=int, default=32)
    parser.add_argument("--episodes", type=int, default=64)
    args = parser.parse_args()
    chosen = (
        tasks.load("jsonl", path=args.tasks) if args.tasks else tasks.load("pypi", split="train")
    )
    make = partial(gymnasium.make, "swe_gym_env:SWE-v0", max_turns=10)
    shares = [chosen[n :: args.envs] or chosen for n in range(args.envs)]
    envs = AsyncVectorEnv(
        [partial(make, tasks=share) for share in shares],
        autoreset_mode=AutoresetMode.DISABLED,
    )
    ended: collections.Counter[str] = collections.Counter()
    turns = np.zeros(args.envs, dtype=int)
    observations, _ = envs.reset(seed=0)
    while ended.total() < args.episodes:
        answers = [agent((text,), turn)[0] for text, turn in zip(observations, turns, strict=True)]
        observations, _, terminated, truncated, info = envs.step(tuple(answers))
        done = terminated | truncated
        ended.update(info["outcome"][n].status for n in np.flatnonzero(done))
        turns = np.where(done, 0, turns + 1)
        if done.any():
            observations, _ = envs.reset(options={"reset_mask": done})
    envs.close()
    print(*(f"{status} {count}" for status, count in sorted(ended.items())), sep="\n")


if __name__ == "__main__":
    main()
