"""A Docker Engine of the test's own, to be killed and started again; no other is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from swe_gym_env.sandbox.docker import DockerProvider, image

REPOSITORY = """
mkdir -p /testbed && cd /testbed && printf 'def add(a, b):\\n    return a - b\\n' > calc.py
git init -q && git add . && git -c user.name=toy -c user.email=toy@example.org commit -qm start
git rev-parse HEAD
"""


class Engine:
    """``dockerd`` with folders, a socket and its own process number, and no network."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, f"unix://{folder}/engine.sock"
        self.start()

    def start(self) -> None:
        folder = self.folder
        for left in (folder / "engine.pid", folder / "exec/containerd/containerd.pid"):
            left.unlink(missing_ok=True)  # a killed one leaves it
        with (folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    # without a bridge it would take the other engine's away
                    *(
                        "unshare",
                        "--net",
                        "dockerd",
                        "--data-root",
                        str(folder / "data"),
                        "-H",
                        self.address,
                    ),
                    *("--exec-root", str(folder / "exec"), "--pidfile", str(folder / "engine.pid")),
                    *("--bridge", "none", "--iptables=false", "--ip6tables=false"),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + 120
        while DockerProvider(self.address).unavailable():
            assert self.process.poll() is None and time.monotonic() < end, self.output
            time.sleep(0.2)

    def kill(self) -> None:
        """It and the containerd below it, as when a machine's memory runs out."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.kill()

    @property
    def output(self) -> str:
        return (self.folder / "log.txt").read_text()[-2000:]

    @property
    def api(self) -> Any:
        return DockerProvider(self.address).api

    def sandboxes(self) -> list[str]:
        """Containers that a provider of ours has made, whatever their state."""
        found = self.api.containers(all=True, filters={"label": "swe_gym_env=sandbox"})
        return [str(one["Id"]) for one in found]

    def toy_image(self, tag: str) -> str:
        """Makes the image ``tag``: the toy repository in /testbed. Returns its commit."""
        api, shared = self.api, DockerProvider()
        if not shared.unavailable():  # made once for the tests, and carried over
            api.load_image(shared.api.get_image(image.base(shared.api)))
        made = api.create_container(image.base(api), ["bash", "-c", REPOSITORY], user="0:0")["Id"]
        api.start(made)
        assert api.wait(made)["StatusCode"] == 0, api.logs(made)
        head = api.logs(made).decode().split()[-1]
        api.commit(made, *tag.split(":"), changes=["WORKDIR /testbed"])
        api.remove_container(made, force=True)
        return str(head)


@contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    folder.mkdir(parents=True)
    started = Engine(folder)
    try:
        yield started
    finally:
        started.stop()
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if str(folder) in line:
                with suppress(subprocess.CalledProcessError):
                    subprocess.run(["umount", "--lazy", line.split()[1]], check=True)
