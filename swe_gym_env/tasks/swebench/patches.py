"""Split the two patches of a row by file: which tests to run, what to restore or leave out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

# Files that a test patch may contain beside tests
NO_TESTS = (
    ".json",
    ".png",
    "csv",
    ".txt",
    ".md",
    ".jpg",
    ".jpeg",
    ".pkl",
    ".yml",
    ".yaml",
    ".toml",
)
PROSE = (".rst", ".txt", ".md")
PROSE_FILES = re.compile(r"AUTHORS|CHANGES|CHANGELOG|CONTRIBUTORS|HISTORY|NEWS|\.mailmap")
TEST_FOLDERS = ("test", "tests", "testing")


@dataclass(frozen=True)
class Change:
    """The part of a patch about one file; ``old`` is empty if the file is new."""

    old: str
    new: str
    text: str

    @property
    def is_prose(self) -> bool:
        """Whether it is release notes or documentation, which no test reads."""
        path = PurePosixPath(self.new or self.old)
        if any(part in TEST_FOLDERS for part in path.parts[:-1]):
            return False
        return path.suffix in PROSE or PROSE_FILES.match(path.name) is not None


def changes(patch: str) -> list[Change]:
    """The patch in parts that can be applied separately."""
    parts = re.split(r"^(?=diff --git )", patch, flags=re.MULTILINE)
    return [_change(part) for part in parts if part.startswith("diff --git ")]


def _change(text: str) -> Change:
    names = re.match(r"diff --git a/(.*) b/(.*)", text)
    assert names is not None
    head = text.split("\n@@", 1)[0]
    old = "" if re.search(r"^new file mode", head, re.MULTILINE) else names[1]
    new = "" if re.search(r"^deleted file mode", head, re.MULTILINE) else names[2]
    return Change(old, new, text if text.endswith("\n") else text + "\n")


def join(parts: Iterable[Change]) -> str:
    return "".join(part.text for part in parts)


def directives(repo: str, test_patch: str) -> list[str]:
    """Arguments of the repository's test command: files, or labels of modules for Django."""
    files = re.findall(r"diff --git a/.* b/(.*)", test_patch)
    files = [file for file in files if not file.endswith(NO_TESTS)]
    if repo != "django/django":
        return files
    return [_label(file) for file in files]


def _label(file: str) -> str:
    return file.removesuffix(".py").removeprefix("tests/").replace("/", ".")
