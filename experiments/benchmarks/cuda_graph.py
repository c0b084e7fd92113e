"""One step of decoding as a CUDA graph: what the policy in this process could gain by it.

A step launches some thousand small kernels, and on a fast GPU the launching takes longer than they
do. A graph is recorded once and launched as one. It needs a step whose shape never changes and that
reads nothing back from the GPU; the policy's own step looks only at the slots of the cache that are
in use. ``gpu.py`` measures both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from algorithms.engine.decoding import Decoder
from algorithms.engine.head import compute_logits
from algorithms.engine.kv import RowCache
from algorithms.engine.row_attention import Group, RowMask, attending_rows


class WholeMask(RowMask):
    """All rows look at all slots in one call, masked where they hold nothing: the shape is the same
    at every length, and no number is read back from the GPU."""

    slots: int  # of each row

    def groups(self, window: int | None) -> list[Group]:
        return [self._masked((0, len(self._slots), 0, self.slots), window)]


class WholeCache(RowCache):
    """A cache whose passes a CUDA graph can record."""

    def _mask(self, new: torch.Tensor) -> RowMask:
        mask = WholeMask(new, self._group, self.keys.dtype)
        mask.slots = self.capacity + 1
        return mask

    def get_seq_length(self, *_: Any) -> int:
        return 0


class Stepper:
    """Greedy decoding of ``rows`` rows after ``prompt`` tokens, by forward passes alone."""

    def __init__(self, decoder: Decoder, kind: type[RowCache], rows: int, prompt: int, steps: int):
        model = decoder.model
        config = model.config.get_text_config(decoder=True)
        self._model = model
        self.cache = kind(config, rows, prompt + steps, model.dtype, model.device)
        self.ids = torch.zeros(rows, 1, dtype=torch.long, device=model.device)
        self._one = torch.ones(rows, dtype=torch.long, device=model.device)
        self._prompt = prompt
        torch.manual_seed(0)
        for states in (self.cache.keys, self.cache.values):
            states[..., :prompt, :].normal_()
        self.restart()

    def restart(self) -> None:
        self.cache.lengths.fill_(self._prompt)
        self.ids.fill_(1)

    def step(self) -> None:
        """Changes ``ids`` to the next tokens."""
        positions, mask = self.cache.window(0, self.cache.rows, 1)
        with attending_rows(self._model.config):
            hidden = self._model.base_model(
                input_ids=self.ids,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                row_mask=mask,
            ).last_hidden_state
        self.cache.advance(self._one)
        self.ids.copy_(compute_logits(self._model, hidden[:, -1]).argmax(-1, keepdim=True))


def tokens_of(stepper: Stepper, step: Callable[[], object], steps: int) -> list[list[int]]:
    stepper.restart()
    found = []
    for _ in range(steps):
        step()
        found.append(stepper.ids[:, 0].tolist())
    return found


def recorded(stepper: Stepper) -> Callable[[], object]:
    """The step as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries choose their kernels and memory
        for _ in range(3):
            stepper.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        stepper.step()
    return graph.replay
