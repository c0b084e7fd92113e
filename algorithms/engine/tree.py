"""Token trees: the history of an episode stands there once, and every label is a branch of it.

One training sample per labeled turn would repeat the whole history each time. In a token tree each
shared token is computed once. The array ``parent`` is the whole structure:

- a token attends to its ancestors and to itself, and to nothing else;
- its position id is its depth (the number of its ancestors);
- it is predicted *from its parent*, which for the first token of a branch is not the token to its
  left. Loss pairs are therefore explicit (``PackedTrees.source`` predicts ``PackedTrees.node``);
  shifting the ids by one, as causal language models do, would be wrong.

So each path from a root to a node is computed exactly as if it were a sequence alone.

Nodes are stored in depth-first order. Then every subtree is one interval ``[i, end[i])`` of nodes,
and "j is i or an ancestor of i" is the same as "i lies in the interval of j"::

    node i attends to node j   <=>   j <= i < end[j]

One integer per node is the whole attention mask; nothing of size n x n is ever stored. Example, a
shared path ``a b`` with the branches ``c d`` and ``e`` (x: row attends to column)::

    node     0  1  2  3  4            a  b  c  d  e
    token    a  b  c  d  e         a  x
    parent  -1  0  1  2  1         b  x  x
    depth    0  1  2  3  2         c  x  x  x
    end      5  5  4  4  5         d  x  x  x  x
                                   e  x  x        x
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class TokenTree:
    """One token tree of n nodes in depth-first order. Arrays have the shape [n] unless noted.

    There are three streams of loss weights, each for predicting the token of a node from its
    parent: cross-entropy, policy gradient, and divergence from a scorer. An array that is left out
    is 0 everywhere. Several roots are allowed.

    Attributes:
        token_ids: Token of each node, int64.
        parent: Index of the parent, always smaller than the node's own; -1 for a root. int64.
        ce_weight: Weight of the cross-entropy, float32.
        segment: Turn of the episode that the token belongs to, int64.
        name: Identifies the tree in messages.
        group: Trees with the same non-empty group stay in one optimizer step.
        sequence: Number of the episode within the tree (0, 1, ...), int64. Ratios "per sequence"
            and the denominator "sequences" count by it.
        pg_weight: Weight of the policy gradient, float32.
        advantage: Advantage of the policy gradient, float32.
        behavior: Log-prob with which the token was sampled, in nats, float32.
        kl_weight: Weight of the divergence from the scorer, float32.
        score: Log-prob that the scorer gives the token, in nats, float32.
        top_ids: The k most likely tokens of the scorer, shape [n, k], int64.
        top_logprobs: Their log-probs, shape [n, k], float32; -inf marks an unused entry.
    """

    token_ids: np.ndarray
    parent: np.ndarray
    ce_weight: np.ndarray
    segment: np.ndarray
    name: str = ""
    group: str = ""
    sequence: np.ndarray = None  # type: ignore[assignment]
    pg_weight: np.ndarray = None  # type: ignore[assignment]
    advantage: np.ndarray = None  # type: ignore[assignment]
    behavior: np.ndarray = None  # type: ignore[assignment]
    kl_weight: np.ndarray = None  # type: ignore[assignment]
    score: np.ndarray = None  # type: ignore[assignment]
    top_ids: np.ndarray = None  # type: ignore[assignment]
    top_logprobs: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) is None:
                dtype = np.int64 if field.name in ("sequence", "top_ids") else np.float32
                shape = (len(self), 0) if field.name.startswith("top_") else len(self)
                object.__setattr__(self, field.name, np.zeros(shape, dtype=dtype))

    def __len__(self) -> int:
        return len(self.token_ids)

    @cached_property
    def depth(self) -> np.ndarray:
        """Shape [n]: the number of ancestors, which is the position id."""
        depth = np.zeros(len(self), dtype=np.int64)
        for node, parent in enumerate(self.parent):
            if parent >= 0:
                depth[node] = depth[parent] + 1
        return depth

    @cached_property
    def end(self) -> np.ndarray:
        """Shape [n]: one past the last node of each node's subtree.

        Raises:
            ValueError: The nodes are not in depth-first order, so that a subtree is no interval.
        """
        end = np.arange(1, len(self) + 1)
        size = np.ones(len(self), dtype=np.int64)
        # Children come after their parent, so going backwards each subtree is complete when it is
        # added to its parent.
        for node in range(len(self) - 1, -1, -1):
            parent = self.parent[node]
            if parent >= node:
                raise ValueError(f"{self.name}: node {node} stands before its parent {parent}")
            if parent >= 0:
                end[parent] = max(end[parent], end[node])
                size[parent] += size[node]
        # An interval that holds more nodes than the subtree contains a node of another branch.
        if not np.array_equal(end - np.arange(len(self)), size):
            raise ValueError(f"{self.name}: the nodes are not in depth-first order")
        return end

    @cached_property
    def loss_nodes(self) -> np.ndarray:
        """Shape [m]: nodes with a weight in any stream. Roots are excluded; nothing predicts them.

        Packing, losses and divergences list loss pairs in this order.
        """
        return np.flatnonzero((self.weight != 0) & (self.parent >= 0))

    @cached_property
    def weight(self) -> np.ndarray:
        """Shape [n]: the largest absolute weight of each node over the three streams."""
        streams = (self.ce_weight, self.pg_weight, self.kl_weight)
        return np.max(np.abs(streams), axis=0)

    @property
    def shared_path_length(self) -> int:
        """Number of leading nodes that are ancestors of all nodes after them.

        It is 0 if there are several roots. Only this part may be merged with another tree.
        """
        return int((self.end == len(self)).cumprod().sum())

    @property
    def visible(self) -> np.ndarray:
        """The mask as an array of bool, shape [n, n], for tests: row attends to column."""
        rows, columns = np.arange(len(self))[:, None], np.arange(len(self))[None]
        return (columns <= rows) & (rows < self.end[None])


@dataclass(frozen=True)
class PackedTrees:
    """Several trees in one row of t nodes, with their m loss pairs.

    A beginning that trees share is stored once. The row is in depth-first order, so the rule of
    the mask holds for it as it does for one tree. Loss pairs are listed tree by tree, in the order
    in which the trees were given (not the order in which they lie in the row).

    Attributes:
        input_ids: Tokens of the row, shape [1, t].
        position_ids: Depth of each node, shape [1, t].
        end: Shape [t]; row i attends to column j where ``j <= i < end[j]``.
        spans: For each tree in row order, the interval of nodes that no tree before it has.
            Together they cover the row without gap or overlap.
        source: Node whose hidden state predicts, shape [m].
        node: Node that is predicted, shape [m].
        target: Token of that node, shape [m].
        sequence: Episode that the pair belongs to, numbered over the whole row, shape [m].
        streams: The arrays named in ``STREAMS`` for the predicted nodes, shape [m] or [m, k].
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    end: torch.Tensor
    spans: tuple[tuple[int, int], ...]
    source: torch.Tensor
    node: torch.Tensor
    target: torch.Tensor
    sequence: torch.Tensor
    streams: dict[str, torch.Tensor]

    def to(self, device: torch.device) -> PackedTrees:
        """The same row with all tensors on ``device``."""
        moved = {
            field.name: getattr(self, field.name).to(device)
            for field in fields(self)
            if isinstance(getattr(self, field.name), torch.Tensor)
        }
        streams = {name: values.to(device) for name, values in self.streams.items()}
        return PackedTrees(**{**vars(self), **moved, "streams": streams})


STREAMS = (
    "ce_weight",
    "pg_weight",
    "advantage",
    "behavior",
    "kl_weight",
    "score",
    "top_ids",
    "top_logprobs",
)


def pack(trees: Sequence[TokenTree], multiple: int = 1) -> PackedTrees:
    """Put trees into one row, with what they begin with in common stored once.

    Sharing a beginning changes no result: the states of a token depend on its ancestors alone. Past
    that no tree attends to another, so the result does not depend on the packing either.

    Args:
        trees: At least one tree.
        multiple: The row is padded to a multiple of this length, with roots that carry no weight
            and attend to themselves only.
    """
    nodes_in_row, spans = _lay_out(trees)
    length = spans[-1][1]
    if missing := -length % multiple:
        blank = np.zeros(missing, dtype=np.int64)
        trees = [*trees, TokenTree(blank, blank - 1, blank.astype(np.float32), blank)]
        nodes_in_row.append(np.arange(length, length + missing))
        spans.append((length, length + missing))
    token_ids, depth, end = (np.zeros(length + missing, dtype=np.int64) for _ in range(3))
    for tree, row in zip(trees, nodes_in_row, strict=True):
        token_ids[row], depth[row] = tree.token_ids, tree.depth
        # A shared node ends where its last subtree ends, in whichever tree that is.
        end[row] = np.maximum(end[row], row[tree.end - 1] + 1)
    pairs = list(zip(trees, nodes_in_row, strict=True))
    first_sequence = np.cumsum([0, *(int(t.sequence.max(initial=0)) + 1 for t in trees)])[:-1]
    numbered = zip(trees, first_sequence, strict=True)

    def joined(arrays: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(arrays))

    return PackedTrees(
        input_ids=torch.from_numpy(token_ids)[None],
        position_ids=torch.from_numpy(depth)[None],
        end=torch.from_numpy(end),
        spans=tuple(spans),
        source=joined([row[tree.parent[tree.loss_nodes]] for tree, row in pairs]),
        node=joined([row[tree.loss_nodes] for tree, row in pairs]),
        target=joined([tree.token_ids[tree.loss_nodes] for tree in trees]),
        sequence=joined([tree.sequence[tree.loss_nodes] + first for tree, first in numbered]),
        streams={name: joined(_loss_stream(trees, name)) for name in STREAMS},
    )


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of ids that both sequences begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    differing = (index for index, (a, b) in pairs if a != b)
    return next(differing, min(len(first), len(second)))


def _lay_out(trees: Sequence[TokenTree]) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """Place trees in one row.

    Trees are laid out in the lexicographic order of their shared paths. In that order no tree has
    a longer beginning in common with an earlier tree than with the one just before it, so it is
    enough to compare neighbors. What a tree adds then follows directly on the previous one, and the
    row is in depth-first order again.

    Returns:
        For each tree, in the given order, the index in the row of each of its nodes; and in row
        order the interval that each tree adds.
    """
    paths = [tree.token_ids[: tree.shared_path_length].tolist() for tree in trees]
    nodes_in_row: list[np.ndarray] = [np.zeros(0, dtype=np.int64)] * len(trees)
    spans: list[tuple[int, int]] = []
    length, previous_path, previous_nodes = 0, list[int](), nodes_in_row[0]
    for k in sorted(range(len(trees)), key=lambda k: paths[k]):
        common = common_prefix_length(previous_path, paths[k])
        added = np.arange(length, length + len(trees[k]) - common)
        nodes_in_row[k] = np.concatenate([previous_nodes[:common], added])
        spans.append((length, length + len(added)))
        length += len(added)
        previous_path, previous_nodes = paths[k], nodes_in_row[k]
    return nodes_in_row, spans


def _loss_stream(trees: Sequence[TokenTree], name: str) -> list[np.ndarray]:
    """One stream at the loss nodes of each tree; top-k lists are padded to the longest of them."""
    arrays = [getattr(tree, name)[tree.loss_nodes] for tree in trees]
    if not name.startswith("top_"):
        return arrays
    width = max(array.shape[1] for array in arrays)
    fill = -np.inf if name == "top_logprobs" else 0
    padding = [((0, 0), (0, width - array.shape[1])) for array in arrays]
    return [np.pad(a, p, constant_values=fill) for a, p in zip(arrays, padding, strict=True)]
