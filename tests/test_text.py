"""Text at the edges: what no file can hold is found, and no terminal is commanded."""

from __future__ import annotations

import pytest

from swe_gym_env.text import half_character, shown
from swe_gym_env.types import Outcome, from_dict, to_dict


def test_half_a_character_is_found_and_bytes_are_none() -> None:
    assert half_character("plain, café, 日本, \U0001f600") == ""
    assert half_character("Gr\udcfc\udcdfe") == ""  # bytes of a Latin-1 file
    assert half_character("ab\ud83d") == "'\\ud83d' at character 3"
    with pytest.raises(UnicodeEncodeError):
        "ab\ud83d".encode("utf-8", "surrogateescape")


def test_control_characters_become_escapes() -> None:
    assert shown("a\x1b[2J\rb\x9bc\u202ed\udce9") == "a\\x1b[2J\\x0db\\x9bc\\u202ed\\udce9"
    assert shown("two\nlines\tcafé 日本 \U0001f600") == "two\nlines\tcafé 日本 \U0001f600"


def test_the_reason_of_an_outcome_is_safe_when_made_and_when_read() -> None:
    outcome = Outcome("tampered", reason="\x1b]0;title\x07.py was changed")
    assert outcome.reason == "\\x1b]0;title\\x07.py was changed"
    stored = {**to_dict(outcome), "reason": "\x1b[31m"}
    assert from_dict(Outcome, stored).reason == "\\x1b[31m"
