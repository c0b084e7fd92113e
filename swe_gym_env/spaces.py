"""The observation and action space of the environment: any text up to a length.

Gymnasium's ``Text`` allows only listed characters (by default no space and no newline), but a model
may write any character. This module also registers how such texts lie in the memory that the
processes of an ``AsyncVectorEnv`` share, and makes texts for the agent safe (:func:`outgoing`).
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

# Characters of the random texts of ``sample``, which should look a little like those of a model
_SAMPLED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 \n`$./-_=<>|&;(){}'\"é"
_SAMPLED_LENGTH = 200


class AnyText(gymnasium.spaces.Text):
    """All strings of at most ``max_length`` characters, the empty string included."""

    def __init__(self, max_length: int) -> None:
        super().__init__(max_length, min_length=0, charset=_SAMPLED)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        if mask is None and probability is None:  # not megabytes of random characters
            mask = (int(self.np_random.integers(min(_SAMPLED_LENGTH, self.max_length) + 1)), None)
        return super().sample(mask=mask, probability=probability)

    def __repr__(self) -> str:
        return f"AnyText({self.max_length})"


class _Shared(Sequence[str]):
    """The observations of all environments of an ``AsyncVectorEnv``, read from shared memory.

    The memory is an array of int32 with one row for each environment: the number of characters,
    then their code points. Gymnasium creates one such object at the start and copies it after each
    step. So the memory is read whenever an item is accessed, and a copy is a plain tuple.
    """

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


# Gymnasium's functions for Text handle only its listed characters, and read the memory only once


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
    """``text`` for the agent: at most ``max_length`` characters, without lone surrogates."""
    text = text[:max_length]
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-8", "replace").decode()
    return text
