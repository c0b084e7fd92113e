"""Chat to exact token ids, and back to nothing: ids that a student sampled are never re-encoded.

A chat is laid out as alternating pieces: a *prompt* (what stands between two assistant turns, role
headers included) and a *reply* (the assistant's tokens up to and with its end-of-turn token). Only
tokens of a reply can carry loss; headers and the newline after an end-of-turn token belong to the
next prompt. For a plain conversation the ids are those of ``tokenizer.apply_chat_template``, with
one wanted exception: text that happens to spell a special token stays text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swe_gym_env.errors import SetupError
from swe_gym_env.types import Turn


def fingerprint(tokenizer: Any) -> str:
    """The same for two tokenizers just where ids mean the same text and turns end alike."""
    said = json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer.eos_token])
    return hashlib.sha256(said.encode()).hexdigest()


@dataclass(frozen=True)
class Reply:
    """An assistant turn in ids. The last ``unsampled`` ids are context that nobody sampled."""

    token_ids: tuple[int, ...]
    unsampled: int = 0


class Renderer:
    """ChatML: ``<|im_start|>role\\n ... <|im_end|>\\n``. SmolLM2 and the Qwen families speak it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        known = tokenizer.get_vocab()
        missing = [token for token in ("<|im_start|>", "<|im_end|>") if token not in known]
        if missing:
            raise SetupError(
                f"The tokenizer has no {' and '.join(missing)}: only models with a ChatML "
                "template (SmolLM2, Qwen) can be rendered so far."
            )
        self.start_id: int = known["<|im_start|>"]
        self.end_id: int = known["<|im_end|>"]
        self._newline = self.encode("\n")
        self._open = [self.start_id, *self.encode("assistant\n")]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; a special token spelt in it is not one."""
        return list(
            self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of ids, special tokens included."""
        return str(
            self.tokenizer.decode(
                list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def _message(self, role: str, content: str) -> list[int]:
        return [self.start_id, *self.encode(f"{role}\n{content}"), self.end_id, *self._newline]

    def opening(self, system_prompt: str, observation: str) -> list[int]:
        """The first prompt: system, first observation, and the header of the first reply."""
        system = self._message("system", system_prompt)
        return [*system, *self._message("user", observation), *self._open]

    def between(self, observation: str) -> list[int]:
        """The prompt after a reply: its newline, the observation, the next reply's header."""
        return [*self._newline, *self._message("user", observation), *self._open]

    def label(self, text: str) -> Reply:
        """A teacher's words as the student would have to say them, end-of-turn included."""
        return Reply((*self.encode(text), self.end_id))

    def reply(self, turn: Turn) -> Reply:
        """The executed turn: as it was sampled where a student sampled it, else encoded."""
        if not turn.token_ids:
            return self.label(turn.text)
        if turn.token_ids[-1] == self.end_id:
            return Reply(turn.token_ids)
        return Reply((*turn.token_ids, self.end_id), unsampled=1)

    def prompt(self, system_prompt: str, turns: Sequence[Turn], observation: str) -> list[int]:
        """All ids that a policy continues in the state after ``turns``."""
        seen = [turn.observation for turn in turns] + [observation]
        ids = self.opening(system_prompt, seen[0])
        for turn, following in zip(turns, seen[1:], strict=True):
            ids += self.reply(turn).token_ids
            ids += self.between(following)
        return ids
