"""GRPO (arXiv 2402.03300) and its variants: a group of episodes of each task, judged by its tests.

An episode that is better than its group is made more likely, a worse one less likely. DAPO
(2503.14476), Dr. GRPO (2503.20783), RLOO (2402.14740) and GSPO (2507.18071) are settings of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from algorithms.base import Algorithm, Collect, Round, Scoring, Target, TrainingExample
from algorithms.filters import at_least_one, kept, one_distribution, one_of
from algorithms.objective import Objective, Ratio
from swe_gym_env.rollout.mixers import StudentOnly
from swe_gym_env.types import Episode, Scores

Advantage = Literal["mean", "std", "leave_one_out"]
Aggregation = Literal["token", "sequence", "constant"]
Truncated = Literal["keep", "mask"]
ZeroVariance = Literal["keep", "drop"]


@dataclass(frozen=True)
class GRPO(Algorithm):
    """Who acts: student. Label: the executed turn. Weight: the group's advantage of the reward.

    Ratios, gradients and divergences use the distribution from which the student samples:
    softmax(logits / ``temperature``).

    Attributes:
        repeats: Episodes of each task, the size of a group.
        advantage: The reward minus the group's mean (``mean``), that divided by the group's
            standard deviation plus 1e-4 (``std``), or the reward minus the mean of the other
            episodes (``leave_one_out``).
        aggregation: Each token counts the same (``token``), each episode counts the same
            (``sequence``), or Dr. GRPO's sum divided by ``constant`` tokens per episode.
        constant: For ``aggregation`` ``constant``, in tokens.
        ratio: Per token, or the geometric mean over an episode's tokens (GSPO).
        clip_low: The ratio is clipped below 1 - clip_low; None does not clip.
        clip_high: The ratio is clipped above 1 + clip_high; None does not clip.
        truncation: Upper bound of the weight that corrects for the difference between the sampler
            and the trainer; None applies no correction (``Objective.truncation``).
        kl: Coefficient of the divergence from the student before the first round.
        kl_kind: Estimator of that divergence.
        truncated: Whether to train on episodes that a limit ended (``keep``) or not (``mask``).
            They count in the group's mean in both cases.
        zero_variance: Groups whose rewards are all equal have no advantage. With ``keep`` they
            still count in the denominator and in the divergence.
        most_tasks: Play up to this many extra tasks, until as many groups as planned have different
            rewards (DAPO's dynamic sampling).
        temperature: The student's sampling temperature.
        top_p: Must be 1.
    """

    repeats: int = 4
    advantage: Advantage = "mean"
    aggregation: Aggregation = "token"
    constant: int | None = None
    ratio: Ratio = "token"
    clip_low: float | None = 0.2
    clip_high: float | None = 0.28
    truncation: float | None = 2.0
    kl: float = 0.0
    truncated: Truncated = "keep"
    zero_variance: ZeroVariance = "drop"
    most_tasks: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    name: str = "grpo"

    def __post_init__(self) -> None:
        one_of(Advantage, advantage=self.advantage)
        one_of(Aggregation, aggregation=self.aggregation)
        one_of(Truncated, truncated=self.truncated)
        one_of(ZeroVariance, zero_variance=self.zero_variance)
        if self.constant is not None:
            at_least_one(constant=self.constant)
        elif self.aggregation == "constant":
            raise ValueError("algorithm.aggregation=constant needs algorithm.constant=TOKENS")
        one_distribution(self.temperature, self.top_p)
        if self.repeats < 2:
            raise ValueError("algorithm.repeats must be at least 2: one episode has no advantage")
        _ = self.objective

    @property
    def objective(self) -> Objective:
        return Objective(
            ratio=self.ratio,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            truncation=self.truncation,
            divergence="k3",
            coefficient=self.kl,
            denominator="weights" if self.aggregation == "token" else "sequences",
            temperature=self.temperature,
        )

    @property
    def scoring(self) -> Scoring | None:
        return Scoring("start") if self.kl else None

    def collect(self, round: int) -> Collect:
        return Collect(
            StudentOnly(),
            self.repeats,
            annotate="nothing",
            temperature=self.temperature,
            top_p=self.top_p,
        )

    def extra_tasks(self, planned: int, episodes: Sequence[Episode]) -> int:
        groups = self._groups(episodes).values()
        useful = sum(len({e.outcome.reward for e in group}) > 1 for group in groups)
        tried = {(e.instance_id, e.repeat // self.repeats) for e in episodes}
        left = self.most_tasks - (len(tried) - planned)
        return max(0, min(planned - useful, left)) if self.most_tasks else 0

    def examples(self, rounds: Sequence[Round]) -> Iterable[TrainingExample]:
        for name, group in self._groups(rounds[-1].episodes).items():
            rewards = [episode.outcome.reward for episode in group]
            if self.zero_variance == "drop" and len(set(rewards)) == 1:
                continue
            for episode, advantage in zip(group, advantages(rewards, self.advantage), strict=True):
                if self.truncated == "keep" or episode.stop_reason == "finished":
                    scores = rounds[-1].scores_of(episode)
                    yield TrainingExample(episode, self._targets(episode, advantage, scores), name)

    def _groups(self, episodes: Sequence[Episode]) -> dict[str, list[Episode]]:
        """Episodes of one task that were played together. A group of one has no advantage."""
        groups: dict[str, list[Episode]] = {}
        for episode in episodes:
            if kept(episode, "all"):
                name = f"{episode.instance_id}/{episode.repeat // self.repeats}"
                groups.setdefault(name, []).append(episode)
        return {name: group for name, group in groups.items() if len(group) > 1}

    def _targets(
        self, episode: Episode, advantage: float, scores: dict[int, Scores]
    ) -> tuple[Target, ...]:
        tokens = max(1, sum(len(turn.token_ids) for turn in episode.turns))
        each = (
            1 / {"token": 1, "sequence": tokens, "constant": self.constant or 1}[self.aggregation]
        )
        return tuple(
            Target(
                turn,
                None,
                weight=0.0,
                pg_weight=each,
                advantage=advantage,
                kl_weight=each if self.kl else 0.0,
                scores=scores.get(turn),
            )
            for turn in range(len(episode.turns))
        )


def advantages(rewards: Sequence[float], kind: Advantage) -> list[float]:
    """One per reward of a group of two or more."""
    mean, count = fmean(rewards), len(rewards)
    scale = {"mean": 1.0, "std": 1 / (stdev(rewards) + 1e-4), "leave_one_out": count / (count - 1)}
    return [(reward - mean) * scale[kind] for reward in rewards]
