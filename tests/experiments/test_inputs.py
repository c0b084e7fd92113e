"""What a run reads from outside counts by its content, not by its path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import DictConfig

from experiments.evaluate import folder_of
from experiments.results.comparison import Group, warnings
from experiments.runs import inputs
from experiments.runs.evaluations import read as read_evaluation
from experiments.runs.folders import (
    RunFolder,
    iteration0_folder,
    run_folder,
    trained_folder,
)
from experiments.runs.inputs import refuse_changed
from swe_gym_env.errors import SetupError
from tests.experiments.conftest import Job
from tests.experiments.test_configuration import configuration


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path / "home"))
    (tmp_path / "rows.jsonl").write_text('{"instance_id": "a"}\n')
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"0" * 3_000_000)
    (model / "README.md").write_text("a model")
    return tmp_path


def chosen(store: Path, *more: str) -> DictConfig:
    return configuration(
        f"paths.runs={store / 'runs'}",
        "tasks=jsonl",
        f"tasks.options.path={store / 'rows.jsonl'}",
        f"model.path={store / 'model'}",
        *more,
    )


def begun(folder: RunFolder) -> str:
    """As a run begins it. Its name."""
    folder.path.mkdir(parents=True, exist_ok=True)
    (folder.path / "config.yaml").touch()
    folder.remember()
    return folder.path.name


def overwrite_weights(store: Path) -> None:
    """In place, in the middle of the file, of the same size."""
    with (store / "model" / "model.safetensors").open("r+b") as file:
        file.seek(1_234_567)
        file.write(b"1")


CHANGES = {
    "a row": lambda store: (store / "rows.jsonl").write_text('{"instance_id": "b"}\n'),
    "a weight": overwrite_weights,
    "the chat template": lambda store: (store / "model/chat_template.jinja").write_text("{{ x }}"),
    "the configuration": lambda store: (store / "model/config.json").write_text('{"a": 1}'),
}
FOLDERS = {
    "run": run_folder,
    "evaluation": folder_of,
    "iteration 0": lambda cfg: iteration0_folder(cfg, ["a"]),
    "trained teacher": trained_folder,
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", FOLDERS)
def test_another_content_is_another_folder(store: Path, kind: str, change: str) -> None:
    find, cfg = FOLDERS[kind], chosen(store, "teacher=trained")
    first = begun(find(cfg))
    assert find(cfg).path.name == first
    CHANGES[change](store)
    second = find(cfg)
    assert second.path.name.startswith(f"{first}-") and "has another content" in second.differs[0]
    assert begun(second) == find(cfg).path.name, "and that one goes on in its turn"


def test_the_old_content_finds_the_old_folder(store: Path) -> None:
    rows = store / "rows.jsonl"
    before = rows.read_text()
    first = begun(run_folder(chosen(store)))
    rows.write_text('{"instance_id": "b"}\n')
    assert begun(run_folder(chosen(store))) != first
    rows.write_text(before)
    assert run_folder(chosen(store)).path.name == first


@pytest.mark.slow
def test_what_changes_nothing_goes_on(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = begun(run_folder(chosen(store)))
    (store / "model/README.md").write_text("words")
    (store / "rows.jsonl").touch()
    assert run_folder(chosen(store)).path.name == first
    (store / "rows.jsonl").rename(store / "moved.jsonl")
    (store / "link").symlink_to(store / "model")
    moved = chosen(store, f"tasks.options.path={store / 'moved.jsonl'}")
    assert run_folder(moved).path.name == first, "a file that was moved"
    moved.model.path = str(store / "link")
    assert run_folder(moved).path.name == first, "a link to the model"
    monkeypatch.chdir(store)
    moved.model.path, moved.tasks.options.path = "model", "moved.jsonl"
    assert run_folder(moved).path.name == first, "relative paths"


def test_a_folder_as_the_hub_keeps_it(store: Path) -> None:
    """Links into a folder of blobs."""
    blobs, snapshot = store / "blobs", store / "snapshot"
    shutil.move(store / "model", blobs)
    snapshot.mkdir()
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    cfg = chosen(store, f"model.path={snapshot}")
    first = begun(run_folder(cfg))
    (blobs / "config.json").write_text('{"b": 2}')
    assert run_folder(cfg).path.name != first


def test_an_adapter_depends_on_its_base(store: Path) -> None:
    adapter = store / "adapter"
    adapter.mkdir()
    (adapter / "config.json").write_text("{}")
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(store / "model")})
    )
    before = inputs.of_model(adapter)
    overwrite_weights(store)
    assert inputs.of_model(adapter) != before


def test_a_digest_is_kept_but_never_stale(store: Path) -> None:
    import os

    weights = store / "model" / "model.safetensors"
    os.utime(weights, (1, 1))
    before = inputs.of_model(store / "model")
    state = weights.stat()
    overwrite_weights(store)
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))  # as rsync -t and cp -p set it
    assert inputs.of_model(store / "model") != before


def test_what_is_gone_is_not_what_has_changed(store: Path) -> None:
    """A finished run is printed again where its model was deleted."""
    cfg = chosen(store)
    first = begun(run_folder(cfg))
    shutil.rmtree(store / "model")
    assert run_folder(cfg).path.name == first


@pytest.mark.slow
def test_recorded_runs_keep_their_names(store: Path) -> None:
    embedded = configuration(f"paths.runs={store / 'runs'}")
    assert run_folder(embedded).inputs is None, "nothing of it can have changed"
    older = run_folder(chosen(store)).path  # has no inputs.json
    older.mkdir(parents=True)
    (older / "config.yaml").touch()
    assert run_folder(chosen(store)).path == older


def test_a_teacher_counts_only_where_it_is_asked(store: Path) -> None:
    shutil.copytree(store / "model", store / "teacher")
    given = ("teacher=hf", f"teacher.path={store / 'teacher'}")
    run, alone = begun(run_folder(chosen(store, *given))), begun(folder_of(chosen(store, *given)))
    (store / "teacher/config.json").write_text('{"other": 1}')
    assert run_folder(chosen(store, *given)).path.name != run
    assert folder_of(chosen(store, *given)).path.name == alone


def test_stored_runs_are_not_gone_on_with_by_other_files(store: Path) -> None:
    cfg = chosen(store)
    folder = run_folder(cfg)
    begun(folder)
    refuse_changed(folder.path, cfg, "tasks", "model")
    CHANGES["a row"](store)
    refuse_changed(folder.path, cfg, "model")
    with pytest.raises(SetupError, match=r"tasks: .*rows.jsonl has another content"):
        refuse_changed(folder.path, cfg, "tasks", "model")


def test_a_round_of_another_student_is_refused(store: Path) -> None:
    folder = store / "evaluations" / "round_001"
    for _ in range(2):
        inputs.check_student(folder, store / "model", "measured")
    overwrite_weights(store)
    with pytest.raises(SetupError, match=r"trained again since\. Delete that folder"):
        inputs.check_student(folder, store / "model", "measured")
    shutil.rmtree(store / "model")  # once all is done, it may go
    inputs.check_student(folder, store / "model", "measured")


def test_an_evaluation_of_an_edited_file_is_made_anew(job: Job) -> None:
    """The real command: the first answer is not printed for other tasks."""
    command = ("evaluation.who=teacher", "teacher=expert", "evaluation.tasks=1")
    job.run(*command, module="experiments.evaluate")
    (first,) = job.runs.glob("evaluation-*")
    path = job.runs.parent / "tasks.jsonl"
    before = path.read_text()
    path.write_text(before.replace("python -m pytest -rA", "python -m pytest_typo -rA"))
    message = job.run(*command, module="experiments.evaluate")
    assert "a new folder" in message and "tasks.jsonl has another content" in message
    (second,) = set(job.runs.glob("evaluation-*")) - {first}

    def resolved(folder: Path) -> int:
        return int(json.loads((folder / "metrics.json").read_text())["resolved"])

    assert (resolved(first), resolved(second)) == (1, 0)
    groups = [Group(name, [read_evaluation(path)]) for name, path in (("a", first), ("b", second))]
    assert any("the digest of the file of tasks" in message for message in warnings(groups))
