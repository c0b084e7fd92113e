"""Tokenizers of model families: the family's own chat template and special tokens, few merges.

The templates are those that the models were released with; trl carries them, byte for byte. The
vocabulary is trained here on a few lines, with the family's way of splitting text into words:
which ids the real one gives does not matter, where one id may end and the next begin does.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Family:
    template: str
    end: str
    special: tuple[str, ...]
    known: tuple[str, ...] = ()  # ordinary added tokens, which text may spell, as in Qwen3
    start: str | None = None


CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HEADERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TURNS = ("<bos>", "<start_of_turn>", "<end_of_turn>")
THINK = ("<think>", "</think>", "<tool_call>", "</tool_call>")

FAMILIES = {
    "qwen2_5": Family("qwen2_5", "<|im_end|>", CHATML),
    "qwen3": Family("qwen3", "<|im_end|>", CHATML, THINK),
    "qwen3_instruct_2507": Family("qwen3_instruct_2507", "<|im_end|>", CHATML, THINK),
    "llama3": Family("llama3", "<|eot_id|>", HEADERS, start="<|begin_of_text|>"),
    "llama3_1": Family("llama3_1", "<|eot_id|>", HEADERS, start="<|begin_of_text|>"),
    "llama3_2": Family("llama3_2", "<|eot_id|>", HEADERS, start="<|begin_of_text|>"),
    "gemma3": Family("gemma3", "<end_of_turn>", TURNS, start="<bos>"),
}


@cache
def family(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of one of FAMILIES."""
    about = FAMILIES[name]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        show_progress=False,
        special_tokens=list(about.special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator([Path(__file__).read_text()], trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=about.end, bos_token=about.start, pad_token=about.end
    )
    made.add_tokens(list(about.known))
    made.chat_template = (files("trl") / "chat_templates" / f"{about.template}.jinja").read_text()
    return made
