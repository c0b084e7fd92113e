"""The format of a run folder: its page says what the code writes, and its version is checked."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.report import write_report
from experiments.runs import episode_sets, evaluations, layout
from experiments.runs.folders import RunFolder
from experiments.runs.reader import load_config, read_run, read_runs
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.budget import Spent
from swe_gym_env.rollout.store import FILES
from swe_gym_env.types import Annotation, Episode, Outcome, Scores, ToolCall, Turn
from tests.experiments.sample_run import sample_run

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "run-folder.md").read_text("utf-8")


@pytest.mark.parametrize("kind", [Episode, Turn, ToolCall, Outcome, Annotation, Scores])
def test_page_lists_exactly_the_fields(kind: type) -> None:
    section = PAGE.split(f"### {kind.__name__}\n")[1].split("\n#")[0]
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", section, re.MULTILINE)
    assert rows == [field.name for field in dataclasses.fields(kind)]


def test_page_names_every_file() -> None:
    names = [value for name, value in vars(layout).items() if name.isupper()]
    files = {name for name in names if isinstance(name, str) and "." in name}
    for name in (*files, *FILES.values(), *(field.name for field in dataclasses.fields(Spent))):
        assert name in PAGE, name
    assert f"format version **{layout.VERSION}**" in PAGE


def test_started_run_has_the_version(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "dagger-1")
    run.start(OmegaConf.create({"seed": 0}))
    assert json.loads((run.path / "format.json").read_text()) == {"format": layout.VERSION}
    assert load_config(run.path).seed == 0


def test_older_run_is_read_and_goes_on(tmp_path: Path) -> None:
    folder = sample_run(tmp_path / "dagger-1")
    lines = (folder / "rounds" / "round_001" / "episodes.jsonl").read_text()
    older = lines.replace('"actor"', '"executor"')
    (folder / "rounds" / "round_001" / "episodes.jsonl").write_text(older)
    turns = [turn for e in read_run(folder).rounds[1].episodes for turn in e.turns]
    assert {turn.actor for turn in turns} == {"student", "teacher"}
    RunFolder(folder).start(OmegaConf.create({"seed": 0}))
    assert len(read_run(folder).rounds[1].episodes) == 24


def test_newer_run_is_refused(tmp_path: Path) -> None:
    folder = sample_run(tmp_path / "dagger-1")
    (folder / "format.json").write_text(json.dumps({"format": layout.VERSION + 1}))
    for read in (
        lambda: read_run(folder),
        lambda: read_runs([folder]),
        lambda: load_config(folder),
        lambda: write_report(folder),
        lambda: episode_sets.find(tmp_path),
        lambda: evaluations.find(folder / "evaluations" / "round_002"),
        lambda: RunFolder(folder).start(OmegaConf.create({})),
    ):
        with pytest.raises(SetupError, match=f"format {layout.VERSION + 1}, and this version"):
            read()
