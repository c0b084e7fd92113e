"""A tiny image of our own, and the providers that this machine has."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from swe_gym_env.sandbox import Limits, Sandbox, SandboxProvider, SandboxSpec, images
from swe_gym_env.sandbox.docker import DockerProvider, DockerSandbox
from swe_gym_env.sandbox.guest import tree as guest_tree
from swe_gym_env.sandbox.local import LocalProvider
from swe_gym_env.sandbox.process import ProcessProvider

PROVIDERS: dict[str, Callable[[], SandboxProvider]] = {
    "local": LocalProvider,
    "local-copy": lambda: LocalProvider(copy=True),
    "docker": DockerProvider,
    "process": ProcessProvider,
}
LOCAL = ("local", "local-copy")
ISOLATING = (*LOCAL, "docker")
IMAGE = "tiny"

Make = Callable[..., Sandbox]


def supervisor(sandbox: Sandbox) -> int:
    """The process on this machine with which the sandbox ends."""
    if isinstance(sandbox, DockerSandbox):
        return int(sandbox._api.inspect_container(sandbox.container)["State"]["Pid"])
    return int(sandbox._pid)  # type: ignore[attr-defined]


def processes_in(sandbox: Sandbox) -> set[int]:
    """The sandbox's supervisor and all below it, by their ids on this machine."""
    parents, alive = guest_tree._table()
    found, before = {supervisor(sandbox)}, 0
    while len(found) > before:
        before = len(found)
        found |= {pid for pid in alive if parents[pid] in found}
    return found


def skip(reason: str) -> NoReturn:
    if os.environ.get("SWE_GYM_NO_SKIP") == "1":
        pytest.fail(f"would skip: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The host's side of the image's tree."""
    home = tmp_path_factory.mktemp("home")
    home_before = os.environ.get("SWE_GYM_HOME")
    os.environ["SWE_GYM_HOME"] = str(home)
    tree = images.path_of(IMAGE) / "tree"
    (tree / "pkg").mkdir(parents=True)
    (tree / "a.py").write_text("x = 1\n")
    (tree / "pkg" / "b.py").write_text("y = 2\n")
    os.link(tree / "a.py", home / "another-task.py")  # stores may share files between tasks
    git = "git -c user.name=a -c user.email=a@example.org"
    subprocess.run(
        f"git init -q && git add -A && {git} commit -qm start", shell=True, cwd=tree, check=True
    )
    mount = home / "mounted"
    (mount / "bin").mkdir(parents=True)
    (mount / "bin" / "tool").write_text("#!/bin/sh\necho tool\n")
    (mount / "bin" / "tool").chmod(0o755)
    env = {"PATH": "/opt/env/bin:/usr/local/bin:/usr/bin:/bin", "FROM_IMAGE": "yes"}
    image = images.Image(mounts={"/opt/env": "{home}/mounted"}, masks=("/usr/share/doc",), env=env)
    images.save(IMAGE, image)
    yield tree
    if home_before is None:
        del os.environ["SWE_GYM_HOME"]
    else:
        os.environ["SWE_GYM_HOME"] = home_before


def available(kind: str) -> SandboxProvider:
    """The provider, or else the test is skipped."""
    provider = PROVIDERS[kind]()
    if reason := provider.unavailable():
        skip(f"{kind}: {reason}")
    if isinstance(provider, DockerProvider) and not _before:
        _before.append((provider, _images(provider)))
    return provider


_before: list[tuple[DockerProvider, set[str]]] = []  # an engine, and its images before our tests


def _images(engine: DockerProvider) -> set[str]:
    return {tag for image in engine.api.images("swe-gym-env/*") for tag in image["RepoTags"] or ()}


def pytest_sessionfinish() -> None:
    """Remove the images that these tests have made."""
    for engine, before in _before:
        for tag in _images(engine) - before:
            if "/base:" not in tag:
                engine.api.remove_image(tag, force=True)


def _maker(kind: str) -> Iterator[Make]:
    provider = available(kind)
    made: list[Sandbox] = []

    def make(**limits: Any) -> Sandbox:
        made.append(provider.create(SandboxSpec(IMAGE, limits=Limits(**limits))))
        return made[-1]

    yield make
    for sandbox in made:
        sandbox.close()


@pytest.fixture(params=list(PROVIDERS))
def make(request: pytest.FixtureRequest, tree: Path) -> Iterator[Make]:
    """Makes sandboxes of every provider in turn."""
    yield from _maker(request.param)


@pytest.fixture(params=ISOLATING)
def make_isolated(request: pytest.FixtureRequest, tree: Path) -> Iterator[Make]:
    """Makes sandboxes of every provider that isolates."""
    yield from _maker(request.param)


@pytest.fixture(params=LOCAL)
def make_local(request: pytest.FixtureRequest, tree: Path) -> Iterator[Make]:
    """Makes sandboxes whose agent is nobody in particular and sees a read-only system."""
    yield from _maker(request.param)


@pytest.fixture
def sandbox(make: Make) -> Sandbox:
    return make()


@pytest.fixture
def isolated(make_isolated: Make) -> Sandbox:
    return make_isolated()
