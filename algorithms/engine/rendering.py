"""Chat to exact token ids, and back to nothing: ids that a student sampled are never re-encoded.

A chat is laid out as alternating pieces: a *prompt* (what stands between two assistant turns, role
headers included) and a *reply* (the assistant's tokens up to and with its end-of-turn token). Only
tokens of a reply can carry loss; headers and the newline after an end-of-turn token belong to the
next prompt.

The strings between the pieces are not written down here: they are read off the model's own chat
template, by rendering a conversation of probes with it. What came of that is compared with
``tokenizer.apply_chat_template`` before it is used, so a family is either rendered to the same ids
or refused. One exception is wanted: text that happens to spell a special token stays text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, get_args

from swe_gym_env.errors import SetupError
from swe_gym_env.text import whole
from swe_gym_env.types import Turn

Thinking = Literal["kept", "stripped", "empty"]
ROLES = ("system", "user", "assistant", "user", "assistant", "user")
# Some templates (Llama 3.2) write today's date into the system prompt. An episode may be trained on
# another day than it was played, so the date is fixed: the one that those templates fall back to.
DATE = "26 Jul 2024"
FORCED = (
    "it begins each reply with {} and cannot be told not to, so labels would be learned as "
    "thoughts; in a copy of the model's folder, take these words out of what chat_template.jinja "
    "(or tokenizer_config.json) writes where add_generation_prompt is true, and give that folder "
    "as model.path"
)


def fingerprint(tokenizer: Any) -> str:
    """The same for two tokenizers just where ids mean the same text and turns end alike.

    Merges are left out: they decide which ids a text becomes, never what given ids mean.
    """
    end = Renderer(tokenizer).end_id if tokenizer.chat_template else tokenizer.eos_token_id
    said = json.dumps([sorted(tokenizer.get_vocab().items()), end])
    return hashlib.sha256(said.encode()).hexdigest()


@dataclass(frozen=True)
class Reply:
    """An assistant turn in ids. The last ``unsampled`` ids are context that nobody sampled."""

    token_ids: tuple[int, ...]
    unsampled: int = 0


class Renderer:
    """A model's chat template in pieces. ChatML, Qwen, Llama 3 and Gemma 3 are tested.

    ``thinking`` says what becomes of a turn's ``<think>...</think>`` once it is history. ``kept``:
    it stays, so each prompt extends the one before. ``stripped``: it goes, as Qwen3's template has
    it. ``empty``: the model is told not to think, by an empty block before each reply, which goes
    too. ``ready`` is that block, in ids; else it is empty. An observation is a user's message, so
    only the newest turn counts as unfinished thought. Raises SetupError.
    """

    def __init__(self, tokenizer: Any, thinking: Thinking = "kept") -> None:
        if thinking not in get_args(Thinking):
            raise SetupError(f"model.thinking={thinking}: it is one of {get_args(Thinking)}")
        self.tokenizer, self.thinking = tokenizer, thinking
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._special: dict[str, int | str] = {
            str(token): int(id) for id, token in added.items() if token.special
        }
        plain = [f"probe{place}n" for place in range(len(ROLES))]
        cut = re.split("|".join(plain), self._template(plain, tokenize=False))
        if len(cut) != 7 or cut[2] != cut[4] or cut[3] != cut[5] or not cut[6].startswith(cut[2]):
            raise self._refused("it does not lay out system, user and assistant one after another")
        self._first, self._second, self._header, after = map(self._trusted, cut[:4])
        if not after or not isinstance(after[0], int):
            raise self._refused("no special token ends the assistant's turn")
        self.end_id, self._after = after[0], after[1:]
        self.ready = self._ids(self._trusted(cut[6][len(cut[2]) :]))
        if self.ready and thinking != "empty":
            raise self._refused(self._thought())
        if thinking == "empty" and not self.ready:
            raise self._refused("it cannot be told not to think; take model.thinking=kept")
        padded = [f" \n{word} \n" for word in plain]
        text = self._template(padded, tokenize=False)
        self._trimmed = {r for r, word in zip(ROLES, padded, strict=True) if word not in text}
        self._check(padded)

    def _check(self, probes: list[str]) -> None:
        """Against the template itself; also that it strips thoughts, where we are to do so.

        A reply is encoded apart from its header, as it is sampled: so none begins with a blank.
        """
        probes[2::2] = [word.lstrip() for word in probes[2::2]]
        if self.thinking != "kept":
            probes[2] = f"<think>\nprobe\n</think>\n\n{probes[2]}"
        turns = [Turn(probes[place], "student", probes[place + 1]) for place in (1, 3)]
        if self.prompt(probes[0], turns, probes[5]) != self._template(probes, tokenize=True):
            raise self._refused(
                "its ids are not those of its parts"
                if self.thinking == "kept"
                else FORCED.format(repr(self.decode(self.ready)))
                if self.ready
                else f"it does not know model.thinking={self.thinking}; take kept"
            )

    def _thought(self) -> str:
        """What to do about a template that begins each reply with a thought."""
        try:
            Renderer(self.tokenizer, "empty")
        except SetupError:
            return FORCED.format(repr(self.decode(self.ready)))
        return (
            "it begins each reply with a thought, as which labels would be learned; take "
            "model.thinking=empty"
        )

    def _template(self, contents: Sequence[str], tokenize: bool) -> Any:
        if not self.tokenizer.chat_template:
            raise SetupError(
                "The tokenizer has no chat template, so nothing says how its model wants a "
                "conversation laid out: take an instruct model, or put its chat_template.jinja "
                "into the model's folder."
            )
        chat = [{"role": r, "content": c} for r, c in zip(ROLES, contents, strict=True)]
        told = {"enable_thinking": False} if self.thinking == "empty" else {}
        try:
            return self.tokenizer.apply_chat_template(
                chat,
                tokenize=tokenize,
                return_dict=False,
                add_generation_prompt=True,
                date_string=DATE,
                **told,
            )
        except Exception as error:  # what a template raises is its own affair
            raise self._refused(str(error)) from None

    def _refused(self, why: str) -> SetupError:
        return SetupError(
            f"The chat template of {getattr(self.tokenizer, 'name_or_path', '') or 'the model'} "
            f"cannot be rendered token by token: {why}."
        )

    def _trusted(self, text: str) -> list[int | str]:
        """The template's own words: here a special token is one."""
        if not self._special or not text:
            return [text] if text else []
        longest_first = sorted(self._special, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
        return [self._special.get(part, part) for part in parts if part]

    def _ids(self, parts: Iterable[int | str]) -> list[int]:
        """Texts that touch are encoded as one, as the tokenizer would meet them."""
        ids: list[int] = []
        for is_text, group in groupby(parts, key=lambda part: isinstance(part, str)):
            run = list(group)
            ids += self.encode("".join(map(str, run))) if is_text else map(int, run)
        return ids

    def _said(self, role: str, text: str) -> str:
        return text.strip() if role in self._trimmed else text

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; a special token spelt in it is not one, and half a character, as old
        runs have stored it, is U+FFFD."""
        return list(
            self.tokenizer.encode(whole(text), add_special_tokens=False, split_special_tokens=True)
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of ids, special tokens included."""
        return str(
            self.tokenizer.decode(
                list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def opening(self, system_prompt: str, observation: str) -> list[int]:
        """The first prompt: system, first observation, and the header of the first reply."""
        system, seen = self._said("system", system_prompt), self._said("user", observation)
        return self._ids([*self._first, system, *self._second, seen, *self._header])

    def between(self, observation: str) -> list[int]:
        """The prompt after a reply: what its end leaves, the observation, the next header."""
        return self._ids([*self._after, self._said("user", observation), *self._header])

    def label(self, text: str) -> Reply:
        """A teacher's words as the student would have to say them, end-of-turn included."""
        return Reply((*self.encode(self._said("assistant", text)), self.end_id))

    def reply(self, turn: Turn) -> Reply:
        """The executed turn: as it was sampled where a student sampled it, else encoded."""
        if not turn.token_ids:
            return self.label(turn.text)
        if turn.token_ids[-1] == self.end_id:
            return Reply(turn.token_ids)
        return Reply((*turn.token_ids, self.end_id), unsampled=1)

    def past(self, turn: Turn) -> Reply:
        """The executed turn as later turns see it, right after its role header."""
        if self.thinking == "kept" or "</think>" not in turn.text:
            return self.reply(turn)
        return self.label(turn.text.split("</think>")[-1].lstrip("\n"))

    def rewrites(self, turn: Turn) -> bool:
        """Whether later turns see other ids than the turn began and went on with."""
        return bool(self.ready) or (self.thinking != "kept" and "</think>" in turn.text)

    def prompt(self, system_prompt: str, turns: Sequence[Turn], observation: str) -> list[int]:
        """All ids that a policy continues in the state after ``turns``."""
        seen = [turn.observation for turn in turns] + [observation]
        ids = self.opening(system_prompt, seen[0])
        for turn, following in zip(turns, seen[1:], strict=True):
            ids += self.past(turn).token_ids
            ids += self.between(following)
        return ids + self.ready
