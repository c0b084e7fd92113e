"""What stored episodes show without a model: each measure on episodes made for it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy.stats import norm

from experiments import analyze
from experiments.analysis import agreement, cost, failures, finishing, shares, state_distance
from experiments.analysis.measure import NotMeasured
from experiments.results import statistics
from experiments.results.tables import Curve, Table
from experiments.runs import tables as table_files
from experiments.runs.reader import StoredRun, read_runs
from swe_gym_env.errors import SetupError
from swe_gym_env.rollout.driver import Request
from swe_gym_env.rollout.mixers import SingleSwitch
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.types import Annotation, Episode, Outcome, TaskInstance, ToolCall, Turn
from tests.experiments.conftest import ROOT
from tests.experiments.sample_run import sample_run, write_lines
from tests.support.toy_tasks import GOLD, toy_task

LOOK, EDIT, TEST = "cat calc.py", "sed -i 's/a - b/a + b/' calc.py", "python -m pytest -q"
TASK = TaskInstance("t", "r", "c", "i", "p", GOLD, "", ("f::a",), ("f::b",), "")


def turn(command: str, actor: str = "student", seen: str = "output") -> Turn:
    call = ToolCall("bash", {"command": command}, "Why not.")
    return Turn(seen, actor, f"Why not.\n```bash\n{command}\n```", call)  # type: ignore[arg-type]


def played(name: str, *turns: Turn, task: str = "t", resolved: bool = False, **fields) -> Episode:  # type: ignore[no-untyped-def]
    outcome = Outcome("resolved", 1.0) if resolved else Outcome("unresolved")
    made = Episode(name, task, 0, 1, 0, "", turns, outcome, "finished")
    return replace(made, **fields)


def stored(folder: Path, algorithm: str = "algorithms.dagger.DAgger", **options: object) -> Path:
    own = {"_target_": algorithm, "name": "made up", **options}
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create({"seed": 3, "algorithm": own}), folder / "config.yaml")
    return folder


def only(folder: Path) -> StoredRun:
    (run,) = read_runs([folder])
    return run


# -- intervals -----------------------------------------------------------------------------------


def test_the_bootstrap_is_the_normal_interval_where_that_holds() -> None:
    values = np.random.default_rng(0).exponential(size=400)
    found, low, high = statistics.mean(list(values))
    half = norm.ppf(0.975) * values.std(ddof=1) / 20
    assert found == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((found - half, found + half), abs=half / 8)

    other = values + 1
    pairs = [[(value, 1.0) for value in part] for part in (values, other)]
    gap, low, high = statistics.difference(*pairs)
    assert gap == pytest.approx(1)
    assert (low, high) == pytest.approx((1 - 2**0.5 * half, 1 + 2**0.5 * half), abs=half / 8)


def test_a_ratio_counts_every_turn_once_and_resamples_whole_episodes() -> None:
    """Turns that all agree within an episode: the interval is as wide as that of the episodes."""
    hits = [10] * 30 + [0] * 30
    found, low, high = statistics.clustered_share(hits, [10] * 60)
    alone = statistics.mean([1.0] * 30 + [0.0] * 30)
    assert (found, low, high) == pytest.approx(alone)
    assert statistics.ratio([3, 0, 1], [4, 0, 6])[0] == pytest.approx(0.4)
    assert statistics.ratio([], []) == (None, None, None)
    assert statistics.clustered_share([2, 3], [2, 3]) == statistics.share(2, 2)
    assert statistics.ratio([0.5, 0.5], [1, 1]) == (0.5, None, None)


# -- agreement -----------------------------------------------------------------------------------


def test_agreement_looks_at_turns_that_the_student_executed(tmp_path: Path) -> None:
    folder = RoundFolder(stored(tmp_path / "run-1") / "rounds" / "round_001")
    broken = replace(turn(LOOK), action=None)
    episode = played("e", turn(LOOK, "teacher"), turn(LOOK), turn(EDIT), broken, turn(TEST))

    def label(at: int, command: str, message: str = "Why not.") -> Annotation:
        text = f"{message}\n```bash\n{command}\n```"
        return Annotation("e", at, "expert", text, ToolCall("bash", {"command": f"{command} "}))

    labels = [
        replace(label(0, LOOK), executed=True),
        label(1, LOOK),
        label(2, EDIT, "Fix it."),
        label(3, LOOK),
        replace(label(4, TEST), text=None, action=None),
    ]
    folder.append(episode, labels)
    run = only(tmp_path / "run-1")
    rows = [row[2:6] + row[7:8] for row in map(tuple, agreement.by_turn(run))]
    assert rows == [(1, 1, 1, rows[0][3], 1), (2, 1, 0, 0, 1), (3, 1, 1, rows[2][3], 0)]
    ((round, who, episodes, turns, text, *_, call, _, _),) = agreement.by_round(run)
    assert (round, who, episodes, turns) == (1, "expert", 1, 3)
    assert (text, call) == pytest.approx((2 / 3, 2 / 3))


def test_without_labels_of_students_turns_there_is_no_agreement(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="label"):
        list(agreement.by_turn(only(stored(tmp_path / "run-1"))))


def test_who_finishes_with_nothing_changed(tmp_path: Path) -> None:
    folder = RoundFolder(stored(tmp_path / "run-1") / "rounds" / "round_001")
    look, missed = replace(turn(LOOK), patch=""), replace(turn(EDIT), patch="")
    hit, end = replace(turn(EDIT, "teacher"), patch="diff"), replace(turn("-"), patch=None)
    end = replace(end, action=ToolCall("finish"))
    labels = [
        Annotation("a", 2, "expert", "again", ToolCall("bash", {"command": EDIT})),
        Annotation("b", 1, "expert", "look", ToolCall("finish"), executed=True),  # its own turn
        Annotation("b", 2, "expert", "done", ToolCall("finish")),
        Annotation("b", 3, "expert", None, None, error="silent"),
    ]
    folder.append(played("a", look, missed, end), labels[:1])
    folder.append(played("b", look, hit, end, end), labels[1:])
    folder.append(played("c", end))  # nobody looks after the turn that ends it
    rows = [row[1:6] for row in map(tuple, finishing.by_turn(only(tmp_path / "run-1")))]
    assert rows == [
        ("student", 0, False, 3, 1 / 3),
        ("student", 1, False, 1, 0),
        ("student", 2, False, 1, 1),  # gave up
        ("student", 2, True, 1, 1),
        ("student", 3, True, 1, 1),
        ("teacher", 1, False, 1, 0),  # the turn that it executed, once
        ("teacher", 2, False, 1, 0),
        ("teacher", 2, True, 1, 1),
    ]


def test_whether_a_second_try_was_of_any_use(tmp_path: Path) -> None:
    folder = RoundFolder(stored(tmp_path / "run-1") / "rounds" / "round_001")
    look, hit, other = (replace(turn(LOOK), patch=patch) for patch in ("", "diff", "other"))
    same, end = replace(look, patch=None), replace(turn("-"), patch=None)
    folder.append(played("never", look, look, end), [])
    folder.append(played("first", look, hit, same, end, patch="diff", resolved=True), [])
    folder.append(played("first too", look, hit, end, patch="diff"), [])
    folder.append(played("second", look, same, hit, end, patch="diff", resolved=True), [])
    folder.append(played("again", look, hit, other, end, patch="other"), [])
    folder.append(played("by the last turn", look, same, patch="diff"), [])
    run = only(tmp_path / "run-1")
    rows = [row[1:5] for row in map(tuple, finishing.by_last_change(run))]
    assert rows == [(None, 1, 0, None), (1, 3, 1, None), (2, 2, 1, None)]
    right, wrong = replace(hit, patch=GOLD), replace(hit, patch=GOLD.replace("+", "-"))
    folder.append(played("broken_again", look, right, wrong, end, patch=wrong.patch or ""), [])
    folder.append(played("kept", look, right, end, patch=GOLD, resolved=True), [])
    rows = [row[1:5] for row in finishing.by_last_change(replace(run, tasks={"t": TASK}))]
    assert rows == [(None, 1, 0, 0), (1, 4, 2, 0), (2, 3, 1, 1)]


def test_without_a_look_at_the_files_nobody_knows_what_was_changed(tmp_path: Path) -> None:
    folder = RoundFolder(stored(tmp_path / "run-1") / "rounds" / "round_001")
    folder.append(played("a", turn(LOOK), turn(LOOK)), [])
    with pytest.raises(NotMeasured, match="what was changed"):
        list(finishing.by_turn(only(tmp_path / "run-1")))


# -- visited states --------------------------------------------------------------------------------


def test_distance_is_to_the_nearest_state_of_the_teacher() -> None:
    teacher = state_distance.TeacherStates.of([played("d", turn(LOOK), turn(EDIT), turn(TEST))])
    same = played("a", turn(LOOK), turn(EDIT), turn(TEST))
    assert [
        (v.turn, v.same_task, v.shape, v.new) for v in state_distance.visits([same], teacher)
    ] == [
        (1, 0, 0, False),
        (2, 0, 0, False),
    ]
    # other words of one shape, and a command that missed
    other = played("b", turn("cat x/y.py"), turn(EDIT), turn(TEST, seen="(no output)"), task="u")
    one, two = state_distance.visits([other], teacher)
    assert (one.same_task, one.shape, one.new) == (None, 0, False)
    assert two.new and 0 < two.shape < 0.2

    far = played("c", turn("whoami"), turn(TEST))
    (only,) = state_distance.visits([far], teacher)
    # bash whoami END against bash cat calc.py END: 2 of 3 and 4 words match
    assert only.same_task == pytest.approx(1 - 2 * 2 / (3 + 4))


def test_states_that_the_teacher_led_to_do_not_count() -> None:
    teacher = state_distance.TeacherStates.of([played("d", turn(LOOK))])
    led = played("a", turn(EDIT, "teacher"), turn(EDIT, "teacher"), turn(TEST), turn(TEST))
    assert [visit.turn for visit in state_distance.visits([led], teacher)] == [3]


# -- kappa and shares ------------------------------------------------------------------------------


def test_kappa_is_the_one_that_the_mixer_drew(tmp_path: Path) -> None:
    folder = stored(tmp_path / "run-1", "algorithms.oec.OEC", latest=4)
    mixer, kappas = SingleSwitch(4), {}
    for number in range(12):
        request = Request(replace(TASK, instance_id=f"t{number}"), 3, 1)
        kappas[request.episode_id] = mixer.kappa(request.key(0, "mixer"))
        who = [mixer.actor(request.key(n, "mixer")) for n in range(3)]
        episode = played(request.episode_id, *(turn(LOOK, one) for one in who), seed=3)
        episode = replace(episode, instance_id=f"t{number}")
        RoundFolder(folder / "rounds" / "round_001").append(episode)
    rows = {row[1]: (row[2], row[3]) for row in map(tuple, shares.by_kappa(only(folder)))}
    values = list(kappas.values())
    assert rows == {k: (values.count(k), values.count(k) * (k < 3)) for k in set(values)}


def test_every_share_has_one_bin() -> None:
    names = [shares.bin_of(value) for value in (0, 0.1, 0.25, 0.26, 0.5, 0.75, 0.9, 1)]
    assert names == [
        *("0", "0 to 0.25", "0 to 0.25", "0.25 to 0.5", "0.25 to 0.5", "0.5 to 0.75"),
        *("0.75 to 1", "1"),
    ]


# -- kinds of failure ------------------------------------------------------------------------------


def changed(before: str, after: str, path: str = "calc.py", line: int = 2) -> str:
    head = f"diff --git a/{path} b/{path}\n--- a/{path}\n+++ b/{path}\n"
    return f"{head}@@ -{line} +{line} @@\n-{before}\n+{after}\n"


FIXED = changed("    return a - b", "    return b - a")
RAN = {"f::a": "FAILED", "f::b": "PASSED"}


def failed(
    patch: str, tests: dict[str, str] = RAN, status: str = "unresolved", **fields
) -> Episode:  # type: ignore[no-untyped-def]
    outcome = Outcome(status, tests=tests, reason=fields.pop("reason", ""))  # type: ignore[arg-type]
    return played("e", turn(LOOK), patch=patch, outcome=outcome, **fields)


@pytest.mark.parametrize(
    ("episode", "kind"),
    [
        (failed(FIXED, status="resolved"), "resolved"),
        (failed(FIXED, status="tampered"), "tampered"),
        (failed("", status="empty_patch"), "gave up"),
        (failed("", status="empty_patch", stop_reason="max_repeats"), "loop"),
        (failed("", status="empty_patch", stop_reason="max_turns"), "never submits"),
        (failed("", status="empty_patch", stop_reason="max_format_errors"), "format errors"),
        (failed("", status="empty_patch", stop_reason="max_tokens"), "out of budget"),
        (failed("", status="empty_patch", stop_reason="context_full"), "out of budget"),
        (failed(changed("a", "b", "other.py")), "wrong file"),
        (failed(changed("a", "b", "other.py"), {}), "wrong file"),
        (failed(changed("    return a - b", "    return (a"), {}), "broken syntax"),
        (failed(changed("    return a - b", "    return (a")), "broken syntax"),
        (failed(changed("    return a - b", "    return missing"), {}), "no test ran"),
        (failed(FIXED, {"f::a": "ABSENT"}), "no test ran"),
        (failed(FIXED, status="timeout"), "tests hang"),
        (failed(FIXED, {"f::a": "PASSED", "f::b": "FAILED"}), "near miss"),
        (failed(FIXED), "near miss"),
        (failed(FIXED, stop_reason="max_repeats"), "near miss"),
        (failed(changed("x", "y", line=6)), "near miss"),
        (failed(changed("x", "y", line=7)), "wrong place"),
    ],
)
def test_an_episode_has_exactly_one_kind(episode: Episode, kind: str) -> None:
    source = {"calc.py": "def add(a, b):\n    return a - b\n"}.get
    assert failures.kind_of(episode, TASK, source) == kind
    assert kind in failures.KINDS


def test_without_the_task_nothing_is_claimed_of_places() -> None:
    assert failures.kind_of(failed(FIXED), None) == "wrong patch"
    assert failures.kind_of(failed(FIXED, {}), None) == "no test ran"
    spared = failed(FIXED, reason="2 tests that passed are broken")
    assert failures.kind_of(spared, None) == "near miss"
    both = failed(FIXED, reason="1 of 1 tests still fail, 2 tests that passed are broken")
    assert failures.kind_of(both, None) == "wrong patch"


def test_syntax_is_read_from_the_tasks_own_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWE_GYM_HOME", str(tmp_path))
    task = replace(toy_task(tmp_path), gold_patch=GOLD)
    run = replace(only(stored(tmp_path / "run-1")), tasks={task.instance_id: task})
    broken = changed("    return a - b", "    return a -")
    for name, patch in (("a", FIXED), ("b", broken)):
        episode = replace(failed(patch, {}), episode_id=name, instance_id=task.instance_id)
        RoundFolder(run.folder / "rounds" / "round_001").append(episode)
    kinds = {row[2]: row[3:5] for row in map(tuple, failures.by_kind(run))}
    assert kinds == {"no test ran": (1, 2), "broken syntax": (1, 2)}


# -- cost ------------------------------------------------------------------------------------------


def test_cost_is_of_the_rounds_between_two_evaluations(tmp_path: Path) -> None:
    folder = stored(tmp_path / "run-1")
    for index, calls in ((0, 100), (1, 150), (2, 300)):
        own = RoundFolder(folder / "rounds" / f"round_{index:03d}")
        mixed = played(f"e{index}", turn(LOOK, "teacher"), turn(LOOK))
        own.append(mixed, [Annotation(f"e{index}", n, "x", "y", executed=n == 0) for n in (0, 1)])
        own.add_metrics(teacher_calls=calls, teacher_generated_tokens=10 * calls)
        own.add_metrics(teacher_prompt_tokens=90 * calls, teacher_cost=calls / 1000)
    good = {"iteration0": 10, "round_001": 15, "round_002": 30}
    for name, many in good.items():
        own = RoundFolder(folder / "evaluations" / name)
        for n in range(50):
            own.append(played(f"{n:02d}", turn(LOOK), task=f"t{n:02d}", resolved=n < many))
    rows = [tuple(row) for row in cost.steps(only(folder))]
    assert [row[:2] for row in rows] == [
        ("after iteration 0", "after round 1"),
        ("after round 1", "after round 2"),
        ("after iteration 0", "after round 2"),
    ]
    # turns, labels, calls, prompt tokens, generated, scored
    assert [row[4:10] for row in rows] == [
        (1, 1, 50, 4500, 500, None),
        (1, 1, 150, 13500, 1500, None),
        (2, 2, 200, 18000, 2000, None),
    ]
    assert [row[10] for row in rows] == pytest.approx([0.05, 0.15, 0.2]), "money"
    assert [row[13] for row in rows] == pytest.approx([0.1, 0.3, 0.4])
    assert rows[1][14] < 0.3 < rows[1][15] and rows[1][16] == pytest.approx(2 * 0.5**15)
    assert rows[2][17] == pytest.approx(1000 * 0.4 / 200)


# -- the command -----------------------------------------------------------------------------------


def test_tables_come_back_as_they_were_written(tmp_path: Path) -> None:
    one = Table("one", "One", ("a", "b"), ((1, None), ("x", 0.5)), "why", ("b",))
    two = replace(one, name="two", curve=Curve("a", "b", by="a"))
    table_files.write(tmp_path, [one, two])
    assert table_files.read(tmp_path) == [one, two]
    changed = replace(one, rows=((2, 3),))
    table_files.add(tmp_path, [changed])
    assert table_files.read(tmp_path) == [two, changed]
    assert (tmp_path / "one.csv").read_text() == "a,b\n2,3\n"


@pytest.mark.e2e
def test_several_runs_are_one_comparison_and_each_its_own(tmp_path: Path) -> None:
    """One of them made as by hand, without a task set, and one with nothing in it."""
    full, empty = sample_run(tmp_path / "made-1"), stored(tmp_path / "made-2")
    write_lines(full / "evaluations" / "untrained" / "episodes.jsonl", [])
    command = [sys.executable, "-m", "experiments.analyze", str(full), str(empty), str(tmp_path)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "both")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path} is no run folder and is left out" in done.stdout.replace("\n", " ")
    assert "made up, seed 3: failures not measured: no episodes" in done.stdout
    found = {table.name: table for table in table_files.read(tmp_path / "both")}
    assert set(found) > {"agreement_by_turn", "visited_by_set", "failures", "not_measured"}
    own = {table.name: table for table in table_files.read(full / "analysis")}
    assert {row[0] for row in found["failures"].rows} == {"?, seed 0"}
    assert own["failures"].rows == found["failures"].rows
    for table in own.values():
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert set(table.shares) <= set(table.columns)
        named = table.curve and (table.curve.x, table.curve.y, table.curve.by)
        assert not named or set(named) <= set(table.columns)
        assert (full / "analysis" / f"{table.name}.csv").is_file()
    data = json.loads((full / "analysis" / "tables.json").read_text())
    assert set(data[0]) == {"name", "title", "columns", "rows", "note", "shares", "curve"}


def test_a_sweep_stands_for_its_runs(tmp_path: Path) -> None:
    for number in (1, 2):
        stored(tmp_path / f"made-{number}")
    sweep = tmp_path / "sweep-1"
    sweep.mkdir()
    cells = [{"run": f"made-{number}"} for number in (1, 2)]
    (sweep / "sweep.json").write_text(json.dumps({"cells": cells}))
    given = analyze.arguments().parse_args([str(sweep)])
    analyze._open_sweeps(given)
    assert given.runs == [tmp_path / "made-1", tmp_path / "made-2"]
    assert given.out == sweep / "analysis"


def test_runs_of_one_name_are_distinguished_and_a_wrong_folder_is_named(tmp_path: Path) -> None:
    runs = [stored(tmp_path / f"run-{name}") for name in ("1a", "2b")]
    assert [run.name for run in read_runs(runs)] == [
        "made up, seed 3 (1a)",
        "made up, seed 3 (2b)",
    ]
    with pytest.raises(SetupError, match=r"config\.yaml"):
        read_runs([tmp_path])
