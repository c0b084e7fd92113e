"""Random calls and broken turns, from a seed: what models write at their worst."""

from __future__ import annotations

import numpy as np

from swe_gym_env.actions import ActionFormat
from swe_gym_env.tools import schema
from swe_gym_env.types import ToolCall

PIECES = [
    *("</parameter>", "<\\/parameter>", "<parameter=path>", "</function>", "<function=bash>"),
    *("<tool_call>", "</tool_call>", "<\\/tool_call>", '{"name": "bash", "arguments": {', "}}"),
    *('"tool_calls": [', '"function"', '"arguments": "', "null", "[1, 2]", "[[[[", "{", "}", "]"),
    *("```bash\n", "```", "````", "\n", "\r\n", "\n\n", " ", "\t", "\\", "\\\\", "\\n", '"', '\\"'),
    *(
        "'",
        "$(x)",
        "&lt;",
        "é",
        "日本",
        "😀",
        "\0",
        "\x1b[0m",
        "\u2028",
        "\x85",
        "\ud800",
        "\ufeff",
    ),
    *("9" * 30, "9" * 5000, "1e999", "-0", "NaN", "\\ud800", "\\u12", "<|im_end|>", "<", ">", "="),
    *("ls -la", "finish", "def f(x):\n    return x", "I look.", "", "<think>", "</think>"),
]
VALUES = {"integer": ["0", "12", "-1", "007", "1e5"], "lines": ["[1, 20]", "[3,-1]", "[2]"]}


def text(rng: np.random.Generator, most: int) -> str:
    return "".join(PIECES[i] for i in rng.integers(len(PIECES), size=rng.integers(most + 1)))


def call(rng: np.random.Generator) -> ToolCall:
    """Any call: mostly of our tools, with arguments right, wrong or hostile."""
    tools = [*schema.TOOLS.values(), schema.Tool("browse", ""), schema.Tool("a.b-c_d", "")]
    tool = tools[rng.integers(len(tools))]
    arguments = {}
    for parameter in tool.parameters or (schema.Parameter("url", ""),):
        if parameter.required or rng.random() < 0.4:
            right = (*parameter.choices, *VALUES.get(parameter.type, ()))
            likely = right and rng.random() < 0.7
            arguments[parameter.name] = right[rng.integers(len(right))] if likely else text(rng, 8)
    return ToolCall(tool.name, arguments, text(rng, 4).strip())


def broken(rng: np.random.Generator, form: ActionFormat, valid: list[str]) -> str:
    """A valid turn after a few accidents, or noise."""
    kind = rng.random()
    if kind < 0.1:
        return text(rng, 15)
    if kind < 0.15:  # any code points at all
        points = rng.integers(0x110000, size=rng.integers(40))
        return "".join(map(chr, points.tolist()))
    turn = valid[rng.integers(len(valid))]
    if kind < 0.2:
        return turn + text(rng, 2) + valid[rng.integers(len(valid))]
    for _ in range(rng.integers(1, 4)):
        a, b = sorted(rng.integers(len(turn) + 1, size=2).tolist())
        b = min(b, a + 12) if rng.random() < 0.8 else b
        put = ["", text(rng, 1), turn[a:b] * 2, turn[b:a:-1]][rng.integers(4)]
        turn = turn[:a] + put + turn[b:]
    return turn
