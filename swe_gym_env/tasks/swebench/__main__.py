"""Rebuild and judge rows: ``python -m swe_gym_env.tasks.swebench validate --rows FILE``.

``list`` prints the rows that worked, in the form of ``validated.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import sys

from swe_gym_env import sandbox
from swe_gym_env.errors import SWEGymError
from swe_gym_env.paths import home
from swe_gym_env.tasks.files import read_rows
from swe_gym_env.tasks.swebench.validate import REPEATS, behaved, read, validate
from swe_gym_env.text import shown

REPOS = ("seaborn", "flask", "requests", "pytest", "sympy", "xarray", "sphinx", "django")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m swe_gym_env.tasks.swebench", description=__doc__
    )
    parser.add_argument("command", choices=["validate", "list"])
    parser.add_argument("--rows", action="append", default=[], help="file, folder or hub id")
    parser.add_argument("--repo", action="append", default=[], help="only these")
    parser.add_argument("--sandbox", default="local")
    return parser


def main() -> int:
    options = arguments().parse_args()
    ledger = home() / "tasks" / "swebench" / "validation.jsonl"
    ledger.parent.mkdir(parents=True, exist_ok=True)
    try:
        if options.command == "list":
            for facts in behaved(read(ledger)):
                if facts["repeats"] >= REPEATS:
                    print(json.dumps(facts))
            return 0
        read_in = (row for source in options.rows for row in read_rows(source))
        rows = {row.text("instance_id"): row for row in read_in}
        repos = options.repo or REPOS
        wanted = [row for row in rows.values() if any(repo in row.text("repo") for repo in repos)]
        wanted.sort(key=lambda row: len(row.column("PASS_TO_PASS")))  # the quick ones first
        for verdict in validate(wanted, sandbox.provider(options.sandbox), ledger):
            result = verdict.reason or f"behaves, {verdict.seconds} s"
            print(shown(f"{verdict.instance_id} ({verdict.repeat}): {result}"), flush=True)
    except SWEGymError as error:
        print(f"error: {shown(str(error))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
