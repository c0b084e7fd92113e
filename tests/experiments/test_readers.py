"""All that read a round agree on what it holds, whatever happened to its files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.plan.known import Seen
from experiments.report import run_tables, write_report
from experiments.results import metrics
from experiments.runs.evaluations import read as read_evaluation
from experiments.runs.reader import EpisodeSet, read_run
from experiments.runs.watch import Tail
from experiments.view import write_view
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.types import Annotation, Episode, Outcome, Scores, Turn, to_dict
from tests.experiments.sample_run import block, sample_run
from tests.support.opened import opened

FAULT = Outcome("infra_error", mask=True, reason="the sandbox died")


def episode(number: int, who: str, outcome: Outcome | None = None) -> Episode:
    """A turn for each letter of ``who``: t(eacher) or s(tudent)."""
    names = {"t": "teacher", "s": "student"}
    turns = tuple(
        Turn("seen", names[one], block(f"ls {number} {k} {one}"))  # type: ignore[arg-type]
        for k, one in enumerate(who)
    )
    return Episode(
        *(f"0/1/calc-{number}/0", f"calc-{number}", 0, 1, 0, "system", turns),
        outcome or Outcome("resolved", 1.0),
        "finished",
    )


def labels(of: Episode, annotator: str = "expert", word: str = "pwd") -> list[Annotation]:
    return [
        Annotation(of.episode_id, k, annotator, turn.text, executed=True)
        if turn.actor == "teacher"
        else Annotation(of.episode_id, k, annotator, block(word))
        for k, turn in enumerate(of.turns)
    ]


def by_hand(path: Path, *rows: object) -> None:
    """As an older version wrote them: without the attempt."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(to_dict(row)) + "\n" for row in rows)


def counts(folder: Path) -> dict[str, tuple[int, int, int, int]]:
    """By reader: episodes, those without a fault, turns, and those of the teacher; of the latter
    two where it is a matter of valid episodes alone."""
    stored = RoundFolder(folder)
    run = read_run(folder.parents[1])
    (reported,) = [part for part in run.rounds if part.round == int(folder.name[-3:])]
    shown = {  # what the page and the CSV say
        name: dict(zip(table.columns, table.rows[0], strict=True))
        for name, table in (("rounds", run_tables.rounds(run)), ("cost", run_tables.cost(run)))
    }
    tail = Tail(folder)
    tail.read(0.0)

    def count(episodes: list[Episode] | tuple[Episode, ...]) -> tuple[int, int, int, int]:
        valid = [e for e in episodes if not e.outcome.mask]
        turns = [turn for e in valid for turn in e.turns]
        return len(episodes), len(valid), len(turns), sum(t.actor == "teacher" for t in turns)

    found = count(stored.episodes())
    counted = metrics.of_round(stored.episodes(), stored.annotations())
    assert counted["teacher_share"] == pytest.approx(found[3] / found[2] if found[2] else 0)
    share = metrics.teacher_share(reported.valid)
    assert share == pytest.approx(counted["teacher_share"])
    assert shown["rounds"]["turns"] == share
    assert shown["rounds"]["episodes"] == shown["cost"]["episodes"] == found[0]
    assert len(tail.outcomes) == found[0]
    assert sum(not outcome.mask for outcome in tail.outcomes.values()) == found[1]
    valid = EpisodeSet("round 1", stored, 1, training=True).valid
    assert count(valid)[1:] == found[1:]
    assert len(Seen.of(reported).turns) == sum(bool(e.turns) for e in stored.episodes())
    return {
        "rounds": found,
        "metrics": (counted["episodes"], counted["n"], counted["turns"], found[3]),
        "evaluation": count(list(read_evaluation(folder).episodes or ())),
        "report": count(reported.episodes),
        "view": count(EpisodeSet("training", stored).read()[0]),
    }


def agreed(folder: Path) -> tuple[int, int, int, int]:
    found = counts(folder)
    assert len(set(found.values())) == 1, found
    return found["rounds"]


def read_labels(folder: Path) -> list[Annotation]:
    """As training, the report, the page and the analysis have them, which is the same."""
    stored = RoundFolder(folder)
    found = stored.annotations()
    run = read_run(folder.parents[1])
    assert list(run.rounds[0].annotations) == found == stored.read(1).annotations
    assert EpisodeSet("round 1", stored, 1).annotations == found
    viewed = EpisodeSet("training", stored).read()[1]
    assert sorted((a for own in viewed.values() for a in own), key=repr) == sorted(found, key=repr)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "dagger-1" / "rounds" / "round_001"
    RoundFolder(path).add_metrics(round=1)
    (tmp_path / "dagger-1" / "config.yaml").write_text("seed: 0\n")
    return path


@pytest.mark.parametrize("writer", ["this version", "an older version", "older, then this"])
def test_a_replayed_episode_counts_once_with_its_own_labels(folder: Path, writer: str) -> None:
    first, again = episode(0, "tstst", FAULT), episode(0, "ss")
    other = episode(1, "ts")
    stored = RoundFolder(folder)
    attempts = [(first, labels(first, word="old")), (other, labels(other)), (again, labels(again))]
    for place, (one, own) in enumerate(attempts):
        if writer == "this version" or (writer != "an older version" and place == 2):
            stored.append(one, own)
        else:
            by_hand(folder / "annotations.jsonl", *own)
            by_hand(folder / "episodes.jsonl", one)
    assert agreed(folder) == (2, 2, 4, 1)
    assert read_labels(folder) == [*labels(again), *labels(other)]


def test_a_label_that_only_the_first_attempt_has_is_not_read(folder: Path) -> None:
    stored = RoundFolder(folder)
    first, again = episode(0, "sss", FAULT), episode(0, "sss")
    stored.append(first, labels(first))
    stored.append(again, labels(again)[:1])  # the budget was spent
    assert read_labels(folder) == labels(again)[:1]
    killed = labels(again, word="killed before its episode was written")
    with (folder / "annotations.jsonl").open("a") as file:
        for one in killed:
            file.write(json.dumps({**to_dict(one), "attempt": "feedfeed"}) + "\n")
    assert read_labels(folder) == labels(again)[:1]


def test_the_turn_that_an_older_attempt_executed_is_no_label(folder: Path) -> None:
    """Without tags: at turn 0 the teacher acted at first, the student the second time."""
    first, again = episode(0, "ts", FAULT), episode(0, "ss")
    by_hand(folder / "annotations.jsonl", *labels(first), labels(again)[1])
    by_hand(folder / "episodes.jsonl", first, again)
    assert read_labels(folder) == [labels(again)[1]]


def test_labels_by_another_annotator_belong_to_the_attempt_that_counts(folder: Path) -> None:
    stored = RoundFolder(folder)
    first, again = episode(0, "ss", FAULT), episode(0, "sss")
    stored.append(first, labels(first))
    stored.append(again, labels(again))
    others = labels(again, "server")
    stored.add_annotations([replace(others[0], text=None, error="HTTP 500")])
    RoundFolder(folder).add_annotations(others)  # a failed one is asked again
    assert read_labels(folder) == sorted(
        [*labels(again), *others], key=lambda a: (a.episode_id, a.turn, a.annotator)
    )


@pytest.mark.parametrize("tagged", [True, False])
def test_scores_of_an_earlier_attempt_are_not_read(folder: Path, tagged: bool) -> None:
    first, again = episode(0, "sss", FAULT), episode(0, "s")

    def scores(of: Episode) -> list[Scores]:
        return [Scores(of.episode_id, k, "teacher", (-1.0,)) for k in range(len(of.turns))]

    stored = RoundFolder(folder)
    if tagged:
        stored.append(first)
        stored.add_scores(scores(first))
        stored.append(again)
        assert stored.scores() == []
    else:
        by_hand(folder / "episodes.jsonl", first, again)
        by_hand(folder / "scores.jsonl", *scores(first))
    stored.add_scores(scores(again))
    assert stored.scores() == scores(again) == stored.read(1).scores


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b'{"episode_id": "0/1/calc-7/0", "inst',  # torn, and the last
        b'{"episode_id": "0/1/calc-7/0", "inst\n',  # torn, and others after it
        b"\0" * 4096,  # what a crash of the machine leaves
        b"\0" * 4096 + b"\n",
        b"\n\r\n  \n",
        b"[1, 2]\n3\nnull\n",
        b'{"episode_id": "0/1/calc-7/0"}\n',  # not all of an episode
        b"\xff\xfe{}\n",
        b"[" * 100_000 + b"\n",
    ],
)
@pytest.mark.parametrize("place", ["before", "between", "after"])
def test_damaged_lines_are_left_out_by_all(folder: Path, damage: bytes, place: str) -> None:
    stored, rows = RoundFolder(folder), [episode(0, "ts"), episode(1, "sst")]
    path = folder / "episodes.jsonl"
    for number, one in enumerate(rows):
        if number == ("before", "between").index(place) if place != "after" else False:
            whole = damage if damage.endswith(b"\n") else b""  # else _append has cut it off
            path.write_bytes((path.read_bytes() if path.exists() else b"") + whole)
        stored.append(one, labels(one))
    if place == "after":
        path.write_bytes(path.read_bytes() + damage)
    assert agreed(folder) == (2, 2, 5, 2)
    assert read_labels(folder) == [*labels(rows[0]), *labels(rows[1])]
    stored.append(episode(2, "s"))
    assert agreed(folder) == (3, 3, 6, 2)


def test_a_file_that_another_program_wrote(folder: Path) -> None:
    """A byte-order mark, CRLF, keys that we do not know."""
    rows = [episode(0, "ts"), episode(1, "s")]
    text = "\r\n".join(json.dumps({**to_dict(one), "new": {"key": 1}}) for one in rows) + "\r\n"
    folder.mkdir(exist_ok=True)
    (folder / "episodes.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert agreed(folder) == (2, 2, 3, 1)


def test_files_without_a_line(folder: Path) -> None:
    for name in ("episodes.jsonl", "annotations.jsonl", "scores.jsonl"):
        (folder / name).touch()
    stored = RoundFolder(folder)
    assert (stored.episodes(), stored.annotations(), stored.scores()) == ([], [], [])
    assert read_run(folder.parents[1]).rounds[0].episodes == []


def test_a_damaged_line_is_reported_with_its_number(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    RoundFolder(folder).append(episode(0, "s"))
    with (folder / "episodes.jsonl").open("ab") as file:
        file.write(b"{}}\n")
    RoundFolder(folder).episodes()
    assert "episodes.jsonl, line 2 is damaged and is left out" in caplog.text


def test_lone_surrogates_are_written_and_read_back(folder: Path) -> None:
    odd = replace(episode(0, "s"), final_observation="half \ud83d of one")
    RoundFolder(folder).append(odd, [Annotation(odd.episode_id, 0, "expert", "half \ude00")])
    assert RoundFolder(folder).episodes() == [odd]
    assert len(RoundFolder(folder).annotations()) == 1
    raw = json.dumps(to_dict(odd), ensure_ascii=False).encode("utf-8", "surrogatepass")
    (folder / "episodes.jsonl").write_bytes(raw + b"\n")
    assert RoundFolder(folder).episodes() == [odd]


@pytest.mark.parametrize("write", [write_report, write_view])
def test_a_page_reads_each_file_of_episodes_and_labels_once(tmp_path: Path, write: Any) -> None:
    folder = sample_run(tmp_path / "dagger-0123456789", tasks=6, training=6)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*.jsonl")}
    assert len(files) == 9  # three evaluations; three rounds, with labels
    for _ in range(2):  # the page and the tables of the first do not make the second read more
        with opened(folder) as count:
            write(folder)
        assert {name: count[name] for name in count if name.endswith(".jsonl")} == dict.fromkeys(
            files, 1
        )
