import json
from dataclasses import replace

import pytest

from swe_gym_env.errors import SetupError
from swe_gym_env.rollout.driver import Request
from swe_gym_env.rollout.resume import finished, resume
from swe_gym_env.rollout.store import RoundFolder
from swe_gym_env.types import Annotation, Scores, TaskInstance, ToolCall, Turn
from tests.algorithms.conftest import make_episode
from tests.support.opened import opened

TASK = TaskInstance("toy", "toy", "", "toy", "Broken.", "", "", (), (), "")


def episode(name):
    turn = Turn(
        "ünï \udcff", "student", "x", ToolCall("bash", {"command": "ls"}), (1, 2), (-0.5, -1.0)
    )
    return make_episode([turn], name)


def label(name, text="y"):
    return Annotation(name, 0, "expert", text, ToolCall("finish"))


def test_what_goes_in_comes_out(tmp_path):
    folder = RoundFolder(tmp_path / "r")
    assert folder.episodes() == [] and folder.metrics == {} and not folder.is_done("collect")
    for name in ("b", "a"):
        folder.append(episode(name), [label(name)])
    assert folder.episodes() == [episode("a"), episode("b")]
    assert folder.read(3).annotations == [label("a"), label("b")]
    assert [e.episode_id for e in folder.episodes()] == ["a", "b"]
    folder.add_metrics(loss=[1.0])
    folder.add_metrics(turns=2)
    assert folder.metrics == {"loss": [1.0], "turns": 2}
    folder.mark_done("collect")
    assert folder.is_done("collect") and not folder.is_done("train")


@pytest.mark.slow
def test_a_kill_at_any_byte_loses_only_the_last_episode(tmp_path):
    folder = RoundFolder(tmp_path)
    folder.append(episode("a"), [label("a")])
    first = {
        name: (tmp_path / name).stat().st_size for name in ("episodes.jsonl", "annotations.jsonl")
    }
    folder.append(episode("b"), [label("b", "old")])
    whole = {name: (tmp_path / name).read_bytes() for name in first}
    cuts = [
        ("annotations.jsonl", n)
        for n in range(first["annotations.jsonl"], len(whole["annotations.jsonl"]), 7)
    ]
    cuts += [
        ("episodes.jsonl", n)
        for n in range(first["episodes.jsonl"], len(whole["episodes.jsonl"]), 7)
    ]
    for name, cut in cuts:
        for other in first:
            (tmp_path / other).write_bytes(whole[other])
        if name == "annotations.jsonl":  # written first: the episode was not there yet
            (tmp_path / "episodes.jsonl").write_bytes(
                whole["episodes.jsonl"][: first["episodes.jsonl"]]
            )
        (tmp_path / name).write_bytes(whole[name][:cut])
        assert folder.episodes() == [episode("a")] and folder.annotations() == [label("a")]
        folder.append(episode("b"), [label("b", "new")])
        assert folder.episodes() == [episode("a"), episode("b")]
        assert folder.annotations() == [label("a"), label("b", "new")]
        for line in (tmp_path / "episodes.jsonl").read_text().splitlines():
            json.loads(line)


def test_a_full_disk_is_one_message_with_the_path(tmp_path):
    folder = RoundFolder(tmp_path)
    (tmp_path / "episodes.jsonl").symlink_to("/dev/full")
    with pytest.raises(SetupError, match=r"the disk is full: .*episodes.jsonl cannot .* MiB free"):
        folder.append(episode("a"), [label("a")])
    (tmp_path / "episodes.jsonl").unlink()  # reading it would never end
    assert folder.annotations() == [], "a label without its episode is none"


def test_a_label_that_an_old_run_stored_with_half_a_character_is_left_out(tmp_path, caplog):
    folder = RoundFolder(tmp_path)
    folder.append(episode("a"), [label("a", "Look \ud83d\n```bash\nls\n```")])
    folder.append(episode("b"), [label("b")])
    broken, good = folder.read(0).annotations
    assert broken.text is None and "half a character" in broken.error and good == label("b")
    assert "1 labels left out" in caplog.text


def test_each_file_is_read_once(tmp_path):
    folder = RoundFolder(tmp_path)
    for name in ("a", "b"):
        folder.append(episode(name), [label(name)])
    folder.add_scores([Scores("a", 0, "teacher", (-0.5, -1.0))])
    with opened(tmp_path) as count:
        found = folder.read(0)
    assert (len(found.episodes), len(found.annotations), len(found.scores)) == (2, 2, 1)
    assert count == {"episodes.jsonl": 1, "annotations.jsonl": 1, "scores.jsonl": 1}


def test_resuming_reads_the_episodes_once_however_many_there_are(tmp_path):
    folder, played = RoundFolder(tmp_path), []
    requests = [Request(replace(TASK, instance_id=name)) for name in "abc"]
    for number, request in enumerate(requests, 1):
        folder.append(episode(request.episode_id))
        with opened(tmp_path) as count:
            resume(folder, requests, lambda missing, **_: played.append(len(missing)))
        assert count == {"episodes.jsonl": 1} and played[-1] == len(requests) - number
    stored = finished(folder.episodes(), requests)
    with opened(tmp_path) as count:
        resume(folder, requests, lambda missing, **_: played.append(len(missing)), stored=stored)
    assert not count and played[-1] == 0


def test_adding_reads_no_stored_line_but_the_end_of_the_last(tmp_path):
    folder = RoundFolder(tmp_path)
    for name in ("a", "b"):
        with opened(tmp_path) as count:
            folder.append(episode(name), [label(name)])
        assert not count  # files are opened to be appended to
    with opened(tmp_path) as count:
        for name in ("a", "b"):
            folder.add_annotations([label(name, "other")])
    assert count == {"episodes.jsonl": 1}  # for the tags of the attempts, kept from then on
