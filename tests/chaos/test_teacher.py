"""A teacher that fails in every way: the round ends, what it left unlabeled is counted, once."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.chaos.faults import Arena
from tests.support.chaos.teacher import FaultyTeacher, served


@pytest.mark.timeout(600)
def test_a_teacher_with_a_third_of_faults_costs_labels_and_no_episode(arena: Arena) -> None:
    with served(FaultyTeacher(0.3)) as teacher:
        asked = (f"teacher.base_url={teacher.url}", "teacher.model=teacher", "teacher.timeout=1")
        job = arena.job("teacher=server", *asked, "episodes_per_round=5")
        run = job.finish()
    assert len(teacher.sent) > 5, teacher.sent
    assert not job.doubled() and not job.orphans() and "Traceback" not in run.output
    rounds = [episode for episode in job.raw() if "/rounds/" in episode["file"]]
    assert len(rounds) == 2 + 5 and not any(e["outcome"]["mask"] for e in rounds)
    reported = dict(re.findall(r"round (\d): (\d+) of \d+ states unlabeled", run.output))
    counted = {}
    for path in job.files("metrics.json"):
        measured = json.loads(path.read_text())
        if measured.get("unlabeled"):
            counted[str(measured["round"])] = str(measured["unlabeled"])
    assert reported == counted and sum(map(int, counted.values())) > 0
    lines = [line for line in run.output.splitlines() if "unlabeled" in line or "HTTP" in line]
    assert len(lines) == len(counted), "one line for a round"
