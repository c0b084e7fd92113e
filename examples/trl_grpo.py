"""TRL's GRPOTrainer: a completion is a whole episode, where only the model's words carry loss.
python -m examples.trl_grpo
"""

import argparse

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from algorithms.engine.checkpoint import load_model, load_tokenizer
from algorithms.engine.hf_policy import HFPolicy, Renderer
from algorithms.engine.models import fetch
from swe_gym_env import SWEEnv, tasks
from swe_gym_env.rollout.driver import Episode, Request, rollout
from swe_gym_env.rollout.mixers import StudentOnly

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="smollm2", help="a Hugging Face folder, or the embedded one")
parser.add_argument("--tasks", help="rows in a file; else training bugs of `pypi`")
parser.add_argument("--output", default="runs/trl_grpo")
args = parser.parse_args()
pypi = {"split": "train", "limit": 8}
chosen = tasks.load("jsonl", path=args.tasks) if args.tasks else tasks.load("pypi", **pypi)
tokenizer, model = load_tokenizer(fetch(args.model)), load_model(fetch(args.model), "float32")
render = Renderer(tokenizer)


def play(prompts: list[str], trainer: GRPOTrainer) -> dict[str, object]:
    """TRL's rollout_func. A prompt is the number of a task, and comes once for each episode."""
    step, rows = trainer.state.global_step, {}
    rollout(
        [Request(chosen[int(task)], 0, step, place) for place, task in enumerate(prompts)],
        make_env=lambda task: SWEEnv([task], max_turns=3),
        student=HFPolicy(model, tokenizer, temperature=1, top_p=1, max_new_tokens=64),
        mixer=StudentOnly(),
        annotate=False,
        on_episode=lambda episode, _: rows.update({episode.repeat: as_row(episode)}),
    )
    model.train()
    return {key: [rows[n][key] for n in sorted(rows)] for key in rows[0]} | {"logprobs": None}


def as_row(episode: Episode) -> dict[str, object]:
    ids, mask = [], []
    for turn in episode.turns:
        between, reply = render.between(turn.observation) if ids else [], render.reply(turn)
        ids += [*between, *reply.token_ids]  # as sampled; a turn cut short gets its end unlearned
        mask += [0] * len(between) + [1] * len(turn.token_ids) + [0] * reply.unsampled
    ran = [turn.action is not None for turn in episode.turns]  # worth a tenth, beside the tests
    score = None if episode.outcome.mask else episode.outcome.reward + 0.1 * sum(ran) / len(ran)
    prompt = render.opening(episode.system_prompt, episode.turns[0].observation)
    return {"prompt_ids": prompt, "completion_ids": ids, "env_mask": mask, "score": score}


config = GRPOConfig(args.output, num_train_epochs=1, logging_steps=1, bf16=False)
rows = Dataset.from_dict({"prompt": [str(place) for place in range(len(chosen))]})
run = GRPOTrainer(model, lambda score, **_: score, config, rows, None, tokenizer, rollout_func=play)
run.train()
run.save_model()
