"""Set-up: one line a step, words only on failure, and an interrupted set-up is repaired."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STEP = str(ROOT / ".ci" / "step")


def step(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([STEP, "a step", *command], capture_output=True, text=True)


def test_a_step_that_works_is_one_line() -> None:
    done = step("bash", "-c", "seq 100000; seq 100 >&2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("a step ... ") and done.stdout.endswith(" s\n")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        ("Failed to establish a new connection", "could not be reached"),
        ("something else", "The command was: bash"),
    ],
)
def test_a_step_that_fails_shows_its_words_and_advice(words: str, advice: str) -> None:
    done = step("bash", "-c", f"echo '{words}'; exit 7")
    assert done.returncode == 7 and "failed after" in done.stdout
    assert words in done.stderr and advice in done.stderr
    assert "give the same command again" in done.stderr


def test_a_step_can_be_stopped() -> None:
    process = subprocess.Popen(
        [STEP, "a step", "sleep", "30"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 130 and "the same command goes on" in output


def wheel(folder: Path) -> Path:
    """A package of two modules."""
    path = folder / "two-1.0-py3-none-any.whl"
    files = {
        "two/__init__.py": "",
        "two/second.py": "",
        "two-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: two\nVersion: 1.0\n",
        "two-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in files) + "two-1.0.dist-info/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, "two-1.0.dist-info/RECORD": record}.items():
            archive.writestr(name, text)
    return path


@pytest.mark.e2e
@pytest.mark.parametrize("lost", ["two/second.py", "two-1.0.dist-info/RECORD"])
def test_what_a_killed_pip_left_half_installed_is_installed_again(
    tmp_path: Path, lost: str
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    command = [python, str(ROOT / ".ci" / "install"), "--no-index", str(wheel(tmp_path))]
    subprocess.run(command, check=True, capture_output=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    file = tmp_path / "venv" / "lib" / version / "site-packages" / lost
    assert file.is_file()
    file.unlink()
    subprocess.run(command, check=True, capture_output=True)
    assert file.is_file()


def test_make_help_says_what_there_is() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    for words in ("make demo ", "FAST=1", "make test", "make lint", "make vllm", "make clean"):
        assert words in done.stdout
