"""`prepull`: with the real engine, and its patience with a registry that is played here."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest

from swe_gym_env.commands import prepull
from swe_gym_env.types import TaskInstance
from tests.commands.conftest import Run, rows
from tests.support.toy_tasks import real_provider


@pytest.fixture
def image() -> Iterator[str]:
    """An empty image that the real engine has, and no registry."""
    real_provider("docker")
    api = prepull.engine()
    name = "swe-gym-test-prepull:1"
    api.import_image_from_data(b"\0" * 1024, repository="swe-gym-test-prepull", tag="1")
    yield name
    api.remove_image(name, force=True)


@pytest.mark.docker
def test_what_is_there_is_skipped_and_what_cannot_be_had_is_said(
    task: TaskInstance, image: str, tmp_path: Path, run: Run
) -> None:
    there = replace(task, instance_id="there", image=image)
    gone = replace(task, instance_id="gone", image="localhost:1/no/such:1")
    path = rows(tmp_path / "there.jsonl", task, there)
    done = run("prepull", path)
    assert "1 images are in the local store" in done.stdout
    assert "1 images, 1 of them are there" in done.stderr
    done = run("prepull", rows(tmp_path / "gone.jsonl", there, gone), code=1)
    assert "1/1 localhost:1/no/such:1  cannot be pulled: " in done.stderr
    assert "1 of 2 images could not be pulled; the first: localhost:1/no/such:1" in done.stderr


@pytest.mark.slow
def test_without_an_engine_one_sentence_says_so(
    task: TaskInstance, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    path = rows(tmp_path / "rows.jsonl", replace(task, image="a/b:1"))
    done = run("prepull", path, code=1)
    assert done.stderr.startswith("error: no Docker Engine answers")
    assert len(done.stderr.splitlines()) == 1


class Registry:
    """An engine whose registry answers each pull with the next of ``answers``: None is success."""

    def __init__(self, *answers: str | Exception | None, gigabytes: float = 1.0) -> None:
        self.answers, self.gigabytes = list(answers), gigabytes
        self.has: dict[str, float] = {}

    def inspect_image(self, name: str) -> None:
        if name not in self.has:
            raise docker.errors.ImageNotFound("no such image")

    def pull(self, repository: str, tag: str, **_: Any) -> list[dict[str, str]]:
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        if answer:
            return [{"status": "Pulling"}, {"error": answer}]
        self.has[f"{repository}:{tag}"] = self.gigabytes
        return [{"status": "Done"}]

    def df(self) -> dict[str, float]:
        return {"LayersSize": sum(self.has.values()) * 1e9}


def test_a_rate_limit_is_waited_out_longer_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    limit = "toomanyrequests: You have reached your pull rate limit."
    refused = docker.errors.APIError("429", explanation="Too Many Requests")
    registry, waits = Registry(limit, refused, limit), []
    assert prepull.pull(registry, ["a/b:1"], sleep=waits.append) == 0
    assert waits == [30, 60, 120] and "a/b:1" in registry.has
    assert "again in 30 s" in capsys.readouterr().err


def test_patience_ends_and_other_errors_get_none(capsys: pytest.CaptureFixture[str]) -> None:
    waits: list[float] = []
    assert prepull.pull(Registry(*["429"] * 20), ["a/b:1"], sleep=waits.append) == 1
    assert waits == list(prepull.WAITS)
    waits.clear()
    registry = Registry("manifest unknown")
    assert prepull.pull(registry, ["a/b:1", "c/d:1"], sleep=waits.append) == 1
    assert waits == [] and list(registry.has) == ["c/d:1"]
    assert "a/b:1  cannot be pulled: manifest unknown" in capsys.readouterr().err


def test_the_budget_stops_it_and_the_next_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    registry, names = Registry(gigabytes=2.0), [f"a/b:{n}" for n in range(4)]
    assert prepull.pull(registry, names, prepull.size("3GB")) == 1
    assert list(registry.has) == ["a/b:0", "a/b:1"]
    output = capsys.readouterr().err
    assert "take 4.0 GB of 3.0 GB. 2 of 4 images are left, from a/b:2 on" in output
    assert prepull.pull(registry, names, prepull.size("1 TB")) == 0
    assert "4 images, 2 of them are there" in capsys.readouterr().err
    with pytest.raises(argparse.ArgumentTypeError):
        prepull.size("much")
