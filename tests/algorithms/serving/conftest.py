"""A real vLLM, where there is one: SWE_GYM_VLLM_PYTHON is the interpreter of its environment."""

from __future__ import annotations

import os

import pytest

# Small enough for a machine without a GPU. 32 is the smallest block that vLLM's CPU kernels take.
ARGUMENTS = {"enforce_eager": True, "max_num_seqs": 8, "block_size": 32}
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1"}


@pytest.fixture(scope="session")
def vllm_python() -> str:
    python = os.environ.get("SWE_GYM_VLLM_PYTHON")
    if not python:
        pytest.skip("SWE_GYM_VLLM_PYTHON names no interpreter with vLLM; `make vllm` makes one")
    return python
