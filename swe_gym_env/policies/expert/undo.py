"""How damage is undone: shown first (git diff, git status), then taken back from git."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from swe_gym_env.policies.expert.evidence import History
from swe_gym_env.policies.expert.workspace import Probe

_SHORT_DIFF = 40  # changed lines that are shown in full
_FEW = 3  # files that are named one by one
_LAST_RESORT = "rm -f .git/index.lock; git reset -q --hard && git clean -ffdq"


def repair(
    history: History,
    found: Probe,
    base: str,
    tracked: Mapping[str, str],
    junk: Sequence[str],
    keep: bool,
) -> tuple[str, str] | None:
    """The kind of the next turn and its command; None if nothing is damaged or nothing helps.

    ``tracked`` maps damaged paths of the repository to their status, ``junk`` are extra files, and
    ``keep`` says that other files hold changes that are right.
    """
    if not tracked and not junk:
        return None
    moved = bool(tracked) and found.head != base
    if moved and base[:7] not in history.text:
        ways = ("git log --oneline -5", "git reflog", "git log --oneline --all")
        return next((("log", way) for way in ways if not history.tried(way)), None)
    shown = history.diff_since_write()
    look = _look(found, tracked, junk, base[:7] if moved else "")
    if (shown is None or not _shows(shown, tracked, junk, keep)) and not history.tried(look):
        return "diff", look
    if shown is None:
        return None
    if moved:
        commands = [f"git reset -q --hard {base[:7]}"]
    else:
        named = keep or all(path.rstrip("/") in history.text for path in [*tracked, *junk])
        commands = [_take_back(found, tracked, junk, keep, named), _LAST_RESORT]
    kind = "undo" if tracked else "clean"
    return next(((kind, c) for c in commands if not history.tried(c)), None)


def _look(found: Probe, tracked: Mapping[str, str], junk: Sequence[str], base: str) -> str:
    parts = ["git status --short"] if junk else []
    if tracked:
        diff = "git diff" if found.lines <= _SHORT_DIFF else "git diff --stat"
        staged = not base and not found.staged.isdisjoint(tracked)
        parts.append(" ".join([diff, base or ("HEAD" if staged else "")]).strip())
    return " && ".join(parts)


def _shows(shown: str, tracked: Mapping[str, str], junk: Sequence[str], keep: bool) -> bool:
    """Is the damage in sight? All of it where files are to be named, else some of either kind."""
    enough = all if keep else any
    kinds = [list(tracked), list(junk)]
    return all(enough(path.rstrip("/") in shown for path in paths) for paths in kinds if paths)


def _take_back(
    found: Probe, tracked: Mapping[str, str], junk: Sequence[str], keep: bool, named: bool
) -> str:
    """``keep`` spares other changes; ``named`` says that the files may be named."""
    parts = []
    staged = not found.staged.isdisjoint(tracked)
    added = [path for path, status in tracked.items() if status == "A"]
    others = [path for path in tracked if path not in added]
    if (staged or added) and not keep:
        parts.append("git reset -q --hard")
    else:
        if added:
            parts.append(f"git rm -qf {_names(added)}")
        if others:
            source = "HEAD " if staged else ""
            many = not keep and (len(others) > _FEW or not named)
            parts.append(f"git checkout {source}{'.' if many else '-- ' + _names(others)}")
    if junk:
        many = not keep and (len(junk) > _FEW or not named)
        parts.append("git clean -ffdq" if many else f"rm -rf {_names(junk)}")
    return " && ".join(parts)


def _names(paths: Sequence[str]) -> str:
    return " ".join(shlex.quote(path) for path in paths)
