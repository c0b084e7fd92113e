"""The fenced bash block: what is a turn, what is not, and that any text at all gets an answer."""

from __future__ import annotations

import random

import pytest

from swe_gym_env.actions import FormatError, action_format
from swe_gym_env.errors import SetupError
from swe_gym_env.types import ToolCall

FORM = action_format("bash_block")

PIECES = [
    *("```", "````", "``", "`", "```bash\n", "```sh\n", "```python\n", "\n```\n", "\n````\n"),
    *("\n", "\r\n", " ", "\t", "finish", "ls -la", "cat <<E\n```\nE", "é", "日本", "\0", "\ud800"),
    *("<|im_end|>", "\x1b[0m", "'", '"', "\\", "I look.", "```bash ls```", "~~~bash\n", "\u2028"),
]


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("```bash\nls\n```", ToolCall("bash", {"command": "ls"})),
        ("I look.\n```bash\nls\n```", ToolCall("bash", {"command": "ls"}, "I look.")),
        ("```sh\nls\n```", ToolCall("bash", {"command": "ls"})),
        ("  ```bash \r\nls\r\n```\r\n", ToolCall("bash", {"command": "ls\r"})),
        ("```bash\nls\n```\nNow we wait.", ToolCall("bash", {"command": "ls"})),
        ("```bash\nfinish\n```", ToolCall("finish")),
        ("Done.\n```bash\n finish \n```", ToolCall("finish", reasoning="Done.")),
        (
            "````bash\ncat <<E\n```\nE\n````",
            ToolCall("bash", {"command": "cat <<E\n```\nE"}),
        ),
        (
            "It says\n```python\n1/0\n```\nso\n```bash\nls\n```",
            ToolCall("bash", {"command": "ls"}, "It says\n```python\n1/0\n```\nso"),
        ),
    ],
)
def test_a_turn_is_read(text: str, call: ToolCall) -> None:
    assert FORM.parse(text) == call


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no ```bash block"),
        ("ls", "no ```bash block"),
        ("```\nls\n```", "no ```bash block"),
        ("```bash ls```", "no ```bash block"),
        ("```bash\nls", "not closed"),
        ("```bash\nls\n```\n```python\nx", "not closed"),
        ("```bash\n\n```", "empty"),
        ("```bash\nls\n```\n```bash\npwd\n```", "more than one"),
    ],
)
def test_invalid_turn_error_says_why(text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        FORM.parse(text)


def test_any_text_is_a_call_or_a_format_error() -> None:
    rng = random.Random(0)
    calls = errors = 0
    for _ in range(20_000):
        text = "".join(rng.choices(PIECES, k=rng.randrange(12)))
        try:
            call = FORM.parse(text)
        except FormatError as error:
            assert len(str(error)) < 60
            errors += 1
        else:
            assert call.name in ("bash", "finish")
            assert FORM.parse(FORM.render(call)).arguments == call.arguments
            calls += 1
    assert calls > 300 and errors > 5_000


def test_what_is_rendered_reads_the_same() -> None:
    rng = random.Random(1)
    checked = 0
    while checked < 5_000:
        command = "".join(rng.choices(PIECES, k=rng.randrange(1, 8)))
        reasoning = "".join(rng.choices(PIECES, k=rng.randrange(4))).replace("```", "").strip()
        if not command.strip() or command.strip() == "finish" or "```" in reasoning:
            continue
        call = ToolCall("bash", {"command": command}, reasoning)
        assert FORM.parse(FORM.render(call)) == call
        checked += 1
    assert FORM.parse(FORM.render(ToolCall("finish", reasoning="ok"))).reasoning == "ok"


def test_a_fence_in_the_reasoning_cannot_pass_for_the_command() -> None:
    call = ToolCall("bash", {"command": "ls"}, "I would\n```bash\nrm -r .\n```\nbut no")
    assert FORM.parse(FORM.render(call)).arguments == {"command": "ls"}


@pytest.mark.parametrize(
    "call", [ToolCall("bash"), ToolCall("bash", {"command": " "}), ToolCall("browse", {"url": "x"})]
)
def test_what_the_format_cannot_say_is_refused(call: ToolCall) -> None:
    with pytest.raises(FormatError, match="only bash and finish"):
        FORM.render(call)


@pytest.mark.slow
@pytest.mark.timeout(60)  # a search that looks at each place for each place takes hours
def test_a_huge_text_is_read_in_one_pass() -> None:
    for text in ("```" + " " * 200_000 + "`", "```" + "a" * 200_000 + "`", "```\n" * 50_000):
        with pytest.raises(FormatError):
            FORM.parse(text)


def test_an_unknown_format_names_what_exists() -> None:
    with pytest.raises(SetupError, match="bash_block"):
        action_format("semaphore")
