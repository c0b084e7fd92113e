"""From the last hidden states to logits, exactly as the model itself would.

Token trees and the sampler need logits at few positions, so they call the output layer directly.
Some models transform its output afterwards: they scale it, or cap it. Which of these a model does
is read from its configuration and compared bit for bit with its own forward pass.
"""

from __future__ import annotations

from typing import Any

import torch

from swe_gym_env.errors import SetupError


def compute_logits(model: Any, hidden: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Logits in float32, divided by ``temperature``.

    Args:
        model: A causal language model of transformers.
        hidden: Last hidden states, [..., d].
        temperature: Positive.

    Returns:
        Shape [..., vocabulary].
    """
    output = model.get_output_embeddings()(hidden)
    logits = _scaled_and_capped(model.config.get_text_config(), output).float()
    return logits if temperature == 1 else logits / temperature


def _scaled_and_capped(config: Any, logits: torch.Tensor) -> torch.Tensor:
    """What models do after the output layer, in the model's own precision.

    Granite divides (``logits_scaling``), Cohere multiplies (``logit_scale``), Gemma caps.
    """
    if (scaling := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / scaling
    if (scale := getattr(config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


@torch.no_grad()
def check_head(model: Any) -> None:
    """Check that :func:`compute_logits` gives what the model's forward pass gives.

    Two things must hold: the last hidden states reach the output layer unchanged, and what leaves
    the output layer becomes the logits by :func:`_scaled_and_capped` alone. For the second, the
    output is replaced by known values of a wide range, which shows a cap or scale that the
    configuration does not name.

    Raises:
        SetupError: One of them does not hold.
    """
    states: list[torch.Tensor] = []
    injected: list[torch.Tensor] = []

    def record_last_states(_module: Any, _args: Any, output: Any) -> None:
        states.append(output.last_hidden_state)

    def replace_output(_module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        states.append(args[0])
        injected.append(torch.linspace(1, 100, output.numel()).to(output).view_as(output))
        return injected[-1]

    hooks = [
        model.base_model.register_forward_hook(record_last_states),
        model.get_output_embeddings().register_forward_hook(replace_output),
    ]
    try:
        ids = torch.arange(4, device=model.device)[None]  # not all 0: padding embeds to 0
        logits = model(ids, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    config = model.config.get_text_config()
    if (
        len(injected) != 1
        or len(states) != 2
        or not torch.equal(states[0], states[1])
        or not torch.equal(_scaled_and_capped(config, injected[0]).float(), logits.float())
    ):
        raise SetupError(
            f"{type(model).__name__} changes its logits after the output layer, or its hidden "
            "states before it, in a way that is not supported here, so its log-probs would be "
            "wrong. Use another model (algorithms/engine/supported.py lists the types)."
        )
