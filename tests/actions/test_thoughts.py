"""Thoughts hold no calls, in any format; and what only looks like a thought stays a call."""

from __future__ import annotations

import time

import pytest

from swe_gym_env.actions import FormatError, action_format, read
from swe_gym_env.types import ToolCall

FORMATS = ["bash_block", "hermes_json", "openai_tools", "xml"]
TAGS = [
    ("<think>", "</think>"),
    ("<THINK>", "</Think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
]


def call(name: str, command: str) -> str:
    return action_format(name).render(ToolCall("bash", {"command": command}))


def parsed(name: str, text: str) -> str:
    return action_format(name).parse(text).arguments["command"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("begin", "end"), TAGS)
def test_a_call_drafted_in_a_thought_does_not_run(name: str, begin: str, end: str) -> None:
    draft, final = call(name, "rm calc.py"), call(name, "ls")
    thought = f"Maybe\n{draft}\nno, that loses it."
    for text in (
        f"{begin}\n{thought}\n{end}\n{final}",
        f"{begin}{thought}{end}{final}",
        f"\n {begin}\n{thought}\n{end}\n\n{final}",
        f"{thought}\n{end}\n{final}",  # the template has opened it
        f"{begin}\none {draft}\n{end}\n{begin}\ntwo\n{draft}\n{end}\n{final}",
        f"{begin}\na {begin} b\n{draft}\n{end} c\n{draft}\n{end}\n{final}",
        f"{begin}\nthe file has a {begin} in it\n{end}\n{final}",
        f"{final}\n{begin}\nor else\n{draft}\n{end}",
        f"{final}\n{begin}\nor else\n{draft}",
    ):
        assert parsed(name, text) == "ls", text
    for text in (
        f"{begin}\n{thought}\n{end}\nLet me look first.",
        f"{begin}\n{thought}",  # cut by its token limit
        f"{begin}\n{draft}",
        f"{thought}\n{end}\nLet me look first.",
        f"{thought}{end}",
        f"{begin}{end}",
    ):
        with pytest.raises(FormatError):
            action_format(name).parse(text)


@pytest.mark.parametrize("name", ["bash_block", "hermes_json", "xml"])
def test_a_thought_within_a_line_is_one_where_it_ends(name: str) -> None:
    draft, final = call(name, "rm calc.py"), call(name, "ls")
    assert parsed(name, f"Hm. <think>I could\n{draft}\nno</think> So:\n{final}") == "ls"
    with pytest.raises(FormatError):
        action_format(name).parse(f"Hm. <think>I could\n{draft}\nno</think> So.")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("begin", "end"), TAGS)
def test_a_command_with_such_tags_runs_as_it_is(name: str, begin: str, end: str) -> None:
    for command in (
        f"echo '{begin}'",
        f"sed -i 's#{end}##' parser.py",
        f"grep -n {end} *.py",
        f"cat > prompt.txt <<'E'\n{begin}\nplan\n{end}\nE\nls",
        f"cat <<'E'\n{end}\nE",
        f"cat <<'E'\n{begin}\nE",
    ):
        final = call(name, command)
        assert parsed(name, final) == command
        assert parsed(name, f"<think>\n{call(name, 'rm x')}\n</think>\n{final}") == command
        assert parsed(name, f"{call(name, 'rm x')}\n</think>\n\n{final}") == command
        if name != "openai_tools":
            assert parsed(name, f"I remove the `{end}` tag.\n{final}") == command
            assert parsed(name, f"The {begin} tag stays open.\n{final}") == command


@pytest.mark.parametrize("name", FORMATS)
def test_an_editors_text_keeps_its_tags(name: str) -> None:
    if name == "bash_block":
        return
    form = action_format(name)
    text = "<think>\n```bash\nls\n```\n</think>\n</think>"
    edit = ToolCall(
        "str_replace_editor", {"command": "create", "path": "/testbed/a", "file_text": text}
    )
    assert form.parse(form.render(edit)) == edit
    assert form.parse(f"<think>no</think>\n{form.render(edit)}") == edit


@pytest.mark.parametrize("name", FORMATS)
def test_words_that_are_like_thoughts_hide_no_rendered_call(name: str) -> None:
    """What a teacher gives as its reason is never taken for a thought."""
    form = action_format(name)
    for begin, end in TAGS:
        for reason in (
            begin,
            end,
            f"{begin} a",
            f"a {end}",
            f"{begin}a{end}",
            f"<\\think> {begin}",
        ):
            given = ToolCall("bash", {"command": "ls"}, reason)
            assert form.parse(form.render(given)) == given


@pytest.mark.parametrize("name", FORMATS)
def test_the_reason_is_what_was_said_and_not_what_was_thought(name: str) -> None:
    form = action_format(name)
    text = form.render(ToolCall("bash", {"command": "ls"}, "I look."))
    assert form.parse(f"<think>\nhm\n</think>\n\n{text}").reasoning == "I look."


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_hostile_tags_take_no_time(name: str) -> None:
    form = action_format(name)
    began = time.process_time()
    for piece in (
        "<think>",
        "a<think>",
        "</think>",
        "\n<think>\n</think>",
        "```a\n<think>",
        "<tool_call>{<think>",
        "<function=a><parameter=b>x<think>",
        'a <think> {"tool_calls": ',
        "\n```\n</think>\n```\n a<think>",
        "'<think>'",
    ):
        try:
            form.parse(piece * (200_000 // len(piece)))
        except FormatError:
            continue
    assert time.process_time() - began < 20


@pytest.mark.parametrize("name", FORMATS)
def test_windows_line_ends_are_none_of_the_command(name: str) -> None:
    form = action_format(name)
    turn = "I look.\n" + call(name, "ls -la\ncat calc.py")
    if name == "openai_tools":
        turn = call(name, "ls -la\ncat calc.py")
    for text in (turn.replace("\n", "\r\n"), turn.replace("\n", "\r"), turn + "\r\n", turn):
        assert read(form, text).arguments["command"] == "ls -la\ncat calc.py"
    mixed = form.render(ToolCall("bash", {"command": "ls -la\r\ncat calc.py\r"}))
    assert read(form, mixed).arguments["command"] == "ls -la\ncat calc.py"


@pytest.mark.parametrize("name", ["hermes_json", "openai_tools", "xml"])
def test_text_for_the_editor_keeps_its_line_ends(name: str) -> None:
    form = action_format(name)
    edit = ToolCall("str_replace_editor", {"command": "insert", "new_str": "a\r\nb\rc\r"})
    assert read(form, form.render(edit)) == edit


def test_a_byte_order_mark_before_a_turn_is_no_part_of_it() -> None:
    for name in FORMATS:
        assert parsed(name, "\ufeff" + call(name, "ls")) == "ls"
