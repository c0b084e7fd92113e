"""The tokens of every turn, and the weights with which a round was trained on them.

The algorithm makes its training examples from the files of the run again, they become the token
trees that the learner took, and what is shown is read from the nodes of those trees. So a label
that the trainer saw in other tokens than a reader would expect is seen here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from algorithms.engine.export import paths
from experiments.runs import layout
from swe_gym_env.errors import SetupError
from swe_gym_env.types import Episode

if TYPE_CHECKING:
    from algorithms.base import TrainingExample
    from algorithms.engine.rendering import Renderer, Reply
    from algorithms.engine.tree import TokenTree


@dataclass(frozen=True)
class Track:
    """Tokens that end one turn. ``weights`` has, for each stream that is not all 0 (``ce``; ``pg``,
    times the advantage; ``kl``), one number per token. ``shared``: so many of the first tokens are
    those of a track before, which counts their weight."""

    token_ids: tuple[int, ...]
    weights: dict[str, list[float]] = field(default_factory=dict)
    shared: int = 0


Turns = dict[int, list[Track]]


def tracks(tree: TokenTree, sequence: int = 0) -> Turns:
    """By turn, what one episode of the tree is trained on there: each run of weighted nodes."""
    ce, pg, kl = tree.ce_weight, tree.pg_weight * tree.advantage, tree.kl_weight
    streams = {"ce": ce, "pg": pg, "kl": kl}
    weighted = (tree.weight != 0) & (tree.sequence == sequence)
    found: Turns = {}
    for path, counted in paths(tree, weighted):
        segments, start = np.where(weighted[path], tree.segment[path], -1), 0
        for segment, run in groupby(segments.tolist()):
            end = start + len(list(run))
            if segment >= 0 and end > counted:  # else a path before has shown all of it
                shared = max(0, counted - start)
                found.setdefault(segment, []).append(_track(tree, path[start:end], shared, streams))
            start = end
    return found


def _track(
    tree: TokenTree, nodes: np.ndarray, shared: int, streams: dict[str, np.ndarray]
) -> Track:
    weights = {
        name: [0.0] * shared + [float(f"{value:.4g}") for value in values[nodes[shared:]]]
        for name, values in streams.items()
    }
    carried = {name: values for name, values in weights.items() if any(values)}
    return Track(tuple(tree.token_ids[nodes].tolist()), carried, shared)


def pieces(renderer: Renderer, token_ids: Sequence[int]) -> list[str]:
    """The text of each token; together they are the text of all. A letter of several tokens stands
    with the last of them, the others are empty."""
    out: list[str] = []
    done = 0  # tokens whose text is complete
    for end in range(1, len(token_ids) + 1):
        text = renderer.decode(token_ids[done:end])
        whole = not text.endswith("\ufffd") or end == len(token_ids)
        out.append(text if whole else "")
        done = end if whole else done
    everything = renderer.decode(token_ids)
    if "".join(out) != everything:  # a tokenizer whose tokens have another text alone
        texts = ["", *(renderer.decode(token_ids[:end]) for end in range(1, len(token_ids) + 1))]
        out = [b[len(a) :] for a, b in pairwise(texts)]
    return out


class Trained(Protocol):
    """What a stored run was trained on."""

    @property
    def renderer(self) -> Renderer:
        """Of its student's chat template. Raises SetupError if it cannot be loaded."""

    def examples(self, index: int) -> Iterable[TrainingExample]:
        """Those of round ``index``. Raises SetupError if its algorithm, or a file that it needs, is
        no longer there."""


class RunTokens:
    """The tokens of one run's episodes. ``missing`` says why there are none, or is empty."""

    def __init__(self, run: Path | None, trained: Callable[[Path], Trained]) -> None:
        self.missing = ""
        if run is None or not layout.is_configured(run):
            self.missing = "These episodes belong to no run, which would say whose tokens they are."
            return
        try:
            self._run = trained(run)
            self.renderer = self._run.renderer
        except (SetupError, ImportError, OSError) as error:
            self.missing = f"The tokenizer of the run cannot be loaded here: {error}"

    def trained(self, index: int) -> dict[str, Turns]:
        """By episode and turn, what round ``index`` was trained on, of the episodes of that round.
        SetupError where its algorithm, or a file that it needs, is no longer there."""
        from algorithms.engine.examples import example_tree

        found: dict[str, Turns] = {}
        for example in self._run.examples(index):
            tree = example_tree(example, self.renderer) if example.episode.round == index else None
            if tree is not None:
                found[example.episode.episode_id] = tracks(tree)
        return found

    def add(self, row: dict[str, Any], episode: Episode, trained: Turns | None) -> float:
        """Puts the tokens into ``row``, the episode's body, and returns the largest weight."""
        row["trained"] = bool(trained)
        weights = [0.0]
        for number, (turn, shown) in enumerate(zip(episode.turns, row["turns"], strict=True)):
            here = list((trained or {}).get(number, []))
            for track in here:
                weights += [abs(sum(each)) for each in zip(*track.weights.values(), strict=True)]
            shown["tokens"] = self._shown(self.renderer.reply(turn), here)
            if turn.logprobs:
                shown["tokens"]["logprobs"] = [round(value, 3) for value in turn.logprobs]
            for label in shown["labels"]:
                if label["text"] is not None:
                    label["tokens"] = self._shown(self.renderer.label(label["text"]), here)
        return max(weights)

    def _shown(self, reply: Reply, here: list[Track]) -> dict[str, Any]:
        """A turn that was sampled is shown in its own ids, whether it was trained on or not. What
        is shown goes from ``here``: a label that says what was done has no separate weight.
        """
        ids = reply.token_ids[: len(reply.token_ids) - reply.unsampled]
        row: dict[str, Any] = {"ids": list(ids), "text": pieces(self.renderer, ids)}
        for track in [track for track in here if track.token_ids == ids]:
            here.remove(track)
            for name, values in track.weights.items():
                before = row.get(name, [0.0] * len(ids))
                row[name] = [a + b for a, b in zip(before, values, strict=True)]
        return row
