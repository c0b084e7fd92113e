"""The student of a run: its model and tokenizer, its precision, and the policies by which it acts.

torch, the model and the servers are imported, loaded or started when they are first needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from experiments.config.schema import HFServing
from experiments.pipeline import precision, serving
from experiments.pipeline.precision import Kept
from swe_gym_env import actions
from swe_gym_env.actions import ActionFormat
from swe_gym_env.policies.base import Policy
from swe_gym_env.policies.lazy import LazyPolicy

if TYPE_CHECKING:
    import torch

    from algorithms.engine.rendering import Renderer
    from algorithms.engine.scorer import HFScorer
    from algorithms.serving.fleet import Fleet
    from algorithms.serving.vllm_policy import VLLMPolicy


class TokenCounter:
    """Counts the tokens of a text as the student's tokenizer splits it.

    A copy on another machine needs neither the model's folder nor torch: only the part of the
    tokenizer that splits text is copied. It may be used from several threads.
    """

    def __init__(self, renderer: Callable[[], Renderer]) -> None:
        """``renderer`` loads the student's tokenizer; it is called when it is first needed."""
        self._renderer = renderer

    @cached_property
    def _backend(self) -> Any:
        return self._renderer().tokenizer.backend_tokenizer

    def load(self) -> TokenCounter:
        """Itself, with the tokenizer loaded. Raises SetupError where the student has none that can
        be used."""
        _ = self._backend
        return self

    def __call__(self, text: str) -> int:
        return len(self._backend.encode(text, add_special_tokens=False).ids)

    def __getstate__(self) -> dict[str, Any]:
        return {"_backend": self._backend}


class Student:
    """The model that the run trains."""

    def __init__(self, cfg: DictConfig) -> None:
        """``cfg`` is the whole resolved configuration. :meth:`settle` writes into it."""
        self._cfg = cfg
        self.count_tokens = TokenCounter(lambda: self.renderer)

    @property
    def name(self) -> str:
        return self._cfg.model.name

    @cached_property
    def form(self) -> ActionFormat:
        """How it writes its turns."""
        return actions.action_format(self._cfg.actions.name, self._cfg.actions.tools)

    @cached_property
    def start(self) -> Path:
        """The untrained student: a Hugging Face folder."""
        from algorithms.engine.models import fetch

        return fetch(self._cfg.model.path)

    def settle(self, folder: Path | None = None, like: Kept | None = None) -> None:
        """Decides what ``auto`` means: see :func:`experiments.pipeline.precision.settle`."""
        precision.settle(self._cfg, lambda: self.start, folder, like)

    @property
    def precision(self) -> str:
        """The name of :attr:`dtype`; decided now where nobody has yet."""
        self.settle()
        return self._cfg.decided.dtype

    @property
    def threads(self) -> int:
        """With how many threads torch computes, once :meth:`settle` was called."""
        return precision.threads(self._cfg)

    @property
    def dtype(self) -> torch.dtype:
        """In which the student computes. Reading it also sets the number of threads, of which
        PyTorch keeps one for each thread that computes: episodes are played in others."""
        import torch

        name = self.precision
        torch.set_num_threads(self.threads)
        return getattr(torch, name)

    @cached_property
    def renderer(self) -> Renderer:
        """Of the student's chat template. SetupError, before the first episode, if it has none."""
        from algorithms.engine.checkpoint import load_tokenizer
        from algorithms.engine.rendering import Renderer

        return Renderer(load_tokenizer(self.start), self._cfg.model.thinking)

    def policy(
        self,
        checkpoint: Path | None,
        temperature: float | None = None,
        top_p: float | None = None,
    ) -> Policy:
        """``checkpoint`` None is the untrained model; the rest defaults to ``sampling``."""
        sampling, thinking = self._cfg.sampling, self._cfg.model.thinking
        how = {
            "temperature": sampling.temperature if temperature is None else temperature,
            "top_p": sampling.top_p if top_p is None else top_p,
            "max_new_tokens": sampling.max_new_tokens,
        }
        if self._cfg.serving.name == "vllm":
            most = self._cfg.serving.max_context

            def served() -> VLLMPolicy:
                folder = checkpoint or self.start
                return serving.student(self.fleet, self.renderer, folder, most, **how)

            def published() -> VLLMPolicy:
                policy = served()
                self.fleet.publish(policy.version)
                return policy

            return LazyPolicy(published, client=lambda: served().client())
        return LazyPolicy(
            lambda: self.model(checkpoint or self.start, self.dtype, thinking=thinking, **how)
        )

    def model(self, folder: Path, dtype: torch.dtype | None, **options: Any) -> Policy:
        """A policy in this process, which shares the limits of the section ``serving``.

        Args:
            folder: A checkpoint of the student, or another model that acts beside it.
            dtype: None is the student's.
            **options: Further options of ``HFPolicy``.
        """
        from algorithms.engine.hf_policy import HFPolicy

        cfg = self._cfg.serving
        return HFPolicy.from_folder(
            folder,
            dtype or self.dtype,
            max_context=cfg.max_context,
            batch_size=cfg.get("batch_size", HFServing.batch_size),
            cache_bytes=int(cfg.get("cache_gb", HFServing.cache_gb) * 2**30),
            **options,
        )

    def scorer(self, folder: Path) -> HFScorer:
        """Gives the log-probs of the checkpoint in ``folder``, with which the rounds began."""
        from algorithms.engine.scorer import HFScorer

        dtype, tokenizer = self.dtype, self.renderer.tokenizer
        return HFScorer.from_folder(folder, dtype, tokenizer, "start", self._cfg.model.thinking)

    @cached_property
    def fleet(self) -> Fleet:
        """The servers of the student; they live until :meth:`close`."""
        return serving.fleet(
            self._cfg, lambda: serving.arguments(self._cfg, self.precision, self.start)
        )

    def free_memory(self) -> None:
        """Before a model is trained or scores here: servers that share its GPU are stopped."""
        if "fleet" in self.__dict__ and self._cfg.serving.stop_for_training:
            self.fleet.stop()

    def close(self) -> None:
        """Ends the servers, where some were started."""
        if "fleet" in self.__dict__:
            self.fleet.close()
