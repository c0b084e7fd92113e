"""From the last hidden states to logits, as the model itself would.

Token trees and the sampler want logits of few places only, so they call the output layer by
themselves. Some models change what comes out of it: they divide it, or cap it. Which of these a
model does is read off its configuration and compared with its own forward pass, bit by bit.
"""

from __future__ import annotations

from typing import Any

import torch

from swe_gym_env.errors import SetupError


def logits_of(model: Any, hidden: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Float32 logits (..., vocabulary) of ``hidden`` (..., d), divided by ``temperature``."""
    raw = model.get_output_embeddings()(hidden)
    logits = _finished(model.config.get_text_config(), raw).float()
    return logits if temperature == 1 else logits / temperature


def _finished(config: Any, logits: torch.Tensor) -> torch.Tensor:
    """In the model's own precision: Granite divides, Cohere multiplies, Gemma caps."""
    if (scaling := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / scaling
    if (scale := getattr(config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


@torch.no_grad()
def check_head(model: Any) -> None:
    """SetupError unless :func:`logits_of` is what the model's forward pass makes of its hidden
    states: they must reach the output layer unchanged, and what is planted as its answer must come
    out as the logits."""
    states: list[torch.Tensor] = []
    injected: list[torch.Tensor] = []

    def note(_module: Any, _args: Any, output: Any) -> None:
        states.append(output.last_hidden_state)

    def plant(_module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        states.append(args[0])
        injected.append(torch.linspace(1, 100, output.numel()).to(output).view_as(output))
        return injected[-1]

    hooks = [
        model.base_model.register_forward_hook(note),
        model.get_output_embeddings().register_forward_hook(plant),
    ]
    try:
        ids = torch.arange(4, device=model.device)[None]  # a filler's embedding may be 0
        logits = model(ids, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    config = model.config.get_text_config()
    if (
        len(injected) != 1
        or len(states) != 2
        or not torch.equal(states[0], states[1])
        or not torch.equal(_finished(config, injected[0]).float(), logits.float())
    ):
        raise SetupError(
            f"{type(model).__name__} changes its logits after the output layer, or its hidden "
            "states before it, in a way that is not known here, so its log-probs would be wrong. "
            "Take a model that does not."
        )
