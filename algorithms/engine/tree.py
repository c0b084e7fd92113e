"""Token trees: an episode's history once, every label a branch of it.

One sample per labeled turn would repeat the whole prefix each time. Here each node of a token
trie is computed once; ``parent`` says all there is to know: a token attends to its ancestors and
itself, stands at the position of its depth, and is predicted *from its parent* - which, for the
first token of a branch, is not the token to its left. So targets are explicit pairs of nodes, and
the mask is explicit too: libraries that guess packed sequences from positions would cut branches.

Nodes stand in depth-first order, so every subtree is one interval, and node i sees node j just
where j <= i < end[j]. One number per node is the whole mask: nothing of size n x n is ever stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class TokenTree:
    """One token tree of n nodes in depth-first order; arrays have shape (n,) unless told.

    Three streams of weights, each for predicting the node's token from its parent: ``ce_weight``;
    ``pg_weight`` with ``advantage`` and ``behavior`` (the log-prob it was sampled with);
    ``kl_weight`` with ``score`` and ``top_ids``, ``top_logprobs`` (n, k). Left out, they are 0.
    """

    token_ids: np.ndarray  # int64
    parent: np.ndarray  # int64, -1 for a root
    ce_weight: np.ndarray  # float32
    segment: np.ndarray  # int64, the turn that the token belongs to
    name: str = ""
    group: str = ""  # trees of one group stay in one optimizer step
    sequence: np.ndarray = None  # type: ignore[assignment]  # int64, the episode of the tree
    pg_weight: np.ndarray = None  # type: ignore[assignment]  # float32, as all that follow
    advantage: np.ndarray = None  # type: ignore[assignment]
    behavior: np.ndarray = None  # type: ignore[assignment]
    kl_weight: np.ndarray = None  # type: ignore[assignment]
    score: np.ndarray = None  # type: ignore[assignment]
    top_ids: np.ndarray = None  # type: ignore[assignment]  # int64
    top_logprobs: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) is None:
                kind = np.int64 if field.name in ("sequence", "top_ids") else np.float32
                shape = (len(self), 0) if field.name.startswith("top_") else len(self)
                object.__setattr__(self, field.name, np.zeros(shape, dtype=kind))

    def __len__(self) -> int:
        return len(self.token_ids)

    @cached_property
    def depth(self) -> np.ndarray:
        """Distance from the root: the position id."""
        depth = np.zeros(len(self), dtype=np.int64)
        for node, parent in enumerate(self.parent):
            if parent >= 0:
                depth[node] = depth[parent] + 1
        return depth

    @cached_property
    def end(self) -> np.ndarray:
        """One past the last node of each node's subtree. ValueError if a subtree has a gap."""
        end = np.arange(1, len(self) + 1)
        size = np.ones(len(self), dtype=np.int64)
        for node in range(len(self) - 1, -1, -1):
            parent = self.parent[node]
            if parent >= node:
                raise ValueError(f"{self.name}: node {node} stands before its parent {parent}")
            if parent >= 0:
                end[parent] = max(end[parent], end[node])
                size[parent] += size[node]
        if not np.array_equal(end - np.arange(len(self)), size):
            raise ValueError(f"{self.name}: the nodes do not stand in depth-first order")
        return end

    @cached_property
    def scored(self) -> np.ndarray:
        """(m,) the nodes with a weight in any stream that can be predicted (a root cannot)."""
        return np.flatnonzero((self.weight != 0) & (self.parent >= 0))

    @cached_property
    def weight(self) -> np.ndarray:
        """The largest of a node's weights."""
        streams = (self.ce_weight, self.pg_weight, self.kl_weight)
        return np.max(np.abs(streams), axis=0)

    @property
    def trunk(self) -> int:
        """How many nodes, from a lone root down, have all that follow below them."""
        return int((self.end == len(self)).cumprod().sum())

    @property
    def visible(self) -> np.ndarray:
        """(n, n) bool: row attends to column. For tests and explanations."""
        rows, columns = np.arange(len(self))[:, None], np.arange(len(self))[None]
        return (columns <= rows) & (rows < self.end[None])


@dataclass(frozen=True)
class Packed:
    """Several trees in one row of t nodes. What they begin with alike stands there once: ``spans``
    are the nodes of each tree that no tree before it has. The m loss pairs come with their streams,
    tree by tree in the order in which the trees were given."""

    input_ids: torch.Tensor  # (1, t)
    position_ids: torch.Tensor  # (1, t)
    end: torch.Tensor  # (t,) row i attends to column j where j <= i < end[j]
    spans: tuple[tuple[int, int], ...]
    source: torch.Tensor  # (m,) the node whose hidden state predicts
    node: torch.Tensor  # (m,) the node that is predicted
    target: torch.Tensor  # (m,) its token
    sequence: torch.Tensor  # (m,) which episode of the row it belongs to
    streams: dict[str, torch.Tensor]  # (m,) each, or (m, k)

    def to(self, device: torch.device) -> Packed:
        moved = {
            field.name: getattr(self, field.name).to(device)
            for field in fields(self)
            if isinstance(getattr(self, field.name), torch.Tensor)
        }
        streams = {name: value.to(device) for name, value in self.streams.items()}
        return Packed(**{**vars(self), **moved, "streams": streams})


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


def pack(samples: Sequence[TokenTree], multiple: int = 1) -> Packed:
    """Lay trees into one row. A common beginning (all episodes of a run have the system prompt in
    common) is computed once, for a token's states depend on nothing but its ancestors. Apart from
    that each tree sees itself alone, so the result does not depend on what else is in the row.
    Roots without a weight fill the row up to a length that is a multiple of ``multiple``."""
    places, spans = _lay_out(samples)
    length = spans[-1][1]
    if missing := -length % multiple:
        blank = np.zeros(missing, dtype=np.int64)
        samples = [*samples, TokenTree(blank, blank - 1, blank.astype(np.float32), blank)]
        places.append(np.arange(length, length + missing))
        spans.append((length, length + missing))
    token_ids, depth, end = (np.zeros(length + missing, dtype=np.int64) for _ in range(3))
    for sample, place in zip(samples, places, strict=True):
        token_ids[place], depth[place] = sample.token_ids, sample.depth
        end[place] = np.maximum(end[place], place[sample.end - 1] + 1)
    placed = list(zip(samples, places, strict=True))
    firsts = np.cumsum([0, *(int(s.sequence.max(initial=0)) + 1 for s in samples)])

    def joined(arrays: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(arrays))

    return Packed(
        torch.from_numpy(token_ids)[None],
        torch.from_numpy(depth)[None],
        torch.from_numpy(end),
        tuple(spans),
        joined([place[s.parent[s.scored]] for s, place in placed]),
        joined([place[s.scored] for s, place in placed]),
        joined([s.token_ids[s.scored] for s in samples]),
        joined([s.sequence[s.scored] + n for s, n in zip(samples, firsts[:-1], strict=True)]),
        {name: joined(_padded(samples, name)) for name in STREAMS},
    )


def in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """With how many ids both begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _lay_out(samples: Sequence[TokenTree]) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """Where in the row each node of each tree stands, and in row order which part is new.

    In lexicographic order of their trunks no tree has more in common with any before it than with
    the one just before it; what they have in common is then an interval's beginning, so that the
    row is in depth-first order again.
    """
    trunks = [sample.token_ids[: sample.trunk].tolist() for sample in samples]
    places: list[np.ndarray] = [np.zeros(0, dtype=np.int64)] * len(samples)
    spans: list[tuple[int, int]] = []
    length, before, above = 0, list[int](), places[0]
    for k in sorted(range(len(samples)), key=lambda k: trunks[k]):
        common = in_common(before, trunks[k])
        own = np.arange(length, length + len(samples[k]) - common)
        places[k] = np.concatenate([above[:common], own])
        spans.append((length, length + len(own)))
        length, before, above = length + len(own), trunks[k], places[k]
    return places, spans


def _padded(samples: Sequence[TokenTree], name: str) -> list[np.ndarray]:
    """The stream of the scored nodes; top-k lists are filled up to the longest of the row."""
    arrays = [getattr(s, name)[s.scored] for s in samples]
    if not name.startswith("top_"):
        return arrays
    width = max(array.shape[1] for array in arrays)
    fill = -np.inf if name == "top_logprobs" else 0
    room = [((0, 0), (0, width - array.shape[1])) for array in arrays]
    return [np.pad(a, r, constant_values=fill) for a, r in zip(arrays, room, strict=True)]
