"""What there is to do in each phase: episodes, turns and tokens, drawn from the stated assumptions.

Who acts, who labels and what is learned is the algorithm's word: its own mixer is asked about each
turn, and its own choice of training examples is made from episodes that are nothing but turns and
verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from omegaconf import DictConfig

from algorithms.base import Algorithm, Collect, Round
from experiments.plan.known import Seen, SeenTurn
from experiments.plan.simulate import Script
from swe_gym_env.rollout.mixers import Mixer
from swe_gym_env.types import Annotation, Episode, Outcome, Scores, Turn

WORDS = "a turn"  # of a student; a label says something else
LABEL = "another turn"


@dataclass(frozen=True)
class Agent:
    """Turns of an episode, tokens of a turn, share of the tasks that it resolves, share of its
    turns that hold a call which can be run, and the deviation of the turns over their mean."""

    turns: float
    generated: float
    resolved: float
    acts: float
    spread: float


@dataclass(frozen=True)
class Assumed:
    """All that cannot be known before. Tokens are the student's; ``spread`` is deviation over
    mean."""

    untrained: Agent
    student: Agent
    teacher: Agent
    opening: int
    observed: int
    spread_generated: float
    spread_step: float


def assumed(cfg: DictConfig) -> Assumed:
    plan = cfg.plan
    return Assumed(
        Agent(**plan.untrained),
        Agent(**plan.student),
        Agent(**plan.teacher),
        plan.opening,
        plan.observed,
        plan.spread.generated,
        plan.spread.step,
    )


@dataclass(frozen=True)
class Played:
    """The episodes of a phase: how each goes, and as an algorithm sees it."""

    scripts: list[Script]
    episodes: list[Episode]


def draw(
    rng: np.random.Generator, mean: float, spread: float, most: float, count: int
) -> np.ndarray:
    """Gamma-distributed with this mean and spread, cut at ``most``."""
    if spread <= 0 or mean <= 0:
        return np.full(count, min(mean, most))
    shape = 1 / spread**2
    return np.minimum(rng.gamma(shape, mean / shape, count), most)


def episodes(
    cfg: DictConfig,
    mixer: Mixer,
    round: int,
    count: int,
    student: Agent,
    given: Assumed,
    step_seconds: float,
    repeats: int = 1,
    seen: Seen | None = None,
) -> Played:
    """``count`` episodes, ``repeats`` of each task, ended by the agent or by a limit; with ``seen``
    as long as those were, and acted by the same."""
    rng = np.random.default_rng([cfg.seed, round, count])
    scripts, records = [], []
    for number in range(count):
        task, repeat = f"task-{number // repeats}", number % repeats
        key = (cfg.seed, round, task, repeat)
        script = _script(cfg, rng, mixer, key, student, given, step_seconds)
        if seen and seen.turns:
            turns_then = seen.turns[number % len(seen.turns)]
            script = _as_seen(script, turns_then, given, step_seconds)
        share = sum(script.led) / len(script.led)
        chance = share * given.teacher.resolved + (1 - share) * student.resolved
        resolved = bool(rng.random() < chance)
        turns = tuple(
            Turn("", "teacher" if led else "student", WORDS, logprobs=(0.0,) * 1)
            for led in script.led
        )
        outcome = Outcome("resolved" if resolved else "unresolved", float(resolved))
        name = f"{task}/{round}/{repeat}/{cfg.seed}"
        records.append(Episode(name, task, cfg.seed, round, repeat, "", turns, outcome, "finished"))
        scripts.append(script)
    return Played(scripts, records)


def _script(
    cfg: DictConfig,
    rng: np.random.Generator,
    mixer: Mixer,
    key: tuple[int, int, str, int],
    student: Agent,
    given: Assumed,
    step_seconds: float,
) -> Script:
    limits, teacher = cfg.limits, given.teacher
    likely = min(limits.max_turns, max(1, int(max(student.turns, teacher.turns))))
    led = [mixer.actor((*key, turn, "mixer")) == "teacher" for turn in range(likely)]
    share = sum(led) / likely
    mean = share * teacher.turns + (1 - share) * student.turns
    spread = share * teacher.spread + (1 - share) * student.spread
    drawn = draw(rng, mean, spread, limits.max_turns, 1)[0]
    turns = max(1, int(drawn) + int(rng.random() < drawn % 1))
    led += [mixer.actor((*key, turn, "mixer")) == "teacher" for turn in range(likely, turns)]
    sampled = _tokens(rng, student.generated, given, cfg.sampling.max_new_tokens, turns)
    most = cfg.teacher.get("max_tokens") or cfg.teacher.get("max_new_tokens") or 10**9
    labels = _tokens(rng, teacher.generated, given, most, turns)
    taken = [s if by else o for o, s, by in zip(sampled, labels, led, strict=False)]
    observed = [given.opening] + [given.observed] * (turns - 1)
    total = np.cumsum(np.add(observed, taken))
    turns = max(1, min(turns, int((total <= limits.max_tokens).sum()) + 1))
    steps = draw(rng, step_seconds, given.spread_step, limits.command_timeout, turns)
    acts = [teacher.acts if by else student.acts for by in led[:turns]]
    runs = rng.random(turns) < acts
    return Script(
        tuple(observed[:turns]),
        tuple(taken[:turns]),
        tuple(led[:turns]),
        tuple(labels[:turns]),
        tuple(float(s) for s in steps * runs),
        bool(runs.any()),
    )


def _as_seen(script: Script, turns: Sequence[SeenTurn], given: Assumed, seconds: float) -> Script:
    """With other turns; each command takes the mean ``seconds``."""
    labels = [script.labels[turn % len(script.labels)] for turn in range(len(turns))]
    return Script(
        (given.opening, *[given.observed] * (len(turns) - 1)),
        tuple(turn.tokens or label for turn, label in zip(turns, labels, strict=True)),
        tuple(turn.led for turn in turns),
        tuple(labels),
        tuple(seconds if turn.acts else 0.0 for turn in turns),
        any(turn.acts for turn in turns),
    )


def _tokens(
    rng: np.random.Generator, mean: float, given: Assumed, most: float, count: int
) -> list[int]:
    return [max(1, round(float(n))) for n in draw(rng, mean, given.spread_generated, most, count)]


@dataclass(frozen=True)
class Learned:
    """What a training goes through in one epoch: the sizes of its trees in tokens, and how many
    groups of them share an optimizer step's place."""

    trees: tuple[int, ...]
    groups: int


def learned(algorithm: Algorithm, collect: Collect, rounds: Sequence[Played]) -> Learned:
    """The algorithm's own choice, of rounds 0, 1, ... Trees have the trunk up to the last turn that
    teaches, and each label that is not the executed turn as a branch."""
    seen = [_as_round(index, played, algorithm, collect) for index, played in enumerate(rounds)]
    scripts = {
        episode.episode_id: script
        for played in rounds
        for episode, script in zip(played.episodes, played.scripts, strict=True)
    }
    trees: list[int] = []
    groups, last = 0, ""
    for example in algorithm.examples(seen):
        targets = [t for t in example.targets if t.weight or t.pg_weight or t.kl_weight]
        if not targets:
            continue
        script = scripts[example.episode.episode_id]
        end = 1 + max(target.turn for target in targets)
        branches = sum(script.labels[t.turn] for t in targets if t.text == LABEL)
        size = sum(script.observed[:end]) + sum(script.taken[:end]) + branches
        if example.group and example.group == last:
            trees[-1] += size - script.observed[0]
        else:
            trees.append(size)
            groups += 1
        last = example.group
    return Learned(tuple(trees), groups)


def _as_round(index: int, played: Played, algorithm: Algorithm, collect: Collect) -> Round:
    labels, scores = [], []
    scoring = algorithm.scoring
    for episode in played.episodes:
        for turn, taken in enumerate(episode.turns):
            name = episode.episode_id
            if collect.annotate == "label":
                executed = taken.actor == "teacher"
                text = taken.text if executed else LABEL
                labels.append(Annotation(name, turn, "teacher", text, executed=executed))
            if scoring is not None:
                top = ((0,),) if scoring.top_k else ()
                best = ((0.0,),) if scoring.top_k else ()
                scores.append(Scores(name, turn, "teacher", (0.0,), top, best))
    return Round(index, played.episodes, labels, scores)
