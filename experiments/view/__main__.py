"""Writes the page in which the episodes of a run can be read, and prints its path.

python -m experiments.view FOLDER [--tokens]
python -m experiments.view FOLDER --follow      a run as it goes on, in this terminal
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from experiments.view import write_view
from experiments.view.tokens import Trained
from swe_gym_env.disk import room_for
from swe_gym_env.errors import SetupError


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.view",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder",
        type=Path,
        help="of a run, an evaluation or a sweep, or one that holds several runs",
    )
    parser.add_argument(
        "--tokens", action="store_true", help="with the tokens of each turn and their loss weights"
    )
    parser.add_argument(
        "--follow", action="store_true", help="show a run as it goes on, here, until Ctrl-C"
    )
    given = parser.parse_args()
    if given.follow:
        from experiments.view.follow import follow, refuse_sweep

        if given.folder.exists() and not given.folder.is_dir():
            parser.error(f"{given.folder} is not a folder; runs lie in runs/")
        if message := refuse_sweep(given.folder):
            parser.error(message)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's `&` has it ignored
        follow(given.folder)
        return
    try:
        with room_for(given.folder):
            print(write_view(given.folder, _stored_training() if given.tokens else None))
    except SetupError as error:
        parser.error(str(error))


def _stored_training() -> type[Trained]:
    from experiments.pipeline.stored import StoredTraining  # late: it imports Hydra

    return StoredTraining


if __name__ == "__main__":
    main()
