"""The words of the project: plain American English and the standard terms of the field.

A reader from elsewhere should never need our private vocabulary. This module holds the list of
words that are not used, with the term to use instead, and the tests read every file that git
tracks: names, docstrings, comments and messages of Python, and the whole text of Markdown, YAML,
TOML, JavaScript, CSS and templates. To check a few files or folders while you write:

    python -m tests.test_words swe_gym_env/sandbox docs/reference/grading.md

To add a word, add an entry to one of the tables. Where a word is right for once (the name of
another package, a stored key), add the phrase to ``ALLOWED`` or the file to ``QUOTED``.
"""

from __future__ import annotations

import functools
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Regular expression of words, in lower case -> what to write instead. They are looked for in text
# and in names: `FaultRow` and `fault_row` are read as "fault row". A space stands for any white
# space, so a phrase may go over the end of a line.
TERMS: dict[str, str] = {
    # The field has a standard term
    r"box|boxes": "sandbox (container for Docker's)",
    r"lessons?": "training example, example",
    r"waves?": "batch",
    r"purses?|tills?|cashiers?|desks?": "budget client, budget server, actor",
    r"rows? of faults|fault rows?": "consecutive failures, circuit breaker",
    r"(the )?machinery": "infrastructure (of a fault), or name the part",
    r"workshops?": "package builder",
    r"witness(es)?": "test recorder",
    r"planted|planting": "injected",
    # Verbs that have a plainer word
    r"told|tells|tell": "log, report, print, say, pass; `distinguish` for tell apart",
    r"mend|mends|mended|mending": "fix, repair, correct",
    r"spoilt|spoils?|spoiled|spoiling": "failed, invalid, damaged",
    r"reckon(s|ed|ing)?": "estimate, compute, count",
    r"heed(s|ed)?": "follow, respect",
    r"bids?|bade|bidden": "ask, request",
    # Archaic or literary
    r"whoever|whomever": "name the one that does it: the caller, a policy that ...",
    r"shall": "should, must, will",
    r"whence|thence|hence|hither|thither|lest|thereby|thereof|therein|whereof|ere": "plain words",
    r"naught|nought|aught": "nothing, zero",
    r"likewise": "in the same way, also; or repeat the verb",
    r"asunder|forthwith|henceforth|hitherto|amid(st)?|betwixt": "plain words",
    r"by heart": "memorized",
    # Ellipses and tics that make sentences into riddles
    r"all the same": "nevertheless, still",
    r"so many (?!\w+ that\b)": "give the quantity: N steps, the number of ...",
    r"that many": "name the number: `limit` turns",
    r"of (its|their|his|her) own": "a separate ..., its own ...",
    r"by (itself|themselves)": "alone, automatically, without ...; or leave it out",
    r"none of it|none of them all": "no ... at all; name what is missing",
    r"as told": "as configured, as requested",
    r"at hand": "available, present",
    r"(what|which|that) is to be": "what must be, what will be; name it",
    r"what else (is|there)": "the other ...; name it",
    r"it is said|is said to": "say who says it",
    r"come to nothing|comes to nothing|came to nothing": "fail, have no effect",
    r"for good(?= (and|at)\b|[.,;:)\"])": "permanently",
    r"no such thing": "name what does not exist",
    r"the body(?! (of|text))": "name it: the block, the loop, the request body",
    r"goes for": "applies to",
    r"once for all": "one time",
}

# Exact identifiers of Python that were renamed, or say nothing
NAMES: dict[str, str] = {
    "Lesson": "TrainingExample",
    "TrainSample": "TokenTree",
    "lesson_trees": "build_trees",
    "Plain": "SupervisedAlgorithm, or Algorithm",
    "Parts": "RunContext, or the components one by one",
    "FaultRow": "CircuitBreaker",
    "Patience": "RetryPolicy",
    "LatePolicy": "LazyPolicy",
    "Live": "RunningEpisode",
    "TurnTaker": "TurnCollector",
    "Translated": "FormatAdapter",
    "Told": "WorkerDisplay",
    "SpoiltError": "MaskedEpisodeError",
    "Workshop": "PackageBuilder",
    "told": "a noun: report, state, message",
    "said": "a noun: answer, output, message, text",
}

# British spelling (beginning of a word) -> American
SPELLING: dict[str, str] = {
    r"(?:optim|normal|organ|recogn|initial|serial|summar|minim|maxim|util|random|synchron|token|"
    r"parametr|visual|priorit|standard|general|special|final|penal|capital|author|categor|"
    r"custom|quant|dequant|regular|character|memor|crystall|harmon|material|real|symbol)"
    r"is(?:e|ed|es|er|ers|ing|ation|ations)\b": "-ize, -ization",
    r"(?:re)?analys(?:e|ed|er|ing)\b": "analyze",
    r"paralys(?:e|ed|ing)\b": "paralyze",
    r"behaviour|colour|favour|honour|neighbour|labour|rumour|flavour|humour|vigour|harbour": "-or",
    r"(?:label|model|travel|level|total|signal|channel|tunnel|marshal|dial|fuel|counsel|"
    r"unravel|quarrel|pencil|panel|trial)l(?:ed|ing|er)\b": "one l: labeled, modeling",
    r"cancell(?:ing\b|ed\b)": "canceled, canceling",
    r"fulfils?\b|enrols?\b|instals?\b": "double l: fulfill",
    r"centre|fibre|theatre|litre|metres?\b|calibre": "-er",
    r"licence|defence|offence|pretence": "-se",
    r"catalogue|analogue": "-og: catalog, analog",
    r"artefact": "artifact",
    r"programmes?\b": "program",
    r"judgement|acknowledgement|ageing\b": "judgment",
    r"learnt\b|spelt\b|burnt\b|leapt\b|dreamt\b|spilt\b": "-ed: learned",
    r"whilst\b|amongst\b": "while, among",
    r"grey": "gray",
    r"sceptic|cheque|plough|tyre": "American spelling",
    r"practis(?:e|ed|ing)\b": "practice",
}

# Phrases in which a word of the tables is right: they are not looked at
ALLOWED = (
    r"box-(sizing|shadow)|box sizing|viewbox|border-box|content-box",  # CSS and SVG
    r"(list|check|text|bounding) box",
    r"cancelled_?error|\.cancelled\(",  # of asyncio and concurrent.futures
)

# Names that other packages chose: allowed as identifiers in modules that use them
FOREIGN = {
    "box": re.compile(r"^ *from rich import .*\bbox\b", re.M),  # tables
    "tell": re.compile(r"\.tell\("),  # the position in a file
    "Live": re.compile(r"^from rich\.live import Live$", re.M),
    "bounding_box": re.compile(r"\.bounding_box\("),  # playwright
}

# Files whose text is not ours, or must stay as it was stored -> why
QUOTED: dict[str, str] = {
    "tests/test_words.py": "this list",
    "*.jsonl": "stored tasks",
    "*.csv": "recorded results",
    "*.svg": "drawn by a program",
    "*.png": "pictures",
    "LICENSE": "legal text",
    "constraints.txt": "names of packages",
    "tests/policies/refusals.json": "answers of servers, recorded",
    "swe_gym_env/tasks/swebench/specs.json": "of SWE-bench",
    "swe_gym_env/prompts.py": "recorded results depend on these prompts",
    "swe_gym_env/tasks/pypi/statement.py": "stored problem statements were made by it",
    "swe_gym_env/policies/expert/wording.py": "stored episodes were made with it",
}

# Term by term: (files, word) that stay, because stored data, another program or a name that users
# know depends on them -> why
KEPT: dict[tuple[str, str], str] = {
    ("algorithms/engine/resume.py", "told"): "a file name in older snapshots",
    ("experiments/config/schema.py", "wave"): "the key's name in older runs",
    ("tests/experiments/test_configuration.py", "wave"): "the key's name in older runs",
    ("swe_gym_env/policies/completion.py", "cancelled"): "a status of some servers",
}


@dataclass(frozen=True)
class Piece:
    """Text of a file. ``line``: of its beginning. ``name``: it is an identifier of Python."""

    line: int
    text: str
    name: bool = False


@dataclass(frozen=True)
class Finding:
    path: str
    line: int
    word: str
    better: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word!r}: better {self.better}"


def python_pieces(source: str) -> Iterator[Piece]:
    """Names, strings and comments; the lines of one comment are one piece of text."""
    comment: list[str] = []
    began = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        row = token.start[0]
        if token.type == tokenize.COMMENT:
            if comment and row != last + 1:
                yield Piece(began, "\n".join(comment))
                comment = []
            began = began if comment else row
            last = row
            comment.append(token.string.lstrip("# "))
        elif tokenize.tok_name[token.type] in {"STRING", "FSTRING_MIDDLE"}:
            yield Piece(row, token.string)
        elif token.type == tokenize.NAME:
            yield Piece(row, token.string, name=True)
    if comment:
        yield Piece(began, "\n".join(comment))


def pieces(path: Path) -> Iterator[Piece]:
    source = path.read_text()
    yield from python_pieces(source) if path.suffix == ".py" else [Piece(1, source)]


def plain(text: str) -> str:
    """``text`` as words: without what is allowed, camel case and underscores split. Every
    character keeps its place and every line its number."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"\S", " ", match[0])

    text = re.sub("|".join(f"(?:{phrase})" for phrase in ALLOWED), blank, text, flags=re.I)
    text = re.sub(r"https?://\S+|\\[nt]", blank, text)
    text = re.sub(r"(?<=[a-z0-9])_?(?=[A-Z][a-z])", "\0", text)
    return text.replace("\0", " ").replace("_", " ").lower()


def _rule(words: str) -> str:
    return rf"(?<!-)(?:{words.replace(' ', chr(92) + 's+')})(?!\w)"


# One pattern of all; the name of the group that matched leads to the better word. All match at the
# beginning of a word only, which is asked first, because that is much faster.
RULES = [(_rule(words), better) for words, better in TERMS.items()]
RULES += [(rf"\b(?:{words})", better) for words, better in SPELLING.items()]
GROUPS = "|".join(f"(?P<rule{i}>{rule})" for i, (rule, _) in enumerate(RULES))
PATTERN = re.compile(rf"(?<!\w)(?:{GROUPS})")


@functools.cache
def _in_text(text: str) -> list[tuple[int, str, str]]:
    """Lines below the first, words and better words."""
    found = []
    text = plain(text)
    for match in PATTERN.finditer(text):
        better = RULES[int(str(match.lastgroup).removeprefix("rule"))][1]
        found.append((text.count("\n", 0, match.start()), " ".join(match[0].split()), better))
    return found


def _found(piece: Piece, kept: set[str]) -> Iterator[tuple[int, str, str]]:
    if piece.name and piece.text in NAMES:
        hits = [(0, piece.text, NAMES[piece.text])]
    else:
        hits = _in_text(piece.text)
    for below, word, better in hits:
        if word not in kept:
            yield piece.line + below, word, better


def findings(path: Path) -> list[Finding]:
    """What one file says that it should not, each word once a line."""
    name = path.relative_to(ROOT).as_posix()
    if any(fnmatch(name, quoted) for quoted in QUOTED):
        return []
    kept = {word for (files, word) in KEPT if fnmatch(name, files)}
    foreign = {word for word, use in FOREIGN.items() if use.search(path.read_text())}
    found: dict[tuple[int, str, str], None] = {}
    for piece in pieces(path):
        if not (piece.name and piece.text in foreign):
            found |= dict.fromkeys(_found(piece, kept))
    return [Finding(name, *hit) for hit in sorted(found)]


def tracked(*arguments: str) -> list[Path]:
    """The files under git in ``arguments``, or all of them."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--", *arguments]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return [path for name in names if name and (path := ROOT / name).is_file()]


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).parts[:-1]
    return "/".join(parts[:2]) or "."


ROOMS = sorted({room(path) for path in tracked()})


@pytest.mark.parametrize("name", ROOMS)
def test_room_uses_the_standard_terms(name: str) -> None:
    wrong = [hit for path in tracked() if room(path) == name for hit in findings(path)]
    assert not wrong, "\n" + "\n".join(map(str, wrong))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"""Runs it in a box."""\nneeds_box = 1', ["box", "box"]),
        ("class FaultRow:\n    pass", ["FaultRow"]),
        ("# The worker stops by\n# itself, whoever asks.", ["by itself", "whoever"]),
        ("raise ValueError(f'spoilt: {x}')", ["spoilt"]),
        ("sandbox = boxed = untold  # box-sizing", []),
        ("colour = optimise(labelled)", ["colour", "labelled", "optimise"]),
        ("# so many tasks that it fills the disk", []),
        ("said = own.answer", ["said"]),
    ],
)
def test_python_is_read_by_names_comments_and_strings(text: str, words: list[str]) -> None:
    found = sorted(word for p in python_pieces(text) for _, word, _ in _found(p, set()))
    assert found == sorted(words)


def test_line_of_a_finding_is_where_the_phrase_begins() -> None:
    (hit,) = _found(Piece(3, "one\ntwo\nit ends by\nitself"), set())
    assert hit[:2] == (5, "by itself")


def test_exceptions_are_still_needed() -> None:
    """An exception that excuses nothing hides the next mistake."""
    files = [path.relative_to(ROOT).as_posix() for path in tracked()]
    for quoted in QUOTED:
        assert any(fnmatch(file, quoted) for file in files), f"QUOTED: no file is {quoted}"
    for files_kept, word in KEPT:
        text = [
            plain(piece.text) if not piece.name else piece.text
            for path in tracked()
            if fnmatch(path.relative_to(ROOT).as_posix(), files_kept)
            for piece in pieces(path)
        ]
        assert any(word in piece for piece in text), f"KEPT: nothing in {files_kept} says {word}"


def main(arguments: list[str]) -> int:
    found = [hit for path in tracked(*arguments) for hit in findings(path)]
    print(*found, sep="\n")
    rooms = Counter(room(ROOT / hit.path) for hit in found)
    print(*(f"{count:5d}  {name}" for name, count in rooms.most_common()), sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
