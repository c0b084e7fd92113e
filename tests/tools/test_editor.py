"""The editor on real sandboxes: what it shows, what it changes, and what it refuses to touch."""

from __future__ import annotations

import errno
from collections.abc import Callable

import numpy as np
import pytest

from swe_gym_env.errors import SandboxError
from swe_gym_env.sandbox.base import Sandbox
from swe_gym_env.tools import Editor, Toolbox, schema
from swe_gym_env.tools.editor import MAX_FILE
from swe_gym_env.types import ToolCall
from tests.actions import random_turns

pytestmark = pytest.mark.sandbox

Edit = Callable[..., str]
FIVE = b"one\ntwo\nthree\nfour\nfive\n"


@pytest.fixture
def edit(sandbox: Sandbox) -> Edit:
    """The editor as an agent reaches it: by a call whose arguments are texts."""
    toolbox = Toolbox(sandbox, schema.offered(list(schema.TOOLS)), timeout=10, output_limit=2000)

    def run(command: str, path: str, **arguments: str) -> str:
        call = {"command": command, "path": path, **arguments}
        return toolbox.run(ToolCall("str_replace_editor", call), 30)

    return run


def test_a_file_is_shown_with_line_numbers(sandbox: Sandbox, edit: Edit) -> None:
    sandbox.write("/testbed/f", FIVE)
    assert edit("view", "/testbed/f") == "1\tone\n2\ttwo\n3\tthree\n4\tfour\n5\tfive"
    assert edit("view", "/testbed/f", view_range="[2, 3]") == "2\ttwo\n3\tthree"
    assert edit("view", "/testbed/f", view_range="[4, -1]") == "4\tfour\n5\tfive"
    assert edit("view", "/testbed/f", view_range=" [5,900]\n") == "5\tfive"
    for wrong in ("[0, 2]", "[6, -1]", "[3, 2]", "[1, -2]"):
        assert f"view_range is {wrong}, and /testbed/f has 5 lines" in edit(
            "view", "/testbed/f", view_range=wrong
        )
    sandbox.write("/testbed/f", b"")
    assert edit("view", "/testbed/f") == "(the file is empty)"
    sandbox.write("/testbed/f", "é\x1b[0m\u2028x\n\n".encode())
    assert edit("view", "/testbed/f") == "1\té\\x1b[0m\u2028x\n2\t".rstrip("\n")


def test_a_folder_is_listed_two_levels_deep(sandbox: Sandbox, edit: Edit) -> None:
    for name in ("b.py", "sub/c.py", "sub/deep/d.py", ".hidden/e.py", "__pycache__/x.pyc", "a b"):
        sandbox.write(f"/testbed/.tree/{name}", b"x")
    assert edit("view", "/testbed/.tree") == "a b\nb.py\nsub/\nsub/c.py\nsub/deep/"
    sandbox.exec("mkdir -p '/testbed/em'\\''pty'", timeout=5)
    assert edit("view", "/testbed/em'pty") == "(the folder is empty)"


def test_a_file_is_created_once_with_its_folders(sandbox: Sandbox, edit: Edit) -> None:
    text = "a = 'é'\n\tb\r\n\nend without a newline"
    observation = edit("create", "/testbed/new/deep/f.py", file_text=text)
    assert observation == "(created /testbed/new/deep/f.py: 4 lines)"
    assert sandbox.read("/testbed/new/deep/f.py") == text.encode()
    assert "exists already" in edit("create", "/testbed/new/deep/f.py", file_text="x")
    assert "is a folder" in edit("create", "/testbed/new", file_text="x")
    assert "Not a directory" in edit("create", "/testbed/calc.py/f", file_text="x")
    assert sandbox.read("/testbed/new/deep/f.py") == text.encode()
    assert "undone" in edit("undo_edit", "/testbed/new/deep/f.py")
    with pytest.raises(FileNotFoundError):
        sandbox.read("/testbed/new/deep/f.py")


def test_a_text_is_replaced_only_where_it_stands_once(sandbox: Sandbox, edit: Edit) -> None:
    sandbox.write("/testbed/f", FIVE)
    observation = edit("str_replace", "/testbed/f", old_str="four\n", new_str="4\n4.5\n")
    assert observation == "(done)\n1\tone\n2\ttwo\n3\tthree\n4\t4\n5\t4.5\n6\tfive"
    assert sandbox.read("/testbed/f") == b"one\ntwo\nthree\n4\n4.5\nfive\n"
    for old, observation in (
        ("six", "old_str is not in /testbed/f"),
        ("e", "stands 4 times in /testbed/f, on lines 1, 3, 6; add"),
        ("", "old_str is empty"),
    ):
        assert observation in edit("str_replace", "/testbed/f", old_str=old, new_str="x")
    assert "are the same" in edit("str_replace", "/testbed/f", old_str="one", new_str="one")
    assert "(done)" in edit("str_replace", "/testbed/f", old_str="two\n")
    assert sandbox.read("/testbed/f") == b"one\nthree\n4\n4.5\nfive\n"
    sandbox.write("/testbed/f", b"aaa\n" + b"x\n" * 40)
    assert "2 times in /testbed/f, on lines 1;" in edit("str_replace", "/testbed/f", old_str="aa")
    assert "40 times in /testbed/f, on lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ...;" in edit(
        "str_replace", "/testbed/f", old_str="x"
    )
    sandbox.write("/testbed/f", b"all")
    assert "is empty now" in edit("str_replace", "/testbed/f", old_str="all")


@pytest.mark.parametrize(
    ("before", "line", "new", "after"),
    [
        (b"a\nb\n", "0", "x", b"x\na\nb\n"),
        (b"a\nb\n", "1", "x\ny\n", b"a\nx\ny\nb\n"),
        (b"a\nb\n", "2", "x", b"a\nb\nx\n"),
        (b"a\nb", "1", "x", b"a\nx\nb"),
        (b"a\nb", "2", "x", b"a\nb\nx\n"),
        (b"", "0", "x", b"x\n"),
        (b"a\n", "1", "", b"a\n\n"),
        (b"a\r\nb\r\n", "1", "x\ny", b"a\r\nx\r\ny\r\nb\r\n"),
    ],
)
def test_lines_are_inserted_after_a_line(
    sandbox: Sandbox, edit: Edit, before: bytes, line: str, new: str, after: bytes
) -> None:
    sandbox.write("/testbed/f", before)
    observation = edit("insert", "/testbed/f", insert_line=line, new_str=new)
    assert sandbox.read("/testbed/f") == after
    assert observation.startswith("(done)\n") and new.rstrip("\n").split("\n")[-1] in observation
    assert "has " in edit("insert", "/testbed/f", insert_line="9", new_str="x")
    assert "has " in edit("insert", "/testbed/f", insert_line="-1", new_str="x")
    assert sandbox.read("/testbed/f") == after


def test_edits_are_undone_one_by_one_and_file_by_file(sandbox: Sandbox, edit: Edit) -> None:
    sandbox.write("/testbed/f", FIVE)
    sandbox.write("/testbed/g", FIVE)
    edit("str_replace", "/testbed/f", old_str="one", new_str="1")
    edit("insert", "/testbed/f", insert_line="0", new_str="zero")
    edit("str_replace", "/testbed/g", old_str="one", new_str="1")
    edit("str_replace", "/testbed/f", old_str="nothing", new_str="1")  # refused: nothing to undo
    assert "undone" in edit("undo_edit", "/testbed/f")
    assert sandbox.read("/testbed/f") == FIVE.replace(b"one", b"1")
    assert "undone" in edit("undo_edit", "/testbed/f")
    assert sandbox.read("/testbed/f") == FIVE
    assert "no edit of /testbed/f is left" in edit("undo_edit", "/testbed/f")
    assert sandbox.read("/testbed/g") == FIVE.replace(b"one", b"1")
    sandbox.write("/testbed/g", b"by bash\n")
    assert "changed by something else" in edit("undo_edit", "/testbed/g")
    assert sandbox.read("/testbed/g") == b"by bash\n"


def test_windows_line_ends_stay(sandbox: Sandbox, edit: Edit) -> None:
    sandbox.write("/testbed/f", FIVE.replace(b"\n", b"\r\n"))
    assert edit("view", "/testbed/f", view_range="[1, 2]") == "1\tone\n2\ttwo"
    edit("str_replace", "/testbed/f", old_str="two\nthree\n", new_str="2\r\n3\n\n")
    assert sandbox.read("/testbed/f") == b"one\r\n2\r\n3\r\n\r\nfour\r\nfive\r\n"
    sandbox.write("/testbed/f", b"a\r\nb\nc\n")  # mixed: nothing is guessed
    assert edit("view", "/testbed/f") == "1\ta\\x0d\n2\tb\n3\tc"
    assert "not in" in edit("str_replace", "/testbed/f", old_str="a\nb", new_str="x")
    edit("str_replace", "/testbed/f", old_str="b\n", new_str="B\n")
    assert sandbox.read("/testbed/f") == b"a\r\nB\nc\n"


def test_what_is_no_text_is_left_to_bash(sandbox: Sandbox, edit: Edit) -> None:
    for data, observation in (
        (b"a\0b", "is a binary file"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"x" * (MAX_FILE + 1), "more than"),
    ):
        sandbox.write("/testbed/blob", data)
        assert observation in edit("view", "/testbed/blob")
        assert observation in edit("str_replace", "/testbed/blob", old_str="x", new_str="y")
        assert sandbox.read("/testbed/blob") == data
    assert "not a regular file" in edit("view", "/dev/null")


@pytest.mark.parametrize(
    ("arguments", "observation"),
    [
        ({}, "command is missing"),
        ({"command": "view"}, "path is missing"),
        ({"command": "open", "path": "/a"}, "command is 'open'; there are: view, create,"),
        ({"command": "view", "path": "calc.py"}, "path is 'calc.py', but must be absolute"),
        ({"command": "view", "path": ""}, "must be absolute"),
        ({"command": "view", "path": "/a\0b"}, "cannot be printed"),
        ({"command": "view", "path": "/\ud800"}, "cannot be printed"),
        ({"command": "view", "path": "/nowhere"}, "there is no file /nowhere"),
        ({"command": "view", "path": "/" + "x" * 300}, "File name too long"),
        ({"command": "view", "path": "/testbed", "view_range": "1-3"}, "not [FIRST, LAST]"),
        ({"command": "view", "path": "/testbed", "view_range": "[1, 2, 3]"}, "not [FIRST, LAST]"),
        ({"command": "view", "path": "/testbed", "view_range": "[1, 2.5]"}, "not [FIRST, LAST]"),
        ({"command": "create", "path": "/testbed/n"}, "create needs file_text"),
        ({"command": "create", "path": "/testbed/n", "file_text": "a\0"}, "NUL"),
        ({"command": "create", "path": "/testbed/n", "file_text": "\udc80"}, "lone surrogate"),
        ({"command": "str_replace", "path": "/testbed/calc.py"}, "str_replace needs old_str"),
        ({"command": "str_replace", "path": "/testbed", "old_str": "a"}, "is a folder"),
        ({"command": "insert", "path": "/testbed/calc.py"}, "insert needs insert_line"),
        ({"command": "insert", "path": "/testbed/calc.py", "insert_line": "0"}, "needs new_str"),
        ({"command": "insert", "path": "/testbed/calc.py", "insert_line": "two"}, "whole number"),
        ({"command": "insert", "path": "/x", "insert_line": "9" * 5000}, "whole number"),
        ({"command": "view", "path": "/testbed", "color": "red"}, "no argument 'color'"),
    ],
)
def test_bad_arguments_are_answered(
    sandbox: Sandbox, arguments: dict[str, str], observation: str
) -> None:
    toolbox = Toolbox(sandbox, [schema.EDITOR], timeout=10, output_limit=500)
    assert observation in toolbox.run(ToolCall("str_replace_editor", arguments), 30)


@pytest.mark.parametrize(
    "sandbox", ["local"], indirect=True
)  # random paths: never on this machine's
def test_random_calls_are_answered(sandbox: Sandbox) -> None:
    toolbox = Toolbox(sandbox, [schema.EDITOR], timeout=10, output_limit=500)
    rng = np.random.default_rng(0)
    paths = ["/testbed/calc.py", "/testbed/r.txt", "/testbed", "/proc/self/mem", "/tmp/\ud800"]
    answered = 0
    while answered < 600:
        call = random_turns.call(rng)
        if call.name == "str_replace_editor":
            path = paths[rng.integers(len(paths))] if rng.random() < 0.8 else call.arguments["path"]
            observation = toolbox.run(ToolCall(call.name, {**call.arguments, "path": path}), 30)
            assert observation and len(observation) < 600
            answered += 1


def test_long_output_is_cut_like_that_of_a_command(sandbox: Sandbox) -> None:
    sandbox.write("/testbed/long", b"".join(b"line %d\n" % n for n in range(5000)))
    observation = Editor(sandbox, output_limit=100).run(
        {"command": "view", "path": "/testbed/long"}
    )
    assert observation.startswith("1\tline 0\n") and observation.endswith("5000\tline 4999")
    assert "characters cut" in observation and len(observation) < 150


class Full:
    """A sandbox whose disk is full after the file that is there; and later, a sandbox that is
    gone."""

    guarantees: dict = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.data, self.gone = b"old\n", False

    def read(self, path: str) -> bytes:
        if self.gone:
            raise SandboxError("the sandbox is gone")
        return self.data

    def write(self, path: str, data: bytes) -> None:
        self.data = data[:4]
        if len(data) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_costs_the_edit_and_not_the_file() -> None:
    sandbox = Full()
    editor = Editor(sandbox)  # type: ignore[arg-type]
    arguments = {"command": "str_replace", "path": "/f", "old_str": "old", "new_str": "longer"}
    assert "No space left on device" in editor.run(arguments)
    assert sandbox.data == b"old\n"
    assert "no edit" in editor.run({"command": "undo_edit", "path": "/f"})
    sandbox.gone = True
    with pytest.raises(SandboxError):
        editor.run(arguments)
