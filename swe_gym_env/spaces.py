"""The text space: any text up to a length.

Gymnasium's own ``Text`` allows only listed characters (no blank, no newline by default), and a
model may write anything. What goes out to the agent is made safe here as well.
"""

from __future__ import annotations

import multiprocessing as mp
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import (
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)

# The random texts of ``sample`` look a little like what a model writes
_SAMPLED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 \n`$./-_=<>|&;(){}'\"é"
_SAMPLED_LENGTH = 200


class AnyText(gymnasium.spaces.Text):
    """Every str of at most ``max_length`` characters, the empty one included."""

    def __init__(self, max_length: int) -> None:
        super().__init__(max_length, min_length=0, charset=_SAMPLED)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        if mask is None and probability is None:  # megabytes of noise would help nobody
            mask = (int(self.np_random.integers(min(_SAMPLED_LENGTH, self.max_length) + 1)), None)
        return super().sample(mask=mask, probability=probability)

    def __repr__(self) -> str:
        return f"AnyText({self.max_length})"


class _Shared(Sequence[str]):
    """The observations in memory that the processes of an ``AsyncVectorEnv`` share: for each
    environment a length, then its code points. Gymnasium takes one such object at the start and
    copies it after each step, so it is read when it is looked at; a copy is a plain tuple."""

    def __init__(self, memory: Any, rows: int, width: int) -> None:
        self._memory, self._shape = memory, (rows, width)

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self)[index]
        row = np.frombuffer(self._memory.get_obj(), np.int32).reshape(self._shape)[index]
        return row[1 : 1 + row[0]].tobytes().decode("utf-32-le", "surrogatepass")

    def __deepcopy__(self, memo: Any) -> tuple[str, ...]:
        return tuple(self)

    def __repr__(self) -> str:
        return repr(tuple(self))


# Gymnasium's own functions for Text know its listed characters alone, and read once


@create_shared_memory.register(AnyText)
def _create(space: AnyText, n: int = 1, ctx: Any = mp) -> Any:
    return ctx.Array("i", n * (1 + space.max_length))


@write_to_shared_memory.register(AnyText)
def _write(space: AnyText, index: int, values: str, shared_memory: Any) -> None:
    points = np.frombuffer(values.encode("utf-32-le", "surrogatepass"), np.int32)
    start = index * (1 + space.max_length)
    memory = np.frombuffer(shared_memory.get_obj(), np.int32)
    memory[start] = len(points)
    memory[start + 1 : start + 1 + len(points)] = points


@read_from_shared_memory.register(AnyText)
def _read(space: AnyText, shared_memory: Any, n: int = 1) -> Sequence[str]:
    return _Shared(shared_memory, n, 1 + space.max_length)


def outgoing(text: str, max_length: int) -> str:
    """``text`` as it may be shown: valid Unicode (no lone surrogate), clipped to a length."""
    text = text[:max_length]
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-8", "replace").decode()
    return text
