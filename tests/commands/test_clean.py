"""`clean`: what nobody owns goes, what somebody uses stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from swe_gym_env.commands import clean, prepull
from swe_gym_env.sandbox import SandboxSpec
from swe_gym_env.types import TaskInstance
from tests.commands.conftest import ROOT, Run
from tests.support.toy_tasks import real_provider

pytestmark = pytest.mark.sandbox

LEAVE_A_SANDBOX = """
import sys
from swe_gym_env.sandbox import SandboxSpec, provider
sandbox = provider("process").create(SandboxSpec("toy"))
print(sandbox._folder, sandbox._pid, flush=True)
input()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where sandboxes of this test lie, so that others on this machine are not looked at."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_a_killed_boxs_folder_goes_and_a_living_ones_stays(
    task: TaskInstance, temporary: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{temporary}/none.sock")
    living = real_provider("process").create(SandboxSpec(task.image))
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVE_A_SANDBOX],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        left, supervisor = process.stdout.readline().split()
        os.kill(int(supervisor), signal.SIGSTOP)  # or it would remove the folder itself
        process.kill()
        process.communicate()
        os.kill(int(supervisor), signal.SIGKILL)
        done = run("clean", "--dry-run")
        assert f"would remove folder {left}\n" in done.stdout and Path(left).exists()
        done = run("clean")
        assert f"removed folder {left}\n" in done.stdout and "removed 1 sandboxes" in done.stdout
        assert "containers are not looked at: no Docker Engine answers" in done.stdout
        assert not Path(left).exists()
        assert living.exec("cat calc.py", timeout=20).exit_code == 0
        assert clean.folders(everything=False) == []
        assert len(clean.folders(everything=True)) == 1
    finally:
        living.close()


@pytest.fixture
def containers() -> Iterator[dict[str, str]]:
    """One whose owner is this process, and one whose owner is no more; both run nothing."""
    real_provider("docker")
    from swe_gym_env.sandbox.docker.leftovers import labels

    api = prepull.engine()
    api.import_image_from_data(b"\0" * 1024, repository="swe-gym-test-clean", tag="1")
    mine = labels()
    host, pid, _ = mine["swe_gym_env.owner"].rsplit(":", 2)
    orphan = {**mine, "swe_gym_env.owner": f"{host}:{pid}:1"}  # the number was used before
    made = {
        name: api.create_container("swe-gym-test-clean:1", "true", labels=label)["Id"]
        for name, label in {"mine": mine, "orphan": orphan}.items()
    }
    yield made
    for one in made.values():
        try:
            api.remove_container(one, force=True)
        except docker.errors.NotFound:
            continue
    api.remove_image("swe-gym-test-clean:1", force=True)


@pytest.mark.docker
def test_containers_of_dead_processes_go(
    containers: dict[str, str], temporary: Path, run: Run
) -> None:
    api = prepull.engine()

    def there() -> set[str]:
        ours = {"label": "swe_gym_env"}
        found = {one["Id"] for one in api.containers(all=True, filters=ours)}
        return {name for name, one in containers.items() if one in found}

    assert "would remove container" in run("clean", "--dry-run").stdout
    assert there() == {"mine", "orphan"}
    assert "(swe-gym-test-clean:1)" in run("clean").stdout
    assert there() == {"mine"}


@pytest.mark.docker
def test_images_go_only_when_asked(temporary: Path, run: Run) -> None:
    from swe_gym_env.sandbox.docker.image import base

    real_provider("docker")
    tag = base(prepull.engine())
    assert f"would remove image {tag}\n" in run("clean", "--dry-run", "--images").stdout
    assert "image" not in run("clean", "--dry-run").stdout
