"""From the resolved configuration to objects: what a run is made of, put together.

A command builds a :class:`RunContext` and hands its components on one by one, so that the signature
of a function says what it depends on.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from algorithms.base import Algorithm
from algorithms.engine.training_config import TrainingConfig
from algorithms.trainer import Trainer
from experiments.config.algorithms import build_algorithm, build_trainer
from experiments.config.stored import complete
from experiments.pipeline.environments import EnvFactory
from experiments.pipeline.play import Player
from experiments.pipeline.student import Student
from experiments.pipeline.teachers import Teacher
from experiments.runs.inputs import refuse_changed
from experiments.runs.reader import load_config
from swe_gym_env.errors import SetupError


class RunContext:
    """The components of a run. Each is built when it is first asked for.

    Args:
        cfg: The whole resolved configuration; keys that a stored run is too old to have are added
            to it.
    """

    def __init__(self, cfg: DictConfig) -> None:
        complete(cfg)
        self.cfg = cfg

    @cached_property
    def student(self) -> Student:
        return Student(self.cfg)

    @cached_property
    def teacher(self) -> Teacher:
        return Teacher(self.cfg, self.student)

    @cached_property
    def make_env(self) -> EnvFactory:
        cfg = self.cfg
        return EnvFactory(
            sandbox=cfg.sandbox,
            actions=cfg.actions,
            limits=cfg.limits,
            count_tokens=self.student.count_tokens,
        )

    @cached_property
    def player(self) -> Player:
        cfg = self.cfg
        return Player(
            self.make_env,
            cluster=cfg.cluster,
            workers=cfg.workers,
            fixed_batches=self._fixed_batches,
            history=cfg.history,
        )

    @property
    def _fixed_batches(self) -> bool:
        cfg = self.cfg
        if cfg.workers.fixed_batches is not None:
            return bool(cfg.workers.fixed_batches)
        here = cfg.serving.name == "hf" and cfg.teacher.name not in ("server", "policy")
        return here and cfg.cluster.name == "local"

    @cached_property
    def algorithm(self) -> Algorithm:
        return build_algorithm(self.cfg.algorithm)

    @cached_property
    def iteration0(self) -> Algorithm:
        return build_algorithm(self.cfg.iteration0.algorithm, "iteration0.algorithm")

    @cached_property
    def trainer(self) -> Trainer:
        return build_trainer(self.cfg.get("trainer"))

    @cached_property
    def training(self) -> TrainingConfig:
        given = OmegaConf.to_container(self.cfg.training, resolve=True)
        assert isinstance(given, dict)
        given.pop("launch", None)  # which processes do it
        try:
            return TrainingConfig(**given, seed=self.cfg.seed)  # type: ignore[arg-type]
        except ValueError as error:
            raise SetupError(str(error)) from None

    def algorithm_of(self, index: int) -> Algorithm:
        """The algorithm of round ``index``; round 0 is iteration 0."""
        return self.algorithm if index else self.iteration0

    def training_of(self, index: int) -> TrainingConfig:
        """How round ``index`` is trained; round 0 is iteration 0."""
        first = self.cfg.iteration0
        return self.training if index else replace(self.training, epochs=first.epochs, lr=first.lr)

    def check(self) -> None:
        """Builds what a mistake in the configuration would break hours later. Raises SetupError."""
        _ = self.teacher.account([])
        for algorithm in (self.iteration0, self.algorithm):
            try:
                self.trainer.check(algorithm, self.training)
            except ValueError as error:
                raise SetupError(f"algorithm={algorithm.name}: {error}") from None
        self._check_overlap()
        self.teacher.check_scores(self.algorithm)

    def _check_overlap(self) -> None:
        overlap = self.cfg.overlap
        if overlap < 0:
            raise SetupError(f"overlap={overlap} counts rounds: it is 0 or more")
        if overlap and not self.cfg.training.launch:
            raise SetupError(
                f"overlap={overlap} collects while another process trains: say how that one is "
                "started, such as training.launch=[python]"
            )
        if overlap and self.cfg.serving.get("stop_for_training"):
            raise SetupError(
                f"overlap={overlap} collects while another process trains, so the servers must "
                "stay: serving.stop_for_training=false, on GPUs that training does not use"
            )

    def close(self) -> None:
        """Ends what was started for the run."""
        self.student.close()


def stored_context(run: Path) -> RunContext:
    """The components of the stored run in the folder ``run``.

    Raises:
        SetupError: The folder holds no run, or the run's model is no longer the same.
    """
    cfg = load_config(run)
    if "model" not in cfg:
        raise SetupError(f"{run}: its config.yaml names no model")
    refuse_changed(run, cfg, "model")
    return RunContext(cfg)
