"""What the command lines of this package share: how they start and how they end.

A mistake ends in one message that says what to do. Hydra lists the options of a group it does not
know, but of a value (``training.learning_rate=1``) it only says in five lines that the key is not
there. One line with the keys beside it takes their place.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments.config import values
from experiments.config.schema import RunConfig
from experiments.console.interrupt import INTERRUPTED, stoppable
from experiments.console.progress import Display, plain
from swe_gym_env import disk
from swe_gym_env.errors import SetupError

CONF = Path(__file__).resolve().parents[2] / "conf"
HYDRA = {"version_base": "1.3", "config_path": "../conf", "config_name": "config"}

_composed = False  # did Hydra get as far as a configuration?


class _Held:
    """The standard error, which keeps back what is written until :meth:`release`."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.words = stream, list[str]()
        self._holds = True

    def write(self, text: str) -> int:
        if not self._holds:
            return self.stream.write(text)
        self.words.append(text)
        return len(text)

    def release(self) -> None:
        self._holds = False
        self.stream.writelines(self.words)
        self.words.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def guarded(
    job: Callable[[DictConfig, Display], Any],
    cfg: DictConfig,
    module: str,
    kind: type = RunConfig,
    stored: bool = False,
) -> None:
    """Ends in one clear message where the user has to act, and says how to go on after Ctrl-C. A
    run of a sweep ends without stopping the others; the sweep names it when all have ended.

    Args:
        job: What the command does.
        cfg: Its configuration, which is checked first.
        module: The command, ``experiments.run``.
        kind: The dataclass that declares the keys of ``cfg``.
        stored: ``cfg`` is of a run folder: it may hold keys of another version of this program.
    """
    global _composed
    _composed = True
    if isinstance(sys.stderr, _Held):
        sys.stderr.release()
    command = shlex.join(["python", "-m", module, *sys.argv[1:]])
    try:
        values.leave_out(cfg, _given(), kind)
        values.check(cfg, kind, stored)
        display = Display(cfg.logging.level, cfg.logging.seconds_between_lines)
        if module != "experiments.train":
            _refuse_many()
        with stoppable(f"Stopped. What is done is kept; go on with: {command}"):
            job(cfg, display)
    except SetupError as error:
        _end(str(error))
    except OSError as error:
        problems = disk.message(error, error.filename or cfg.paths.runs)
        if problems is None:
            raise
        _end(problems)


def _given() -> list[str]:
    """The keys on the command line."""
    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else sys.argv[1:]
    return [word.lstrip("+~").partition("=")[0] for word in words]


def _refuse_many() -> None:
    """SetupError if a launcher has started several processes of a command that is one process."""
    many = os.environ.get("WORLD_SIZE", "1")
    if many != "1":
        raise SetupError(
            f"A launcher started {many} processes of this command, which is one process: only "
            "training uses several. Start it plainly, and say how training is launched: "
            f"\"training.launch=[torchrun,--nproc-per-node,'{many}']\""
        )


def _end(problems: str) -> NoReturn:
    """Of a sweep, only this cell ends."""
    problems = plain(problems)
    print(f"\n{problems}", file=sys.stderr)
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise CompactHydraException(problems) from None  # which Hydra prints without a traceback
    raise SystemExit(2) from None


@contextlib.contextmanager
def explain_unknown(config: str = "config") -> Iterator[None]:
    """Around ``main``. Prints a plain error where Hydra would show a traceback."""
    if problems := no_choice(sys.argv[1:]):
        raise SystemExit("\n".join(problems))
    several = {"-m", "--multirun"} & {*sys.argv}  # a sweep ends once for each of its runs
    held = _Held(sys.stderr)
    try:
        with contextlib.nullcontext() if several else contextlib.redirect_stderr(held):
            yield
    except KeyboardInterrupt:  # before there was anything to stop
        raise SystemExit(INTERRUPTED) from None
    except SystemExit as end:
        if end.code == 1 and not _composed and (lines := unknown(sys.argv[1:], config)):
            held.words = [f"{line}\n" for line in lines]  # in the place of what Hydra says
        raise
    finally:
        held.release()


def no_choice(arguments: list[str]) -> list[str]:
    """One line for each ``group=NUMBER``, which Hydra takes for a fault of the program."""
    problems = []
    for key, _, value in (a.partition("=") for a in arguments if a[:1] not in "-+~"):
        if (CONF / key).is_dir() and re.fullmatch(r"[-+.,\d]+", value):
            choices = ", ".join(sorted(path.stem for path in (CONF / key).glob("*.yaml")))
            problems.append(
                f"{key}={value}: {key} is one of {choices}; values are given beside it, such as "
                "beta=constant beta.start=0.3"
            )
    return problems


def unknown(arguments: list[str], config: str = "config") -> list[str]:
    """One line for each ``key=value`` whose key the configuration does not have. ``config`` is the
    file of ``conf/`` that the command starts from."""
    given = [a.split("=", 1) for a in arguments if "=" in a and a[0] not in "-+~"]
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    # also options of another package, which hydra.searchpath makes known
    chosen = [
        f"{key}={value}" for key, value in given if key in groups or key == "hydra.searchpath"
    ]
    keys = [key for key, _ in given]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            cfg = compose(config, overrides=chosen)
        except HydraException:  # it has said which option there is not
            return []
    return [
        _beside(cfg, key)
        for key in keys
        if key not in groups and not key.startswith(("hydra.", "hydra/")) and not _has(cfg, key)
    ]


def _has(cfg: DictConfig, key: str) -> bool:
    """Also where it has no value yet."""
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return isinstance(node, DictConfig) and last in list(node.keys())


def _beside(cfg: DictConfig, key: str) -> str:
    parent = key.rpartition(".")[0]
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if isinstance(node, DictConfig):
        return values.undeclared(key, map(str, node))
    return _beside(cfg, parent) if parent else f"there is no {key}"
