"""TensorBoard and W&B show what the run folder holds, once, whenever a run was stopped."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from experiments.pipeline.remaining import line, phases
from experiments.pipeline.tracking import track, tracker
from experiments.runs.folders import RunFolder
from swe_gym_env.errors import SetupError
from tests.experiments.conftest import Job
from tests.experiments.test_configuration import configuration

BLOCK, HEADER = 32768, 7  # of LevelDB's log format, which W&B writes


def tracked_again(folder: RunFolder, cfg: DictConfig) -> None:
    """As a run does that is continued."""
    to = tracker(cfg, folder)
    track(to, folder)
    to.close()


def scalars(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder.path / "tensorboard"), size_guidance={"scalars": 0})
    read.Reload()
    tags = read.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in tags}


def history(folder: RunFolder) -> list[dict[str, float]]:
    """All rows of W&B's own files."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for path in sorted((folder.path / "wandb").glob("*/*.wandb")):
        for data in records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append(
                    {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
                )
    return rows


def records(data: bytes) -> Iterator[bytes]:
    at, parts = HEADER, b""  # (the file's own header has the length of a record's)
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_both_show_what_the_folder_holds_once(job: Job) -> None:
    output = job.run("tracking=tensorboard", "evaluation.tasks=1", "sampling.max_new_tokens=4")
    assert re.search(r"phase \d of 8 done, \d+ s so far", output)
    folder = RunFolder(job.folder())
    first, second = (folder.round(index).metrics for index in range(2))
    seen = scalars(folder)
    losses = first["losses"] + second["losses"]
    assert [value for _, value in seen["train/loss"]] == pytest.approx(losses)
    rates = first["learning_rates"] + second["learning_rates"]
    assert [value for _, value in seen["train/lr"]] == pytest.approx(rates) and min(rates) > 0
    once, all_of_it = first["trained_samples"], first["trained_samples"] + second["trained_samples"]
    assert once == 2 * first["trees"], "iteration 0 has two epochs"
    steps = [step for step, _ in seen["train/loss"]]
    assert steps == sorted(set(steps)) and once in steps and steps[-1] == all_of_it
    assert [step for step, _ in seen["evaluate/resolved"]] == [0, once, all_of_it]
    assert [value for _, value in seen["collect/teacher_share"]] == [1, second["teacher_share"]]
    assert seen["seconds/collect"][1] == (1, pytest.approx(folder.phases["collect round_001"]))

    cfg = OmegaConf.load(folder.path / "config.yaml")
    assert isinstance(cfg, DictConfig) and cfg.tracking.name == "tensorboard"
    newest = max((folder.path / "tensorboard").iterdir())
    newest.unlink()  # killed before it was written
    (folder.path / ".tensorboard").mkdir()  # and while it was
    tracked_again(folder, cfg)
    assert scalars(folder) == seen and newest.exists()

    cfg.tracking = {"name": "wandb", "project": "toys", "entity": None, "mode": "offline"}
    for _ in range(2):
        tracked_again(folder, cfg)
    rows = history(folder)
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    shown = {
        tag: [
            (row["trained_samples" if tag[0] in "te" else "round"], row[tag])
            for row in rows
            if tag in row
        ]
        for tag in seen
    }
    assert shown.keys() == seen.keys()
    for tag, points in shown.items():
        assert sorted(points) == [pytest.approx(point) for point in sorted(seen[tag])], tag
    shutil.rmtree(folder.path / "wandb")


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")]
)
def test_a_package_that_is_missing_is_named(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    cfg = OmegaConf.create({"tracking": {"name": name, "mode": "offline"}})
    with pytest.raises(SetupError, match=rf"pip install -e '\.\[{name}\]'"):
        tracker(cfg, RunFolder(tmp_path))


def test_wandb_without_a_key_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    own = {"name": "wandb", "project": "toys", "entity": None, "mode": "online"}
    cfg = OmegaConf.create({"tracking": own, "algorithm": {"name": "sft"}})
    with pytest.raises(SetupError, match=r"tracking\.mode=offline"):
        tracker(cfg, RunFolder(tmp_path / "run"))


def test_what_is_left_is_shown_where_it_is_known() -> None:
    from algorithms.sft import SFT

    names = phases(configuration("rounds=2"), SFT(), SFT())
    assert names[5:] == [
        *("collect round_001", "train round_001", "collect round_002", "train round_002"),
        "evaluate round_002",
    ]
    seconds = dict.fromkeys(names[:5], 1000.0) | {"evaluate iteration0": 30.0}
    assert line(names, names[:5], seconds) == "phase 5 of 10 done, 67:10 min so far"
    seconds |= {"collect round_001": 100.0, "train round_001": 50.0}
    assert line(names, names[:6], seconds).endswith("so far"), "no round has been trained yet"
    assert line(names, names[:7], seconds) == (
        "phase 7 of 10 done, 69:40 min so far, about 3:00 min left"
    )
