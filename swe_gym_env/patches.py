"""The gold patch as line blocks, to distinguish a half-done file from a damaged one.

A student may have made one of two changes already. Knowing for each block whether the file holds
its old or its new form says what is missing; a file that fits no such mixture is damaged.
Lines keep their newline throughout, so that a missing one at the end of a file is a difference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@")


@dataclass(frozen=True)
class Block:
    """Lines ``old`` at index ``start`` (from 0) of a file become ``new``."""

    start: int
    old: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True)
class FilePatch:
    """What the gold patch does to one file. A file it creates has one block with nothing old."""

    path: str
    blocks: tuple[Block, ...]
    creates: bool = False
    deletes: bool = False


def split_lines(text: str) -> list[str]:
    """Lines with their newline; only ``\\n`` ends a line, as git and sed see it."""
    lines = text.split("\n")
    last = lines.pop()
    return [line + "\n" for line in lines] + ([last] if last else [])


def parse_patch(patch: str) -> dict[str, FilePatch]:
    """The files of a git patch by path. Renames come out as a deletion and a creation."""
    files: dict[str, FilePatch] = {}
    for part in re.split(r"(?m)^(?=diff --git )", patch):
        lines = split_lines(part)
        old = next((x[4:].strip() for x in lines if x.startswith("--- ")), "")
        new = next((x[4:].strip() for x in lines if x.startswith("+++ ")), "")
        if not old or not new:
            continue
        creates, deletes = old == "/dev/null", new == "/dev/null"
        path = (old if deletes else new).partition("/")[2]
        files[path] = FilePatch(path, tuple(_blocks(lines)), creates, deletes)
        if not creates and not deletes and old.partition("/")[2] != path:
            before = old.partition("/")[2]
            files[before] = FilePatch(before, (), deletes=True)
    return files


def _blocks(lines: Sequence[str]) -> list[Block]:
    """Runs of removed and added lines; runs of equal length are cut line by line."""
    blocks: list[Block] = []
    old: list[str] = []
    new: list[str] = []
    at, inside = 0, False

    def flush() -> None:
        start = at - len(old)
        if len(old) == len(new):
            pairs = zip(old, new, strict=True)
            blocks.extend(Block(start + i, (a,), (b,)) for i, (a, b) in enumerate(pairs) if a != b)
        elif old or new:
            blocks.append(Block(start, tuple(old), tuple(new)))
        old.clear()
        new.clear()

    last = ""
    for line in lines:
        match = _HUNK.match(line)
        if match:
            flush()
            at, inside = int(match[1]) - (match[2] != "0"), True
        elif inside and line[:1] == "-":
            old.append(line[1:])
            at += 1
        elif inside and line[:1] == "+":
            new.append(line[1:])
        elif inside and line[:1] == "\\":  # no newline at the end of the line before
            run = new if last == "+" else old
            if run:
                run[-1] = run[-1].removesuffix("\n")
            continue
        elif inside:
            flush()
            at += 1
        last = line[:1]
    flush()
    return blocks


def apply_blocks(lines: Sequence[str], blocks: Sequence[Block]) -> list[str]:
    """Raises ValueError where the old lines do not stand in their place."""
    out = list(lines)
    for block in reversed(blocks):
        end = block.start + len(block.old)
        if tuple(out[block.start : end]) != block.old:
            raise ValueError(f"the patch does not fit at line {block.start + 1}")
        out[block.start : end] = block.new
    return out


def missing_blocks(
    base: Sequence[str], blocks: Sequence[Block], present: Sequence[str]
) -> list[Block] | None:
    """The blocks that ``present`` lacks, placed in ``present``; None if it is no such mixture.

    If a line was changed to something else than the gold line, it is repaired in place.
    """
    base, present = list(base), list(present)
    # (next block, index in present, blocks missing so far); the gold form is tried first, a wrong
    # one last
    stack: list[tuple[int, int, tuple[Block, ...]]] = [(0, 0, ())]
    dead: set[tuple[int, int]] = set()
    while stack:
        index, at, missing = stack.pop()
        if (index, at) in dead:
            continue
        dead.add((index, at))
        begin = blocks[index - 1].start + len(blocks[index - 1].old) if index else 0
        end = blocks[index].start if index < len(blocks) else len(base)
        same = base[begin:end]
        if present[at : at + len(same)] != same:
            continue
        at += len(same)
        if index == len(blocks):
            if at == len(present):
                return list(missing)
            continue
        block = blocks[index]
        if len(block.old) == len(block.new) == 1 and at < len(present):
            wrong = Block(at, (present[at],), block.new)
            stack.append((index + 1, at + 1, (*missing, wrong)))
        if tuple(present[at : at + len(block.old)]) == block.old:
            here = Block(at, block.old, block.new)
            stack.append((index + 1, at + len(block.old), (*missing, here)))
        if tuple(present[at : at + len(block.new)]) == block.new:
            stack.append((index + 1, at + len(block.new), missing))
    return None
