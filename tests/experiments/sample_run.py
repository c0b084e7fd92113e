"""A run folder as ``experiments/runs/folders.py`` lays it out, with episodes that try to break
it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

from swe_gym_env.types import Annotation, Episode, Outcome, ToolCall, Turn, to_dict

HOSTILE = (
    "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'> "
    "<!-- \u2028 \ud800 \x00 \x1b[31m & &amp; {{ 7 * 7 }}"
)
STOPS = ["max_turns", "max_repeats", "finished"]
PATCH = """diff --git a/src/funcy/seqs.py b/src/funcy/seqs.py
--- a/src/funcy/seqs.py
+++ b/src/funcy/seqs.py
@@ -41,7 +41,7 @@ def take(n, seq):
 def drop(n, seq):
     \"\"\"Skips first n items in the sequence, yields the rest.\"\"\"
-    return islice(seq, n + 1, None)
+    return islice(seq, n, None)
 
"""
REPORT = """Calling `drop(2, [1, 2, 3, 4])` gives the wrong result.

Expected [3, 4], got [4]. The problem is in `drop` in src/funcy/seqs.py.
"""


def block(command: str, thought: str = "") -> str:
    return f"{thought}\n```bash\n{command}\n```" if thought else f"```bash\n{command}\n```"


def turn(
    observation: str, actor: str, command: str, thought: str = "", patch: str | None = None
) -> Turn:
    return Turn(
        observation=observation,
        actor=actor,  # type: ignore[arg-type]
        text=block(command, thought),
        action=ToolCall("bash", {"command": command}),
        act_seconds=1.3,
        step_seconds=0.2,
        patch=patch,
    )


def episode(name: str, number: int, index: int, resolved: bool, share: float = 0.0) -> Episode:
    rng = random.Random(f"{name}{number}{index}")
    who = ["teacher" if rng.random() < share else "student" for _ in range(4)]
    source = "\n".join(f"{line:5d}\t    yield seq[{line}]  # a line" for line in range(30, 60))
    turns = [
        turn(REPORT, who[0], "sed -n '30,60p' src/funcy/seqs.py", "I look at it first.", ""),
        turn(source, who[1], "sed -i '44s/n + 1/n/' src/funcy/seqs.py", "One off.", PATCH),
        turn("(no output)", who[2], "python -m pytest -q -x tests/test_seqs.py", "Now the tests."),
        Turn("1 passed in 0.03s", who[3], HOSTILE if number == 0 else block("finish")),  # type: ignore[arg-type]
    ]
    status = "resolved" if resolved else rng.choice(["unresolved", "empty_patch"])
    tests = {f"tests/test_seqs.py::test_{k}": "PASSED" for k in range(200)}
    if status == "unresolved":
        tests["tests/test_seqs.py::test_drop"] = "FAILED"
    return Episode(
        episode_id=f"{name}/{index}/0/{number}",
        instance_id=f"funcy-2.0__{'compare_swap' if number % 2 else 'off_by_one'}__{number:03d}",
        seed=0,
        round=index,
        repeat=0,
        system_prompt="Fix the bug. One bash block a turn; `finish` ends.",
        turns=tuple(turns),
        outcome=Outcome(status, float(resolved), tests=tests if status != "empty_patch" else {}),  # type: ignore[arg-type]
        stop_reason="finished" if resolved else rng.choice(STOPS),
        final_observation=HOSTILE if number == 0 else "",
        patch="" if status == "empty_patch" else PATCH,
        seconds=7.25,
    )


def write_lines(path: Path, rows: Iterable[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(to_dict(row)) + "\n" for row in rows))


def sample_run(folder: Path, tasks: int = 60, training: int = 24, seed: int = 0) -> Path:
    """Three evaluations on the same tasks and three rounds."""
    rng = random.Random(seed)
    for name, index, chance in (
        ("untrained", 0, 0.0),
        ("iteration0", 0, 0.2),
        ("round_002", 2, 0.4),
    ):
        rows = [episode(name, k, index, rng.random() < chance) for k in range(tasks)]
        write_lines(folder / "evaluations" / name / "episodes.jsonl", rows)
    for index, share in ((0, 1.0), (1, 0.6), (2, 0.3)):
        path = folder / "rounds" / f"round_{index:03d}"
        rows = [episode(f"r{index}", k, index, rng.random() < 0.6, share) for k in range(training)]
        labels = [
            Annotation(
                e.episode_id,
                number,
                "expert",
                t.text if t.actor == "teacher" else block("git diff", "What did I change?"),
                executed=t.actor == "teacher",
            )
            for e in rows
            for number, t in enumerate(e.turns)
        ]
        write_lines(path / "episodes.jsonl", rows)
        write_lines(path / "annotations.jsonl", labels)
        losses = [2.2 * 0.97**k + rng.random() * 0.4 for k in range(index * 30, index * 30 + 40)]
        metrics = {"round": index, "planned_teacher_share": share, "losses": losses}
        metrics |= {"teacher_calls": 100 * (index + 1), "teacher_generated_tokens": 900}
        metrics |= {"teacher_scored_tokens": 0, "sampled_tokens": 50, "trained_tokens": 7000}
        (path / "metrics.json").write_text(json.dumps(metrics))
    phases = {"tasks": 212.4, "evaluate untrained": 140.0, "collect round_000": 31.0}
    phases |= {"train round_000": 160.0, "evaluate iteration0": 122.0}
    phases |= {"collect round_001": 95.0, "train round_001": 88.0}
    (folder / "phases.json").write_text(json.dumps(phases))
    (folder / "config.yaml").write_text(
        f"seed: {seed}\nname: '</pre><script>window.pwned = 1</script>'\n"
    )
    return folder
