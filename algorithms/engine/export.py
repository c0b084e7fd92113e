"""From token trees and training examples to plain sequences, for trainers that know no trees.

A plain sequence is a path from the root of a tree to a leaf. Several paths share their first nodes;
a shared token keeps its weight in the first path that contains it and is context in the others, so
that the weights of all sequences sum to those of the tree.

Plain sequences carry cross-entropy alone. Policy gradients and divergences need more numbers for
each token than a mask, and the trainers that read plain sequences have no such loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from algorithms.base import Target, TrainingExample
from algorithms.engine.rendering import Thinking
from swe_gym_env.rollout.history import windowed
from swe_gym_env.types import Episode, Turn

if TYPE_CHECKING:
    from algorithms.engine.tree import TokenTree

IGNORED = -100  # the label of a token without loss, as in transformers and TRL


@dataclass(frozen=True)
class TokenSequence:
    """One plain sequence of n tokens.

    Attributes:
        name: Episode, or group of episodes, that the sequence is from.
        input_ids: (n,) the ids, special tokens included.
        weights: (n,) weight of the cross-entropy of predicting each token from those before it; 0
            where the token is context.
    """

    name: str
    input_ids: list[int]
    weights: list[float]

    @property
    def labels(self) -> list[int]:
        """(n,) the ids, with -100 where a token is context."""
        pairs = zip(self.input_ids, self.weights, strict=True)
        return [token if weight else IGNORED for token, weight in pairs]


@dataclass(frozen=True)
class Conversation:
    """One plain sequence in the words of a chat.

    Attributes:
        name: The episode that the conversation is from.
        messages: Dictionaries with ``role`` and ``content``. Those of the assistant also have
            ``trainable`` (bool, as verl reads it) and ``weight`` (float, 0 for context).
    """

    name: str
    messages: list[dict[str, Any]]


def check_exportable(examples: Iterable[TrainingExample]) -> None:
    """ValueError where an example carries more than cross-entropy."""
    for example in examples:
        for target in example.targets:
            loss = "a policy gradient" if target.pg_weight else "a divergence"
            if target.pg_weight or target.kl_weight:
                raise ValueError(
                    f"{example.episode.episode_id}, turn {target.turn}: it is trained with {loss}, "
                    "which plain sequences cannot carry. Methods with cross-entropy alone can be "
                    "exported (sft, rft, dagger, aggrevate, oec)"
                )


def paths(tree: TokenTree, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """The fewest paths from the root that contain all ``wanted`` nodes.

    Args:
        tree: A token tree of n nodes.
        wanted: (n,) bool.

    Yields:
        The nodes of a path, from the root to a wanted node that has no wanted descendant, and how
        many of them earlier paths contain: always the first ones.
    """
    before = np.concatenate([[0], np.cumsum(wanted)])  # wanted nodes among the first n
    nodes = np.flatnonzero(wanted)
    seen = np.zeros(len(tree), dtype=bool)
    for leaf in nodes[before[tree.end[nodes]] == before[nodes + 1]]:
        path = [int(leaf)]
        while (above := int(tree.parent[path[-1]])) >= 0:
            path.append(above)
        whole = np.array(path[::-1])
        yield whole, int(seen[whole].sum())
        seen[whole] = True


def token_sequences(trees: Iterable[TokenTree]) -> Iterator[TokenSequence]:
    """The plain sequences of trees that carry cross-entropy alone."""
    for tree in trees:
        learned = (tree.ce_weight != 0) & (tree.parent >= 0)  # nothing predicts a root
        for nodes, shared in paths(tree, learned):
            weights = np.where(learned, tree.ce_weight, 0)[nodes]
            weights[:shared] = 0
            yield TokenSequence(tree.name, tree.token_ids[nodes].tolist(), weights.tolist())


def conversations(
    examples: Iterable[TrainingExample], thinking: Thinking = "kept"
) -> Iterator[Conversation]:
    """The plain sequences of ``examples`` as chats; each message is trained once.

    Executed turns are trained where they stand in their episode. A label ends a conversation: the
    episode went on with the executed turn. A turn that later turns see in another form (old
    observations are gone, or its thoughts are) ends a conversation, too.
    """
    for example in examples:
        episode, window = example.episode, example.episode.metadata.get("history")
        executed: dict[int, float] = {}
        for target in (target for target in example.targets if target.weight):
            turn = episode.turns[target.turn]
            rewritten = thinking == "empty" or (thinking != "kept" and "</think>" in turn.text)
            if target.text is None and window is None and not rewritten:
                executed[target.turn] = executed.get(target.turn, 0.0) + target.weight
            else:
                yield _conversation(episode, target.turn, {target.turn: target})
        if executed:
            together = {n: Target(n, None, weight) for n, weight in executed.items()}
            yield _conversation(episode, max(executed), together)


def _conversation(episode: Episode, last: int, targets: dict[int, Target]) -> Conversation:
    """Of the turns up to ``last``; those in ``targets`` are trained, with their text if given."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": episode.system_prompt}]
    history: Sequence[Turn] = windowed(episode.turns[:last], episode.metadata.get("history"))
    for index, turn in enumerate([*history, episode.turns[last]]):
        target = targets.get(index)
        text = turn.text if target is None or target.text is None else target.text
        weight = target.weight if target else 0.0
        messages.append({"role": "user", "content": turn.observation})
        messages.append(
            {"role": "assistant", "content": text, "trainable": weight > 0, "weight": weight}
        )
    return Conversation(episode.episode_id, messages)
