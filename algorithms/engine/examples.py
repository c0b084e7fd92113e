"""From training examples to token trees.

The executed trajectory is the trunk of a tree, and each label is a branch, in the tokens that the
student would have to generate. This holds for a label with the text of the executed turn, too: the
executed turn may have been cut, may have ended with another stop token, or may have been sampled in
other tokens. Sequences that begin with the same tokens share nodes, and their cross-entropy weights
add up. A token with another loss has an advantage or scores of one turn, so it shares no node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np

from algorithms.base import Target, TrainingExample
from algorithms.engine.rendering import Renderer, Reply
from algorithms.engine.tree import STREAMS, TokenTree
from swe_gym_env.rollout.history import windowed
from swe_gym_env.types import Episode


@dataclass(slots=True)
class _Node:
    """A token of a trie.

    Attributes:
        token: Its id.
        segment: The turn that it belongs to.
        sequence: The episode that it belongs to, by its number in the group.
        streams: Weights and what belongs to them, by the names of ``STREAMS``.
        children: The tokens that follow, in the order in which they were added.
        by_token: The first child of each id, which other sequences may share.
    """

    token: int
    segment: int
    sequence: int
    streams: dict[str, Any] = field(default_factory=dict)
    children: list[_Node] = field(default_factory=list)
    by_token: dict[int, _Node] = field(default_factory=dict)


class _Trie:
    def __init__(self) -> None:
        self.top = _Node(-1, -1, -1)

    def add(
        self,
        at: _Node,
        ids: Sequence[int],
        segment: int,
        sequence: int,
        streams: Iterable[dict[str, Any]] | None = None,
    ) -> _Node:
        """Walks ``ids`` down from ``at`` and makes the nodes that are missing.

        A token with weights is shared only within its episode, so that each weight counts for one
        episode; tokens without weights are shared by all.

        Returns:
            The last node.
        """
        for token, extra in zip(ids, streams or ({} for _ in ids), strict=True):
            alone = len(extra) > 1 or (extra and "ce_weight" not in extra)
            node = None if alone else at.by_token.get(token)
            if node is None or (extra and node.sequence != sequence):
                node = _Node(token, segment, sequence)
                at.children.append(node)
                at.by_token.setdefault(token, node)
            for name, value in extra.items():
                node.streams[name] = node.streams.get(name, 0.0) + value if not alone else value
            at = node
        return at

    def tree(self, name: str) -> TokenTree:
        """The tree in depth-first order. Each node's first child, which was added first, comes
        first; labels are added before the executed turn, so that the trunk comes last."""
        nodes: list[_Node] = []
        parents: list[int] = []
        stack = [(node, -1) for node in reversed(self.top.children)]
        while stack:
            node, parent = stack.pop()
            place = len(nodes)
            nodes.append(node)
            parents.append(parent)
            stack += [(child, place) for child in reversed(node.children)]
        streams: dict[str, Any] = {key: _stream(nodes, key) for key in STREAMS}
        return TokenTree(
            token_ids=np.array([n.token for n in nodes], dtype=np.int64),
            parent=np.array(parents, dtype=np.int64),
            segment=np.array([n.segment for n in nodes], dtype=np.int64),
            sequence=np.array([n.sequence for n in nodes], dtype=np.int64),
            name=name,
            **streams,
        )


def _stream(nodes: Sequence[_Node], name: str) -> np.ndarray:
    kind = np.int64 if name == "top_ids" else np.float32
    if not name.startswith("top_"):
        return np.array([n.streams.get(name, 0.0) for n in nodes], dtype=kind)
    width = max((len(n.streams.get(name, ())) for n in nodes), default=0)
    rows = np.full((len(nodes), width), 0 if name == "top_ids" else -np.inf, dtype=kind)
    for row, node in zip(rows, nodes, strict=True):
        values = node.streams.get(name, ())
        row[: len(values)] = values
    return rows


def example_trees(
    examples: Iterable[TrainingExample], renderer: Renderer, most: int | None = None
) -> Iterator[TokenTree]:
    """One tree per training example, or one per run of examples with the same ``group``.

    Args:
        examples: What to learn.
        renderer: The student's chat template.
        most: A group's tree with more tokens is split: each of its examples gets a separate tree
            of the same group.
    """
    numbered = enumerate(examples)
    for _, run in groupby(numbered, key=lambda item: item[1].group or item[0]):
        group = [example for _, example in run]
        tree = tree_of(group, renderer)
        if tree is None:
            continue
        if most is None or len(tree) <= most or len(group) == 1:
            yield tree
        else:
            apart = (tree_of([example], renderer) for example in group)
            yield from (replace(tree, group=group[0].group) for tree in apart if tree is not None)


def example_tree(example: TrainingExample, renderer: Renderer) -> TokenTree | None:
    """The tree of one training example; None if none of its targets has a weight."""
    return tree_of([example], renderer)


def executed_tree(episode: Episode, renderer: Renderer) -> TokenTree | None:
    """The tree of all executed turns of ``episode``, for measurements; None if it has no turns."""
    turns = range(len(episode.turns))
    every = tuple(Target(turn, None, weight=1.0) for turn in turns)
    return example_tree(TrainingExample(episode, every), renderer)


def tree_of(examples: Sequence[TrainingExample], renderer: Renderer) -> TokenTree | None:
    """The tree of training examples whose episodes have a common beginning.

    Returns:
        None if no target has a weight.

    Raises:
        ValueError: A target names a turn that does not exist, or lacks what its weight needs.
    """
    trie = _Trie()
    for sequence, example in enumerate(examples):
        _add_example(trie, example, renderer, sequence)
    if not trie.top.children:
        return None
    return trie.tree(examples[0].group or examples[0].episode.episode_id)


def _add_example(trie: _Trie, example: TrainingExample, renderer: Renderer, sequence: int) -> None:
    """Adds an episode up to its last turn with a target.

    With a history window every turn saw another history, so each turn with a target is a branch
    that leaves the others where the first old observation was replaced. A turn whose thoughts are
    removed from the history is a branch beside the form that later turns see.
    """
    episode = example.episode
    targets = [t for t in example.targets if t.weight or t.pg_weight or t.kl_weight]
    for target in targets:
        if not 0 <= target.turn < len(episode.turns):
            raise ValueError(f"{episode.episode_id} has no turn {target.turn}")
    last = max((target.turn for target in targets), default=-1)
    window = episode.metadata.get("history")
    at = trie.top
    for index, turn in enumerate(episode.turns[: last + 1]):
        here = [target for target in targets if target.turn == index]
        if window is not None:
            if not here:
                continue
            at = _history(trie, renderer, episode, index, window, sequence)
        header = trie.add(at, _prompt(renderer, episode, index, turn.observation), index, sequence)
        at = trie.add(header, renderer.ready, index, sequence) if here else header
        executed, after = renderer.reply(turn), None
        for target in sorted(here, key=lambda target: target.text is None):
            reply = executed if target.text is None else renderer.label(target.text)
            streams = _streams(target, reply, episode)
            node = trie.add(at, reply.token_ids, index, sequence, streams)
            after = node if target.text is None else after
        if window is None and index < last:
            if after is None or renderer.rewrites(turn):
                after = trie.add(header, renderer.past(turn).token_ids, index, sequence)
            at = after


def prefix_breaks(episode: Episode, renderer: Renderer) -> int:
    """In how many turns the prompt does not continue the turn before in its sampled tokens.

    This happens with a history window and with templates that remove earlier thoughts. Each time, a
    server loses its cached prefix and a tree gets one more branch.
    """
    window, turns = episode.metadata.get("history"), episode.turns
    return sum(
        renderer.rewrites(turns[n - 1])
        or windowed(turns[:n], window) != (*windowed(turns[: n - 1], window), turns[n - 1])
        for n in range(1, len(turns))
    )


def labels_as_executed(examples: Iterable[TrainingExample], renderer: Renderer) -> tuple[int, int]:
    """How many labels equal the turn that the student executed in the same state.

    Returns:
        The number of labels with the same text, and how many of these are learned in other tokens
        than the student sampled: its turn was cut, ended with another stop token, or had the same
        text in other tokens.
    """
    same = other = 0
    for example in examples:
        for target in example.targets:
            turn = example.episode.turns[target.turn]
            if target.text == turn.text and turn.token_ids:
                same += 1
                other += renderer.label(turn.text).token_ids != turn.token_ids
    return same, other


def _streams(target: Target, reply: Reply, episode: Episode) -> list[dict[str, Any]]:
    """The streams of each token of a reply; tokens that nobody sampled have none.

    Raises:
        ValueError: A weight lacks the log-probs, advantages or scores that it needs.
    """
    count = len(reply.token_ids) - reply.unsampled
    rows: list[dict[str, Any]] = [{} for _ in reply.token_ids]
    where = f"{episode.episode_id}, turn {target.turn}"
    if target.text is not None and (target.pg_weight or target.kl_weight):
        raise ValueError(f"{where}: policy gradients and divergences need executed turns")
    scores = target.scores
    if scores is not None and len(scores.logprobs) != len(reply.token_ids):
        raise ValueError(f"{where}: {len(scores.logprobs)} scores of {len(reply.token_ids)} tokens")
    if target.weight:
        for row in rows[:count]:
            row["ce_weight"] = target.weight
    if target.pg_weight:
        turn = episode.turns[target.turn]
        if len(turn.logprobs) != count or not turn.token_ids:
            raise ValueError(
                f"{where}: a policy gradient needs the log-prob of every sampled token"
            )
        many = target.advantage
        advantages = [many] * count if isinstance(many, (int, float)) else list(many)
        if len(advantages) != count:
            raise ValueError(f"{where}: {len(advantages)} advantages for {count} sampled tokens")
        for row, advantage, behavior in zip(rows, advantages, turn.logprobs, strict=False):
            row |= {"pg_weight": target.pg_weight, "advantage": advantage, "behavior": behavior}
        for row, score in zip(rows[:count], scores.logprobs if scores else (), strict=False):
            row["score"] = score
    if target.kl_weight:
        if scores is None:
            raise ValueError(f"{where}: a divergence needs a score of every token of the turn")
        for place, row in enumerate(rows[:count]):
            row |= {"kl_weight": target.kl_weight, "score": scores.logprobs[place]}
            if scores.top_ids:
                row["top_ids"] = scores.top_ids[place]
                row["top_logprobs"] = scores.top_logprobs[place]
    return rows


def _prompt(renderer: Renderer, episode: Episode, index: int, observation: str) -> list[int]:
    if index == 0:
        return renderer.opening(episode.system_prompt, observation)
    return renderer.between(observation)


def _history(
    trie: _Trie, renderer: Renderer, episode: Episode, turn: int, window: int, sequence: int
) -> _Node:
    """Adds the history that was shown before ``turn``, from the root on, and returns its last
    node. It leaves other histories at the first observation that the window replaced."""
    at = trie.top
    for index, seen in enumerate(windowed(episode.turns[:turn], window)):
        prompt = _prompt(renderer, episode, index, seen.observation)
        at = trie.add(at, [*prompt, *renderer.past(seen).token_ids], index, sequence)
    return at
