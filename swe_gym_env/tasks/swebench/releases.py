"""Find the first source distribution on PyPI that contains the fix of a row.

A release contains the fix if the patches of the row can be applied to it in reverse. Release notes
are removed from the tree, because they say what was fixed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from swe_gym_env.errors import SetupError, SWEGymError
from swe_gym_env.paths import home
from swe_gym_env.tasks import trees
from swe_gym_env.tasks.pypi.fetch import locked, unpack
from swe_gym_env.tasks.swebench.patches import Change, changes, join

INDEX = "https://pypi.org/pypi"
SIMPLE = "https://pypi.org/simple"  # base of the relative links of a mirror
PER_SERIES, TRIES = 6, 10  # releases that are tried for a row: of one minor version, and in total
NOTES = (
    "CHANGE*",
    "HISTORY*",
    "NEWS*",
    "changelog",
    "docs/releases",
    "doc/releases",
    "doc/*/announce",
    "doc/*/changelog*",
    "doc*/change*",
    "doc/whats*new*",
)


@dataclass(frozen=True)
class Release:
    """A source distribution of a release. ``series`` are the first two numbers of its version."""

    name: str
    version: str
    uploaded: datetime
    url: str
    sha256: str

    @property
    def series(self) -> tuple[int, ...]:
        return series(self.version)

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def series(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.read()
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise SetupError(
            f"cannot fetch {url}: {error}. Rebuilding SWE-bench from source distributions needs "
            "PyPI once; what was fetched is kept in the cache"
        ) from error


def releases(name: str) -> list[Release]:
    """All releases of a project with a source distribution, the oldest upload first."""
    note = home() / "sdists" / f"{name}.json"
    with locked(note.with_suffix(".lock")):
        if not note.exists():
            found = json.loads(_get(f"{INDEX}/{name}/json"))["releases"]
            note.write_text(json.dumps(found))
    return sorted(_listed(name, json.loads(note.read_text())), key=lambda release: release.uploaded)


def _listed(name: str, versions: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Release]:
    for version, files in versions.items():
        for file in files:
            if file["packagetype"] == "sdist" and file["filename"].endswith((".tar.gz", ".zip")):
                when = datetime.fromisoformat(file["upload_time_iso_8601"])
                url = urllib.parse.urljoin(f"{SIMPLE}/{name}/", file["url"])
                yield Release(name, version, when, url, file["digests"]["sha256"])
                break


def candidates(row: Mapping[str, Any], known: Sequence[Release]) -> list[Release]:
    """Releases that may contain the fix of a row, the most likely first.

    These were uploaded after the fix was proposed, and are not of an older series than the
    repository was at that time.
    """
    created = datetime.fromisoformat(row["created_at"])
    created = created if created.tzinfo else created.replace(tzinfo=UTC)
    later = [r for r in known if r.uploaded > created and r.series >= series(row["version"])]
    later.sort(key=lambda release: (release.series, release.uploaded))
    tried = []
    for _, group in groupby(later, key=lambda release: release.series):
        tried += list(group)[:PER_SERIES]
    return tried[:TRIES]


def pristine(release: Release) -> Path:
    """The unpacked tree of a release without its release notes; cached."""
    archive = home() / "sdists" / release.url.rsplit("/", 1)[1]
    tree = home() / "tasks" / "swebench" / "releases" / f"{release.name}-{release.version}"
    with locked(tree.with_name(f".{tree.name}.lock")):
        if tree.is_dir():
            return tree
        if not archive.exists():
            data = _get(release.url)
            if hashlib.sha256(data).hexdigest() != release.sha256:
                raise SetupError(f"{release.url} is not the file that PyPI lists: try again")
            aside = archive.with_name(f".{archive.name}")
            aside.write_bytes(data)
            aside.replace(archive)
        unpack(archive, tree, _without_notes)
    return tree


def _without_notes(root: Path) -> None:
    for pattern in NOTES:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for info in [*root.glob("**/PKG-INFO")]:  # the long description may contain the notes
        text = info.read_text(errors="surrogateescape")
        head = re.split(r"^\n|^Description:", text, maxsplit=1, flags=re.MULTILINE)[0]
        tail = re.findall(r"^Requires-Dist: .*\n", text[len(head) :], re.MULTILINE)
        info.write_text(head + "".join(tail), errors="surrogateescape")


@dataclass(frozen=True)
class Fit:
    """How a row fits a release.

    Attributes:
        release: The release.
        gold: The parts of the gold patch that apply in reverse.
        tests: The parts of the test patch that do.
        left_out: Parts that do not, and are not needed.
    """

    release: Release
    gold: tuple[Change, ...]
    tests: tuple[Change, ...]
    left_out: tuple[str, ...]


def fit(row: Mapping[str, Any], release: Release) -> Fit | str:
    """How the row's patches apply to the release in reverse, or why they do not.

    Prose (release notes and documentation) that does not apply is left out.
    """
    tree = pristine(release)
    kept: dict[str, list[Change]] = {"patch": [], "test_patch": []}
    left_out = []
    for column, parts in kept.items():
        everything = changes(row[column])
        if reverses(tree, *everything):
            parts += everything
            continue
        for change in everything:
            if reverses(tree, change):
                parts.append(change)
            elif change.is_prose:
                left_out.append(change.new or change.old)
            else:
                return _why(tree, column, change)
    if not kept["patch"] or not kept["test_patch"]:
        return "nothing of its patches is left"
    return Fit(release, tuple(kept["patch"]), tuple(kept["test_patch"]), tuple(left_out))


def reverses(tree: Path, *parts: Change) -> bool:
    try:
        reverse(tree, *parts, check=True)
    except SWEGymError:
        return False
    return True


def reverse(tree: Path, *parts: Change, check: bool = False) -> None:
    """Revert changes in the files of ``tree``.

    One line of context must match, not more, since a release has other changes next to these.

    Raises:
        SWEGymError: They do not apply.
    """
    script = f"git apply -R -C1 --whitespace=nowarn {'--check' if check else ''} -"
    text = join(parts).encode("utf-8", "surrogateescape")
    trees.git(script, tree, text, GIT_CEILING_DIRECTORIES=str(tree.parent))


def _why(tree: Path, column: str, change: Change) -> str:
    file = change.new or change.old
    if column == "test_patch" and not (tree / file).exists():
        return "its source distributions hold no such tests"
    return f"the {column} does not apply in reverse"


def first_with_fix(row: Mapping[str, Any], known: Sequence[Release]) -> Fit | str:
    """The first release with the row's fix and tests, or a sentence that says why there is none."""
    tried = candidates(row, known)
    why = "no release came after it"
    for release in tried:
        found = fit(row, release)
        if isinstance(found, Fit):
            return found
        why = found
    return why
