"""An agent on any OpenAI-compatible endpoint: plays tasks, is scored, and leaves its patches.

    python -m examples.openai_agent --base-url http://localhost:8000/v1 --model NAME

A key is read from OPENAI_API_KEY. ``preds.jsonl`` can be scored again, here or by swebench.
"""

import argparse
import json
import sys

from swe_gym_env import SWEEnv, tasks
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.server import ServerPolicy
from swe_gym_env.rollout.driver import Request, rollout
from swe_gym_env.rollout.mixers import StudentOnly
from swe_gym_env.types import Annotation, Episode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tasks", help="rows in a file; else the held-out bugs of `pypi`")
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--actions", default="bash_block")
    parser.add_argument("--preds", default="preds.jsonl")
    args = parser.parse_args()
    source = {"name": "jsonl", "path": args.tasks} if args.tasks else {"name": "pypi"}
    chosen = tasks.load(**source, split="" if args.tasks else "heldout", limit=args.limit)

    with open(args.preds, "w") as preds:

        def ended(episode: Episode, _: list[Annotation]) -> None:
            print(episode.instance_id, episode.stop_reason, episode.outcome.status, flush=True)
            row = {"instance_id": episode.instance_id, "model_name_or_path": args.model}
            preds.write(json.dumps({**row, "model_patch": episode.patch}) + "\n")

        result = rollout(
            [Request(task) for task in chosen],
            make_env=lambda task: SWEEnv([task], action_format=args.actions, grade="deferred"),
            student=ServerPolicy(args.base_url, args.model),
            mixer=StudentOnly(),
            annotate=False,
            on_episode=ended,
        )
    print(f"{result.resolved} of {result.total} resolved")


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(str(error))
