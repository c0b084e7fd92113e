"""What holds for every format: a rendered call reads the same, and any text at all gets an answer.

The fuzzed texts are mutations of valid turns and noise, seeded; ``-m recorded`` tries a million.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swe_gym_env.actions import FormatError, action_format
from swe_gym_env.errors import SetupError
from swe_gym_env.tools import schema
from swe_gym_env.types import ToolCall
from tests.actions import random_turns

WITH_TOOLS = ["hermes_json", "openai_tools", "xml"]
FORMATS = ["bash_block", *WITH_TOOLS]


@pytest.mark.parametrize("name", FORMATS)
def test_the_example_is_a_turn(name: str) -> None:
    form = action_format(name)
    assert form.name == name
    assert form.parse(form.example) == ToolCall("bash", {"command": "ls"})
    assert form.render(ToolCall("bash", {"command": "ls"})) == form.example
    assert form.parse(form.render(ToolCall("finish", reasoning="Done."))) == ToolCall(
        "finish", reasoning="Done."
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_TOOLS)
def test_what_is_rendered_reads_the_same(name: str) -> None:
    form, rng = action_format(name), np.random.default_rng(0)
    for _ in range(5000):
        call = random_turns.call(rng)
        back = form.parse(form.render(call))
        assert (back.name, back.arguments) == (call.name, call.arguments)
        if not {"<tool_call>", "<function="} & _tags(call.reasoning):
            assert back == call


@pytest.mark.parametrize("name", WITH_TOOLS)
@pytest.mark.parametrize("reasoning", ["<tool_call>", "<function=bash></function>", "<tool_call>x"])
def test_a_tag_in_the_reasoning_cannot_pass_for_the_call(name: str, reasoning: str) -> None:
    form = action_format(name)
    call = ToolCall("bash", {"command": "ls"}, f"I could {reasoning}")
    assert form.parse(form.render(call)).arguments == {"command": "ls"}


def _tags(text: str) -> set[str]:
    return {tag for tag in ("<tool_call>", "<function=") if tag in text}


def fuzz(name: str, count: int, seed: int) -> Counter[str]:
    """Parses ``count`` broken turns; anything but a call or a FormatError goes upwards."""
    form, rng = action_format(name), np.random.default_rng(seed)
    valid = [form.example]
    while len(valid) < 200:
        try:
            valid.append(form.render(random_turns.call(rng)))
        except FormatError:
            continue
    seen: Counter[str] = Counter()
    for _ in range(count):
        text = random_turns.broken(rng, form, valid)
        try:
            call = form.parse(text)
        except FormatError as error:
            assert 0 < len(str(error)) < 400
            seen["refused"] += 1
            continue
        seen["read"] += 1
        back = form.parse(form.render(call))
        assert (back.name, back.arguments) == (call.name, call.arguments)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_any_text_is_a_call_or_a_format_error(name: str) -> None:
    seen = fuzz(name, 20_000, seed=1)
    assert seen["read"] > 1000 and seen["refused"] > 3000


@pytest.mark.recorded
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FORMATS)
def test_a_million_texts_raise_nothing(name: str) -> None:
    """Run once on 2026-11-22 (Python 3.11): four formats x 250 000 texts in 55 s, each of them a
    call or a FormatError, and every call rendered and read again the same."""
    seen = fuzz(name, 250_000, seed=2)
    assert seen["read"] + seen["refused"] == 250_000


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_the_worst_of_json_is_a_format_error(name: str) -> None:
    form = action_format(name)
    deep, digits = "[" * 100_000, "9" * 100_000
    for inner in (deep, '{"a":' * 100_000, digits, f'{{"name": "x", "arguments": {deep}', "\ud800"):
        texts = [inner, f"<tool_call>{inner}</tool_call>", f'{{"tool_calls": {inner}}}']
        function = {"name": "bash", "arguments": inner}
        texts.append(json.dumps({"tool_calls": [{"function": function}]}))
        for text in texts:
            with pytest.raises(FormatError):
                form.parse(text)


@pytest.mark.parametrize("name", FORMATS)
def test_a_nest_at_the_edge_of_recursion_raises_nothing(name: str) -> None:
    form = action_format(name)
    for depth in range(900, 1001):
        nest = "[" * depth + "]" * depth
        for text in (
            f'<tool_call>{{"name": "x", "arguments": {{"a": {nest}}}}}</tool_call>',
            json.dumps({"tool_calls": [{"function": {"name": "x", "arguments": nest}}]}),
        ):
            try:
                form.parse(text)
            except FormatError:
                continue


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_a_huge_text_is_read_in_no_time(name: str) -> None:
    form = action_format(name)
    seeds = [
        *(
            "<tool_call>",
            "<function=",
            "<parameter=",
            "</parameter>",
            "<function=a>",
            " ",
            "<",
            "\\",
        ),
        *("<function=a><parameter=b>", "```bash\n", "```", '{"a":', '{"a": "\\n', "[", "9", '"'),
    ]
    seeds += ["<\\", "<function=a><parameter=b>" + "x</parameter>", "\n", "<tool_call>\n", "\u3000"]
    starts = ["", "<tool_call>", "<function=a>", "<function=a><parameter=b>", '<tool_call>{"a": "']
    for seed in seeds:
        for start in starts:
            text = start + seed * (200_000 // len(seed))
            began = time.process_time()
            with pytest.raises(FormatError):
                form.parse(text)
            assert time.process_time() - began < 0.5, (start, seed)
    began = time.process_time()
    call = ToolCall("bash", {"command": "<\\/parameter></tool_call>\n" * 8000})
    assert form.parse(form.render(call)).arguments == call.arguments
    assert time.process_time() - began < 0.5


def turn(name: str, arguments: Any, **more: Any) -> str:
    """An OpenAI message by hand."""
    function = {"name": name, "arguments": arguments}
    return json.dumps({"tool_calls": [{"type": "function", "function": function}], **more})


CALL = ToolCall("bash", {"command": "ls"})


@pytest.mark.parametrize(
    ("name", "text", "call"),
    [
        ("hermes_json", '<tool_call>{"name": "finish"}</tool_call>', ToolCall("finish")),
        (
            "hermes_json",
            'I look.\n\n<tool_call>\n{"arguments": {"command": "a\nb"}, "name": "bash"}\n'
            "</tool_call>\nNow I wait.",
            ToolCall("bash", {"command": "a\nb"}, "I look."),
        ),
        (
            "hermes_json",
            '<tool_call>{"name": "e", "arguments": {"a": [1, -1], "b": 3, "c": null, "d": true}}'
            "</tool_call>",
            ToolCall("e", {"a": "[1, -1]", "b": "3", "d": "true"}),
        ),
        (
            "hermes_json",
            '<tool_call>{"name": "bash", "arguments": "{\\"command\\": \\"ls\\"}"}</tool_call>',
            CALL,
        ),
        ("xml", "<function=bash><parameter=command>ls</parameter></function>", CALL),
        ("xml", "<function=finish>\n</function>", ToolCall("finish")),
        (
            "xml",
            "I look.\n<tool_call>\n<function=bash>\n<parameter=command>\nls\n</parameter>\n"
            "</function>\n</tool_call>",
            ToolCall("bash", {"command": "ls"}, "I look."),
        ),
        (
            "xml",
            "<function=e>\n<parameter=old>\n\n  a <b> & c\n\n</parameter>\n<parameter=new>"
            "</parameter>\n</function>",
            ToolCall("e", {"old": "\n  a <b> & c\n", "new": ""}),
        ),
        ("openai_tools", turn("bash", '{"command": "ls"}', content=None, role="assistant"), CALL),
        ("openai_tools", turn("finish", "", content=" So. "), ToolCall("finish", {}, " So. ")),
        ("openai_tools", turn("bash", {"command": "ls"}), CALL),
    ],
)
def test_a_turn_is_read(name: str, text: str, call: ToolCall) -> None:
    assert action_format(name).parse(text) == call


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("hermes_json", "ls", "no <tool_call>"),
        ("hermes_json", "<tool_call>", "bad JSON: expecting value"),
        ("hermes_json", '<tool_call>{"name": }</tool_call>', "bad JSON: expecting value at '}</"),
        ("hermes_json", '<tool_call>{"name": "a"}', "no </tool_call> after the JSON"),
        ("hermes_json", "<tool_call>[]</tool_call>", "not a JSON object"),
        ("hermes_json", '<tool_call>{"name": 3}</tool_call>', 'has no "name"'),
        ("hermes_json", '<tool_call>{"name": "a", "arguments": []}</tool_call>', "not a JSON obj"),
        ("hermes_json", '<tool_call>{"name": "a"}</tool_call><tool_call>', "more than one"),
        ("xml", "ls", "no <function=NAME>"),
        ("xml", "<function=>", "<function= has no name"),
        ("xml", "<function=a b>", "<function= has no name"),
        ("xml", "<function=a>", "expected at the end"),
        ("xml", "<function=a>ls</function>", "expected, not 'ls</function>'"),
        ("xml", "<function=a><parameter=b>c</function>", "<parameter=b> is not closed"),
        ("xml", "<function=a><parameter=b>\n</parameter>\n'</parameter>", r"write <\\/parameter>"),
        ("xml", "<function=a><parameter=b></parameter>" * 2, "expected, not '<function=a>"),
        ("xml", "<function=a>" + "<parameter=b></parameter>" * 2, "twice"),
        ("xml", "<function=a></function>" * 2, "more than one"),
        ("openai_tools", "ls", "bad JSON"),
        ("openai_tools", "[]", "not a JSON object"),
        ("openai_tools", '{"tool_calls": []}', "not a list with one call"),
        ("openai_tools", '{"tool_calls": [3]}', "the call is not a JSON object"),
        ("openai_tools", '{"tool_calls": [{}, {}]}', "more than one call"),
        ("openai_tools", '{"tool_calls": [{}]}', "the call is not a JSON object"),
        ("openai_tools", '{"content": 3, "tool_calls": [{}]}', '"content" is not a string'),
        ("openai_tools", turn("a", "{} x"), "more text after the JSON: 'x'"),
        ("openai_tools", turn("", "{}"), 'has no "name"'),
    ],
)
def test_invalid_turn_error_says_why(name: str, text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        action_format(name).parse(text)


@pytest.mark.parametrize("name", ["hermes_json", "openai_tools"])
def test_numbers_are_written_as_the_tool_wants_them(name: str) -> None:
    arguments = {"command": "view", "path": "/a", "view_range": "[1, 20]", "insert_line": "3"}
    text = action_format(name).render(ToolCall("str_replace_editor", arguments))
    assert "[1, 20]" in text and '"[1, 20]' not in text and '"3' not in text
    assert '"03' in action_format(name).render(
        ToolCall("str_replace_editor", {"insert_line": "03"})
    ).replace("\\", "")


def test_names_that_no_tag_can_hold_are_refused() -> None:
    for call in (ToolCall("a b"), ToolCall(""), ToolCall("a", {"b>": ""}), ToolCall("<a")):
        with pytest.raises(FormatError, match="cannot be the name"):
            action_format("xml").render(call)
    with pytest.raises(FormatError, match="without a name"):
        action_format("hermes_json").render(ToolCall(""))


def test_which_tools_are_offered_is_a_choice() -> None:
    form = action_format("xml", ["bash", "finish"])
    assert "bash" in form.describe() and "str_replace_editor" not in form.describe()
    assert [tool.name for tool in action_format("xml").tools] == list(schema.TOOLS)
    assert [tool.name for tool in action_format("bash_block").tools] == ["bash", "finish"]
    with pytest.raises(SetupError, match="no other tool"):
        action_format("bash_block", ["bash", "str_replace_editor", "finish"])
    for wrong in (["bash"], ["bash", "browse", "finish"], []):
        with pytest.raises(SetupError, match="finish always among them"):
            action_format("xml", wrong)


def messages(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_real_xml_turns_read_and_render(shared_data: Path) -> None:
    """All 103 assistant turns of the SWE-agent chats: one call each, nothing left out."""
    form, calls = action_format("xml"), []
    for row in messages(shared_data / "trajectories/xml_sft_example.jsonl"):
        for message in row["messages"]:
            if message["role"] == "assistant":
                calls.append(form.parse(message["content"]))
    assert Counter(call.name for call in calls) == {
        "str_replace_editor": 56,
        "bash": 41,
        "submit": 6,
    }
    assert all(form.parse(form.render(call)) == call for call in calls)
    assert all(
        schema.TOOLS[call.name].read(call.arguments) for call in calls[:-1] if call.arguments
    )


@pytest.mark.parametrize(
    ("file", "calls", "refused"),
    [
        ("openhands_qwen3coder480b_swegym", 172, {}),
        ("hermes_qwen3coder30b", 68, {'"tool_calls" is not a list with one call': 5}),
        ("miniswe_qwen3_30b", 22, {"more than one call": 40}),
    ],
)
def test_real_function_calls_read_and_render(
    shared_data: Path, file: str, calls: int, refused: dict[str, int]
) -> None:
    """The records hold calls as the server had read them, not the model's own text: they are read
    as OpenAI messages, and what reads passes through every format.

    All of OpenHands' turns read. The Hermes harness has closing words without a call, and
    mini-swe-agent let its model make several calls in one turn: neither is a turn of ours.
    """
    form = action_format("openai_tools")
    read: list[ToolCall] = []
    errors: Counter[str] = Counter()
    for row in messages(shared_data / f"trajectories/{file}.jsonl"):
        for text in _as_messages(row["response"]["output"]):
            try:
                read.append(form.parse(text))
            except FormatError as error:
                errors[str(error)] += 1
    assert (len(read), errors) == (calls, refused)
    for name in WITH_TOOLS:
        other = action_format(name)
        for call in read:
            call = ToolCall(call.name, call.arguments, call.reasoning.strip())
            assert other.parse(other.render(call)) == call


def _as_messages(output: list[dict[str, Any]]) -> list[str]:
    """The items of OpenAI's newer API as assistant messages of the older one."""
    found: list[str] = []
    content, calls = "", []
    for item in [*output, {"type": "end"}]:
        if item["type"] == "function_call":
            function = {key: item[key] for key in ("name", "arguments")}
            calls.append({"type": "function", "function": function})
        elif item["type"] == "message" and item["role"] == "assistant":
            content += "".join(part["text"] for part in item["content"])
        elif content or calls:
            found.append(json.dumps({"content": content, "tool_calls": calls}))
            content, calls = "", []
    return found
