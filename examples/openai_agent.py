"""An agent on any OpenAI-compatible endpoint: plays tasks, is scored, and leaves its patches.

    python -m examples.openai_agent --base-url http://localhost:8000/v1 --model NAME

A key is read from OPENAI_API_KEY. ``preds.jsonl`` can be scored again, here or by swebench.
"""

import argparse
import json
import sys

from swe_gym_env import Rollout, tasks
from swe_gym_env.errors import SetupError
from swe_gym_env.policies.server import ServerPolicy


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
        run = Rollout(ServerPolicy(args.base_url, args.model), action_format=args.actions)
        resolved = 0
        for episode in run(chosen):
            print(episode.instance_id, episode.stop_reason, episode.outcome.status, flush=True)
            resolved += episode.outcome.resolved
            row = {"instance_id": episode.instance_id, "model_name_or_path": args.model}
            preds.write(json.dumps({**row, "model_patch": episode.patch}) + "\n")
    print(f"{resolved} of {len(chosen)} resolved")


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(str(error))
