"""AdamW that keeps float32 masters beside low-precision weights.

A bfloat16 weight swallows updates below 1/256 of its size, so steps are taken on float32 copies and
written back. Gradients are added up in float32 too, one micro-batch at a time. A float32 weight is
its own master.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from algorithms.engine import parallel


class MasterAdamW:
    """Clipped by the global gradient norm. The learning rate warms up linearly, then goes in a
    straight line to ``lr * lr_end`` at step ``total_steps``; it is constant where ``lr_end`` is 1.
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
        """Take over the gradients of one micro-batch and free them."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if parameter is master:
                continue
            if parameter.grad is not None and master.grad is not None:
                master.grad.add_(parameter.grad)
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> float:
        """One update with the gradients of all processes; returns their norm before clipping."""
        for master in self.masters:
            if master.grad is None:  # of a float32 weight that nothing has used
                master.grad = torch.zeros_like(master)
        gradients = [m.grad for m in self.masters if m.grad is not None]
        parallel.add_up(gradients)
        norm = parallel.full(torch.nn.utils.get_total_norm(gradients))
        torch.nn.utils.clip_grads_with_norm_(self.masters, self.max_grad_norm, norm)
        self.steps += 1
        for group in self.adam.param_groups:
            group["lr"] = self.rate()
        self.adam.step()
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if parameter is master:
                master.grad = None  # autograd then gives its own, and need not add it to zeros
            elif master.grad is not None:
                master.grad.zero_()
                parameter.copy_(master)
        return float(norm)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Masters and moments by name, to be saved or to be read into."""
        found = {}
        for place, master in enumerate(self.masters):
            state = self.adam.state[master]
            if not state:
                state["step"] = torch.zeros((), device=master.device)
                state["exp_avg"] = torch.zeros_like(master, requires_grad=False)
                state["exp_avg_sq"] = torch.zeros_like(master, requires_grad=False)
            found[f"master.{place}"] = master.detach()
            found |= {f"{name}.{place}": state[name] for name in ("exp_avg", "exp_avg_sq")}
        return found

    @torch.no_grad()
    def restore(self, steps: int) -> None:
        """Go on after ``steps`` updates, whose tensors were read into :meth:`tensors`."""
        self.steps = steps
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            self.adam.state[master]["step"].fill_(steps)
            if parameter is not master:
                parameter.copy_(master)

    def rate(self) -> float:
        """The learning rate of the present step (the first is 1)."""
        if self.steps <= self.warmup_steps:
            return self.lr * self.steps / (self.warmup_steps + 1)
        first = self.warmup_steps + 1
        way = (self.steps - first) / max(1, self.total_steps - first)
        return self.lr * (1 + (self.lr_end - 1) * min(1.0, way))
