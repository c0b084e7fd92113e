"""From a conversation to exact token ids. Ids that a student sampled are never encoded again.

A conversation is laid out as alternating pieces: a *prompt* (everything between two assistant
turns, role headers included) and a *reply* (the assistant's tokens up to and including the
end-of-turn token). Only tokens of a reply can carry loss. Headers, and the newline after an
end-of-turn token, belong to the next prompt.

The strings between the pieces are not written down here. They are read from the model's own chat
template, by rendering a conversation of probe words with it. The result is compared with
``tokenizer.apply_chat_template`` before it is used, so a model family is either rendered to the
same ids or refused. There is one intended exception: text that happens to spell a special token
stays text.
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
# another day than it was played, so the date is fixed to the default of those templates.
DATE = "26 Jul 2024"
FORCED = (
    "it begins each reply with {} and has no option to turn that off, so labels would be learned "
    "as thoughts; in a copy of the model's folder, remove this text from what chat_template.jinja "
    "(or tokenizer_config.json) writes if add_generation_prompt is true, and set model.path to "
    "that folder"
)


def fingerprint(tokenizer: Any) -> str:
    """A digest that is equal for two tokenizers if ids mean the same text and turns end alike.

    Merges are left out: they decide which ids a text becomes, not what ids mean.
    """
    end = Renderer(tokenizer).end_id if tokenizer.chat_template else tokenizer.eos_token_id
    content = json.dumps([sorted(tokenizer.get_vocab().items()), end])
    return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class Reply:
    """An assistant turn in token ids.

    Attributes:
        token_ids: The ids, up to and including the end-of-turn token.
        unsampled: How many of the last ids were appended, not sampled; they carry no loss.
    """

    token_ids: tuple[int, ...]
    unsampled: int = 0


class Renderer:
    """A model's chat template in pieces. ChatML, Qwen, Llama 3 and Gemma 3 are tested.

    Args:
        tokenizer: The model's tokenizer.
        thinking: What happens to a turn's ``<think>...</think>`` once the turn is history. "kept":
            it stays, so each prompt extends the one before. "stripped": it is removed, as Qwen3's
            template does. "empty": an empty block before each reply turns thinking off; the block
            is removed from history too. Observations are user messages, so all turns before the
            newest observation are history.

    Attributes:
        end_id: The end-of-turn token.
        ready: Ids that stand between the header and a reply: the empty block of "empty", else none.

    Raises:
        SetupError: The template cannot be reproduced token by token.
    """

    def __init__(self, tokenizer: Any, thinking: Thinking = "kept") -> None:
        if thinking not in get_args(Thinking):
            raise SetupError(f"model.thinking={thinking}: it is one of {get_args(Thinking)}")
        self.tokenizer, self.thinking = tokenizer, thinking
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._special: dict[str, int | str] = {
            str(token): int(id) for id, token in added.items() if token.special
        }
        words = [f"probe{index}n" for index in range(len(ROLES))]
        # Around six probe words there are seven strings: before the system prompt, before the
        # first user message, [2] and [4] before a reply, [3] and [5] after one, [6] at the end.
        cut = re.split("|".join(words), self._template(words, tokenize=False))
        if len(cut) != 7 or cut[2] != cut[4] or cut[3] != cut[5] or not cut[6].startswith(cut[2]):
            raise self._refused("it does not lay out system, user and assistant one after another")
        self._first, self._second, self._header, after = map(self._trusted, cut[:4])
        if not after or not isinstance(after[0], int):
            raise self._refused("no special token ends the assistant's turn")
        self.end_id, self._after = after[0], after[1:]
        self.ready = self._ids(self._trusted(cut[6][len(cut[2]) :]))
        if self.ready and thinking != "empty":
            raise self._refused(self._why_thinking())
        if thinking == "empty" and not self.ready:
            raise self._refused("its thinking cannot be turned off; set model.thinking=kept")
        # Templates that strip the blanks around a message do so by role; find out for which.
        padded = [f" \n{word} \n" for word in words]
        text = self._template(padded, tokenize=False)
        self._trimmed = {r for r, word in zip(ROLES, padded, strict=True) if word not in text}
        self._check(padded)

    def _check(self, probes: list[str]) -> None:
        """Compare with the template itself, including that it strips thoughts if we do.

        A reply is encoded apart from its header, because that is how it is sampled. The probes of
        the assistant therefore do not begin with a blank, which could merge with the header.
        """
        probes[2::2] = [word.lstrip() for word in probes[2::2]]
        if self.thinking != "kept":
            probes[2] = f"<think>\nprobe\n</think>\n\n{probes[2]}"
        turns = [Turn(probes[index], "student", probes[index + 1]) for index in (1, 3)]
        if self.prompt(probes[0], turns, probes[5]) != self._template(probes, tokenize=True):
            raise self._refused(
                "its ids are not those of its parts"
                if self.thinking == "kept"
                else FORCED.format(repr(self.decode(self.ready)))
                if self.ready
                else f"it does not support model.thinking={self.thinking}; set it to kept"
            )

    def _why_thinking(self) -> str:
        """Why a template that begins each reply with a thought is refused, and what to do."""
        try:
            Renderer(self.tokenizer, "empty")
        except SetupError:
            return FORCED.format(repr(self.decode(self.ready)))
        return (
            "it begins each reply with a thought, so labels would be learned as thoughts; set "
            "model.thinking=empty"
        )

    def _template(self, contents: Sequence[str], tokenize: bool) -> Any:
        if not self.tokenizer.chat_template:
            raise SetupError(
                "The tokenizer has no chat template, which says how a conversation is laid out for "
                "its model: use an instruct model, or put its chat_template.jinja into the model's "
                "folder."
            )
        chat = [{"role": r, "content": c} for r, c in zip(ROLES, contents, strict=True)]
        options = {"enable_thinking": False} if self.thinking == "empty" else {}
        try:
            return self.tokenizer.apply_chat_template(
                chat,
                tokenize=tokenize,
                return_dict=False,
                add_generation_prompt=True,
                date_string=DATE,
                **options,
            )
        except Exception as error:  # a template may raise anything
            raise self._refused(str(error)) from None

    def _refused(self, why: str) -> SetupError:
        return SetupError(
            f"The chat template of {getattr(self.tokenizer, 'name_or_path', '') or 'the model'} "
            f"cannot be rendered token by token: {why}."
        )

    def _trusted(self, text: str) -> list[int | str]:
        """Split a string of the template into text and the ids of special tokens."""
        if not self._special or not text:
            return [text] if text else []
        longest_first = sorted(self._special, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
        return [self._special.get(part, part) for part in parts if part]

    def _ids(self, parts: Iterable[int | str]) -> list[int]:
        """Ids of the parts; neighboring texts are encoded together, as the tokenizer does."""
        ids: list[int] = []
        for is_text, group in groupby(parts, key=lambda part: isinstance(part, str)):
            run = list(group)
            ids += self.encode("".join(map(str, run))) if is_text else map(int, run)
        return ids

    def _trim(self, role: str, text: str) -> str:
        """The text of a message as the template writes it for this role."""
        return text.strip() if role in self._trimmed else text

    def encode(self, text: str) -> list[int]:
        """Ids of plain text.

        A special token that is spelled in it stays text, and half a character (a lone surrogate,
        which older runs may have stored) becomes U+FFFD.
        """
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
        """The first prompt: system prompt, first observation, and the header of the reply."""
        system, seen = self._trim("system", system_prompt), self._trim("user", observation)
        return self._ids([*self._first, system, *self._second, seen, *self._header])

    def between(self, observation: str) -> list[int]:
        """A later prompt: what follows an end-of-turn token, the observation, the next header."""
        return self._ids([*self._after, self._trim("user", observation), *self._header])

    def label(self, text: str) -> Reply:
        """A label as the student would have to generate it, with the end-of-turn token."""
        return Reply((*self.encode(self._trim("assistant", text)), self.end_id))

    def reply(self, turn: Turn) -> Reply:
        """The executed turn: the sampled ids if there are any, else its text encoded.

        If sampling stopped without an end-of-turn token, one is appended as ``unsampled``.
        """
        if not turn.token_ids:
            return self.label(turn.text)
        if turn.token_ids[-1] == self.end_id:
            return Reply(turn.token_ids)
        return Reply((*turn.token_ids, self.end_id), unsampled=1)

    def past(self, turn: Turn) -> Reply:
        """The executed turn as later turns see it, directly after its role header."""
        if self.thinking == "kept" or "</think>" not in turn.text:
            return self.reply(turn)
        return self.label(turn.text.split("</think>")[-1].lstrip("\n"))

    def rewrites(self, turn: Turn) -> bool:
        """Whether later turns see other ids than those of the turn itself."""
        return bool(self.ready) or (self.thinking != "kept" and "</think>" in turn.text)

    def prompt(self, system_prompt: str, turns: Sequence[Turn], observation: str) -> list[int]:
        """All ids that a policy continues from in the state after ``turns``."""
        observations = [turn.observation for turn in turns] + [observation]
        ids = self.opening(system_prompt, observations[0])
        for turn, following in zip(turns, observations[1:], strict=True):
            ids += self.past(turn).token_ids
            ids += self.between(following)
        return ids + self.ready
