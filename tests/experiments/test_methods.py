"""Every method through the whole pipeline, in one sweep for each kind of teacher."""

import json

from tests.experiments.conftest import Job

SMALL = ("evaluation.tasks=1", "episodes_per_round=2")


def round_of(job: Job, method: str):
    return job.folder(f"{method}-*") / "rounds" / "round_001"


def test_methods_that_need_only_words(job: Job) -> None:
    methods = ("sft", "rft", "grpo", "dagger", "aggrevate", "oec")
    output = job.run(f"algorithm={','.join(methods)}", *SMALL, "-m")
    for method in methods:
        metrics = json.loads((round_of(job, method) / "metrics.json").read_text())
        assert metrics["episodes"] == {"rft": 8, "grpo": 8}.get(method, 2)
        assert (round_of(job, method) / "checkpoint" / "config.json").exists()
        assert (job.folder(f"{method}-*") / "summary.json").exists()
    # kappa is 0 in AggreVaTe's first round; a babbling student resolves nothing
    assert json.loads((round_of(job, "aggrevate") / "metrics.json").read_text())["resolved"] == 2
    # (oec too: its switch came too late here)
    assert output.count("teaches nothing") == 3
    assert len(list(job.runs.glob("iteration0-*"))) == 1


def test_methods_that_need_log_probs(job: Job) -> None:
    methods = ("opd", "gkd", "mixed")
    (model,) = [part.split("=")[1] for part in job.overrides if part.startswith("model.path=")]
    teacher = ("teacher=hf", f"teacher.path={model}", "beta=constant")
    job.run(f"algorithm={','.join(methods)}", *teacher, *SMALL, "-m")
    torn = round_of(job, "gkd")  # killed while an episode's scores were being written
    whole = (torn / "scores.jsonl").read_text()
    (torn / "scores.jsonl").write_text(whole[: len(whole) * 2 // 3])
    (torn / "score.done").unlink()
    (torn.parents[1] / "summary.json").unlink()
    job.run("algorithm=gkd", *teacher, *SMALL)
    assert sorted(whole.splitlines()) == sorted(
        set((torn / "scores.jsonl").read_text().splitlines())
    )
    for method in methods:
        own = round_of(job, method)
        scores = [json.loads(line) for line in (own / "scores.jsonl").read_text().splitlines()]
        turns = [
            turn
            for line in (own / "episodes.jsonl").read_text().splitlines()
            for turn in json.loads(line)["turns"]
        ]
        students = sum(turn["actor"] == "student" for turn in turns)
        assert len({(one["episode_id"], one["turn"]) for one in scores}) == (
            students if method == "mixed" else len(turns)
        )
        assert students > 0 and (own / "score.done").exists()
        assert all(
            len(one["top_ids"]) == (len(one["logprobs"]) if method == "gkd" else 0)
            for one in scores
        )
        metrics = json.loads((own / "metrics.json").read_text())
        assert metrics["teacher_scored_tokens"] > 0
        if method != "opd":  # the teacher is the student: it starts where there is nothing to learn
            assert abs(metrics["divergences"][0]) < 1e-4
