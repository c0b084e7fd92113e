"""Errors about a place that cannot be written name its path.

A real read-only file system and a real full one are used where this machine can mount them. For
root no permission is missing, so unwritable files are tried as another user.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swe_gym_env import disk
from swe_gym_env.errors import SetupError


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A fresh file system in memory with such options."""
    made: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"mounted-{len(made)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
        made.append(place)
        return place

    yield mount
    for place in made:
        subprocess.run(["umount", str(place)], check=True)


def refused(path: Path, match: str) -> None:
    for write in (disk.make_folder, lambda place: disk.write_json(place / "a.json", {})):
        with pytest.raises(SetupError, match=match) as caught:
            write(path)
        assert "give another folder" in str(caught.value)
    problem = disk.unwritable(path)
    assert problem and problem in str(caught.value)


@pytest.mark.parametrize("below", ["", "runs", "runs/deep"])
def test_below_a_file(tmp_path: Path, below: str) -> None:
    (tmp_path / "my file").touch()
    refused(tmp_path / "my file" / below, "my file is a file where a folder is needed")


@pytest.mark.parametrize("below", ["", "runs"])
def test_a_link_to_nowhere(tmp_path: Path, below: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone" / "deep")
    refused(tmp_path / "link" / below, "link is a link to what is not there")


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "link")
    refused(tmp_path / "link" / "runs", "link is a link to what is not there")


def test_a_file_system_that_can_only_be_read(mounted: Callable[[str], Path]) -> None:
    place = mounted("ro")
    refused(place / "runs", f"{place} is on a file system that can only be read")


def test_a_full_file_system(mounted: Callable[[str], Path]) -> None:
    place = mounted("size=8k")
    with pytest.raises(SetupError, match=r"the disk is full: .* make room"):
        disk.write_json(place / "a.json", "x" * 100_000)


AS_NOBODY = """
import os, sys
from pathlib import Path
from swe_gym_env import disk  # before: that user may not read this interpreter's files
os.setgid(65534); os.setuid(65534)
place = Path(sys.argv[1]) / "runs"
print(disk.unwritable(place))
try:
    disk.make_folder(place)
except disk.SetupError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", [0o555, 0o700, 0o666])
def test_a_folder_of_another_user(mode: int) -> None:
    """Not below tmp_path, which other users may not enter."""
    import tempfile

    if os.geteuid():
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as above:
        os.chmod(above, 0o755)
        place = Path(above) / "theirs"
        place.mkdir()
        place.chmod(mode)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(place)], capture_output=True, text=True
        )
    first, second = done.stdout.splitlines()
    assert "theirs" in first and "may not be read or written by this user" in first, done.stderr
    assert first in second and "give another folder" in second


def test_a_missing_file_is_no_matter_of_the_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk.room_for(tmp_path):
        (tmp_path / "gone").read_text()
    with pytest.raises(ConnectionError), disk.room_for(tmp_path):
        raise ConnectionRefusedError
    assert disk.unwritable(tmp_path / "not" / "there" / "yet") is None
    assert not (tmp_path / "not").exists(), "asking makes nothing"


def test_damaged_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    assert disk.read_json(path) is None
    path.write_bytes(b"\xef\xbb\xbf{}\r\n")
    assert disk.read_json(path) == {}
    for damage in (b"", b'{"a": ', b"\0\0\0", b"\xff"):
        path.write_bytes(damage)
        with pytest.raises(SetupError, match=r"summary.json is damaged .* delete it"):
            disk.read_json(path)
