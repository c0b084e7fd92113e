"""What stands in the visible history: the expert may act only on what a student could have read.

It also says what the commands of the history did to the files, as far as the text shows: which
only looked, which ran the tests, which may have written.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import PurePosixPath
from typing import Literal

from swe_gym_env import prompts
from swe_gym_env.policies.base import State
from swe_gym_env.types import ToolCall

Event = Literal["write", "test", "diff", "cd", "other"]

_LOOKS = re.compile(
    r"cat|nl|head|tail|less|more|[ef]?grep|rg|ls|tree|wc|pwd|echo|printf|which|file|stat|du|true|"
    r"false|type|sort|uniq|cut|awk|diff|cmp|test|\[|date|id|whoami|history|basename|dirname|realpath"
)
_GIT_LOOKS = re.compile(r"log|show|ls-files|reflog|blame|rev-parse|branch|grep|describe")
_NUMBERED = re.compile(r"^(?:[^\s:]+\.\w+[:-])?\s*(\d+)[\t:-](.*)$")
_PRINTED = re.compile(r"(?:cd \S+ && )?sed -n '?(\d+)(?:,(\d+))?p'? (\S+)")
# What runs in front of the command proper
_PREFIXES = frozenset({"time", "timeout", "nice", "env", "sudo", "command", "exec"})


def command_of(action: ToolCall | None) -> str:
    """The shell command of an action, or "" if it has none."""
    return action.arguments.get("command", "") if action and action.name == "bash" else ""


@lru_cache(maxsize=4096)
def events(command: str) -> tuple[tuple[Event, str], ...]:
    """What each simple command in ``command`` does, with its argument (the folder of a cd)."""
    try:
        lexer = shlex.shlex(command.replace("\n", " ; "), posix=True, punctuation_chars=True)
        lexer.commenters = ""
        tokens = list(lexer)
    except ValueError:
        return (("write", ""),)
    found: list[tuple[Event, str]] = []
    words: list[str] = []
    depth = 0  # a cd in a subshell ends with it
    for i, token in enumerate([*tokens, ";"]):
        if token and set(token) <= set(";&|()"):
            event: tuple[Event, str] = _event(words) if words else ("other", "")
            found.append(("other", "") if depth and event[0] == "cd" else event)
            words = []
            depth += token.count("(") - token.count(")")
        elif set(token) <= set("<>&|") and ">" in token:
            target = tokens[i + 1] if i + 1 < len(tokens) else ""
            if target not in {"/dev/null", "1", "2"}:
                found.append(("write", ""))
        elif token == "<<":
            found.append(("write", ""))
        else:
            words.append(token)
    return tuple(found)


def _event(words: list[str]) -> tuple[Event, str]:
    while words and (words[0] in _PREFIXES or re.match(r"\w+=|\d+s?$|-\w$", words[0])):
        words = words[1:]
    if not words:
        return ("other", "")
    name, rest = PurePosixPath(words[0]).name, words[1:]
    if name in {"cd", "pushd", "popd"}:
        return ("cd", rest[0] if rest else "~")
    if name == "git":
        verb = next((w for w in rest if not w.startswith("-")), "")
        looks: Event = "other" if _GIT_LOOKS.fullmatch(verb) else "write"
        return ("diff" if verb in {"diff", "status"} else looks, "")
    if name == "python" or name.startswith("python3"):
        name, rest = (rest[1], rest[2:]) if rest[:1] == ["-m"] and len(rest) > 1 else ("run", rest)
    if name in {"pytest", "py.test", "unittest", "tox", "nose2"}:
        return ("test", "")
    if name == "make" and any("test" in w for w in rest):
        return ("test", "")
    if name == "sed" and not any(re.match(r"-\w*i|--in-place", w) for w in rest):
        return ("other", "")
    if name == "find" and not {"-delete", "-exec", "-execdir"} & set(rest):
        return ("other", "")
    return ("other" if _LOOKS.fullmatch(name) else "write", "")


@dataclass(frozen=True)
class Seen:
    """An observation and the command that brought it ("" for the task prompt)."""

    command: str
    text: str


class History:
    """The visible history of a state."""

    def __init__(self, state: State) -> None:
        commands = ["", *(command_of(turn.action) for turn in state.turns)]
        texts = [*(turn.observation for turn in state.turns), state.observation]
        self.seen = [Seen(c, t) for c, t in zip(commands, texts, strict=True)]
        self.commands = commands[1:]
        self.workdir = state.task.workdir
        # A student's own words are visible too: a name it guessed may be looked up
        self.text = "\n".join([*texts, *(turn.text for turn in state.turns)])

    @cached_property
    def words(self) -> frozenset[str]:
        return frozenset(re.findall(r"[^\W\d]\w+", self.text))

    @cached_property
    def events(self) -> list[tuple[Event, str, int]]:
        """Every event in order, with the index of its command."""
        return [(*event, i) for i, c in enumerate(self.commands) for event in events(c)]

    @property
    def last_command(self) -> str:
        return self.commands[-1] if self.commands else ""

    def last(self, kind: Event) -> int:
        """The place of the last event of a kind among all events, or -1."""
        return max((n for n, event in enumerate(self.events) if event[0] == kind), default=-1)

    def count(self, kind: Event) -> int:
        return sum(event[0] == kind for event in self.events)

    def tried(self, command: str) -> bool:
        """Was this look taken since files were last written, or again and again?"""
        written = self.events[self.last("write")][2] if self.last("write") >= 0 else -1
        tries = [i for i, c in enumerate(self.commands) if c == command]
        return len(tries) >= 3 or any(i >= written for i in tries)

    def diff_since_write(self) -> str | None:
        """What the git diffs and statuses since the last write showed; None without any."""
        written = self.last("write")
        looks = {e[2] for e in self.events[written + 1 :] if e[0] == "diff"}
        return "\n".join(self.seen[i + 1].text for i in sorted(looks)) if looks else None

    def away(self) -> bool:
        """May the shell stand in another folder than the repository's?"""
        places = [e[1].rstrip("/") for e in self.events if e[0] == "cd"]
        return bool(places) and places[-1] != self.workdir

    def names(self, path: str) -> bool:
        """Does the path, or its dotted module name, stand in the history?"""
        if re.search(rf"(?<![\w-]){re.escape(path)}(?![\w-])", self.text):
            return True
        module = re.sub(r"(/__init__)?\.py$", "", path)
        return "/" in module and module.replace("/", ".") in self.text

    def _about(self, path: str) -> list[Seen]:
        name = PurePosixPath(path).name
        return [seen for seen in self.seen if name in seen.command or name in seen.text]

    def numbered(self, path: str) -> dict[int, set[str]]:
        """Line numbers with the texts that were shown for them, in looks that name the file."""
        found: dict[int, set[str]] = {}
        for seen in self._about(path):
            printed = _PRINTED.fullmatch(seen.command)
            if printed and printed[3] == shlex.quote(path):
                first, last = int(printed[1]), int(printed[2] or printed[1])
                whole = seen.text.partition(prompts.CUT)[0].split("\n")
                for number, line in zip(range(first, last + 1), whole, strict=False):
                    found.setdefault(number, set()).add(line.rstrip())
            for line in seen.text.split("\n"):
                match = _NUMBERED.match(line)
                if match:
                    found.setdefault(int(match[1]), set()).add(match[2].rstrip())
        return found

    def raw(self, path: str) -> set[str]:
        """Lines shown as they are, in looks that name the file."""
        return {line.rstrip() for seen in self._about(path) for line in seen.text.split("\n")}

    def ranges(self, path: str) -> list[tuple[int, int]]:
        """Line ranges that the history names together with the path."""
        name, span = re.escape(path), r"(\d+)\s*(?:-|–|to|through|,)\s*(\d+)"
        patterns = [
            rf"{name}[^\n]{{0,60}}?(?:\blines?\s+|:|\()\s*{span}",
            rf"\blines?\s+{span}[^\n]{{0,60}}?{name}",
            rf"sed -n '?(\d+),(\d+)p'? {name}",
        ]
        pairs = [m for p in patterns for m in re.findall(p, self.text)]
        single = [(n, n) for n in re.findall(rf"{name},? line (\d+)", self.text)]
        return sorted({(int(a), int(b)) for a, b in [*pairs, *single] if int(a) <= int(b)})

    def points(self, path: str) -> set[int]:
        """Single line numbers that the history names for the path (tracebacks, grep hits)."""
        name = re.escape(path)
        hits = re.findall(rf"{name}(?:\"?,\s*|:|\s+(?:at|on)\s+)(?:line\s+)?(\d+)", self.text)
        return {int(hit) for hit in hits} | set(self.numbered(path))
