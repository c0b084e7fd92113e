"""Rules about the paths that a patch may touch, as pure functions.

Agents edit tests and test configuration in good faith, so such edits are undone and not punished. A
few paths are of use only for cheating; they make the patch ``tampered``. ``apply.py`` applies these
rules before any code of the patch runs.
"""

from __future__ import annotations

import codecs
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from swe_gym_env.types import TaskInstance

# These files are set back to the base commit, unless the gold patch changes them too. In the last
# two only the section of pytest matters. The names are those of _pytest/config/findpaths.py.
CONFIG = ("conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini")
SHARED_CONFIG = ("setup.cfg", "pyproject.toml")
STARTUP = ("sitecustomize", "usercustomize")
FRAMEWORK = ("pytest", "_pytest", "pluggy", "iniconfig", "unittest")
ROOTS = ("", "src", "lib", "test", "tests")
TEST_ROOTS = ("test", "tests")
_ODD = re.compile(r"^(?:diff --git |---|\+\+\+|rename|copy)\s.*(?:^|[\s\"/])(?:\.git|\.\.)/", re.M)
_REFUSED = re.compile(r"invalid path|beyond a symbolic link|affected file .* beyond")
_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_MOVED = ("rename from ", "rename to ", "copy from ", "copy to ")
_QUOTED = r'"(?:[^"\\]|\\.)*"'


def named(patch: str) -> frozenset[str]:
    """Paths that a patch names, on both sides, with any prefixes (a/, i/, none, ...) removed."""
    names = set[str]()
    header, old, new = "", 0, 0  # the line of the file; lines of the hunk still to come
    for line in patch.split("\n"):
        line = line.removesuffix("\r")
        if old > 0 or new > 0:
            old -= line[:1] in ("-", " ", "")
            new -= line[:1] in ("+", " ", "")
        elif match := _HUNK.match(line):
            old, new = (int(count) if count else 1 for count in match.groups())
        elif line.startswith("diff --git "):
            names |= _both(header)
            header = line[len("diff --git ") :]
        elif line.startswith(("--- ", "+++ ")):
            header = ""  # these lines name the file clearly, so the header is not needed
            names.add(_bare(_unquoted(line[4:].partition("\t")[0])))
        elif line.startswith(_MOVED):
            header = ""
            names.add(_unquoted(line.split(" ", 2)[2]))
    names |= _both(header)
    return frozenset(names - {"", "/dev/null", "dev/null"})


def _both(header: str) -> set[str]:
    """The name in ``a/NAME b/NAME``, for files without another line, such as a change of mode."""
    if words := re.fullmatch(rf"({_QUOTED}|\S+) ({_QUOTED}|\S+)", header):
        return {_bare(_unquoted(word)) for word in words.groups()}
    middle = len(header) // 2  # both sides are the same name, perhaps with spaces in it
    return {_bare(header[:middle]), _bare(header[middle + 1 :])} if header else set()


def _unquoted(word: str) -> str:
    if not re.fullmatch(_QUOTED, word):
        return word
    raw = codecs.escape_decode(word[1:-1].encode("utf-8", "surrogateescape"))[0]  # type: ignore[attr-defined]
    return str(raw, "utf-8", "surrogateescape")


def _bare(name: str) -> str:
    """``name`` without its prefix, a usual one of git or one of diff.mnemonicPrefix."""
    return re.sub(r"^[abciow]/", "", name)


def unpacked(patch: str) -> int:
    """Largest number of bytes that a patch may write: its text and its unpacked binary files."""
    return len(patch) + sum(map(int, re.findall(r"^literal (\d{1,18})$", patch, re.M)))


def hidden(task: TaskInstance) -> frozenset[str]:
    """The hidden test files: those of the test patch, and those that ids of pytest name."""
    ids = (*task.fail_to_pass, *task.pass_to_pass)
    files = {test.partition("::")[0] for test in ids if ".py::" in test}
    return named(task.test_patch) | (files - named(task.gold_patch))


def refused(patch: str, message: str) -> str:
    """Why a patch that git refused must be an attack; empty if it may be an accident.

    Args:
        patch: The patch.
        message: What git printed.
    """
    if _REFUSED.search(message) or _ODD.search(patch):
        return f"the patch reaches outside the repository: {message.strip()[-200:]}"
    return ""


def forbidden(path: str, before: bool) -> str:
    """Why a path must not be touched; empty if it may be.

    Args:
        path: Path in the repository.
        before: Whether its top-level module existed at the base commit. The repository of pytest,
            for example, has a ``_pytest``.
    """
    parts = PurePosixPath(path).parts
    stems = [part.removesuffix(".py") for part in parts]
    if any(stem in STARTUP for stem in stems):
        return f"{path} would run in every Python process"
    if "__pycache__" in parts:
        return f"{path} would stand in for the source beside it"
    top = top_module(path)
    if top and not before and PurePosixPath(top).name.removesuffix(".py") in FRAMEWORK:
        return f"{path} would stand in for a part of the test framework"
    return ""


def top_module(path: str) -> str:
    """The top-level module or package that contains ``path``, by where Python looks for them."""
    parts = PurePosixPath(path).parts
    if len(parts) > 1 and parts[0] in ROOTS:
        return "/".join(parts[:2])
    return parts[0] if parts else ""


def above(path: str) -> list[str]:
    """The folders that contain ``path``, the nearest first."""
    return [str(folder) for folder in PurePosixPath(path).parents][:-1]


def overlapping(paths: Iterable[str], others: Iterable[str]) -> set[str]:
    """Those of ``paths`` that equal one of ``others``, lie below one, or contain one."""
    there = set(others)
    holding = {folder for path in there for folder in above(path)}
    return {p for p in paths if p in there or p in holding or not there.isdisjoint(above(p))}


def inside(target: str, root: str) -> bool:
    """Whether an absolute path lies in the repository but not in its ``.git``."""
    git = f"{root}/.git"
    return target.startswith(f"{root}/") and target != git and not target.startswith(f"{git}/")


def reaches_git(target: str, root: str) -> bool:
    """Whether a link to ``target`` gives a second path to ``.git``, which no check covers."""
    return target.startswith(f"{root}/.git") or root.startswith(f"{target.rstrip('/')}/")


def virtual_environments(new: Iterable[str], base: Iterable[str]) -> dict[str, str]:
    """Virtual environments among the ``new`` paths: folder -> a sentence about it."""
    found = [name.rpartition("/")[0] for name in new if name.endswith("/pyvenv.cfg")]
    old = {folder for name in base for folder in above(name)} if found else set()
    return {name: f"{name} is a virtual environment" for name in found if name not in old}


def shadows_nothing(path: str, there: Mapping[str, str]) -> bool:
    """Whether a path with the name of a part of the test framework cannot be imported in its place.

    That is the case among the tests, and in a folder that is not a package.
    """
    top = top_module(path)
    if PurePosixPath(top).name.removesuffix(".py") not in FRAMEWORK:
        return False
    if len(PurePosixPath(top).parts) > 1 and top.startswith(tuple(f"{r}/" for r in TEST_ROOTS)):
        return True
    return path != top and not any(f"{top}/{name}.py" in there for name in ("__init__", "__main__"))


def is_config(path: str) -> bool:
    return PurePosixPath(path).name in CONFIG


def pytest_options(path: str, text: str) -> object:
    """The part of a setup.cfg or pyproject.toml that pytest may read.

    It is compared with another one only, so what may be one of pytest's sections by any parser
    counts as one: names in any case, and lines that end where another parser ends them.
    """
    if path.endswith(".toml"):
        try:
            return tomllib.loads(text).get("tool", {}).get("pytest")
        except tomllib.TOMLDecodeError:
            return text
    sections = []
    for lines in (text.splitlines(), re.split(r"\r\n|\r|\n", text)):
        inside = False
        for line in lines:
            if re.match(r"\s*\[", line):
                inside = "pytest" in line.lower()
            if inside and line.strip():
                sections.append(line.rstrip())
    return sections


def plugin_entry(path: str, text: str) -> bool:
    """Whether a file is metadata of a package that makes pytest load a plugin."""
    return PurePosixPath(path).name.lower() == "entry_points.txt" and "pytest11" in text
