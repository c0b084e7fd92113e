"""Where a run is stored, so that a killed one goes on and a finished one is not repeated.

    runs/<algorithm>-<hash>/        one resolved configuration
      format.json                   version of the format of these files
      config.yaml                   that configuration
      inputs.json                   digests of the files that it reads (experiments/runs/inputs.py)
      versions.json                 of each start: command, commit, packages, machine
      tasks.json                    the task ids of each split, fixed when the run began
      rounds/round_000 -> ...       iteration 0, a link into the shared folder
      rounds/round_001/             episodes.jsonl annotations.jsonl metrics.json checkpoint/
      evaluations/untrained -> ...  episodes.jsonl metrics.json; a link, as is iteration0
      evaluations/round_002/
      phases.json                   seconds of wall time per phase
      summary.json                  the closing table; its presence means that the run is finished
      report.html report.png tables/ analysis/ episodes.html
      tensorboard/, wandb/          with tracking=... (experiments/pipeline/tracking.py)
    runs/iteration0-<hash>/         what all algorithms share: the same layout, keyed by all that
                                    it depends on
    runs/teacher-<hash>/            what python -m experiments.teacher made, with its own hash
    runs/sweep-<hash>/              which runs a sweep is made of (experiments/runs/sweep.py)

docs/reference/run-folder.md describes each file. ``experiments/runs/naming.py`` says what the hash
depends on. The hash holds the paths of files, not their content: if a file was edited since its run
began, the run with the new content gets a folder with a second hash; if a file was only moved, its
run goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.runs import inputs, layout, versions
from experiments.runs.naming import affecting, digest
from swe_gym_env.disk import make_folder, read_json, room_for, write_json, write_text
from swe_gym_env.errors import SetupError
from swe_gym_env.rollout.store import RoundFolder

log = logging.getLogger(__name__)


def run_folder(cfg: DictConfig) -> RunFolder:
    return named(cfg, str(cfg.algorithm.name), affecting(cfg, "result"))


def iteration0_folder(cfg: DictConfig, task_ids: list[str]) -> RunFolder:
    depends = affecting(cfg, "iteration0")
    if cfg.get("decided"):  # runs share it that compute alike
        depends["model"]["dtype"] = cfg.decided.dtype
    return named(cfg, "iteration0", depends, task_ids)


def trained_folder(cfg: DictConfig) -> RunFolder:
    """Of teacher=trained. It has its own seed and training, so that students with different
    ones can share it."""
    depends = affecting(cfg, "teacher")
    made_from = depends.pop("teacher", {})
    return named(cfg, "teacher", {"history": None, **depends, **made_from})


def _trained(cfg: DictConfig) -> Path:
    return trained_folder(cfg).round(cfg.teacher.rounds).checkpoint


def evaluation_folder(cfg: DictConfig) -> RunFolder:
    """Of an evaluation that is not part of a run."""
    if cfg.evaluation.who == "teacher":
        return named(cfg, f"evaluation-{cfg.teacher.name}", affecting(cfg, "measured"))
    return named(cfg, f"evaluation-{cfg.model.name}", affecting(cfg, "evaluation"))


def runs(cfg: DictConfig) -> Path:
    return Path(cfg.paths.runs).expanduser().absolute()


def named(
    cfg: DictConfig, kind: str, data: dict[str, Any], more: Sequence[str] | None = None
) -> RunFolder:
    """The folder in ``paths.runs`` of what depends on ``data`` and ``more``.

    Its name holds the precision that was asked for. What an older version began, whose default was
    bfloat16, is found under its name and goes on in bfloat16.
    """
    if data["model"]["dtype"] == "auto":
        before = {**data, "model": {**data["model"], "dtype": "bfloat16"}}
        if _is_older(_path(cfg, kind, before, more)):
            data = before
    return _of_contents(cfg, _path(cfg, kind, data, more), kind, data, more)


def _path(cfg: DictConfig, kind: str, data: Mapping[str, Any], more: Sequence[str] | None) -> Path:
    return runs(cfg) / f"{kind}-{digest(data if more is None else [data, more])}"


def _is_older(folder: Path) -> bool:
    try:
        lines = (folder / layout.CONFIG).read_text().splitlines()
    except OSError:
        return False
    return not any(line.startswith("decided:") for line in lines)


def _of_contents(
    cfg: DictConfig, path: Path, kind: str, data: Mapping[str, Any], more: Sequence[str] | None
) -> RunFolder:
    """``path`` where it was not begun with other contents, else the folder that was begun with
    these, or is to be."""
    found = inputs.found(data, lambda: _trained(cfg))
    if not found:
        return RunFolder(path)
    contents = {name: one["content"] for name, one in found.items()}
    key = digest([inputs.without_paths(data, contents), contents, more])
    own = {"key": key, "inputs": found}
    stored = read_json(path / inputs.FILE)
    differs = inputs.changed(stored["inputs"], found) if stored else []
    if stored and not differs:
        return RunFolder(path, own)
    for other in sorted(path.parent.glob(f"{kind}-*/{inputs.FILE}")):
        if (read_json(other) or {}).get("key") == key:
            return RunFolder(other.parent, own)
    if not differs:
        return RunFolder(path, own)
    return RunFolder(path.with_name(f"{path.name}-{key[:6]}"), own, differs)


def phases_so_far(run: Path) -> dict[str, float]:
    """Seconds of the phases that have ended; until the run has, those of iteration 0 stand in the
    folder that runs share."""
    return RunFolder(run).shared.phases | RunFolder(run).phases


class RunFolder:
    """One folder of the layout above. ``inputs`` is what ``inputs.json`` must hold, ``differs``
    says why it is not the folder that its settings alone would name."""

    def __init__(
        self, path: Path, inputs: Mapping[str, Any] | None = None, differs: Sequence[str] = ()
    ) -> None:
        self.path, self.inputs, self.differs = path, inputs, differs

    @property
    def summary(self) -> dict[str, Any] | None:
        """The closing table; None until the run has finished."""
        return read_json(self.path / layout.SUMMARY)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes the closing table, by which the run counts as finished."""
        write_json(self.path / layout.SUMMARY, summary)

    @property
    def tasks(self) -> dict[str, list[str]] | None:
        """The ids of the tasks by split (train, heldout), as :meth:`save_tasks` wrote them."""
        return read_json(self.path / layout.TASKS)

    def save_tasks(self, ids: Mapping[str, Sequence[str]]) -> None:
        write_json(self.path / layout.TASKS, ids)

    @property
    def report_page(self) -> Path:
        return self.path / layout.REPORT_PAGE

    @property
    def episodes_page(self) -> Path:
        return self.path / layout.EPISODES_PAGE

    @property
    def analysis(self) -> Path:
        """Tables of ``experiments.analyze``, and what its probes have asked models so far."""
        return self.path / layout.ANALYSIS

    def round(self, index: int) -> RoundFolder:
        return RoundFolder(self.path / layout.ROUNDS / layout.round_name(index))

    def evaluation(self, name: str) -> RoundFolder:
        return RoundFolder(self.path / layout.EVALUATIONS / name)

    def round_metrics(self) -> list[dict[str, Any]]:
        """What the rounds so far wrote about themselves, in order."""
        found = [RoundFolder(path).metrics for path in layout.round_folders(self.path)]
        return [metrics for metrics in found if metrics]

    @property
    def shared(self) -> RunFolder:
        """The folder of iteration 0, which runs share; this one until it has been linked."""
        return RunFolder(self.round(0).path.resolve().parents[1])

    def start(self, cfg: DictConfig) -> None:
        if self.differs and not (self.path / layout.CONFIG).exists():
            log.warning("a new folder, %s: %s", self.path.name, "; ".join(self.differs))
        layout.check_format(self.path)
        self.remember()
        write_json(self.path / layout.FORMAT, {"format": layout.VERSION})
        write_text(self.path / layout.CONFIG, OmegaConf.to_yaml(cfg, resolve=True))
        path = self.path / layout.VERSIONS
        write_json(path, versions.add(read_json(path)))

    def remember(self) -> None:
        """What was read at the first start. A run of an older version knows it from now on."""
        if self.inputs and not (self.path / inputs.FILE).exists():
            write_json(self.path / inputs.FILE, self.inputs)

    def link(self, own: Path, shared: Path) -> None:
        """``own`` becomes a relative link to ``shared``, so that runs/ can be moved as a whole."""
        make_folder(shared)
        make_folder(own.parent)
        target = os.path.relpath(shared, own.parent)
        if own.is_symlink() and os.readlink(own) == target:
            return
        own.unlink(missing_ok=True)
        own.symlink_to(target)

    @contextlib.contextmanager
    def lock(self, wait: bool = False) -> Iterator[None]:
        """Only one process works in a folder. The kernel lets go of the lock when that one dies."""
        make_folder(self.path)
        with room_for(self.path):
            opened = (self.path / layout.LOCK).open("a+")
        with opened as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                file.seek(0)
                raise SetupError(
                    f"process {file.read().strip()} is already working in {self.path}: "
                    "wait for it, stop it, or change the configuration (another seed, say)"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    @property
    def busy(self) -> bool:
        """Another process works in it."""
        try:
            with (self.path / layout.LOCK).open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Adds the wall time to ``phases.json``, also where the phase is interrupted."""
        began = time.monotonic()
        try:
            yield
        except BaseException:
            with contextlib.suppress(SetupError):  # a full disk, say: the first error goes up
                self._add_time(phase, time.monotonic() - began)
            raise
        self._add_time(phase, time.monotonic() - began)

    def _add_time(self, phase: str, seconds: float) -> None:
        phases = self.phases
        phases[phase] = round(phases.get(phase, 0.0) + seconds, 1)
        self.save_phases(phases)

    @property
    def phases(self) -> dict[str, float]:
        """Seconds of wall time by the name of the phase."""
        return read_json(self.path / layout.PHASES) or {}

    def save_phases(self, seconds: Mapping[str, float]) -> None:
        write_json(self.path / layout.PHASES, seconds)

    @property
    def process(self) -> int | None:
        """The process that works in it; None if there is none alive on this machine."""
        try:
            number = int((self.path / layout.LOCK).read_text())
            os.kill(number, 0)
        except (OSError, ValueError):
            return None
        return number
