"""AdamW with float32 master weights for models in low precision.

A bfloat16 weight has 8 significant bits, so an update below about 1/256 of it would be rounded
away. Each weight therefore has a float32 copy, the master weight: gradients are summed and the
update is made in float32, and the result is rounded into the model. A weight that is float32
already is its own master.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from algorithms.engine import parallel


class MasterAdamW:
    """AdamW with gradient clipping by the global norm and a learning rate schedule.

    For every micro-batch call ``backward`` and then :meth:`accumulate`; after the last one
    :meth:`step`. Losses are sums that are already divided by the denominator of the whole optimizer
    batch, so gradients are only ever added: over micro-batches in float32 here, over processes in
    :meth:`step` (sharded weights: by FSDP).

    Args:
        parameters: Weights of the model; those without ``requires_grad`` are left out.
        lr: Peak learning rate.
        warmup_steps: Steps of linear warm-up before the peak.
        weight_decay: As in AdamW (arXiv 1711.05101): decoupled from the gradient.
        max_grad_norm: Gradients with a larger global norm are scaled down to it.
        total_steps: Step at which the schedule ends.
        lr_end: Learning rate at the end as a fraction of ``lr``, reached linearly after warm-up.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        lr: float,
        warmup_steps: int = 0,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        total_steps: int = 1,
        lr_end: float = 1.0,
    ) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.masters = [
            p if p.dtype == torch.float32 else p.detach().float() for p in self.parameters
        ]
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if parameter is not master:
                master.grad = torch.zeros_like(master)
        self.lr, self.warmup_steps, self.max_grad_norm = lr, warmup_steps, max_grad_norm
        self.total_steps, self.lr_end = total_steps, lr_end
        self.adam = torch.optim.AdamW(
            self.masters, lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True
        )
        self.steps = 0

    @torch.no_grad()
    def accumulate(self) -> None:
        """Add the gradients of one micro-batch to the masters' and free them.

        A float32 weight needs nothing: autograd adds up its gradient in place.
        """
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if parameter is master:
                continue
            if parameter.grad is not None and master.grad is not None:
                master.grad.add_(parameter.grad)
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> float:
        """Make one update with the summed gradients of all processes.

        Returns:
            The global gradient norm before clipping.
        """
        for master in self.masters:
            # A float32 weight that no token has used has no gradient. All processes must sum the
            # same list of tensors, or the collective calls would not match.
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        gradients = [m.grad for m in self.masters if m.grad is not None]
        parallel.sum_over_processes(gradients)
        norm = parallel.full_tensor(torch.nn.utils.get_total_norm(gradients))
        torch.nn.utils.clip_grads_with_norm_(self.masters, self.max_grad_norm, norm)
        self.steps += 1
        for group in self.adam.param_groups:
            group["lr"] = self.learning_rate()
        self.adam.step()
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if parameter is master:
                master.grad = None  # autograd then stores its own instead of adding to zeros
            elif master.grad is not None:
                master.grad.zero_()
                parameter.copy_(master)
        return float(norm)

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Master weights and Adam moments by name, to be saved, or to be loaded into in place."""
        tensors = {}
        for index, master in enumerate(self.masters):
            state = self.adam.state[master]
            if not state:  # before the first step Adam has none; these are its initial values
                state["step"] = torch.zeros((), device=master.device)
                state["exp_avg"] = torch.zeros_like(master, requires_grad=False)
                state["exp_avg_sq"] = torch.zeros_like(master, requires_grad=False)
            tensors[f"master.{index}"] = master.detach()
            tensors |= {f"{name}.{index}": state[name] for name in ("exp_avg", "exp_avg_sq")}
        return tensors

    @torch.no_grad()
    def restore(self, steps: int) -> None:
        """Continue after ``steps`` updates, once :meth:`state_tensors` have been loaded into."""
        self.steps = steps
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            self.adam.state[master]["step"].fill_(steps)
            if parameter is not master:
                parameter.copy_(master)

    def learning_rate(self) -> float:
        """Learning rate of the current step; steps count from 1."""
        if self.steps <= self.warmup_steps:
            return self.lr * self.steps / (self.warmup_steps + 1)
        first = self.warmup_steps + 1
        progress = (self.steps - first) / max(1, self.total_steps - first)
        return self.lr * (1 + (self.lr_end - 1) * min(1.0, progress))
