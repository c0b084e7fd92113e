"""Many live episodes at once, with a scripted agent, on tasks from real packages.

    python -m experiments.benchmarks.live_episodes --sandbox local --live 128 --episodes 256
    python -m experiments.benchmarks.live_episodes --sandbox docker --live 32 --episodes 64

Measured: episodes per minute; memory per episode, as the memory that the machine lacks while all
are live and idle, divided by their number; and what is left behind afterwards. Each episode looks
around, applies the gold patch, runs the tests that the fix is about, finishes, and is graded in a
fresh sandbox. Compared: the sandboxes `local` and `docker`, by the two commands above.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import time
from pathlib import Path

from swe_gym_env import tasks
from swe_gym_env.env import SWEEnv
from swe_gym_env.policies.base import State
from swe_gym_env.policies.scripted import ScriptedPolicy
from swe_gym_env.rollout.driver import Request, rollout
from swe_gym_env.rollout.mixers import StudentOnly
from swe_gym_env.sandbox import SandboxProvider, provider
from swe_gym_env.sandbox.warm import WarmProvider
from swe_gym_env.types import Annotation, Episode, TaskInstance


def script(task: TaskInstance, turn: int) -> str:
    """The turns of an agent that knows the fix."""
    tests = " ".join(shlex.quote(test) for test in task.fail_to_pass[:5])
    commands = [
        "git status --short; ls",
        "git log --oneline | head -3; git ls-files | wc -l",
        f"git apply - <<'EOF_GOLD'\n{task.gold_patch}EOF_GOLD",
        f"python -m pytest -q -p no:cacheprovider -o addopts= {tests} 2>&1 | tail -3",
        "git diff --stat",
        "finish",
    ]
    return f"```bash\n{commands[min(turn, len(commands) - 1)]}\n```"


def play(sandboxes: SandboxProvider, chosen: list[TaskInstance], live: int, episodes: int) -> None:
    def make_env(task: TaskInstance) -> SWEEnv:
        return SWEEnv([task], sandbox=sandboxes, grade="deferred", max_tokens=10**6)

    ended: list[Episode] = []

    def keep(episode: Episode, _: list[Annotation]) -> None:
        ended.append(episode)

    answers = {task.instance_id: task for task in chosen}  # a policy is not shown the gold patch

    def act(state: State) -> str:
        return script(answers[state.task.instance_id], len(state.turns))

    requests = [
        Request(chosen[number % len(chosen)], repeat=number // len(chosen))
        for number in range(episodes)
    ]
    started = time.monotonic()
    rollout(
        requests,
        make_env=make_env,
        student=ScriptedPolicy(act),
        mixer=StudentOnly(),
        annotate=False,
        on_episode=keep,
        concurrency=live,
    )
    seconds = time.monotonic() - started
    resolved = sum(episode.outcome.resolved for episode in ended)
    faults = sum(episode.outcome.mask for episode in ended)
    turns = sum(len(episode.turns) for episode in ended)
    rate = 60 * len(ended) / seconds
    print(
        f"{len(ended)} episodes, {live} at once: {seconds:.0f} s, {rate:.0f} per minute, "
        f"{turns} turns, {resolved} resolved, {faults} faults"
    )
    for outcome in {episode.outcome.reason for episode in ended if not episode.outcome.resolved}:
        print("  not resolved:", outcome)


def memory(sandboxes: SandboxProvider, chosen: list[TaskInstance], live: int) -> None:
    before = available()
    started = time.monotonic()
    envs = [
        SWEEnv([chosen[n % len(chosen)]], sandbox=sandboxes, grade="never") for n in range(live)
    ]
    for env in envs:
        env.reset()
        env.step("```bash\ngit status --short; echo x > new.txt\n```")
    seconds = time.monotonic() - started
    used = (before - available()) / live
    print(f"{live} live at once, started one by one in {seconds:.1f} s: {used:.1f} MB per episode")
    for env in envs:
        env.close()


def available() -> float:
    """Memory that the machine has available, in MB."""
    text = Path("/proc/meminfo").read_text()
    return int(text.split("MemAvailable:")[1].split()[0]) / 1024


def leftovers() -> dict[str, int]:
    """Counts of what sandboxes could leave behind on this machine."""
    processes = [name for name in os.listdir("/proc") if name.isdigit()]
    return {
        "processes": len(processes),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "entries in /tmp": len(os.listdir("/tmp")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sandbox", default="local", choices=("local", "docker"))
    parser.add_argument("--live", type=int, default=128)
    parser.add_argument("--episodes", type=int, default=256)
    parser.add_argument("--tasks", type=int, default=16, help="number of different tasks")
    parser.add_argument(
        "--options", type=json.loads, default={}, help="options of the task source, as JSON"
    )
    args = parser.parse_args()
    chosen = tasks.load("pypi", split="train", limit=args.tasks, **args.options)
    plain = provider(args.sandbox)
    for task in chosen:  # Docker images are built once; that is not measured
        SWEEnv([task], sandbox=plain, grade="never").reset()
    before = leftovers()
    sandboxes = WarmProvider(plain, ahead=4) if args.sandbox == "docker" else plain
    memory(plain, chosen, args.live)
    play(sandboxes, chosen, args.live, args.episodes)
    if isinstance(sandboxes, WarmProvider):
        sandboxes.close()
    time.sleep(3)  # a container engine cleans up with a delay
    after = leftovers()
    print("left behind:", ", ".join(f"{after[what] - before[what]} {what}" for what in before))


if __name__ == "__main__":
    main()
