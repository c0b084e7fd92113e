"""A tiny random Llama for exact numbers, and the embedded model for real ones."""

import os
import random
import string

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from algorithms.engine.precision import choose
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.base import State
from swe_gym_env.types import Episode, Outcome, TaskInstance, Turn

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tiny models: threads that wait for each other on a busy machine cost more than they give.
torch.set_num_threads(1)

TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_tokenizer():
    """One token per character, plus the two ChatML ones."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocab = {char: index for index, char in enumerate(string.printable)}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    inner.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", unk_token="?", pad_token="<|im_end|>"
    )
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


def tiny_model(vocabulary: int, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=48,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=None,
        initializer_range=0.2,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).float().eval()


@pytest.fixture
def tiny(tokenizer):
    return tiny_model(len(tokenizer))


@pytest.fixture(scope="session")
def smollm2():
    """Folder of the real embedded model."""
    from algorithms.engine.models import embedded_model

    try:
        return embedded_model()
    except SetupError as error:
        if os.environ.get("SWE_GYM_NO_SKIP") == "1":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def auto_dtype(smollm2) -> torch.dtype:
    """In which the embedded model computes fastest on this machine, as ``model.dtype=auto``."""
    return getattr(torch, choose(smollm2, threads=1).dtype)


def make_state(place: int = 0, turns: tuple[Turn, ...] = (), observation: str = "Go.") -> State:
    task = TaskInstance(
        f"task-{place}",
        "r",
        "c",
        "i",
        "p",
        "",
        "",
        fail_to_pass=(),
        pass_to_pass=(),
        eval_script="",
    )
    key = (0, 0, task.instance_id, 0, len(turns), "student")
    return State(key, task, "You fix bugs.", turns, observation)


def make_episode(turns: list[Turn], name: str = "e", **fields) -> Episode:
    values = {
        "episode_id": name,
        "instance_id": name,
        "seed": 0,
        "round": 0,
        "repeat": 0,
        "system_prompt": "You fix bugs.",
        "turns": tuple(turns),
        "outcome": Outcome("resolved", 1.0),
        "stop_reason": "finished",
    }
    return Episode(**{**values, **fields})


def words(rng: random.Random, most: int = 12) -> str:
    return "".join(rng.choice("ab \n") for _ in range(rng.randint(1, most)))
