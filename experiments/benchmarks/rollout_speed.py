"""The roll-out against a model server with the latencies of software-engineering agents.

    python -m experiments.benchmarks.rollout_speed                everything
    python -m experiments.benchmarks.rollout_speed --only slots   or labels, ray, cost

A real HTTP server in a separate process answers each turn after a lognormal time (median 0.4 s,
sigma 0.8), commands take a lognormal time too (median 50 ms, sigma 1.4), and an episode has a
lognormal number of turns (median 20, sigma 0.5). Times and numbers depend on seed, episode and
turn alone, so that all ways of playing have the same to do. Sandboxes are replaced by that sleep:
what is measured is who waits for whom; `live_episodes` measures real ones.

Compared, in one run:

- `independent`: no episode waits for another, as roll-outs are now.
- `batches`: fixed batches, which wait for the slowest command, turn and label of all episodes, as
  all roll-outs of this project did before.
- For labels, at beta 0.6: in the turn or at the end of the episode.
- For Ray: tasks on four nodes, each of them a process on this machine, against this process. A slot
  is then a process too: `--ray-slots` times its memory (printed) must fit into the machine.
- Cost: what the driver itself takes for a turn when policy and environment take no time, and the
  memory of 512 live episodes.

The ways take turns, and each run is printed when it ends. A part makes at most `--runs` rounds, and
no further one that would take it beyond five minutes; the median is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from swe_gym_env import actions
from swe_gym_env.policies.base import Reply, State, keyed_rng
from swe_gym_env.policies.scripted import ScriptedPolicy
from swe_gym_env.policies.server import ServerPolicy
from swe_gym_env.rollout.driver import Progress, Request, rollout
from swe_gym_env.rollout.mixers import Mixer, PerTurnBeta, StudentOnly
from swe_gym_env.types import Outcome, TaskInstance, ToolCall

TURN, COMMAND, TURNS = (0.4, 0.8), (0.05, 1.4), (20, 0.5)  # median and sigma
MOST_TURNS = 100
PART_SECONDS = 300.0
STORE: dict[str, Any] = {
    "object_store_memory": 78_643_200
}  # bytes, for each node of Ray; the least that it takes
TEXT = "```bash\nls\n```"


def drawn(median: float, sigma: float, *key: Any) -> float:
    return median * math.exp(sigma * keyed_rng([str(part) for part in key]).standard_normal())


class SleepingEnv:
    """An environment whose commands take a drawn time and do nothing."""

    grade_mode, sandbox, provider = "never", None, None
    costs: dict[str, float] = {}  # noqa: RUF012
    form = actions.action_format("bash_block", ["bash", "finish"])

    def __init__(self, task: TaskInstance, scale: float) -> None:
        self._id, self._scale, self._turn = task.instance_id, scale, 0
        self._last = min(MOST_TURNS, max(2, round(drawn(*TURNS, "turns", self._id))))

    def _info(self, stop_reason: str = "") -> dict[str, Any]:
        outcome = Outcome("unresolved") if stop_reason else None
        return {"action": ToolCall("bash"), "stop_reason": stop_reason, "outcome": outcome}

    def reset(self, **_: Any) -> tuple[str, dict[str, Any]]:
        return "task", {**self._info(), "system_prompt": "system"}

    def step(self, text: str) -> tuple[Any, ...]:
        self._turn += 1
        time.sleep(self._scale * drawn(*COMMAND, "command", self._id, self._turn))
        ended = self._turn >= self._last
        return "seen", 0.0, ended, False, self._info("finished" if ended else "")

    def close(self) -> None: ...


@dataclass
class MakeEnv:
    """Makes the environment of an episode, also in another process."""

    scale: float = 1.0

    def __call__(self, task: TaskInstance) -> Any:
        return SleepingEnv(task, self.scale)


def serve(port: Any) -> None:
    """A model server that only takes time. Keep-alive, any number of requests at once."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with_body = (b"Content-Length:", b"content-length:")
        try:
            while line := await reader.readline():
                length = 0
                while (header := await reader.readline()).strip():
                    if header.startswith(with_body):
                        length = int(header.split(b":")[1])
                body = json.loads(await reader.readexactly(length)) if length else {}
                if line.startswith(b"POST"):
                    await asyncio.sleep(drawn(*TURN, "turn", body["seed"], body["model"]))
                    content: Any = {"choices": [{"message": {"content": TEXT}}]}
                else:
                    content = {"data": [{"id": "student"}, {"id": "teacher"}]}
                text = json.dumps(content).encode()
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n"
                writer.write(head.encode() + text)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


@contextmanager
def server() -> Iterator[str]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(there,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}/v1"
    finally:
        process.terminate()


def tasks(count: int) -> list[Request]:
    return [
        Request(TaskInstance(f"task-{n}", "", "", "", "", "", "", (), (), "")) for n in range(count)
    ]


@dataclass
class Played:
    """What one way of playing took."""

    seconds: float
    episodes: int
    turns: int
    busy: float  # mean share of slots in use while there are enough episodes for all
    busy_in_all: float
    cpu: float  # seconds of this process

    @property
    def rate(self) -> float:
        return 60 * self.episodes / self.seconds


def play(
    url: str,
    episodes: int,
    slots: int,
    *,
    how: Any = rollout,
    mixer: Mixer | None = None,
    teacher: bool = False,
    **options: Any,
) -> Played:
    student = ServerPolicy(url, "student", name="student", concurrency=slots)
    lead = ServerPolicy(url, "teacher", name="teacher", concurrency=slots) if teacher else None
    began, seen, cpu = time.monotonic(), [], time.process_time()

    def progress(now: Progress) -> None:
        seen.append((time.monotonic() - began, now.running, now.total - now.done))

    turns = 0

    def on_episode(episode: Any, _: Any) -> None:
        nonlocal turns
        turns += len(episode.turns)

    how(
        tasks(episodes),
        make_env=MakeEnv(),
        student=student,
        teacher=lead,
        mixer=mixer or StudentOnly(),
        annotate=teacher,
        on_episode=on_episode,
        concurrency=slots,
        progress=progress,
        **options,
    )
    seconds = time.monotonic() - began
    used = [
        (later - sooner, count, left)
        for (sooner, count, left), (later, *_) in itertools.pairwise(seen)
    ]
    enough = [(passed, count) for passed, count, left in used if left >= slots]
    return Played(
        seconds,
        episodes,
        turns,
        sum(passed * count for passed, count in enough) / slots / sum(p for p, _ in enough),
        sum(passed * count for passed, count, _ in used) / slots / seconds,
        time.process_time() - cpu,
    )


def compared(runs: int, ways: Mapping[str, Callable[[], Played]]) -> None:
    """The run with the median time of each way, and its rate beside that of the first."""
    played: dict[str, list[Played]] = {name: [] for name in ways}
    began = time.monotonic()
    for done in range(1, runs + 1):
        for name, way in ways.items():
            played[name].append(way())
            print(f"  {name}: {played[name][-1].seconds:.1f} s", flush=True)
        if (time.monotonic() - began) * (done + 1) / done > PART_SECONDS:
            break
    first: Played | None = None
    for name, several in played.items():
        several.sort(key=lambda one: one.seconds)
        median = several[(len(several) - 1) // 2]
        line(name, median, first)
        first = first or median


def line(name: str, one: Played, beside: Played | None = None) -> None:
    ratio = f"{one.rate / beside.rate:5.2f} x" if beside else "       "
    print(
        f"{name:34} {one.episodes:5} episodes {one.turns:6} turns {one.seconds:7.1f} s "
        f"{one.rate:7.1f} a minute {ratio}  slots busy {one.busy:4.0%}, with the end "
        f"{one.busy_in_all:4.0%}, {1000 * one.cpu / one.turns:.1f} ms of CPU a turn here",
        flush=True,
    )


def by_slots(url: str, args: argparse.Namespace) -> None:
    for slots in args.slots:
        one = partial(play, url, args.per_slot * slots, slots, commands=slots)
        ways = {
            f"{slots} slots, batches": partial(one, fixed_batches=True),
            f"{slots} slots, independent": one,
        }
        compared(args.runs, ways)


def by_labels(url: str, args: argparse.Namespace) -> None:
    slots = args.slots[0]
    given: dict[str, Any] = {"mixer": PerTurnBeta(0.6), "teacher": True, "commands": slots}
    one = partial(play, url, args.per_slot * slots, slots, **given)
    ways = {"beta 0.6, batches, labels in turn": partial(one, fixed_batches=True)}
    for label_at in ("turn", "end"):
        ways[f"beta 0.6, independent, labels {label_at}"] = partial(one, label_at=label_at)
    compared(args.runs, ways)


def by_ray(url: str, args: argparse.Namespace) -> None:
    """Here a slot is a process of Ray, so that a small machine limits how many there are."""
    import ray
    from ray.cluster_utils import Cluster as RayCluster

    from swe_gym_env.rollout.ray import Cluster, driver
    from tests.support.ray_nodes import patiently

    slots, nodes = args.ray_slots, 4
    head = {"num_cpus": 0, **STORE}
    there = patiently(lambda: RayCluster(initialize_head=True, head_node_args=head))
    for _ in range(nodes):
        patiently(lambda: there.add_node(num_cpus=slots // nodes, **STORE))
    cluster = Cluster(address=there.address, cpus=1, memory_gb=0.05)
    how = partial(driver.rollout, cluster=cluster)
    one = partial(play, url, args.per_slot * slots, slots)
    began = time.monotonic()
    play(url, slots, slots, how=how)  # starts the workers
    count, megabytes = workers()
    print(
        f"  {count} workers started, and an episode played in each, in "
        f"{time.monotonic() - began:.0f} s; {megabytes:.0f} MB each",
        flush=True,
    )
    ways = {
        f"{slots} slots, this process": partial(one, commands=slots),
        f"{slots} slots, Ray, {nodes} nodes": partial(one, how=how),
    }
    compared(args.runs, ways)
    ray.shutdown()
    there.shutdown()


def workers() -> tuple[int, float]:
    """How many processes of Ray on this machine can play, and the mean of their memory in MB; what
    several share is divided among them."""
    sizes = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_text().startswith(("ray::IDLE", "ray::_play")):
                rollup = (folder / "smaps_rollup").read_text()
                sizes.append(int(rollup.split("\nPss:")[1].split()[0]) / 1000)
        except (OSError, IndexError):  # it has ended, or belongs to somebody else
            continue
    return len(sizes), statistics.mean(sizes or [0.0])


def cost(args: argparse.Namespace) -> None:
    """CPU time of the driver for one turn, and memory for one live episode."""
    slots = 512
    texts = [TEXT] * MOST_TURNS

    class Instant:
        name, needs_sandbox = "instant", False

        def act(self, states: list[State]) -> list[Reply]:
            return [Reply(text=texts[0]) for _ in states]

    for name, policy in (("act", Instant()), ("function", ScriptedPolicy(texts))):
        measured = []
        for _ in range(args.runs):
            turns = SimpleNamespace(count=0)

            def on_episode(episode: Any, _: Any, turns: Any = turns) -> None:
                turns.count += len(episode.turns)

            before, cpu = memory(), time.process_time()
            rollout(
                tasks(2 * slots),
                make_env=MakeEnv(scale=0.0),
                student=policy,  # type: ignore[arg-type]
                mixer=StudentOnly(),
                annotate=False,
                on_episode=on_episode,
                concurrency=slots,
                commands=slots,
            )
            spent = (time.process_time() - cpu) / turns.count
            measured.append((1000 * spent, (memory() - before) / slots))
        milliseconds = statistics.median(one for one, _ in measured)
        kilobytes = max(one for _, one in measured)
        print(
            f"{slots} live episodes, policy with {name}: {milliseconds:.2f} ms of CPU a turn, "
            f"at most {kilobytes:.0f} kB more memory for each"
        )


def memory() -> float:
    """The most that this process has held so far, kB."""
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--slots", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--per-slot", type=int, default=2, help="episodes for each slot")
    parser.add_argument("--ray-slots", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3, help="at most, of each way")
    parser.add_argument("--only", choices=("slots", "labels", "ray", "cost"))
    args = parser.parse_args()
    parts = {"slots": by_slots, "labels": by_labels, "ray": by_ray}
    with server() as url:
        for name, part in parts.items():
            if args.only in (None, name):
                part(url, args)
    if args.only in (None, "cost"):
        cost(args)


if __name__ == "__main__":
    main()
