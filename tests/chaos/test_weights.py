"""Once with the real small model: a killed run ends with the very weights of one that was not.

In bfloat16 a sample also depends on the other rows of its batch, and a run that goes on has other
batches. With ``serving.batch_size=1``, the fixed batch, each answer is computed alone.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.algorithms.conftest import smollm2 as smollm2
from tests.support.chaos.faults import Arena, Kill, kill
from tests.support.warm import WarmInterpreter

FIXED = (
    "serving.batch_size=1",
    "model.dtype=bfloat16",
    "rounds=2",
    "episodes_per_round=4",
    "evaluation.tasks=1",
    "limits.max_turns=3",
    "sampling.max_new_tokens=16",
)


@pytest.mark.recorded
@pytest.mark.timeout(1800)
def test_a_killed_run_of_the_real_model_ends_with_the_same_weights(
    interpreter: WarmInterpreter, smollm2: Path, tmp_path: Path
) -> None:
    arena = Arena(tmp_path, interpreter, *FIXED, model=smollm2)
    assert len(arena.undisturbed.weights) == 3
    job = arena.job()
    cost = arena.cost(job, kill(arena, job, Kill(share=0.45)))
    assert cost.same_weights and cost.harmless, cost
