"""A policy of your own, played by `Rollout`; started again, it goes on where it was stopped.

python -m examples.own_policy --tasks ROWS.jsonl --store FOLDER
"""

import argparse
from collections.abc import Sequence

from swe_gym_env import Reply, Rollout, State, tasks


class LookAndFinish:
    """Looks at the repository once, then gives up. Put your model in its place."""

    name = "look-and-finish"  # stored: another name is another policy
    needs_sandbox = False

    def act(self, states: Sequence[State]) -> list[Reply]:
        """All states that wait, so that a model can answer them in one batch. What a model needs
        is in ``state.messages``."""
        return [Reply(text=f"```bash\n{'finish' if s.turns else 'ls'}\n```") for s in states]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", required=True, help="rows in a file")
    parser.add_argument("--store", default="episodes")
    args = parser.parse_args()
    run = Rollout(LookAndFinish(), max_turns=10, concurrency=16, store=args.store)
    for episode in run(tasks.load("jsonl", path=args.tasks), repeats=2):
        print(episode.episode_id, len(episode.turns), "turns", episode.outcome.status)


if __name__ == "__main__":
    main()
