"""DAgger as a library, without Hydra: play a round, get training examples from it, train.

python -m examples.dagger_as_library --tasks ROWS.jsonl --model FOLDER --output FOLDER
"""

import argparse
from pathlib import Path

from algorithms.dagger import DAgger
from algorithms.engine.checkpoint import load_model
from algorithms.engine.examples import example_trees
from algorithms.engine.hf_policy import HFPolicy
from algorithms.engine.learner import Learner, TrainingConfig
from algorithms.engine.models import fetch
from algorithms.schedules import Schedule
from swe_gym_env import Rollout, tasks
from swe_gym_env.policies.expert import ExpertPolicy

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--tasks", required=True, help="rows in a file")
parser.add_argument("--model", default="smollm2", help="a Hugging Face folder")
parser.add_argument("--output", type=Path, default=Path("dagger"))
parser.add_argument("--rounds", type=int, default=2)
args = parser.parse_args()
method = DAgger(beta=Schedule("linear", rounds=args.rounds))
checkpoint, rounds = fetch(args.model), []
for index in range(1, args.rounds + 1):
    folder, plan = args.output / f"round{index}", method.collect(index)
    student = HFPolicy.from_folder(checkpoint)
    run = Rollout(
        student, teacher=ExpertPolicy(), mixer=plan.mixer, label=True, max_turns=6, store=folder
    )
    done = [episode.outcome.resolved for episode in run(tasks.load("jsonl", path=args.tasks))]
    rounds.append(run.collected(index))
    trees = list(example_trees(method.examples(rounds), student.renderer))
    learner = Learner(load_model(checkpoint), student.renderer.tokenizer, TrainingConfig())
    report = learner.train(trees)
    checkpoint = learner.save(folder / "checkpoint")
    print(f"round {index}: {sum(done)} of {len(done)} resolved, loss {report.loss[-1]:.3f}")
