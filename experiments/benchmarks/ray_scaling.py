"""Episodes per minute on 1, 2 and 4 nodes of a Ray cluster, with an agent that waits like a model.

    python -m experiments.benchmarks.ray_scaling --runs 3 --turn-seconds 10

Measured: the cost of driver and scheduling, as the efficiency of several nodes against one. The
nodes are processes on this machine, each with room for ``--slots`` episodes at once. The wait in a
turn stands for the time of a served model. Sandboxes, commands, grading and Ray are real and share
the cores of this machine, so efficiency falls where the cores are used up. Each node gets two
batches of episodes, so the work grows with the nodes.

It needs the extra `ray`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import ray
from ray.cluster_utils import Cluster

from experiments.benchmarks.live_episodes import script
from swe_gym_env import tasks
from swe_gym_env.env import SWEEnv
from swe_gym_env.policies.base import State
from swe_gym_env.policies.scripted import ScriptedPolicy
from swe_gym_env.rollout.driver import Request
from swe_gym_env.rollout.mixers import StudentOnly
from swe_gym_env.rollout.ray import driver
from swe_gym_env.types import Annotation, Episode, TaskInstance

OBJECT_STORE = 78_643_200  # bytes; the minimum that Ray accepts
BATCHES = 2
NODES = (1, 2, 4)


@dataclass(frozen=True)
class Waiting:
    """A scripted agent that waits in each turn.

    Attributes:
        seconds: Length of the wait.
        answers: The tasks by their id, since a policy is not shown the gold patch.
    """

    seconds: float
    answers: Mapping[str, TaskInstance]

    def __call__(self, state: State) -> str:
        time.sleep(self.seconds)
        return script(self.answers[state.task.instance_id], len(state.turns))


def make_env(task: TaskInstance) -> SWEEnv:
    return SWEEnv([task], sandbox="auto", grade="deferred", max_tokens=10**6)


def play(
    cluster: driver.Cluster, chosen: list[TaskInstance], episodes: int, seconds: float
) -> tuple[float, int]:
    """Play the episodes; returns wall seconds and the number of resolved episodes."""
    ended: list[Episode] = []

    def keep(episode: Episode, _: list[Annotation]) -> None:
        ended.append(episode)

    started = time.monotonic()
    driver.rollout(
        [Request(chosen[n % len(chosen)], repeat=n // len(chosen)) for n in range(episodes)],
        cluster=cluster,
        make_env=make_env,
        student=ScriptedPolicy(Waiting(seconds, {task.instance_id: task for task in chosen})),
        mixer=StudentOnly(),
        annotate=False,
        on_episode=keep,
        concurrency=episodes,
    )
    return time.monotonic() - started, sum(episode.outcome.resolved for episode in ended)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--slots", type=int, default=2, help="episodes at once on one node")
    parser.add_argument("--turn-seconds", type=float, default=10.0)
    args = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    chosen = tasks.load("pypi", split="train", limit=8)
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    settings = driver.Cluster(nodes.address, cpus=1, memory_gb=0.1)
    rates: dict[int, float] = {}
    print("| nodes | episodes per minute | efficiency | spread | resolved |\n|---|---|---|---|---|")
    for count in NODES:
        while len(nodes.worker_nodes) < count:
            nodes.add_node(num_cpus=args.slots, object_store_memory=OBJECT_STORE)
        play(settings, chosen, args.slots * count, 0.0)  # starts the worker processes
        episodes, measured, resolved = BATCHES * args.slots * count, [], 0
        for _ in range(args.runs):
            seconds, count_resolved = play(settings, chosen, episodes, args.turn_seconds)
            measured.append(60 * episodes / seconds)
            resolved += count_resolved
        rates[count] = statistics.median(measured)
        share = rates[count] / (rates[NODES[0]] * count / NODES[0])
        print(
            f"| {count} | {rates[count]:.2f} | {share:.0%} "
            f"| {min(measured):.2f} to {max(measured):.2f} "
            f"| {resolved} of {episodes * args.runs} |",
            flush=True,
        )
    ray.shutdown()
    nodes.shutdown()


if __name__ == "__main__":
    main()
