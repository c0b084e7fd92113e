"""The text space: any text up to a length.

Gymnasium's own ``Text`` allows only listed characters (no blank, no newline by default), and a
model may write anything. What goes out to the agent is made safe here as well.
"""

from __future__ import annotations

from typing import Any

import gymnasium

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


def outgoing(text: str, max_length: int) -> str:
    """``text`` as it may be shown: valid Unicode (no lone surrogate), clipped to a length."""
    text = text[:max_length]
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-8", "replace").decode()
    return text
